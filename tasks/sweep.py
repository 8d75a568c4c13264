"""Use case: sweep. Take work back from the dead, end what is overdue, ring for what nobody rang."""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from domain.errors import Code, Failure
from domain.states import JobState
from storage import artifacts, attempts, batches, due, jobs, presence, sweeping
from tasks.bell import ring_again, ring_due, ring_first
from tasks.presence import FORGOTTEN, Reporter

if TYPE_CHECKING:
    from tasks.context import Context

logger = logging.getLogger(__name__)

AT_ONCE = 200
TIDY_SECONDS = 600.0


def sweep(context: Context) -> bool:
    """One sweep, if this worker is the holder. False if another one is."""
    if not _hold(context):
        return False
    _bury_the_dead(context)
    _end_the_overdue(context)
    with context.database.write() as session:
        batches.end_cancelled(session, now=context.clock(), limit=AT_ONCE)
        batches.close_over(session, now=context.clock())
        due.correct_times(session, context.bell, longest=timedelta(seconds=context.retry.max_seconds))
    ring_due(context)
    ring_again(context)
    with context.database.write() as session:
        presence.forget(session, seen_before=context.clock() - FORGOTTEN)
    return True


def _hold(context: Context) -> bool:
    now = context.clock()
    until = now + timedelta(seconds=3 * context.settings.sweep_seconds)
    with context.database.write() as session:
        return sweeping.hold(session, holder=context.name, now=now, until=until)


def _bury_the_dead(context: Context) -> None:
    now = context.clock()
    lease = timedelta(seconds=context.settings.lease_seconds)
    with context.database.write() as session:
        attempts.shorten(session, beyond=now + 2 * lease, until=now + lease)
    with context.database.read() as session:
        dead = attempts.expired(session, now=now, limit=AT_ONCE)
    for token, job_id in dead:
        with context.database.write() as session:
            work = sweeping.bury(session, token, job_id, max_attempts=context.settings.max_attempts, now=now)
        if work is not None:
            logger.warning("took work back from a dead attempt", extra={"action": "buried", "job": job_id})
            ring_first(context, work)


def _end_the_overdue(context: Context) -> None:
    now = context.clock()
    seconds = context.settings.job_seconds
    with context.database.read() as session:
        late = jobs.overdue(session, started_before=now - timedelta(seconds=seconds), limit=AT_ONCE)
    message = f"not finished {seconds:.0f} s after its start (setting NIGHTOWL_JOB_SECONDS)"
    for job_id in late:
        with context.database.write() as session:
            jobs.end(
                session, job_id, state=JobState.FAILED, now=now, error=Failure(code=Code.DEADLINE, message=message)
            )


def tidy(context: Context) -> None:
    """Remove copies of sources from the network that no retry has needed for long."""
    ended_before = context.clock() - timedelta(hours=context.settings.keep_fetched_hours)
    with context.database.write() as session:
        old = artifacts.drop_old_copies(session, ended_before=ended_before, limit=AT_ONCE)
    for file in old:
        context.artifacts.remove(file)
    if old:
        logger.info("removed %d copies of fetched sources", len(old), extra={"action": "tidied"})


class Sweeper:
    """The thread that sweeps."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reporter = Reporter(context)
        self._closed = threading.Event()
        self._tidied = float("-inf")
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._reporter.report()
                self._sweep()
            except SQLAlchemyError:
                logger.warning("the sweep cannot reach the database", exc_info=True, extra={"action": "sweep"})
            except Exception:  # a thread that ended would leave the work of the dead where it is
                logger.exception("the sweep failed; the next one comes", extra={"action": "sweep"})
            if self._closed.wait(self._context.settings.sweep_seconds):
                return

    def _sweep(self) -> None:
        if sweep(self._context) and time.monotonic() > self._tidied + TIDY_SECONDS:
            tidy(self._context)
            self._tidied = time.monotonic()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._reporter.leave()
        with self._context.database.write() as session:
            sweeping.let_go(session, holder=self._context.name)
