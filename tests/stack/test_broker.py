"""A worker and a Redis that goes away, and comes back empty; and a database that is not there yet."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from domain.errors import SETUP_EXIT
from domain.states import JobState
from nightowl import Copywrite, Ocr
from tasks.celery import count_messages
from tests.stack.conftest import eventually
from worker.embedded import command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack


def start(socket: Path) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(command(socket), stdout=subprocess.DEVNULL)
    with redis.Redis(unix_socket_path=str(socket)) as client:
        eventually(lambda: _answers(client))
    return server


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_outlives_its_redis(
    site: Site, document: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that were fetched and not begun are what Celery's own consumer dies of."""
    socket = tmp_path_factory.mktemp("k") / "s"
    url = f"redis+socket://{socket}"
    server = start(socket)
    try:
        monkeypatch.setenv("NIGHTOWL_BROKER_URL", url)
        with site.client() as client:
            jobs = [client.submit(Ocr(), document) for _ in range(6)]
            worker = site.start_worker(broker_url=url, concurrency="1", ring_seconds="1")
            eventually(lambda: client.get(jobs[0].id).state is not JobState.PENDING)
            server.kill()
            server.wait()
            server = start(socket)
            for job in jobs:
                assert client.wait(job.id, timeout_seconds=60).state is JobState.SUCCEEDED
        assert worker.poll() is None, site.log()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_messages_wait_at_the_broker_until_a_thread_is_free(site: Site) -> None:
    """One more may come: it was asked for before the last thread was taken."""
    with site.client() as client:
        for number in range(20):
            client.submit(Copywrite(brief=f"lamp {number}"))
        site.start_worker(model="hang", concurrency="4", slots="4", ring_seconds="600")
        eventually(lambda: client.counts().get(JobState.RUNNING, 0) == 4)
        with Connection(site.environment["NIGHTOWL_BROKER_URL"]) as connection:
            assert count_messages(connection, {"cpu", "gpu"}) >= 15


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_thread_that_falls_free_gets_its_next_message_at_once(site: Site) -> None:
    """Celery's loop by itself would look once a second."""
    with site.client() as client:
        jobs = [client.submit(Copywrite(brief=f"lamp {number}")) for number in range(30)]
        site.start_worker(concurrency="1")
        ended = [client.wait(job.id, timeout_seconds=60) for job in jobs]
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    times = sorted(job.finished_at for job in ended if job.finished_at is not None)
    assert (times[-1] - times[0]).total_seconds() < 15


def test_queued_messages_are_counted_at_every_priority(broker: Path) -> None:
    url = f"redis+socket://{broker}"
    with Connection(url) as connection, Celery(broker=url, set_as_current=False) as producer:
        assert count_messages(connection, {"cpu", "gpu"}) == 0
        for priority in (0, 3, 6):
            producer.send_task("nightowl.plan_job", queue="cpu", priority=priority, ignore_result=True)
        assert count_messages(connection, {"cpu", "gpu"}) == 3
        assert count_messages(connection, {"gpu"}) == 0


def test_a_broker_that_is_away_is_told(tmp_path: Path) -> None:
    with Connection(f"redis+socket://{tmp_path / 'nobody'}") as connection, pytest.raises(OperationalError):
        count_messages(connection, {"cpu"})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_may_start_later_says_so_by_its_status(site: Site, free_tcp_port: int, tmp_path: Path) -> None:
    """Whoever watches over workers starts one again unless it could not be set up."""
    away = site.start_worker(database_url=f"postgresql+psycopg://postgres@127.0.0.1:{free_tcp_port}/nightowl")
    behind = site.start_worker(database_url=f"sqlite:///{tmp_path / 'empty.db'}")
    assert (away.wait(60), behind.wait(60)) == (1, SETUP_EXIT)
    assert "nightowl migrate" in site.log(1)
