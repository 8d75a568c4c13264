"""`nightowl status --watch`: how work stands, again and again, until it is over or somebody has seen enough."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightowl.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from nightowl.client import Client
    from storage.presence import Presence, Standing

LOOK_SECONDS = 2.0
WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is seen at one moment. The rate is measured over the last minute of watching; None at the first look."""

    standing: Standing
    workers: Sequence[Presence]
    parts_per_second: float | None

    @property
    def seconds_left(self) -> float | None:
        if not self.parts_per_second or not self.standing.open:
            return None
        return self.standing.parts_left / self.parts_per_second

    @property
    def pages_per_second(self) -> float:
        """Of all workers, as they report it."""
        return sum(worker.pages_per_second for worker in self.workers)

    @property
    def occupancy(self) -> float | None:
        """The mean over the engines that have slots."""
        known = [worker.occupancy for worker in self.workers if worker.occupancy is not None]
        return sum(known) / len(known) if known else None

    def to_json(self) -> dict[str, Any]:
        return {
            "jobs": {state.value: count for state, count in sorted(self.standing.states.items())},
            "failed_by_code": dict(sorted(self.standing.codes.items())),
            "parts": {"total": self.standing.parts_total, "over": self.standing.parts_over},
            "parts_per_second": self.parts_per_second,
            "pages_per_second": self.pages_per_second,
            "seconds_left": self.seconds_left,
            "workers": len(self.workers),
            "occupancy": self.occupancy,
        }

    def __str__(self) -> str:
        jobs = ", ".join(f"{count} {state}" for state, count in sorted(self.standing.states.items())) or "no jobs"
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.standing.codes.items()))
        rate = "-" if self.parts_per_second is None else f"{self.parts_per_second:.1f}"
        full = "-" if self.occupancy is None else f"{self.occupancy:.0%}"
        left = "-" if self.seconds_left is None else _time(self.seconds_left)
        lines = [
            f"jobs     {jobs}",
            *([f"failures {codes}"] if codes else []),
            f"parts    {self.standing.parts_over} of {self.standing.parts_total} known",
            f"rate     {rate} parts/s here, {self.pages_per_second:.1f} pages/s of all workers, {left} left",
            f"workers  {len(self.workers)}, {sum(w.in_hand for w in self.workers)} in hand, engines {full} full",
        ]
        return "\n".join(lines)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class Watcher:
    """Looks, and keeps what it saw in the last minute."""

    def __init__(self, client: Client, batch_id: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._batch_id, self._clock = client, batch_id, clock
        self._since = client.last_change()
        self._seen: deque[tuple[float, int]] = deque()

    def look(self) -> Look:
        standing, workers = self._client.standing(self._batch_id, since=self._since), self._client.workers()
        return Look(standing=standing, workers=workers, parts_per_second=self._rate(standing.parts_over))

    def _rate(self, over: int) -> float | None:
        now = self._clock()
        self._seen.append((now, over))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return max(over - before, 0) / (now - began) if now > began else None


def watch(client: Client, batch_id: str | None, *, as_json: bool) -> None:
    """Until the batch is over; without one, until interrupted. A look takes at most a twentieth of the time."""
    watcher = Watcher(client, batch_id)
    with _screen(as_json) as say:
        while True:
            began = time.monotonic()
            look = watcher.look()
            say(look)
            if batch_id is not None and not look.standing.open:
                return
            time.sleep(max(LOOK_SECONDS, 20 * (time.monotonic() - began)))


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Look], None]]:
    """On a terminal one picture that changes, elsewhere text after text."""
    if as_json:
        yield lambda look: show.json_line(look.to_json())
        return
    live = _live() if sys.stdout.isatty() else nullcontext()
    with live as picture:
        yield (lambda look: picture.update(str(look))) if picture else (lambda look: show.line(str(look)))


def _live() -> AbstractContextManager[Any]:
    from rich.live import Live

    return Live(refresh_per_second=4)
