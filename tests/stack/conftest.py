"""Real processes: a Redis from the wheel and workers with the fake engine, on the database of the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import redis

from domain.settings import Settings
from nightowl import Client
from worker.embedded import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WAIT_SECONDS = 60.0


def eventually(condition: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> None:
    """Poll until the condition holds; the processes under test have no event that we could wait for."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError("it did not happen in time")
        time.sleep(0.05)


@dataclass
class Site:
    """One installation: a database, a broker, and the workers that a test starts."""

    environment: dict[str, str]
    folder: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, **settings: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment, **{f"NIGHTOWL_{k.upper()}": v for k, v in settings.items()}}
        log = (self.folder / f"worker{len(self.workers)}.log").open("wb")
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stdout=log, stderr=log)
        log.close()
        self.workers.append(worker)
        return worker

    def log(self, number: int = 0) -> str:
        return (self.folder / f"worker{number}.log").read_text()

    def client(self) -> Client:
        return Client(Settings())

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.send_signal(signal.SIGKILL)
            worker.wait()


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a Redis of this test."""
    socket = tmp_path_factory.mktemp("r") / "s"
    server = subprocess.Popen(command(socket), stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(socket))
    eventually(lambda: socket.exists() and client.ping())
    client.close()
    yield socket
    server.kill()
    server.wait()


@pytest.fixture
def site(database_url: str, broker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An installation on each database; no worker runs yet."""
    from storage import migrations
    from storage.session import Database

    environment = {
        "NIGHTOWL_DATABASE_URL": database_url,
        "NIGHTOWL_BROKER_URL": f"redis+socket://{broker}",
        "NIGHTOWL_ENGINE": "fake",
        "NIGHTOWL_SWEEP_SECONDS": "0.3",
        "NIGHTOWL_LEASE_SECONDS": "2",
        "NIGHTOWL_POLL_SECONDS": "0.1",
        "NIGHTOWL_READERS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    database = Database(database_url)
    migrations.upgrade(database)
    database.close()
    made = Site(environment=environment, folder=tmp_path)
    yield made
    made.close()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A text file of ten pages, cheap to read."""
    path = tmp_path / "pages.txt"
    path.write_text("\n".join(f"This is line {number} of a plain text." for number in range(400)))
    return path
