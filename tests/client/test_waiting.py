"""Waiting for a job: told by PostgreSQL, by looking on SQLite, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from domain.states import JobState
from nightowl import AsyncClient, Client, Copywrite, Ocr
from nightowl.client import SELDOM_SECONDS, Pace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from domain.batches import BatchSummary
    from storage.session import Database

BRIEF = Copywrite(brief="a lamp")


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def waited(client: Client, *, cancel_when: Callable[[], object]) -> float:
    """Seconds from the end of a job to the return of `wait`."""
    job = client.submit(BRIEF)
    returned: list[float] = []

    def wait() -> None:
        assert client.wait(job.id, timeout_seconds=30).state is JobState.CANCELLED
        returned.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    until(cancel_when)
    client.cancel(job.id)
    ended = time.monotonic()
    thread.join()
    return returned[0] - ended


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.postgres
def test_postgresql_tells_who_waits(client: Client) -> None:
    assert waited(client, cancel_when=lambda: client.listener.hears) < SELDOM_SECONDS / 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_nobody_listens(client: Client) -> None:
    assert waited(client, cancel_when=lambda: True) < 2
    assert not client.listener.hears


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.postgres
def test_a_lost_connection_is_no_lost_wait(
    client: Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def cut() -> bool:
        if not client.listener.hears:
            return False
        with database.write() as session:
            session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"))
        until(lambda: not client.listener.hears)
        return True

    assert waited(client, cancel_when=cut) <= SELDOM_SECONDS + 1
    assert "looking instead" in caplog.text


def test_a_wait_that_takes_too_long_says_so(client: Client) -> None:
    job = client.submit(BRIEF)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"is pending after 0\.2 s"):
        client.wait(job.id, timeout_seconds=0.2)
    assert time.monotonic() - began < 5


def test_we_look_the_less_often_the_longer_it_takes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    job, now = client.submit(BRIEF), [100.0]
    monkeypatch.setattr("nightowl.client.time.monotonic", lambda: now[0])
    pace = Pace(job.id, None)
    pauses = []
    for waited in (0.0, 1.0, 5.0, 600.0):
        now[0] = 100.0 + waited
        pauses.append(pace.pause(job, told=False))
    assert pauses == pytest.approx([0.02, 0.1, 0.5, 1.0])
    assert pace.pause(job, told=True) == SELDOM_SECONDS


def test_the_asynchronous_client_is_the_same_client() -> None:
    """No method of the client is missing there or means something else."""
    own = {"close", "wait", "wait_batch"}
    streams = {name for name, _ in inspect.getmembers(Client, inspect.isgeneratorfunction)}  # a cursor keeps its thread
    calls = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    calls -= own | streams
    for name in calls:
        assert getattr(AsyncClient, name).__wrapped__ is getattr(Client, name)
    for name in own:
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name))


def test_many_waits_of_the_asynchronous_client_hold_no_threads(client: Client) -> None:
    async def main() -> None:
        async with AsyncClient(threads=2) as owl:
            jobs = [await owl.submit(BRIEF) for _ in range(12)]
            waits = [asyncio.create_task(owl.wait(job.id, timeout_seconds=30)) for job in jobs]
            for job in jobs:
                await owl.cancel(job.id)
            assert [job.state for job in await asyncio.gather(*waits)] == [JobState.CANCELLED] * 12
            found = await owl.changes(0)
            assert {job.id for job in found.jobs} == {job.id for job in jobs}

    asyncio.run(main())


def test_an_asynchronous_wait_times_out_and_can_be_cancelled(client: Client) -> None:
    async def main() -> None:
        async with AsyncClient() as owl:
            job = await owl.submit(BRIEF)
            with pytest.raises(TimeoutError):
                await owl.wait(job.id, timeout_seconds=0.1)
            task = asyncio.create_task(owl.wait(job.id))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_an_asynchronous_wait_for_a_batch(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("a")

    async def main() -> None:
        async with AsyncClient() as owl:
            await owl.submit_batch(Ocr(), folder, name="b")
            with pytest.raises(TimeoutError, match=r"batch b is not over after 0\.1 s"):
                await owl.wait_batch("b", timeout_seconds=0.1)
            await owl.cancel_batch("b")
            seen: list[BatchSummary] = []
            assert (await owl.wait_batch("b", seen=seen.append)).states == {JobState.CANCELLED: 1}
            assert len(seen) == 1

    asyncio.run(main())
