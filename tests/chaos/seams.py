"""The seams at which the worker of the runs differs from the real one. Nothing in the product knows of them.

`install` wraps real functions where they are looked up; one that is not there any more is an error, and test_seams.py
shows that each was passed. All of them do nothing while their switch is off.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Any

from domain.errors import LostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import tzinfo

    from sqlalchemy import Connection, ExceptionContext
    from sqlalchemy.orm import Session

    from domain.jobs import Part
    from storage.jobs import JobClaim
    from storage.parts import SliceClaim
    from storage.session import Database
    from tasks.run import SliceRun
    from tasks.work import Finished
    from tests.chaos.switches import Switches

RETRY_SECONDS = 0.25
"""The first pause before failed work is tried again. As the leases, short: the product waits 2 s."""

STRUCK = "struck-"
"""Before the sign of a fault, in the marks of what was reached."""

STOPPED = "stopped-"
"""Before the process id of a worker that stopped itself, in the marks; while the mark is there it does nothing."""

MUTATION = "CHAOS_MUTATION"
"""Environment: a promise of the product that is broken on purpose, to see that the judge says so."""

SHORT_VISIBILITY = "CHAOS_SHORT_VISIBILITY"
"""Environment: messages are acknowledged when their work is done, and come again after a second without that."""


class Point(StrEnum):
    """Where a worker can be told to kill itself, in the order in which a job passes them."""

    FETCHED = "fetched"  # a message was taken from Redis; nothing was done for it
    CLAIMED = "claimed"  # a claim was committed; its work has not begun
    PLANNED = "planned"  # the parts were committed; nobody was rung for them
    READING = "reading"  # a reader child is at a page
    GENERATING = "generating"  # the engine has the request
    STORED = "stored"  # a part's result was committed
    FINISHING = "finishing"  # the parts are over; nobody has claimed the end of the job
    MERGED = "merged"  # the files of the result are stored; their rows are not committed
    ENDED = "ended"  # the end of the job was committed; the message is not acknowledged


def worker_name(pid: int | None = None) -> str:
    """What attempts call the worker (tasks/celery.py)."""
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


class Chaos:
    """The switches of this worker, and what happens when it passes a point."""

    def __init__(self, switches: Switches) -> None:
        self.switches = switches
        self.transactions = Transactions()
        self._lock = threading.Lock()
        self._passed: Counter[tuple[str, str]] = Counter()
        self._marked: set[str] = set()

    def passed(self, point: Point, *, pid: int | None = None) -> None:
        """Kill the process here, if it is told to; `pid` where the worker is another process than this one."""
        self.mark(point)
        if self._due(f"kill-{point}"):
            self.struck(f"kill-{point}")
            self.die(f"at point {point}", pid=pid)

    def die(self, why: str, *, pid: int | None = None, with_signal: signal.Signals = signal.SIGKILL) -> None:
        target = os.getpid() if pid is None else pid
        self.switches.note("died", worker=worker_name(target), why=why)
        os.kill(target, with_signal)
        if target == os.getpid():  # the signal may reach another thread first, and this one must do nothing more
            threading.Event().wait()

    def sleep_at(self, where: str, *, job_id: str, part: int | None, token: str) -> bool:
        """Be stopped here (SIGSTOP) if told to, until the harness sees that somebody else has the work. Whether so."""
        self.mark(f"stop-{where}")
        if self._due(f"stop-{where}") is None:
            return False
        mark = f"{STOPPED}{os.getpid()}"
        with self.transactions.none():
            self.switches.note("stopped", pid=os.getpid(), where=where, job_id=job_id, part=part, token=token)
            self.switches.mark_reached(mark)
            os.kill(os.getpid(), signal.SIGSTOP)
            while self.switches.has_mark(mark):  # a thread may run on for a moment after the signal
                time.sleep(0.01)
        return True

    def _due(self, name: str) -> dict[str, Any] | None:
        """The order to do something here, if it stands and this is the time that it means. One worker gets it."""
        order = self.switches.get(name)
        if order is None:
            return None
        with self._lock:
            self._passed[name, order["id"]] += 1
            due = self._passed[name, order["id"]] >= order["nth"]
        return order if due and self.switches.turn_off(name) else None

    def struck(self, sign: str) -> None:
        """A switch did its harm."""
        self.switches.mark_reached(f"{STRUCK}{sign}")

    def mark(self, name: str) -> None:
        """For the tests: this seam was passed, at least once."""
        if name not in self._marked:
            self._marked.add(name)
            self.switches.mark_reached(name)


class Transactions:
    """The writing transactions of this process: many at a time, or none while the process stops itself.

    One that is stopped inside a transaction holds its locks, SQLite's among them: nobody could take its work over.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._none = False

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._none)
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    @contextmanager
    def none(self) -> Iterator[None]:
        """Waits for those that are open; new ones wait until the block is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._none)
            self._none = True
            self._changed.wait_for(lambda: not self._open)
        try:
            yield
        finally:
            with self._changed:
                self._none = False
                self._changed.notify_all()


def install(chaos: Chaos) -> None:
    """Wrap everything. Call it before the worker's main function."""
    _kill_points(chaos)
    _transactions(chaos)
    _zombies(chaos)
    _clock(chaos)
    _bell(chaos)
    _sweepers(chaos)
    _disk(chaos)
    _databases(chaos)
    _hurry()
    if os.environ.get(SHORT_VISIBILITY):
        _short_visibility()
    if name := os.environ.get(MUTATION):
        MUTATIONS[name]()


