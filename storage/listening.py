"""Waking who waits for a job. PostgreSQL tells when one ends (by a trigger that the migrations make); SQLite does not.

Nobody depends on being told: who waits looks by himself too, seldom while somebody listens here, else more often.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import defaultdict
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from storage.session import Database

logger = logging.getLogger(__name__)

CHANNEL = "nightowl_ended"
"""Its messages are ids of jobs."""
AGAIN_SECONDS = 5.0
"""Time from a lost connection to the next try."""


class Listener:
    """Calls those that wait for a job when it ends. Thread-safe; close it when done.

    One connection and one thread, from the first wait on. On SQLite there is neither, and nobody is called.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._hears = False
        self._closed = threading.Event()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None

    @property
    def hears(self) -> bool:
        """Whether the end of any job would be heard now."""
        return self._hears

    @contextmanager
    def on(self, job_id: str, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake`, from another thread, when the job ends while the block runs; now and then without need."""
        with self._lock:
            self._waiting[job_id].append(wake)
            self._start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting[job_id].remove(wake)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def _start(self) -> None:
        if self._thread is None and self._database.dialect == "postgresql" and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except SQLAlchemyError:
                logger.warning("cannot listen for jobs that end, looking instead", exc_info=True)
            self._hears = False
            self._closed.wait(AGAIN_SECONDS)

    def _listen(self) -> None:
        """Until closed, or until the connection breaks: then SQLAlchemyError."""
        with (
            self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            closing(_taken_out(connection)) as driver,
        ):
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            ready = select.poll()
            for descriptor in (driver.fileno(), self._bell):
                ready.register(descriptor, select.POLLIN)
            self._hears = True
            self._wake_all()  # what ended before we heard
            while not self._closed.is_set():
                ready.poll()
                for notice in _notices(driver):
                    self._wake(notice)

    def _wake_all(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for job_id in waiting:
            self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        with self._lock:
            for wake in self._waiting.get(job_id, ()):
                wake()

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        os.eventfd_write(self._bell, 1)
        if self._thread is not None:
            self._thread.join()
        os.close(self._bell)


def _taken_out(connection: Connection) -> Any:
    """The driver's connection, which never goes back into the pool: it listens."""
    driver: Any = connection.connection.driver_connection
    connection.detach()
    return driver


def _notices(driver: Any) -> list[str]:
    """The ids that have come. Raises SQLAlchemyError where the connection is gone."""
    import psycopg

    try:
        return [notice.payload for notice in driver.notifies(timeout=0)]
    except psycopg.Error as error:
        raise SQLAlchemyError(str(error)) from error
