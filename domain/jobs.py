"""Jobs and parts as plain values: what an application submits, and what it reads back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from domain.plain import one_line
from domain.sources import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domain.errors import Failure
    from domain.kinds import Kind
    from domain.params import Params
    from domain.states import JobState, PartState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job before it has a row. `source` is an absolute path, a URL or `artifact:<id>`; None for a brief alone."""

    kind: Kind
    params: Params
    source: str | None = field(default=None, repr=False)
    source_name: str | None = None
    key: str | None = None
    priority: int = 0
    engine: str | None = None
    batch_id: str | None = None
    callback: str | None = field(default=None, repr=False)
    fresh: bool = False

    @property
    def password(self) -> str | None:
        return self.params.password.get_secret_value() if self.params.password else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job gives back. `text` is for people, `data` for programs, `artifacts` are names of stored files."""

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "data": dict(self.data), "artifacts": list(self.artifacts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCounts:
    total: int = 0
    succeeded: int = 0
    failed: int = 0

    @property
    def over(self) -> int:
        return self.succeeded + self.failed

    def to_json(self) -> dict[str, int]:
        return {"total": self.total, "succeeded": self.succeeded, "failed": self.failed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its row says. `attempts` counts how often work on it began or began anew.

    `reused_from` is the job whose result this one was given, or, while it is pending, waits for.
    """

    id: str
    kind: Kind
    state: JobState
    source: str | None = field(default=None, repr=False)
    source_name: str | None = None
    batch_id: str | None = None
    key: str | None = None
    priority: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    parts: PartCounts = PartCounts()
    result: Result | None = None
    error: Failure | None = None
    attempts: int = 0
    engine: str | None = None
    model: str | None = None
    probe: Mapping[str, Any] | None = None
    wants_engine: str | None = None
    sha256: str | None = None
    reused_from: str | None = None
    fresh: bool = False
    change_seq: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def name(self) -> str:
        """What people call the source, in one line; never with the secrets of a URL."""
        return one_line(self.shown_source or "(no source)")

    @property
    def shown_source(self) -> str | None:
        source = self.source_name or self.source
        return masked(source) if source else source

    def seconds(self, *, now: datetime) -> float:
        """From the first work on it to its end, or to now."""
        return ((self.finished_at or now) - self.started_at).total_seconds() if self.started_at else 0.0

    def to_json(self) -> dict[str, Any]:
        """The job as `--json` prints it: stable keys, in this order, and `reused_from` where there is one."""
        return {
            "id": self.id,
            "batch_id": self.batch_id,
            "kind": self.kind.value,
            "state": self.state.value,
            "source": self.shown_source,
            "parts": self.parts.to_json(),
            "result": self.result.to_json() if self.result else None,
            "error": self.error.to_json() if self.error else None,
            "attempts": self.attempts,
            "engine": self.engine,
            "model": self.model,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
            **({"reused_from": self.reused_from} if self.reused_from else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A page or a segment as its row says. `spec` is {"page": 3}, or {"start": 1.5, "end": 4.0} in seconds."""

    job_id: str
    number: int
    slice: int
    state: PartState
    spec: Mapping[str, Any]
    text: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    error: Failure | None = None
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "number": self.number,
            "state": self.state.value,
            **self.spec,
            "text": self.text,
            "data": dict(self.data),
            "error": self.error.to_json() if self.error else None,
            "attempts": self.attempts,
        }


def iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None