def wrap(module: str, path: str, around: Callable[[Any], Any]) -> None:
    """Replace `module:path` (a name, or Class.method) by what `around` makes of it. Raises AttributeError."""
    owner: Any = importlib.import_module(module)
    *steps, name = path.split(".")
    for step in steps:
        owner = getattr(owner, step)
    setattr(owner, name, around(getattr(owner, name)))


def _before(act: Callable[[], None]) -> Callable[[Any], Any]:
    def around(real: Any) -> Any:
        @wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            act()
            return real(*args, **kwargs)

        return wrapped

    return around


def _after(act: Callable[[], None]) -> Callable[[Any], Any]:
    def around(real: Any) -> Any:
        @wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            act()
            return result

        return wrapped

    return around


def _kill_points(chaos: Chaos) -> None:
    """READING is passed in tests/chaos/reader.py, GENERATING in tests/chaos/engine.py."""
    from celery import signals

    def at(point: Point) -> Callable[[], None]:
        return lambda: chaos.passed(point)

    signals.worker_ready.connect(lambda **_: chaos.switches.note("up", worker=worker_name()), weak=False)
    signals.task_received.connect(lambda request, **_: _received(chaos, request), weak=False)
    wrap("tasks.heartbeat", "Heartbeat.watch", _before(at(Point.CLAIMED)))
    wrap("tasks.carry", "plan_only", _after(at(Point.PLANNED)))
    wrap("tasks.run", "SliceRun._succeed", _after(at(Point.STORED)))
    wrap("storage.jobs", "close", _before(at(Point.MERGED)))
    for module in ("tasks.celery", "tasks.carry"):
        wrap(module, "finish_job", _before(at(Point.FINISHING)))
        wrap(module, "finish_job", _after(at(Point.ENDED)))
    from tests.chaos import reader

    for name in ("probe", "page"):
        wrap("worker.readers.child", name, lambda real: getattr(reader, real.__name__))


def _received(chaos: Chaos, request: Any) -> None:
    if request.delivery_info.get("redelivered"):
        chaos.struck("redelivered")
    chaos.passed(Point.FETCHED)


def _transactions(chaos: Chaos) -> None:
    def around(real: Any) -> Any:
        @contextmanager
        def write(self: Database) -> Iterator[Session]:
            with chaos.transactions.one(), real(self) as session:
                yield session

        return write

    wrap("storage.session", "Database.write", around)


def _zombies(chaos: Chaos) -> None:
    """Switches `stop-storing` and `stop-closing`: a worker sleeps before a write, until its work is another's."""

    def storing(real: Any) -> Any:
        def succeed(self: SliceRun, part: Part, finished: Finished) -> None:
            claim = self._claim
            slept = chaos.sleep_at("storing", job_id=claim.job.id, part=part.number, token=claim.token)
            with _refusal(chaos, awaited=slept):
                real(self, part, finished)

        return succeed

    def closing(real: Any) -> Any:
        def close(context: Any, claim: JobClaim, *args: Any, **kwargs: Any) -> None:
            slept = chaos.sleep_at("closing", job_id=claim.job.id, part=None, token=claim.token)
            with _refusal(chaos, awaited=slept):
                real(context, claim, *args, **kwargs)

        return close

    wrap("tasks.run", "SliceRun._succeed", storing)
    wrap("tasks.finish", "_close", closing)


@contextmanager
def _refusal(chaos: Chaos, *, awaited: bool) -> Iterator[None]:
    """A zombie that wrote has struck: it is refused, unless that promise is broken on purpose."""
    try:
        yield
    except LostError:
        if awaited:
            chaos.struck("zombie-writes")
        raise
    if awaited and os.environ.get(MUTATION):
        chaos.struck("zombie-writes")


