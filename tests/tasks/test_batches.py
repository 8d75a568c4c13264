"""A batch among other jobs: it holds nobody up, its messages are bounded, and a cancel ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domain.batches import BatchSpec, Found
from domain.params import Ocr
from domain.states import JobState
from storage import batches, invariants, jobs
from tasks.bell import ring_due
from tests.tasks.conftest import StandInReaders

if TYPE_CHECKING:
    from pathlib import Path

    from domain.batches import Batch
    from tests.tasks.conftest import MakeWorker, Worker

MEMBERS = 60
MESSAGES = 16


def submitted(worker: Worker, file: Path, *, share: int | None = None) -> Batch:
    spec = BatchSpec(name="b", params=Ocr(), share=share)
    members = [Found(path=f"{number}.pdf", source=str(file), stamp=str(number)) for number in range(MEMBERS)]
    with worker.context.database.write() as session:
        batch = batches.open_batch(session, spec, now=worker.clock.now)
        batches.add(session, batch, spec, members, stored={}, now=worker.clock.now, ring=0)
        batches.close_submit(session, batch.id, now=worker.clock.now)
    return batch


def states(worker: Worker, batch: Batch) -> dict[JobState, int]:
    with worker.context.database.read() as session:
        return dict(batches.summary(session, batch).states)


def drain(worker: Worker) -> None:
    while worker.hear() or ring_due(worker.context):
        assert len(worker.bell.messages) <= MESSAGES


def test_a_job_behind_a_batch_is_done_long_before_the_batch(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), max_messages=MESSAGES)
    batch = submitted(worker, file)
    ring_due(worker.context)
    for _ in range(20):
        assert worker.hear()
    single = worker.submit(Ocr(), file)
    with worker.context.database.write() as session:
        jobs.unring(session, single)  # its own message was not sent, for example by an INSERT
    ring_due(worker.context)
    heard = 0
    while not worker.job(single).state.is_final:
        assert worker.hear()
        heard += 1
        assert len(worker.bell.messages) <= MESSAGES
    assert heard <= 4 * MESSAGES
    assert states(worker, batch)[JobState.PENDING] > MEMBERS // 3
    drain(worker)
    assert states(worker, batch) == {JobState.SUCCEEDED: MEMBERS}


def test_a_share_bounds_what_is_in_flight_and_the_batch_still_ends(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), max_messages=MESSAGES)
    batch = submitted(worker, file, share=2)
    ring_due(worker.context)
    while worker.hear() or ring_due(worker.context):
        assert len(worker.bell.messages) <= 4
    assert states(worker, batch) == {JobState.SUCCEEDED: MEMBERS}


def test_nothing_of_a_cancelled_batch_begins_and_the_sweep_closes_it(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), max_messages=MESSAGES)
    batch = submitted(worker, file)
    ring_due(worker.context)
    for _ in range(10):
        assert worker.hear()
    with worker.context.database.write() as session:
        batches.mark_cancelled(session, batch.id, now=worker.clock.now)
        batches.cancel_some(session, batch.id, now=worker.clock.now, limit=100, urgent=True)
    asked = len(worker.engine.requests)
    drain(worker)
    assert len(worker.engine.requests) == asked, "neither is anything new rung for, nor is an old message heeded"
    with worker.context.database.write() as session:
        assert batches.cancel_some(session, batch.id, now=worker.clock.now, limit=100) > MEMBERS // 2
    assert worker.sweep()
    with worker.context.database.read() as session:
        assert batches.find(session, "b").over_at == worker.clock.now
        assert invariants.check(session, worker.context.artifacts) == []


def test_the_sweep_ends_what_is_left_of_a_batch_whose_cancel_was_killed(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), max_messages=MESSAGES)
    batch = submitted(worker, file)
    with worker.context.database.write() as session:
        batches.mark_cancelled(session, batch.id, now=worker.clock.now)
    assert worker.sweep()
    assert states(worker, batch) == {JobState.CANCELLED: MEMBERS}
    with worker.context.database.read() as session:
        assert batches.find(session, "b").over_at == worker.clock.now
        assert invariants.check(session, worker.context.artifacts) == []
