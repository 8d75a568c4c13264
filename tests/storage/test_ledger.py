"""The promises of the ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text, update

from domain.errors import Code, ConflictError, LostError
from domain.params import Ocr, Summarize
from domain.states import JobState, PartState
from storage import attempts, due, jobs, parts, sweeping, tables
from storage.due import Bell
from tests.storage.ledger import LEASE, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from storage.session import Database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in that many threads that start together; the first exception is raised."""
    barrier, errors = threading.Barrier(count), []

    def run(index: int) -> None:
        barrier.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_pending_and_knows_what_it_was_asked(ledger: Ledger) -> None:
    job = ledger.submit(params=Ocr(mode="image", pages="1-3"))
    assert job.state is JobState.PENDING
    assert job.params == {"mode": "image", "pages": "1-3"}
    assert job.created_at == ledger.now
    assert job.change_seq > 0


def test_the_same_key_returns_the_same_job(ledger: Ledger) -> None:
    assert ledger.submit(key="k").id == ledger.submit(key="k").id


def test_a_key_with_another_request_is_refused(ledger: Ledger) -> None:
    ledger.submit(key="k")
    with pytest.raises(ConflictError, match="another kind, source or params"):
        ledger.submit(key="k", params=Summarize())


def test_a_plain_insert_is_a_job(ledger: Ledger) -> None:
    with ledger.database.write() as session:
        session.execute(text("INSERT INTO jobs (id, kind, source) VALUES ('mine', 'ocr', '/x.pdf')"))
    with ledger.database.write() as session:
        found = due.plans(session, Bell(now=ledger.now, stale_before=ledger.now - LEASE), limit=10)
    assert [item.job_id for item in found] == ["mine"]
    assert ledger.plan_claim("mine") is not None


def test_an_unknown_kind_is_refused_by_the_database(ledger: Ledger) -> None:
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError), ledger.database.write() as session:
        session.execute(text("INSERT INTO jobs (id, kind) VALUES ('mine', 'dance')"))


# --- claims -----------------------------------------------------------------------------------------------------------


def test_one_of_many_planners_wins(ledger: Ledger) -> None:
    job = ledger.submit()
    claims: list[object] = []
    at_once(6, lambda index: claims.append(ledger.as_worker(str(index)).plan_claim(job.id)))
    assert sum(claim is not None for claim in claims) == 1


def test_one_of_many_runners_gets_each_part(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=8)
    numbers: list[int] = []

    def run(index: int) -> None:
        if claim := ledger.as_worker(str(index)).claim(job_id):
            numbers.extend(part.number for part in claim.parts)

    at_once(6, run)
    assert sorted(numbers) == list(range(1, 9))


