"""One job through the real path: client, SQL, Celery on a real Redis, worker, reader children, engine, SQL."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from domain.states import JobState, PartState
from nightowl import Ask, Copywrite, Ocr, Summarize
from storage.session import Database
from tests.stack.conftest import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack


def test_jobs_of_several_kinds_end_with_results(site: Site, document: Path) -> None:
    site.start_worker()
    with site.client() as client:
        read = client.submit(Ocr(), document)
        told = client.submit(Summarize(), document)
        asked = client.submit(Ask(question="Which line?"), document.read_bytes(), name="uploaded.txt")
        briefed = client.submit(Copywrite(brief="a lamp"))
        ended = [client.wait(job.id, timeout_seconds=60) for job in (read, told, asked, briefed)]
        assert [job.state for job in ended] == [JobState.SUCCEEDED] * 4
        assert ended[0].result is not None and "This is line 399" in ended[0].result.text
        assert {job.engine for job in ended} == {"fake"}
        assert ended[0].parts.total == ended[0].parts.succeeded > 1
        assert [file.name for file in client.artifacts(read.id)] == ["text.md"]
        assert b"This is line 0" in client.read(client.artifacts(read.id)[0])


def test_a_job_comes_in_by_sql_and_by_celery_alone(site: Site, document: Path) -> None:
    from celery import Celery

    site.start_worker()
    database = Database(site.environment["NIGHTOWL_DATABASE_URL"])
    with database.write() as session:
        session.execute(
            text("INSERT INTO jobs (id, kind, source) VALUES ('by-sql', 'ocr', :source)"), {"source": str(document)}
        )
    database.close()
    app = Celery(broker=site.environment["NIGHTOWL_BROKER_URL"], set_as_current=False)
    for _ in range(2):
        app.send_task("nightowl.submit", args=("by-celery", "ocr", str(document)), queue="cpu", ignore_result=True)
    app.send_task(
        "nightowl.submit", args=("wrong", "ocr", str(document), {"colour": 1}), queue="cpu", ignore_result=True
    )
    app.close()
    with site.client() as client:
        assert client.wait("by-sql", timeout_seconds=60).state is JobState.SUCCEEDED
        eventually(lambda: any(job.id == "by-celery" for job in client.recent()))
        assert client.wait("by-celery", timeout_seconds=60).state is JobState.SUCCEEDED
        eventually(lambda: any(job.id == "wrong" for job in client.recent()))
        wrong = client.wait("wrong", timeout_seconds=60)
        assert wrong.state is JobState.FAILED
        assert wrong.error is not None and "'colour'" in wrong.error.message


def test_after_kill_9_another_worker_finishes_and_no_part_is_done_twice(site: Site, document: Path) -> None:
    site.start_worker(model="delay=0.4", slots="1", parts_in_flight="2")
    with site.client() as client:
        job = client.submit(Summarize(), document)
        eventually(lambda: client.get(job.id).parts.succeeded >= 2)
        site.workers[0].kill()
        site.workers[0].wait()
        before = {part.number: part for part in client.parts(job.id) if part.state is PartState.SUCCEEDED}
        assert not client.get(job.id).state.is_final

        site.start_worker()
        ended = client.wait(job.id, timeout_seconds=60)
        assert ended.state is JobState.SUCCEEDED
        after = {part.number: part for part in client.parts(job.id)}
        assert ended.parts.succeeded == len(after) > len(before)
        assert {number: after[number] for number in before} == before  # stored once, untouched
        assert all(part.attempts <= 2 for part in after.values())


def test_sigterm_gives_unfinished_parts_back_and_leaves(site: Site, document: Path) -> None:
    worker = site.start_worker(model="hang")
    with site.client() as client:
        job = client.submit(Summarize(), document)
        eventually(lambda: any(part.state is PartState.RUNNING for part in client.parts(job.id)))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        parts = client.parts(job.id)
        assert {part.state for part in parts} == {PartState.PENDING}
        assert {part.attempts for part in parts} == {0}
        site.start_worker()
        assert client.wait(job.id, timeout_seconds=60).state is JobState.SUCCEEDED


def test_cancel_stops_the_work_and_frees_the_engine(site: Site, document: Path) -> None:
    site.start_worker(model="hang", slots="2")
    with site.client() as client:
        job = client.submit(Summarize(), document)
        eventually(lambda: any(part.state is PartState.RUNNING for part in client.parts(job.id)))
        assert client.cancel(job.id).state is JobState.CANCELLED
        assert client.get(job.id).state is JobState.CANCELLED
        # The engine has two places; another job gets one only when they are free again.
        second = client.submit(Summarize(), document)
        eventually(lambda: any(part.state is PartState.RUNNING for part in client.parts(second.id)))


def test_failures_that_may_pass_are_tried_again(site: Site, document: Path) -> None:
    site.start_worker(model="fail=every:3")
    with site.client() as client:
        job = client.wait(client.submit(Summarize(), document).id, timeout_seconds=60)
        assert job.state is JobState.SUCCEEDED
        assert job.attempts > 1


def test_jobs_wait_for_a_broker_that_is_away(site: Site, document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_BROKER_URL", "redis+socket:///nowhere/redis.sock")
    with site.client() as client:
        job = client.submit(Ocr(), document)
        site.start_worker()
        assert client.wait(job.id, timeout_seconds=60).state is JobState.SUCCEEDED
