"""What a worker says of itself: that it is there, how quick it is, how full its engine is."""

from __future__ import annotations

import threading
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from storage import presence
from storage.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tasks.context import Context

WINDOW = timedelta(seconds=60)
FORGOTTEN = timedelta(hours=1)


class Meter:
    """Counts the parts that this worker settled. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts = self._pages = 0
        self._marks: deque[tuple[datetime, int, int]] = deque()

    def count(self, spec: Mapping[str, object]) -> None:
        with self._lock:
            self._parts += 1
            self._pages += "page" in spec

    def read(self, now: datetime) -> tuple[int, int, float, float]:
        """Parts and pages since the start, and of each how many per second in about the last minute."""
        with self._lock:
            self._marks.append((now, self._parts, self._pages))
            while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW:
                self._marks.popleft()
            since, parts, pages = self._marks[0]
            seconds = max((now - since).total_seconds(), 1e-9)
            quick = (self._parts - parts) / seconds, (self._pages - pages) / seconds
            return self._parts, self._pages, *quick


@runtime_checkable
class Steps(Protocol):
    """Totals of an engine with slots: see worker/engines/generation.py."""

    @property
    def row_steps(self) -> int: ...
    @property
    def slot_steps(self) -> int: ...


class Reporter:
    """Writes this worker's row, each time that the sweeper's thread wakes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = context.clock()
        self._steps = (0, 0)

    def report(self) -> None:
        context, now = self._context, self._context.clock()
        parts, pages, parts_per_second, pages_per_second = context.meter.read(now)
        row = Presence(
            name=context.name,
            seen_at=now,
            started_at=self._started,
            engine=context.engine.name if context.engine else None,
            in_hand=context.heartbeat.in_hand,
            parts=parts,
            pages=pages,
            parts_per_second=parts_per_second,
            pages_per_second=pages_per_second,
            occupancy=self._occupancy(),
        )
        with context.database.write() as session:
            presence.report(session, row)

    def _occupancy(self) -> float | None:
        """The share of slots at work since the last report; None where the engine has none or made no step."""
        totals = getattr(self._context.engine, "statistics", None)
        if not isinstance(totals, Steps):
            return None
        rows, slots = totals.row_steps - self._steps[0], totals.slot_steps - self._steps[1]
        self._steps = (totals.row_steps, totals.slot_steps)
        return rows / slots if slots else 0.0

    def leave(self) -> None:
        with self._context.database.write() as session:
            presence.leave(session, self._context.name)