def test_a_result_is_stored_once_and_the_last_part_is_known(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    claim = ledger.must_claim(job_id)
    assert ledger.do(claim, 1) is False
    assert ledger.do(claim, 2) is True
    with pytest.raises(LostError):
        ledger.succeed(claim, 2, "again")
    assert [part.text for part in ledger.parts(job_id)] == ["text", "text"]
    assert ledger.job(job_id).parts.succeeded == 2


def test_an_attempt_is_counted_before_the_work_and_only_for_parts_that_began(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=3)
    claim = ledger.must_claim(job_id)
    assert ledger.begin(claim, 1) == 1
    assert [part.attempts for part in ledger.parts(job_id)] == [1, 0, 0]


def test_slices_follow_the_order_of_the_parts(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=5, slice_parts=2)
    assert [part.slice for part in ledger.parts(job_id)] == [1, 1, 2, 2, 3]
    assert [part.number for part in ledger.must_claim(job_id, 2).parts] == [3, 4]


def test_the_worker_that_runs_is_written_into_the_job(ledger: Ledger) -> None:
    job_id = ledger.planned()
    ledger.must_claim(job_id)
    assert (ledger.job(job_id).engine, ledger.job(job_id).model) == ("fake", "m")


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_dead_workers_parts_run_again_and_its_late_write_changes_nothing(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    dead = ledger.must_claim(job_id)
    ledger.begin(dead, 1)
    ledger.pass_time(LEASE.total_seconds() + 1)
    assert ledger.bury_dead() == 1

    alive = ledger.as_worker("two").must_claim(job_id)
    assert [part.number for part in alive.parts] == [1, 2]
    ledger.begin(alive, 1)
    with pytest.raises(LostError):
        ledger.succeed(dead, 1, "zombie")
    ledger.succeed(alive, 1, "right")
    assert ledger.parts(job_id)[0].text == "right"


def test_a_renewed_lease_is_not_buried(ledger: Ledger) -> None:
    claim = ledger.must_claim(ledger.planned())
    ledger.pass_time(20)
    with ledger.database.write() as session:
        assert attempts.renew(session, [claim.token], until=ledger.now + LEASE) == {claim.token}
    ledger.pass_time(20)
    assert ledger.bury_dead() == 0


def test_a_lost_lease_cannot_be_renewed(ledger: Ledger) -> None:
    claim = ledger.must_claim(ledger.planned())
    ledger.pass_time(31)
    ledger.bury_dead()
    with ledger.database.write() as session:
        assert attempts.renew(session, [claim.token], until=ledger.now + LEASE) == set()


def kill_while_working_on(ledger: Ledger, job_id: str, number: int) -> list[int]:
    """A worker claims, begins one part and dies. Returns what it had claimed."""
    claim = ledger.must_claim(job_id)
    ledger.begin(claim, number)
    ledger.pass_time(31)
    ledger.bury_dead()
    return [part.number for part in claim.parts]


def test_the_third_death_of_a_part_fails_it_and_its_neighbours_are_not_charged(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=3)
    assert kill_while_working_on(ledger, job_id, 2) == [1, 2, 3]
    assert kill_while_working_on(ledger, job_id, 2) == [1, 2, 3]
    neighbours = ledger.must_claim(job_id)
    assert [part.number for part in neighbours.parts] == [1, 3]
    ledger.do(neighbours, 1)
    ledger.do(neighbours, 3)
    assert kill_while_working_on(ledger, job_id, 2) == [2]  # alone

    part = ledger.parts(job_id)[1]
    assert part.state is PartState.FAILED
    assert part.error is not None and part.error.code == Code.WORKER_LOST
    assert ledger.job(job_id).parts.failed == 1
    assert ledger.finish_claim(job_id) is not None


def test_a_job_whose_planner_dies_three_times_fails_visibly(ledger: Ledger) -> None:
    job = ledger.submit()
    for alone in (False, False, True):
        assert ledger.plan_claim(job.id, alone=alone) is not None
        ledger.pass_time(31)
        ledger.bury_dead()
    ended = ledger.job(job.id)
    assert ended.state is JobState.FAILED
    assert ended.error is not None and ended.error.code == Code.WORKER_LOST


def test_a_planner_that_lost_its_lease_writes_no_plan(ledger: Ledger) -> None:
    job = ledger.submit()
    claim = ledger.plan_claim(job.id)
    assert claim is not None
    ledger.pass_time(31)
    ledger.bury_dead()
    with pytest.raises(LostError):
        ledger.write_plan(claim, pages=3)
    assert ledger.parts(job.id) == []


def test_work_given_back_costs_no_attempt(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    claim = ledger.must_claim(job_id)
    ledger.begin(claim, 1)
    with ledger.database.write() as session:
        parts.release(session, claim, now=ledger.now)
    assert [(part.state, part.attempts) for part in ledger.parts(job_id)] == [(PartState.PENDING, 0)] * 2
    assert ledger.must_claim(job_id)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_one_of_many_finishers_wins(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=1)
    ledger.do(ledger.must_claim(job_id), 1)
    claims: list[object] = []
    at_once(6, lambda index: claims.append(ledger.as_worker(str(index)).finish_claim(job_id)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_job_cannot_be_finished_before_its_parts_are_over(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    ledger.do(ledger.must_claim(job_id), 1)
    assert ledger.finish_claim(job_id) is None


def test_the_end_is_stored_with_the_result_and_without_the_password(ledger: Ledger) -> None:
    job = ledger.submit(params=Ocr(password="secret"))  # type: ignore[arg-type]
    assert "secret" not in repr(job) and "secret" not in str(job.to_json())
    claim = ledger.plan_claim(job.id)
    assert claim is not None and claim.job.password == "secret"
    ledger.write_plan(claim, pages=1)
    ledger.do(ledger.must_claim(job.id), 1)
    finish = ledger.finish_claim(job.id)
    assert finish is not None
    ledger.close(finish, "all of it")
    ended = ledger.job(job.id)
    assert ended.state is JobState.SUCCEEDED and ended.result is not None and ended.result.text == "all of it"
    assert ended.password is None and ended.finished_at == ledger.now


def test_cancel_frees_the_parts_and_ends_the_attempts(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    claim = ledger.must_claim(job_id)
    ledger.begin(claim, 1)
    with ledger.database.write() as session:
        assert jobs.cancel(session, job_id, now=ledger.now)
    with pytest.raises(LostError):
        ledger.succeed(claim, 1)
    with ledger.database.read() as session:
        assert attempts.stopped(session, [claim.token]) == {claim.token}
    assert ledger.job(job_id).state is JobState.CANCELLED
    assert {part.state for part in ledger.parts(job_id)} == {PartState.PENDING}
    assert ledger.claim(job_id) is None


def test_a_job_that_is_over_is_not_cancelled(ledger: Ledger) -> None:
    job = ledger.submit()
    with ledger.database.write() as session:
        assert jobs.cancel(session, job.id, now=ledger.now)
        assert not jobs.cancel(session, job.id, now=ledger.now)


def test_retry_opens_failed_parts_and_keeps_the_good_ones(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=2)
    claim = ledger.must_claim(job_id)
    ledger.do(claim, 1)
    ledger.fail(claim, 2)
    finish = ledger.finish_claim(job_id)
    assert finish is not None
    with ledger.database.write() as session:
        jobs.close(session, finish, state=JobState.PARTIAL, now=ledger.now)
    assert ledger.retry(job_id).state is JobState.RUNNING
    assert [part.number for part in ledger.must_claim(job_id).parts] == [2]
    assert ledger.parts(job_id)[0].text == "text"


def test_an_open_job_cannot_be_tried_again(ledger: Ledger) -> None:
    job = ledger.submit()
    with pytest.raises(ConflictError, match="pending"), ledger.database.write() as session:
        jobs.retry(session, job.id)


def test_a_job_that_was_cancelled_before_its_plan_can_be_tried_again(ledger: Ledger) -> None:
    job = ledger.submit()
    with ledger.database.write() as session:
        jobs.cancel(session, job.id, now=ledger.now)
        jobs.retry(session, job.id)
    assert ledger.plan_claim(job.id) is not None


# --- the bell and the cursor ------------------------------------------------------------------------------------------


def bell(ledger: Ledger) -> Bell:
    return Bell(now=ledger.now, stale_before=ledger.now - timedelta(seconds=60))


def test_a_slice_is_rung_once_until_its_message_counts_as_lost(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=3, slice_parts=2)
    with ledger.database.write() as session:
        assert [item.slice for item in due.slices(session, bell(ledger), limit=10)] == [1, 2]
        assert due.slices(session, bell(ledger), limit=10) == []
        assert due.outstanding(session, bell(ledger)) == 2
    ledger.must_claim(job_id, 1)
    ledger.pass_time(61)
    with ledger.database.write() as session:
        assert [item.slice for item in due.slices(session, bell(ledger), limit=10)] == [2]


def test_messages_that_were_not_sent_are_rung_for_again(ledger: Ledger) -> None:
    ledger.planned(pages=3, slice_parts=2)
    with ledger.database.write() as session:
        unsent = due.slices(session, bell(ledger), limit=10)
        due.unring(session, unsent)
        assert due.slices(session, bell(ledger), limit=10) == unsent


def test_a_part_is_not_due_before_its_time(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=1)
    claim = ledger.must_claim(job_id)
    ledger.begin(claim, 1)
    with ledger.database.write() as session:
        parts.put_back(session, claim, 1, not_before=ledger.now + timedelta(seconds=10))
    assert ledger.claim(job_id) is None
    ledger.pass_time(10)
    assert ledger.claim(job_id) is not None


def test_a_job_whose_parts_are_over_is_rung_for(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=1)
    ledger.do(ledger.must_claim(job_id), 1)
    with ledger.database.write() as session:
        assert [item.job_id for item in due.finishes(session, bell(ledger), limit=10)] == [job_id]
        assert due.finishes(session, bell(ledger), limit=10) == []


def test_higher_priority_is_rung_first(ledger: Ledger) -> None:
    low, high = ledger.submit(), ledger.submit()
    with ledger.database.write() as session:
        session.execute(update(tables.Job).values(rung_at=None))
        session.execute(update(tables.Job).where(tables.Job.id == high.id).values(priority=5))
        assert [item.job_id for item in due.plans(session, bell(ledger), limit=10)] == [high.id, low.id]


def test_every_change_gets_a_higher_number(ledger: Ledger) -> None:
    seen = [ledger.submit().change_seq]
    job_id = ledger.planned(pages=2)
    seen.append(ledger.job(job_id).change_seq)
    claim = ledger.must_claim(job_id)
    for number in (1, 2):
        ledger.do(claim, number)
        seen.append(ledger.job(job_id).change_seq)
    assert seen == sorted(set(seen))


def test_a_poller_that_keeps_the_highest_number_misses_no_change(ledger: Ledger) -> None:
    """Writers commit in any order; the numbers still become visible in order."""
    total, writers = 40, 4
    done = threading.Event()
    seen: set[str] = set()

    def poll() -> None:
        cursor = 0
        while True:
            over = done.is_set()
            with ledger.database.read() as session:
                found = jobs.changes(session, since=cursor, limit=1000)
            seen.update(job.id for job in found)
            cursor = found[-1].change_seq if found else cursor
            if over and not found:
                return

    poller = threading.Thread(target=poll)
    poller.start()
    submitted: list[str] = []
    at_once(writers, lambda _: submitted.extend(ledger.submit().id for _ in range(total // writers)))
    done.set()
    poller.join()
    assert seen == set(submitted)


def test_one_sweeper_holds_until_it_lets_go_or_is_late(ledger: Ledger) -> None:
    def hold(name: str) -> bool:
        with ledger.database.write() as session:
            return sweeping.hold(session, holder=name, now=ledger.now, until=ledger.now + timedelta(seconds=15))

    assert hold("a") and hold("a") and not hold("b")
    ledger.pass_time(16)
    assert hold("b") and not hold("a")
    with ledger.database.write() as session:
        sweeping.let_go(session, holder="b")
    assert hold("a")


def test_many_workers_finish_a_job_without_deadlock(ledger: Ledger) -> None:
    job_id = ledger.planned(pages=24, slice_parts=3)

    def work(index: int) -> None:
        mine = ledger.as_worker(str(index))
        for slice in range(1, 9):
            if claim := mine.claim(job_id, slice):
                for part in claim.parts:
                    mine.do(claim, part.number)

    at_once(4, work)
    assert ledger.job(job_id).parts.succeeded == 24
