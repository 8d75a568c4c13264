"""One thread that keeps the leases of everything this worker has in hand, and tells work that must stop.

Work must stop when its job was cancelled or ended, when its lease was taken away, and when the worker shuts down. It is
told by an event, which is read between parts and inside generation.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from storage import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from storage.session import Database

logger = logging.getLogger(__name__)


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
        self._watched: dict[str, threading.Event] = {}
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

    @contextmanager
    def watch(self, token: str) -> Iterator[threading.Event]:
        """Keep the lease of an attempt while the block runs. The event is set when its work must stop."""
        stop = threading.Event()
        with self._lock:
            self._watched[token] = stop
        if self.shutting_down:
            stop.set()
        try:
            yield stop
        finally:
            with self._lock:
                del self._watched[token]

    def shut_down(self) -> None:
        """Stop all work that is watched now or later."""
        self._shutting_down.set()
        with self._lock:
            for stop in self._watched.values():
                stop.set()

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

    def beat(self) -> None:
        """Renew what is due, and stop what is over."""
        with self._lock:
            watched = dict(self._watched)
        if not watched:
            return
        if time.monotonic() - self._renewed >= self._renew_seconds:
            self._renewed = time.monotonic()
            with self._database.write() as session:
                attempts.renew(session, watched.keys(), until=self._clock() + self._lease)
        with self._database.read() as session:
            over = attempts.stopped(session, watched.keys())
        for token in over:
            watched[token].set()
