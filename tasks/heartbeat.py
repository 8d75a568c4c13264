"""One thread that keeps the leases of everything this worker has in hand, and tells work that must stop.

Work must stop when its job was cancelled or ended, when its lease was taken away, and when the worker shuts down. It is
told by an event, which is read between parts and inside generation.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from storage import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from storage.session import Database

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """An attempt in hand. `doing` is what it is at, `noted` what of that its row says."""

    stop: threading.Event = field(default_factory=threading.Event)
    doing: str | None = None
    noted: str | None = None


class Heartbeat:
    """`start` it before the first claim; `shut_down` stops all work; `close` ends the thread."""

    def __init__(
        self, database: Database, *, lease_seconds: float, poll_seconds: float, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)
        self._renew_seconds = lease_seconds / 3
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._shutting_down = threading.Event()
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def shutting_down(self) -> bool:
        return self._shutting_down.is_set()

    @property
    def in_hand(self) -> int:
        """Attempts that are watched now."""
        with self._lock:
            return len(self._watched)

    @contextmanager
    def watch(self, token: str) -> Iterator[threading.Event]:
        """Keep the lease of an attempt while the block runs. The event is set when its work must stop."""
        watched = _Watched()
        with self._lock:
            self._watched[token] = watched
        if self.shutting_down:
            watched.stop.set()
        try:
            yield watched.stop
        finally:
            with self._lock:
                del self._watched[token]

    def tell(self, token: str, doing: str, *, at_once: bool = False) -> None:
        """Say what an attempt is at, for the case that its worker dies of it.

        It is written with the next renewal of the lease; `at_once` where the worker may not live so long.
        """
        watched = self._watched[token]
        watched.doing = doing
        if at_once:
            self._note({token: watched})

    def _note(self, told: Mapping[str, _Watched]) -> None:
        with self._database.write() as session:
            for token, watched in told.items():
                if watched.doing is not None and watched.doing != watched.noted:
                    watched.noted = watched.doing
                    attempts.note(session, token, watched.doing)

    def shut_down(self) -> None:
        """Stop all work that is watched now or later."""
        self._shutting_down.set()
        with self._lock:
            for watched in self._watched.values():
                watched.stop.set()

    def close(self) -> None:
        self.shut_down()
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._poll_seconds):
            try:
                self.beat()
            except SQLAlchemyError:
                # The leases run on; if the database stays away, other workers take the work over.
                logger.warning("the heartbeat cannot reach the database", exc_info=True, extra={"action": "heartbeat"})
            except Exception:  # a thread that ended would let every lease of this worker run out
                logger.exception("the heartbeat failed; the next one comes", extra={"action": "heartbeat"})

    def beat(self) -> None:
        """Renew what is due, and stop what is over."""
        with self._lock:
            watched = dict(self._watched)
        if not watched:
            return
        if time.monotonic() - self._renewed >= self._renew_seconds:
            self._renew(watched)
        with self._database.read() as session:
            over = attempts.stopped(session, watched.keys())
        for token in over:
            watched[token].stop.set()

    def _renew(self, watched: Mapping[str, _Watched]) -> None:
        """Where this fails, the next beat does it: a lease outlives only two renewals that do not come."""
        began = time.monotonic()
        with self._database.write() as session:
            attempts.renew(session, watched.keys(), until=self._clock() + self._lease)
        self._renewed = began
        self._note(watched)
