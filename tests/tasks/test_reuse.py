"""The same work is done once: an earlier result is given again, and one that is being made is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from domain.errors import Code, EngineError, SourceError
from domain.messages import PLAN_JOB
from domain.params import Caption, Ocr
from domain.states import JobState
from storage import artifacts, invariants, jobs, tables
from tests.tasks.conftest import Sheet, StandInReaders, failing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker, Worker

both = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    return make_worker(StandInReaders("One.", "Two."), reuse=True)


def sound(worker: Worker) -> None:
    with worker.context.database.read() as session:
        assert invariants.check(session, worker.context.artifacts) == []


@both
def test_a_result_is_given_again_at_once_and_says_whose_it_is(worker: Worker, file: Path) -> None:
    first = worker.do(Caption(), file)
    stored = worker.context.artifacts.put(b"subtitles", name="x.srt", media_type="text/plain")
    with worker.context.database.write() as session:
        artifacts.add(session, stored, role="result", job_id=first.id)
        row = session.get_one(tables.Job, first.id)
        row.result = {**(row.result or {}), "artifacts": ["x.srt"]}
    first = worker.job(first.id)
    asked = len(worker.engine.requests)
    again = worker.plan(worker.submit(Caption(), file))
    assert (again.state, again.reused_from) == (JobState.SUCCEEDED, first.id)
    assert again.result == first.result
    assert (again.engine, again.model) == (first.engine, first.model)
    assert len(worker.engine.requests) == asked, "the engine was not asked again"
    assert worker.files(again.id) == worker.files(first.id) == {"x.srt": b"subtitles"}
    third = worker.plan(worker.submit(Caption(), file))
    assert third.reused_from == first.id, "it comes from the job that did the work"
    sound(worker)


@pytest.mark.parametrize("what", ["content", "params", "kind", "engine", "revision", "fresh", "off"])
def test_other_work_is_done(worker: Worker, make_worker: MakeWorker, file: Path, what: str) -> None:
    worker.do(Ocr(), file)
    other = worker
    if what == "content":
        file.write_bytes(b"something else")
    if what in ("revision", "off"):
        other = make_worker(StandInReaders("One."), reuse=what != "off", revision="2")
    specs: dict[str, dict[str, Any]] = {"engine": {"engine": "fake"}, "fresh": {"fresh": True}}
    params = Ocr(pages="1") if what == "params" else Caption() if what == "kind" else Ocr()
    job = other.plan(other.submit(params, file, **specs.get(what, {})))
    assert (job.state, job.reused_from) == (JobState.RUNNING, None)


def test_a_default_that_is_spelt_out_is_the_same_param(worker: Worker, file: Path) -> None:
    first = worker.do(Ocr(), file)
    assert worker.plan(worker.submit(Ocr(output="markdown"), file)).reused_from == first.id


@both
def test_one_that_is_being_made_is_waited_for(worker: Worker, file: Path) -> None:
    first, second, third = (worker.submit(Ocr(), file) for _ in range(3))
    worker.plan(first)
    for waiting in (second, third):
        job = worker.plan(waiting)
        assert (job.state, job.reused_from, job.attempts) == (JobState.PENDING, first, 0)
    sound(worker)
    worker.drive(first)
    worker.sweep()
    assert {args for task, args, _, _ in worker.bell.rung if task == PLAN_JOB} == {(second,), (third,)}
    while worker.hear():
        pass
    assert {worker.job(id).state for id in (second, third)} == {JobState.SUCCEEDED}
    sound(worker)


def test_a_member_whose_content_is_known_needs_no_look_at_its_source(worker: Worker) -> None:
    stored = worker.context.artifacts.keep(b"content", lambda _: b"", name="x.pdf")
    with worker.context.database.write() as session:
        artifacts.add(session, stored, role="source", job_id=None)
    twice = []
    for _ in range(2):
        id = worker.submit(Ocr(), f"artifact:{stored.id}", source_name="x.pdf")
        with worker.context.database.write() as session:
            row = session.get(tables.Job, id)
            assert row is not None
            row.sha256 = stored.sha256
        twice.append(id)
    worker.drive(twice[0])
    worker.context.artifacts.remove(stored)
    assert worker.plan(twice[1]).reused_from == twice[0]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_where_the_first_gives_nothing_each_does_its_own_work(make_worker: MakeWorker, file: Path, how: str) -> None:
    worker = make_worker(StandInReaders(Sheet(text=None), "Two."), reuse=True)
    worker.engine.reply = failing(EngineError("no", code=Code.ENGINE_FAILED, retryable=False))
    first, second = worker.submit(Ocr(mode="image"), file), worker.submit(Ocr(mode="image"), file)
    worker.plan(first)
    assert worker.plan(second).reused_from == first
    if how == "cancelled":
        worker.cancel(first)
    else:
        assert worker.drive(first).state is JobState.FAILED
    worker.engine.reply = None
    job = worker.plan(second)
    assert (job.state, job.reused_from) == (JobState.RUNNING, None)
    assert worker.drive(second).state is JobState.SUCCEEDED
    sound(worker)


def test_a_wait_that_nobody_ended_looks_again_by_itself(worker: Worker, file: Path) -> None:
    first, second = worker.submit(Ocr(), file), worker.submit(Ocr(), file)
    worker.plan(first)
    worker.plan(second)
    worker.drive(first)
    with worker.context.database.write() as session:  # the word did not come
        row = session.scalars(select(tables.Job).where(tables.Job.id == second)).one()
        row.not_before = worker.clock.now.replace(year=2027)
    assert worker.plan(second).state is JobState.PENDING
    worker.clock.now = worker.clock.now.replace(year=2028)
    assert worker.plan(second).state is JobState.SUCCEEDED


def test_a_job_that_waits_can_be_cancelled_and_tried_again(worker: Worker, file: Path) -> None:
    first, second = worker.submit(Ocr(), file), worker.submit(Ocr(), file)
    worker.plan(first)
    worker.plan(second)
    worker.cancel(second)
    sound(worker)
    with worker.context.database.write() as session:
        assert jobs.retry(session, second).reused_from is None
    assert worker.plan(second).reused_from == first


@both
def test_two_that_both_failed_do_not_wait_for_each_other_when_tried_again(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders("One.")
    worker = make_worker(readers, reuse=True)
    readers.on_probe = refuse
    twice = worker.submit(Ocr(), file), worker.submit(Ocr(), file)
    for id in twice:
        assert worker.drive(id).state is JobState.FAILED
    readers.on_probe = lambda: None
    with worker.context.database.write() as session:
        for id in twice:
            jobs.retry(session, id)
    for id in twice:
        worker.plan(id)
    assert [worker.drive(id).state for id in twice] == [JobState.SUCCEEDED] * 2
    sound(worker)


def refuse() -> None:
    raise SourceError("not now", code=Code.SOURCE_DAMAGED)


def test_what_a_password_opened_is_given_to_nobody(worker: Worker, file: Path) -> None:
    with_password = Ocr.model_validate({"password": "open sesame"})
    worker.do(with_password, file)
    for params in (Ocr(), with_password):
        assert worker.plan(worker.submit(params, file)).state is JobState.RUNNING


def test_a_partial_result_is_not_given_again(make_worker: MakeWorker, file: Path) -> None:
    torn = EngineError("no", code=Code.ENGINE_FAILED, retryable=False)
    worker = make_worker(StandInReaders("One.", Sheet(error=torn)), reuse=True)
    assert worker.do(Ocr(), file).state is JobState.PARTIAL
    assert worker.plan(worker.submit(Ocr(), file)).state is JobState.RUNNING
