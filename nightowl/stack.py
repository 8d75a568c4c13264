"""The embedded stack: a Redis from a wheel and a worker, started for one command or until Ctrl-C.

One stack serves a data folder; a lock says whose. A second command on the same folder joins the first one's stack and
takes over if that one ends. Processes are children of this one and end with it, even if it is killed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Self

from sqlalchemy.exc import SQLAlchemyError

from domain.errors import SETUP_EXIT, SetupError
from storage import attempts, migrations
from storage.session import Database

if TYPE_CHECKING:
    from pathlib import Path

    from domain.settings import Settings

REDIS_SECONDS = 15.0
STOP_MARGIN_SECONDS = 3.0
MAX_RESTARTS = 5


class Stack:
    """Use as a context manager. Call `check` now and then while it is up: it replaces a worker that died.

    `log` is where the processes write; None lets them write to this process's stderr.
    """

    def __init__(self, settings: Settings, *, log: Path | None = None) -> None:
        self._settings = settings
        self._log = log
        self._lock: IO[str] | None = None
        self._redis: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._restarts = 0

    @property
    def owns(self) -> bool:
        """Whether the processes are ours; False while another command's stack serves this data folder."""
        return self._lock is not None

    def __enter__(self) -> Self:
        try:
            self.check()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Start what is missing. Raises SetupError where it cannot be."""
        if not self.owns and not self._acquire():
            return
        if self._settings.embeds_redis and not _alive(self._redis):
            self._start_redis()
        if not _alive(self._worker):
            self._start_worker()

    def _acquire(self) -> bool:
        self._settings.run_dir.mkdir(parents=True, exist_ok=True)
        lock = (self._settings.run_dir / "stack.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        self._migrate()
        return True

    def _migrate(self) -> None:
        database = Database(self._settings.database)
        try:
            migrations.upgrade(database)
        finally:
            database.close()

    def _start_redis(self) -> None:
        socket = self._settings.redis_socket
        self._redis = self._spawn(
            "-m", "worker.embedded", str(socket), log=self._settings.data_dir / "logs" / "redis.log"
        )
        limit = time.monotonic() + REDIS_SECONDS
        while not _answers(socket):
            if not _alive(self._redis) or time.monotonic() > limit:
                raise SetupError(
                    f"the embedded Redis did not start; see {self._settings.data_dir / 'logs' / 'redis.log'}"
                )
            time.sleep(0.02)

    def _start_worker(self) -> None:
        if self._worker is not None:
            self._account_for(self._worker)
        self._worker = self._spawn("-m", "worker", log=self._log)

    def _account_for(self, worker: subprocess.Popen[bytes]) -> None:
        """A worker that died is replaced; one that cannot start, a few times; one that could not be set up, never.

        A worker that took work has started: if it dies of that, the ledger counts the deaths of the work.
        """
        self._restarts = 0 if self._report_death(worker) else self._restarts + 1
        if worker.returncode == SETUP_EXIT or self._restarts > MAX_RESTARTS:
            raise SetupError(f"the worker cannot start: {self._last_line()}")

    def _report_death(self, worker: subprocess.Popen[bytes]) -> bool:
        """Tell the ledger, so that its work need not wait for the leases. False if it never took any, or we cannot."""
        database = Database(self._settings.database)
        try:
            with database.write() as session:
                name = attempts.worker_name(worker.pid)
                cause = how_it_ended(worker.returncode)
                return attempts.report_death(session, name, cause=cause, now=datetime.now(UTC))
        except SQLAlchemyError:
            return False  # the leases run out by themselves
        finally:
            database.close()

    def _last_line(self) -> str:
        if self._log is None or not self._log.is_file():
            return "see its messages above"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (log: {self._log})"

    def _spawn(self, *arguments: str, log: Path | None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "NIGHTOWL_STACK": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *arguments]
        if log is None:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )

    def stop(self) -> None:
        """The worker first: it gives back what it has in hand."""
        _stop(self._worker, seconds=self._settings.grace_seconds + STOP_MARGIN_SECONDS)
        _stop(self._redis, seconds=STOP_MARGIN_SECONDS)
        self._worker = self._redis = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def how_it_ended(status: int) -> str:
    """A process's exit status in words."""
    if status >= 0:
        return f"it ended with status {status}"
    try:
        return f"it was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was killed by signal {-status}"


def _alive(process: subprocess.Popen[bytes] | None) -> bool:
    return process is not None and process.poll() is None


def _stop(process: subprocess.Popen[bytes] | None, *, seconds: float) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(socket: Path) -> bool:
    import redis

    try:
        with redis.Redis(unix_socket_path=str(socket), socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