def _clock(chaos: Chaos) -> None:
    """Switch `clock`: {"hours": h}. Leases, retry times and the sweep's hold are all taken from this one clock."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            chaos.mark("clock")
            switch = chaos.switches.get("clock")
            if switch is None:
                return datetime.now(tz)
            chaos.struck("clock")
            return datetime.now(tz) + timedelta(hours=switch["hours"])

    wrap("tasks.context", "datetime", lambda _: Wrong)


def _bell(chaos: Chaos) -> None:
    """Switch `thrice`: every message is sent three times."""

    def around(real: Any) -> Any:
        def send(*args: Any, **kwargs: Any) -> None:
            chaos.mark("bell")
            real(*args, **kwargs)
            if chaos.switches.get("thrice"):
                chaos.struck("thrice")
                real(*args, **kwargs)
                real(*args, **kwargs)

        return send

    wrap("tasks.celery", "send", around)


def _sweepers(chaos: Chaos) -> None:
    """Switch `all-sweep`: every worker believes that it is the one that sweeps."""

    def around(real: Any) -> Any:
        def hold(*args: Any, **kwargs: Any) -> bool:
            chaos.mark("sweepers")
            if real(*args, **kwargs):
                return True
            if chaos.switches.get("all-sweep") is None:
                return False
            chaos.struck("all-sweep")
            return True

        return hold

    wrap("storage.sweeping", "hold", around)


def _disk(chaos: Chaos) -> None:
    """Switch `disk-full`: a stored file takes half of what is written to it, and then there is no space left."""

    def around(real: Any) -> Any:
        def write(self: Any, content: bytes) -> Any:
            chaos.mark("disk")
            if chaos.switches.get("disk-full"):
                chaos.struck("disk-full")
                real(self, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, content)

        return write

    wrap("fsspec.implementations.local", "LocalFileOpener.write", around)


def _databases(chaos: Chaos) -> None:
    def around(real: Any) -> Any:
        @wraps(real)
        def init(self: Database, url: str) -> None:
            real(self, url)
            _lie_about_commits(chaos, self)
            if self.dialect == "sqlite":
                _bound_sqlite(chaos, self)

        return init

    wrap("storage.session", "Database.__init__", around)


def _lie_about_commits(chaos: Chaos, database: Database) -> None:
    """Switch `commits-lie`: {"every": n}. Each n-th commit is done, and an error is returned."""
    dialect = database.engine.dialect
    real, numbers = dialect.do_commit, Counter[str]()

    def do_commit(connection: Any) -> None:
        chaos.mark("commits")
        real(connection)
        switch = chaos.switches.get("commits-lie")
        if switch is None:
            return
        numbers["commits"] += 1
        if numbers["commits"] % switch["every"] == 0:
            chaos.struck("commits-lie")
            raise _lost_connection(dialect.name)

    dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]


def _lost_connection(dialect: str) -> Exception:
    if dialect == "sqlite":
        return sqlite3.OperationalError("disk I/O error")
    import psycopg

    return psycopg.OperationalError("server closed the connection unexpectedly")


def _bound_sqlite(chaos: Chaos, database: Database) -> None:
    """Switch `disk-full`: the database file may not grow (SQLite: "database or disk is full")."""
    from sqlalchemy import event

    def bound(connection: Connection) -> None:
        chaos.mark("sqlite")
        most = 1 if chaos.switches.get("disk-full") else 2**31  # 1: as many pages as it has now
        connection.exec_driver_sql(f"PRAGMA max_page_count={most}").close()

    def failed(context: ExceptionContext) -> None:
        if "disk is full" in str(context.original_exception):
            chaos.struck("disk-full")

    event.listen(database.engine, "begin", bound, insert=True)
    event.listen(database.engine, "handle_error", failed)


def _hurry() -> None:
    from domain.retry import RetryPolicy

    wrap("tasks.context", "RetryPolicy", lambda _: lambda **kwargs: RetryPolicy(base_seconds=RETRY_SECONDS, **kwargs))


def _short_visibility() -> None:
    def around(real: Any) -> Any:
        def options(settings: Any) -> dict[str, Any]:
            found = real(settings)
            transport = {**found["broker_transport_options"], "visibility_timeout": 1}
            # kombu looks every `interval` messages or, times the throttle, seconds; its own timer goes each 10 s.
            transport |= {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
            return {**found, "task_acks_late": True, "broker_transport_options": transport}

        return options

    wrap("worker.app", "celery_options", around)


# Promises broken on purpose.


def _write_unguarded() -> None:
    """A worker writes its results whether it still holds the parts or not."""
    from sqlalchemy import update

    from storage import parts, tables

    def settle(session: Session, claim: SliceClaim, number: int, values: dict[str, Any]) -> None:
        row = tables.Part
        session.execute(update(row).where(row.job_id == claim.job.id, row.number == number).values(**values))

    def count(session: Session, job_id: str, column: str) -> bool:
        row = tables.Job
        session.execute(update(row).where(row.id == job_id).values({column: getattr(row, column) + 1}))
        return False

    parts._settle, parts._count = settle, count


def _bury_nobody() -> None:
    """The sweep takes nothing back from the dead."""
    wrap("storage.sweeping", "bury", lambda _: lambda *args, **kwargs: False)


MUTATIONS: Mapping[str, Callable[[], None]] = {"unguarded-writes": _write_unguarded, "no-burial": _bury_nobody}
"""zombie-writes finds the first, any kill the second."""
