"""A worker carries a job on as far as it can: one message for a job of one part, and none but for what is left."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from domain.messages import RUN_SLICE
from domain.params import Copywrite, Ocr
from domain.states import JobState
from tasks.carry import plan_and_carry_on, run_and_carry_on
from tests.tasks.conftest import StandInReaders

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tasks.context import Context
    from tests.tasks.conftest import MakeWorker


def test_a_job_of_one_part_needs_one_message(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("a page"))
    job_id = worker.submit(Ocr(), file)
    plan_and_carry_on(worker.context, job_id)
    assert worker.job(job_id).state is JobState.SUCCEEDED
    assert not worker.bell.messages
    assert [part.attempts for part in worker.parts(job_id)] == [1]


def test_a_job_without_parts_is_finished_at_once(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders())
    job_id = worker.submit(Copywrite(brief="a lamp"))
    plan_and_carry_on(worker.context, job_id)
    assert worker.job(job_id).state is JobState.SUCCEEDED


def test_a_job_of_several_parts_waits_for_its_turn_and_its_last_slice_finishes_it(
    make_worker: MakeWorker, file: Path
) -> None:
    worker = make_worker(StandInReaders("one", "two"), slice_parts=1)
    job_id = worker.submit(Ocr(), file)
    plan_and_carry_on(worker.context, job_id)
    assert [task for task, _ in worker.bell.messages] == [RUN_SLICE, RUN_SLICE]
    run_and_carry_on(worker.context, worker.engine, job_id, 1)
    assert worker.job(job_id).state is JobState.RUNNING
    run_and_carry_on(worker.context, worker.engine, job_id, 2)
    assert worker.job(job_id).state is JobState.SUCCEEDED


def test_a_job_that_wants_another_engine_is_left_to_it(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("a page"))
    job_id = worker.submit(Ocr(), file, engine="another")
    plan_and_carry_on(worker.context, job_id)
    assert worker.job(job_id).state is JobState.RUNNING
    assert [task for task, _ in worker.bell.messages] == [RUN_SLICE]


def test_a_message_that_comes_twice_changes_nothing(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("a page"))
    job_id = worker.submit(Ocr(), file)
    plan_and_carry_on(worker.context, job_id)
    before = worker.job(job_id).change_seq
    plan_and_carry_on(worker.context, job_id)
    run_and_carry_on(worker.context, worker.engine, job_id, 1)
    assert worker.job(job_id).change_seq == before


def test_a_worker_that_shuts_down_begins_nothing_more(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("a page"))
    job_id = worker.submit(Ocr(), file)
    worker.context.heartbeat.shut_down()
    plan_and_carry_on(worker.context, job_id)
    assert [part.attempts for part in worker.parts(job_id)] == [0]
    assert [task for task, _ in worker.bell.messages] == [RUN_SLICE]


def test_threads_that_ring_at_once_ring_for_each_other(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come while one rings, it rings once more, after the last of them."""
    worker = make_worker(StandInReaders())
    entered, leave, rings = threading.Event(), threading.Event(), []

    def slow(context: Context) -> int:
        rings.append(context)
        entered.set()
        assert leave.wait(10)
        return 0

    monkeypatch.setattr("tasks.bell.ring_due", slow)
    first = threading.Thread(target=worker.context.turn.ring, args=(worker.context,))
    first.start()
    assert entered.wait(10)
    for _ in range(5):
        worker.context.turn.ring(worker.context)
    leave.set()
    first.join()
    assert len(rings) == 2


def test_who_just_rang_need_not_ring_again_while_other_work_is_in_hand(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(StandInReaders())
    rings: list[Context] = []
    monkeypatch.setattr("tasks.bell.ring_due", rings.append)
    turn, context = worker.context.turn, worker.context
    with context.heartbeat.watch("another"):
        turn.ring(context, may_wait=True)
        turn.ring(context, may_wait=True)
        assert len(rings) == 1
        turn.ring(context)
        assert len(rings) == 2, "what cannot wait is rung for"
    turn.ring(context, may_wait=True)
    assert len(rings) == 3, "nobody would ring later"
    monkeypatch.setattr("tasks.bell.PAUSE_SECONDS", 0.0)
    with context.heartbeat.watch("another"):
        turn.ring(context, may_wait=True)
    assert len(rings) == 4, "the pause is over"


def test_an_engine_that_is_elsewhere_is_rung_for_at_once(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("a page"))
    with worker.context.heartbeat.watch("another"):
        plan_and_carry_on(worker.context, worker.submit(Ocr(), file))
        plan_and_carry_on(worker.context, worker.submit(Ocr(), file, engine="another"))
    assert [task for task, _ in worker.bell.messages] == [RUN_SLICE]
