"""Work that workers died of: alone in its process, charged to nobody else, and with its last step on record."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from domain.params import Copywrite, Ocr
from domain.states import JobState, PartState
from storage import tables
from tests.tasks.conftest import Sheet, StandInReaders, WatchedEngine, joined

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker, Worker
    from worker.engines.base import Request

WAIT_SECONDS = 20


def suspect_part(worker: Worker, job_id: str, number: int) -> None:
    """As after two workers died of it."""
    part = tables.Part
    write(worker, update(part).where(part.job_id == job_id, part.number == number).values(deaths=2, attempts=2))


def suspect_job(worker: Worker, job_id: str) -> None:
    write(worker, update(tables.Job).where(tables.Job.id == job_id).values(deaths=2, tries=2))


def write(worker: Worker, statement: Any) -> None:
    with worker.context.database.write() as session:
        session.execute(statement)


def doing(worker: Worker) -> list[tuple[str, bool, str | None]]:
    """Of the attempts that run now: phase, alone, and what they are at."""
    row = tables.Attempt
    query = select(row.phase, row.alone, row.doing).where(row.state == "running").order_by(row.phase)
    with worker.context.database.read() as session:
        return [(phase, alone, step) for phase, alone, step in session.execute(query)]


class Watcher:
    """Stands in the engine: counts the requests that are there together, and holds up those it is told to."""

    def __init__(self, *, holds: int) -> None:
        self.there, self.go = threading.Semaphore(0), threading.Event()
        self.together = 0
        self.most: list[int] = []
        self._holds = holds
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> str:
        with self._lock:
            self.together += 1
            self.most.append(self.together)
            holds = len(self.most) <= self._holds
        self.there.release()
        if holds:
            assert self.go.wait(WAIT_SECONDS)
        with self._lock:
            self.together -= 1
        return "done"

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.there.acquire(timeout=WAIT_SECONDS)


def running(worker: Worker, job_id: str) -> threading.Thread:
    return threading.Thread(target=worker.run, args=(job_id,))


def test_a_part_that_two_workers_died_of_runs_when_nothing_else_does(make_worker: MakeWorker, file: Path) -> None:
    watcher = Watcher(holds=2)
    worker = make_worker(StandInReaders(Sheet(), Sheet()), engine=WatchedEngine(reply=watcher), slice_parts=1)
    poisonous, other = worker.submit(Ocr(pages="1"), file), worker.submit(Ocr(), file)
    for job_id in (poisonous, other):
        worker.plan(job_id)
    suspect_part(worker, poisonous, 1)
    second = threading.Thread(target=worker.run, args=(other, 2))
    with joined(running(worker, other), second):
        watcher.wait_for(2)  # both pages of the other job are in work
        suspect = running(worker, poisonous)
        suspect.start()
        while not any(alone for _, alone, _ in doing(worker)):
            assert suspect.is_alive()  # it claims its part, and waits
        (part,) = worker.parts(poisonous)
        assert (part.state, part.attempts) == (PartState.PENDING, 2)
        watcher.go.set()
    suspect.join(WAIT_SECONDS)
    assert watcher.most == [1, 2, 1]
    assert worker.parts(poisonous)[0].attempts == 3
    assert worker.drive(poisonous).state is JobState.SUCCEEDED


def test_nothing_begins_while_such_a_part_is_in_work(make_worker: MakeWorker, file: Path) -> None:
    watcher = Watcher(holds=1)
    worker = make_worker(StandInReaders(Sheet(), Sheet()), engine=WatchedEngine(reply=watcher))
    poisonous, other, unplanned = (worker.submit(Ocr(pages="1"), file) for _ in range(3))
    for job_id in (poisonous, other):
        worker.plan(job_id)
    suspect_part(worker, poisonous, 1)
    planner = threading.Thread(target=worker.plan, args=(unplanned,))
    with joined(running(worker, poisonous)):
        watcher.wait_for(1)
        assert doing(worker) == [("slice", True, "generating for page 1")]
        with joined(running(worker, other), planner):
            while len(doing(worker)) < 2:
                pass
            assert worker.parts(other)[0].attempts == 0
            assert worker.job(unplanned).attempts == 0
            watcher.go.set()
    assert watcher.most == [1, 1]
    assert worker.job(unplanned).state is JobState.RUNNING


def test_parts_under_suspicion_of_one_slice_are_rung_for_one_by_one(make_worker: MakeWorker, file: Path) -> None:
    """None of them waits for the time after which a message counts as lost."""
    worker = make_worker(StandInReaders("One.", "Two.", "Three."), ring_seconds=1000)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    for number in (1, 2, 3):
        suspect_part(worker, job_id, number)
    while worker.hear():
        pass
    assert worker.job(job_id).state is JobState.SUCCEEDED
    with worker.context.database.read() as session:
        row = tables.Attempt
        assert list(session.scalars(select(row.alone).where(row.phase == "slice"))) == [True] * 3


def test_planning_that_two_workers_died_of_waits_until_nothing_else_is_in_work(
    make_worker: MakeWorker, file: Path
) -> None:
    watcher = Watcher(holds=1)
    readers = StandInReaders(Sheet())
    worker = make_worker(readers, engine=WatchedEngine(reply=watcher))
    running_job, poisonous = worker.submit(Ocr(), file), worker.submit(Ocr(), file)
    worker.plan(running_job)
    suspect_job(worker, poisonous)
    seen: list[object] = []
    readers.on_probe = lambda: seen.extend([watcher.together, *(step for step in doing(worker) if step[0] == "plan")])
    planner = threading.Thread(target=worker.plan, args=(poisonous,))
    with joined(running(worker, running_job)):
        watcher.wait_for(1)
        planner.start()
        planner.join(0.2)
        assert planner.is_alive() and seen == []
        watcher.go.set()
    planner.join(WAIT_SECONDS)
    assert seen == [0, ("plan", True, "reading its source")]
    assert worker.job(poisonous).state is JobState.RUNNING


def test_finishing_that_two_workers_died_of_is_done_alone(make_worker: MakeWorker) -> None:
    engine = WatchedEngine()
    worker = make_worker(StandInReaders(), engine=engine)
    job_id = worker.submit(Copywrite(brief="a lamp"))
    worker.plan(job_id)
    suspect_job(worker, job_id)
    seen: list[object] = []
    engine.reply = lambda _: seen.extend(doing(worker))
    worker.finish(job_id)
    assert seen == [("finish", True, "merging its parts")]
    assert worker.job(job_id).state is JobState.SUCCEEDED


def test_a_message_that_is_not_heard_because_of_shutdown_is_rung_for_again(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    job_id = worker.submit(Ocr(), file)
    with worker.context.gate.work(alone=True, stopped=lambda: False):
        worker.context.heartbeat.shut_down()
        worker.plan(job_id)
    job = worker.job(job_id)
    assert (job.state, job.attempts) == (JobState.PENDING, 0)
    other = make_worker(StandInReaders("One."))
    other.sweep()
    assert other.hear()
    assert other.job(job_id).state is JobState.RUNNING


def test_the_last_step_of_the_others_is_written_with_the_lease(make_worker: MakeWorker, file: Path) -> None:
    watcher = Watcher(holds=1)
    worker = make_worker(StandInReaders(Sheet()), engine=WatchedEngine(reply=watcher), lease_seconds=1)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    with joined(running(worker, job_id)):
        watcher.wait_for(1)
        assert doing(worker) == [("slice", False, None)]
        while doing(worker)[0][2] is None:
            worker.context.heartbeat.beat()
        assert doing(worker) == [("slice", False, "generating for page 1")]
        watcher.go.set()


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_failure_that_is_no_death_makes_no_suspect(make_worker: MakeWorker, file: Path, max_attempts: int) -> None:
    worker = make_worker(StandInReaders(Sheet()), max_attempts=max_attempts)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    write(worker, update(tables.Part).values(attempts=max_attempts - 1))
    seen: list[object] = []
    worker.engine.reply = lambda _: seen.extend(doing(worker))
    worker.run(job_id)
    assert seen == [("slice", False, None)]
