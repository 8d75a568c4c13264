"""What every use case is handed: the ledger, the files, the readers, the engine, the bell, the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from domain.retry import RetryPolicy
from storage.attempts import Claimant
from storage.due import Bell
from tasks.bell import Turn
from tasks.gate import Gate
from tasks.presence import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from domain.settings import Settings
    from storage.artifacts import ArtifactStore
    from storage.session import Database
    from tasks.heartbeat import Heartbeat
    from worker.engines.base import Engine
    from worker.readers.children import Readers


class Ring(Protocol):
    """The doorbell: sends one message, ids only. Raises whatever the broker raises."""

    def __call__(self, task: str, *args: str | int, queue: str, priority: int) -> None: ...


class Queued(Protocol):
    """How many messages lie in these queues and were not taken. Raises whatever the broker raises."""

    def __call__(self, queues: Collection[str]) -> int: ...


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`name` is this worker's, as attempts show it. `engine` is None in a worker that only plans."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    readers: Readers
    engine: Engine | None
    heartbeat: Heartbeat
    ring: Ring
    queued: Queued
    name: str
    gate: Gate = field(default_factory=Gate)
    meter: Meter = field(default_factory=Meter)
    turn: Turn = field(default_factory=Turn)
    clock: Callable[[], datetime] = utc_now

    @property
    def claimant(self) -> Claimant:
        return Claimant(worker=self.name, now=self.clock(), lease=timedelta(seconds=self.settings.lease_seconds))

    @property
    def bell(self) -> Bell:
        now = self.clock()
        stale_before = now - timedelta(seconds=self.settings.ring_seconds)
        return Bell(now=now, stale_before=stale_before, age=timedelta(seconds=self.settings.age_seconds))

    @property
    def retry(self) -> RetryPolicy:
        return RetryPolicy(max_attempts=self.settings.max_attempts)
