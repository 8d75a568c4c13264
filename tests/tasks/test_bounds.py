"""What a job brings and what it gives back are bounded, and a password leaves no trace."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from domain.errors import Code, ParamsError, ReaderError
from domain.kinds import Kind
from domain.limits import Limits
from domain.params import Ask, Ocr
from domain.states import JobState
from storage import jobs, parts
from tasks.plan import refuse_large_params
from tests.tasks.conftest import Sheet, StandInReaders
from tests.tasks.test_network import error_of, rows_with

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker

PASSWORD = "open sesame 4711"


def test_params_of_a_row_are_bounded(make_worker: MakeWorker) -> None:
    worker = make_worker(limits=Limits(max_params_bytes=100))
    job_id = worker.insert(kind="ask", params={"question": "x" * 200}, source="/a.txt")
    code, message = error_of(worker.drive(job_id))
    assert code == Code.PARAMS_INVALID
    assert "the limit is 100" in message and "NIGHTOWL_LIMITS__MAX_PARAMS_BYTES" in message


def test_params_of_a_message_are_not_stored_where_they_are_too_large(make_worker: MakeWorker) -> None:
    worker = make_worker(limits=Limits(max_params_bytes=100))
    values = {"kind": Kind.ASK, "source": "/a.txt", "params": {"question": "needle" * 50}, "priority": 0}
    assert refuse_large_params(worker.context, "theirs", values)
    assert refuse_large_params(worker.context, "theirs", values)
    job = worker.job("theirs")
    assert (job.state, error_of(job)[0]) == (JobState.FAILED, Code.PARAMS_INVALID)
    assert rows_with("needle", worker) == set()
    assert not refuse_large_params(worker.context, "small", {**values, "params": {"question": "Why?"}})


def test_the_largest_params_that_the_kinds_allow_are_within_the_limit() -> None:
    turns = [{"role": "assistant" if n % 2 else "user", "text": "x" * 8000} for n in range(49)]
    Limits().check_params(Ask.model_validate({"turns": turns}).to_json())
    with pytest.raises(ParamsError):
        Limits().check_params({"question": "x" * 1_000_000})


def test_a_part_whose_result_is_too_large_fails_alone(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders("short", "long " * 1000), limits=Limits(max_result_bytes=3000))
    job = worker.do(Ocr(output="text"), f"artifact:{worker.upload(b'x', 'made.pdf').id}")
    assert job.state is JobState.PARTIAL
    code, message = error_of(job)
    assert code == Code.RESULT_TOO_LARGE
    assert "page 2" in message and "NIGHTOWL_LIMITS__MAX_RESULT_BYTES" in message


def test_a_job_whose_parts_are_too_large_together_keeps_them(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders(*["words " * 200] * 5), limits=Limits(max_result_bytes=5000))
    job = worker.do(Ocr(output="text"), f"artifact:{worker.upload(b'x', 'made.pdf').id}")
    code, message = error_of(job)
    assert (job.state, code, job.attempts) == (JobState.FAILED, Code.RESULT_TOO_LARGE, 1)
    assert "the limit is 5000" in message
    assert job.parts.succeeded == 5


@pytest.mark.parametrize("ending", ["succeeded", "wrong", "cancelled", "never planned", "failed in planning"])
def test_a_password_leaves_no_trace(
    make_worker: MakeWorker, pdf: Callable[..., Path], caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    caplog.set_level(logging.DEBUG)
    worker, source = make_worker(), pdf("A secret.", password="another" if ending == "wrong" else PASSWORD)
    pages = {"pages": "7"} if ending == "failed in planning" else {}
    job_id = worker.submit(Ocr.model_validate({"password": PASSWORD, **pages}), source)
    assert rows_with(PASSWORD, worker) == {"jobs.password"}
    if ending == "cancelled":
        worker.plan(job_id)
    if ending in ("cancelled", "never planned"):
        with worker.context.database.write() as session:
            jobs.cancel(session, job_id, now=worker.context.clock())
    job = worker.drive(job_id)
    expected = {"succeeded": JobState.SUCCEEDED, "cancelled": JobState.CANCELLED, "never planned": JobState.CANCELLED}
    assert job.state is expected.get(ending, JobState.FAILED)
    assert rows_with(PASSWORD, worker) == set()
    assert PASSWORD not in f"{caplog.text} {job!r} {job.to_json()} {worker.bell.rung}"


def test_a_job_that_eats_readers_is_given_up(make_worker: MakeWorker) -> None:
    slow = Sheet(error=ReaderError("timed out", code=Code.READ_TIMEOUT))
    worker = make_worker(StandInReaders(*[slow] * 60), limits=Limits(max_hard_parts=10))
    job = worker.do(Ocr(output="text"), f"artifact:{worker.upload(b'x', 'made.pdf').id}")
    assert (job.state, job.parts.failed) == (JobState.FAILED, 60)
    with worker.context.database.read() as session:
        said = [part.error.message for part in parts.of_job(session, job.id) if part.error]
    tried = [message for message in said if message == "timed out"]
    assert 10 <= len(tried) < 30
    assert "the limit is 10 (setting NIGHTOWL_LIMITS__MAX_HARD_PARTS)" in said[-1]


def test_a_job_that_has_some_hard_pages_is_read_to_its_end(make_worker: MakeWorker) -> None:
    slow = Sheet(error=ReaderError("timed out", code=Code.READ_TIMEOUT))
    sheets = [slow if number % 3 == 0 else "words" for number in range(1, 61)]
    worker = make_worker(StandInReaders(*sheets), limits=Limits(max_hard_parts=5))
    job = worker.do(Ocr(output="text"), f"artifact:{worker.upload(b'x', 'made.pdf').id}")
    assert (job.state, job.parts.succeeded, job.parts.failed) == (JobState.PARTIAL, 40, 20)
