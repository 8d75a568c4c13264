"""Batches as plain values: what is submitted together, what became of each member, and how the whole stands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from domain.jobs import iso

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from domain.kinds import Kind
    from domain.params import Params
    from domain.states import JobState, MemberState

BATCH_PRIORITY = -10
"""Of the jobs of a batch, unless it says otherwise: a job that somebody waits for goes first."""
DIGEST_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """A batch before it has members. `source` is what people call its origin; `share` bounds its parts in flight.

    `callback` is a URL that is told when the batch is over; `tells_each`, when each of its jobs ends, too.
    """

    name: str
    params: Params
    source: str | None = None
    engine: str | None = None
    priority: int = BATCH_PRIORITY
    share: int | None = None
    fresh: bool = False
    callback: str | None = field(default=None, repr=False)
    tells_each: bool = False

    @property
    def kind(self) -> Kind:
        return self.params.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A member that becomes a job. `source` is an absolute path, a URL or `artifact:<id>`.

    `sha256` and `size` are None where the content was not read; `stamp` then stands for it (a URL, with what its store
    says of the version). `params` are the member's own, if it has any.
    """

    path: str
    source: str = field(repr=False)
    sha256: str | None = None
    size: int | None = None
    format: str | None = None
    stamp: str | None = field(default=None, repr=False)
    params: Params | None = None

    @property
    def digest(self) -> str:
        own = json.dumps(self.params.to_json(), sort_keys=True) if self.params else ""
        return _digest(self.path, self.sha256 or self.stamp or self.source, own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A member that becomes none, and why. A container that broke off is one as well."""

    path: str
    code: str
    message: str
    size: int | None = None

    @property
    def digest(self) -> str:
        return _digest(self.path, "skipped", self.code)


def _digest(*pieces: str) -> str:
    """Of pieces that cannot run into each other."""
    text = "\x00".join(pieces)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as its row says."""

    id: str
    name: str | None
    kind: Kind | None = None
    source: str | None = None
    share: int | None = None
    created_at: datetime | None = None
    submitted_at: datetime | None = None
    cancelled_at: datetime | None = None
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What one submit of a batch did. `batch` is None where nothing was to be written."""

    batch: Batch | None
    added: int = 0
    already: int = 0
    reused: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "report",
            "id": self.batch.id if self.batch else None,
            "name": self.batch.name if self.batch else None,
            "added": self.added,
            "reused": self.reused,
            "already": self.already,
            "skipped": dict(self.skipped),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A line of a batch's manifest, with the state of its job."""

    digest: str
    path: str
    state: MemberState
    sha256: str | None = None
    size: int | None = None
    format: str | None = None
    job_id: str | None = None
    job_state: JobState | None = None
    error_code: str | None = None
    error_message: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "member",
            "path": self.path,
            "state": self.state.value,
            "sha256": self.sha256,
            "size": self.size,
            "format": self.format,
            "job_id": self.job_id,
            "job_state": self.job_state.value if self.job_state else None,
            "error": {"code": self.error_code, "message": self.error_message} if self.error_code else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch stands: jobs by state, failures and skipped members by code, parts, and how many were reused."""

    batch: Batch
    states: Mapping[JobState, int]
    codes: Mapping[str, int]
    skipped: Mapping[str, int]
    reused: int = 0
    parts_total: int = 0
    parts_over: int = 0

    @property
    def jobs(self) -> int:
        return sum(self.states.values())

    @property
    def open(self) -> int:
        return sum(count for state, count in self.states.items() if not state.is_final)

    @property
    def is_over(self) -> bool:
        return self.open == 0

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "batch",
            "id": self.batch.id,
            "name": self.batch.name,
            "kind": self.batch.kind.value if self.batch.kind else None,
            "source": self.batch.source,
            "jobs": self.jobs,
            "states": {state.value: count for state, count in self.states.items()},
            "codes": dict(self.codes),
            "reused": self.reused,
            "skipped": dict(self.skipped),
            "parts": {"total": self.parts_total, "over": self.parts_over},
            "created_at": iso(self.batch.created_at),
            "submitted_at": iso(self.batch.submitted_at),
            "cancelled_at": iso(self.batch.cancelled_at),
            "over_at": iso(self.batch.over_at),
        }
