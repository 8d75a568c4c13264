"""The ledger against a model of it, in any order: claims, crashes, stale writers, two sweepers, cancels, retries.

Hypothesis makes up the orders. After every step the invariants hold and the rows are what the model says; at the end,
whatever happened, ringing and working on leaves every job over. `NIGHTOWL_FUZZ_EXAMPLES=2000 pytest
tests/storage/test_machine.py` makes up that many, each time others; `--hypothesis-seed` makes them again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, text, update

from domain.errors import Code, ConflictError, Failure, LostError
from domain.jobs import Result
from domain.states import AttemptState, JobState, PartState, Phase, outcome
from storage import attempts, due, jobs, parts, sweeping, tables
from storage.due import Bell
from tests.storage.ledger import LEASE, Ledger
from tests.storage.model import AGAIN, Claim, Job, Model, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.due import Due
    from storage.session import Database

T = TypeVar("T")
EXAMPLES = int(os.environ.get("NIGHTOWL_FUZZ_EXAMPLES", "0"))  # read before the tests clear the environment
MOST_JOBS = 3
MOST_ROUNDS = 40
"""Rounds of the bell in which every job must be over. A slice of three suspects takes three, so ten would do."""
RING_SECONDS = 60
BROKEN = Failure(code=Code.ENGINE_FAILED, message="broken", retryable=True)

which = st.integers(0, 9)
"""Picks one of the jobs, claims or parts, however many there are: mostly one for which it makes sense, see `_pick`."""
STRAY = 7
"""From here on, any is picked: claims of the dead, jobs that are over."""
workers = st.sampled_from("abc")
seconds = st.integers(-20, 40)
"""Clocks are stepped back, too."""
delays = st.integers(0, 30)


class LedgerMachine(RuleBasedStateMachine):
    """One ledger, three workers, two sweepers, and people."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.ledger = Ledger(database)
        self.model = Model(max_attempts=3)
        self.sound = True
        _empty(database)

    @initialize(max_attempts=st.sampled_from((3, 3, 2, 1, 4)), pages=st.integers(1, 4), slice_parts=st.integers(1, 3))
    def begin(self, max_attempts: int, pages: int, slice_parts: int) -> None:
        """One job is planned, so that there is something to do from the start."""
        self.ledger.max_attempts = self.model.max_attempts = max_attempts
        self.submit(by_hand=False)
        self.claim_job(0, False, "a")
        self.write_plan(0, pages, slice_parts)

    # People.

    @precondition(lambda self: len(self.model.jobs) < MOST_JOBS)
    @rule(by_hand=st.booleans())
    def submit(self, by_hand: bool) -> None:
        id = f"job{len(self.model.jobs)}"
        if by_hand:
            with self.ledger.database.write() as session:
                session.execute(
                    text("INSERT INTO jobs (id, kind, source, params) VALUES (:id, 'ocr', '/a.pdf', :params)"),
                    {"id": id, "params": '{"password": "secret"}'},
                )
        else:
            self.ledger.submit(id=id, key=id)
            assert self.ledger.submit(key=id).id == id
        self.model.jobs.append(Job(id))

    @rule(at=which, late=st.booleans())
    def end(self, at: int, late: bool) -> None:
        """Somebody cancels a job, or its time is over."""
        job = self._job(at, lambda job: job.is_open)
        if late:
            error = Failure(code=Code.DEADLINE, message="late")
            with self.ledger.database.write() as session:
                ended = jobs.end(session, job.id, state=JobState.FAILED, now=self.ledger.now, error=error)
        else:
            ended = self.ledger.cancel(job.id)
        assert ended == job.is_open
        if ended:
            self.model.end(job, JobState.FAILED if late else JobState.CANCELLED)

    @rule(at=which)
    def retry(self, at: int) -> None:
        job = self._job(at, lambda job: job.state in AGAIN)
        if job.state in AGAIN:
            self.ledger.retry(job.id)
            self.model.retry(job)
        else:
            with pytest.raises(ConflictError):
                self.ledger.retry(job.id)

    @rule(by=seconds)
    def pass_time(self, by: int) -> None:
        self.ledger.pass_time(by)

    # Workers: jobs.

    @rule(at=which, alone=st.booleans(), worker=workers)
    def claim_job(self, at: int, alone: bool, worker: str) -> None:
        """To plan it, or to finish it."""
        now = self.ledger.now
        job = self._job(at, lambda job: self.model.may_take(job, now, alone=True))
        planning = job.state is JobState.PENDING
        ledger = self.ledger.as_worker(worker)
        claim = ledger.plan_claim(job.id, alone=alone) if planning else ledger.finish_claim(job.id, alone=alone)
        assert (claim is not None) == self.model.may_take(job, now, alone=alone)
        if claim is None:
            return
        assert "password" not in claim.job.params
        job.tries += 1
        job.holder = claim.token
        phase = Phase.PLAN if planning else Phase.FINISH
        self.model.claims.append(Claim(claim.token, job, phase, worker, alone, self._lease(), claim))

    @precondition(lambda self: self._claims(Phase.PLAN))
    @rule(at=which, pages=st.integers(0, 4), slice_parts=st.integers(1, 3))
    def write_plan(self, at: int, pages: int, slice_parts: int) -> None:
        claim = self._claim(at, Phase.PLAN)
        with self._refused_unless(claim.lives):
            self.ledger.write_plan(claim.real, pages=pages, slice_parts=slice_parts)  # type: ignore[arg-type]
        if claim.lives:
            claim.lives = False
            job = claim.job
            job.state, job.holder, job.not_before, job.tries, job.deaths = JobState.RUNNING, None, None, 0, 0
            job.parts = [Part(number + 1, number // slice_parts + 1) for number in range(pages)]

    @precondition(lambda self: self._claims(Phase.FINISH))
    @rule(at=which)
    def write_end(self, at: int) -> None:
        claim = self._claim(at, Phase.FINISH)
        job = claim.job
        state = outcome(succeeded=job.count(PartState.SUCCEEDED), failed=job.count(PartState.FAILED))
        with self._refused_unless(claim.lives):
            self._close(claim.real, state)
        if claim.lives:
            self.model.end(job, state)

    def _close(self, claim: Any, state: JobState) -> None:
        error = None if state is JobState.SUCCEEDED else BROKEN
        result = None if state is JobState.FAILED else Result(text="all")
        self._write(jobs.close, claim, state=state, result=result, error=error, now=self.ledger.now)

    @precondition(lambda self: self._claims(Phase.PLAN, Phase.FINISH))
    @rule(at=which, how=st.sampled_from(("put back", "given back", "failed")), delay=delays)
    def leave_job(self, at: int, how: str, delay: int) -> None:
        """Planning or finishing fails, for good or to be tried again, never beyond the cap; or it is given back."""
        claim = self._claim(at, Phase.PLAN, Phase.FINISH)
        now, job = self.ledger.now, claim.job
        not_before = now + timedelta(seconds=delay)
        if how == "put back" and job.tries >= self.model.max_attempts:
            how = "failed"
        with self._refused_unless(claim.lives):
            if how == "failed":
                self._write(jobs.close, claim.real, state=JobState.FAILED, error=BROKEN, now=now)
            elif how == "put back":
                self._write(jobs.put_back, claim.real, BROKEN, not_before=not_before, now=now)
            else:
                self._write(jobs.release, claim.real, now=now)
        if claim.lives and how == "failed":
            self.model.end(job, JobState.FAILED)
        elif claim.lives:
            claim.lives, job.holder = False, None
            job.tries -= how == "given back"
            job.not_before = not_before if how == "put back" else job.not_before

    @rule(at=which, times=st.integers(1, 3))
    def die_at_job(self, at: int, times: int) -> None:
        for _ in range(times):
            before = len(self.model.claims)
            for alone in (False, True):
                self.claim_job(at, alone, "a")
            if len(self.model.claims) > before:
                self._let_leases_end()

    # Workers: parts.

    @rule(at=which, nth=which, worker=workers)
    def claim_slice(self, at: int, nth: int, worker: str) -> None:
        now = self.ledger.now
        job = self._job(at, lambda job: any(self.model.claimable(job, slice, now)[0] for slice in job.slices))
        slice = job.slices[nth % len(job.slices)]
        numbers, alone = self.model.claimable(job, slice, now)
        claim = self.ledger.as_worker(worker).claim(job.id, slice)
        assert ([part.number for part in claim.parts] if claim else []) == numbers
        if claim is None:
            return
        assert claim.alone == alone
        for number in numbers:
            job.part(number).holder = claim.token
        taken = tuple(numbers)
        self.model.claims.append(Claim(claim.token, job, Phase.SLICE, worker, alone, self._lease(), claim, taken))

    @precondition(lambda self: self._claims(Phase.SLICE))
    @rule(at=which, nth=which)
    def begin_part(self, at: int, nth: int) -> None:
        claim, part = self._claimed_part(at, nth, PartState.PENDING)
        allowed = part.holder == claim.token and part.state is PartState.PENDING
        with self._refused_unless(allowed):
            count = self.ledger.begin(claim.real, part.number)  # type: ignore[arg-type]
            assert count == part.attempts + 1 <= self.model.max_attempts
        if allowed:
            part.state = PartState.RUNNING
            part.attempts += 1

    @precondition(lambda self: self._claims(Phase.SLICE))
    @rule(at=which, nth=which, how=st.sampled_from(("succeeded", "put back", "failed", "succeeded")), delay=delays)
    def settle_part(self, at: int, nth: int, how: str, delay: int) -> None:
        claim, part = self._claimed_part(at, nth, PartState.RUNNING)
        allowed = part.holder == claim.token and part.state is PartState.RUNNING
        now = self.ledger.now
        not_before = now + timedelta(seconds=delay)
        if how == "put back" and part.attempts >= self.model.max_attempts:
            how = "failed"
        with self._refused_unless(allowed):
            if how == "succeeded":
                self._write(parts.succeed, claim.real, part.number, text=claim.token, data={}, now=now)
            elif how == "failed":
                self._write(parts.fail, claim.real, part.number, BROKEN, now=now)
            else:
                self._write(parts.put_back, claim.real, part.number, not_before=not_before)
        if not allowed:
            return
        if how == "succeeded":
            part.settle(PartState.SUCCEEDED, text=claim.token)
        elif how == "failed":
            part.settle(PartState.FAILED, code=Code.ENGINE_FAILED)
        else:
            part.free()
            part.not_before = not_before

    @precondition(lambda self: self._claims(Phase.SLICE))
    @rule(at=which)
    def leave_slice(self, at: int) -> None:
        """A worker ends its attempt: closes it where everything is settled, gives the rest back where not."""
        claim = self._claim(at, Phase.SLICE)
        if any(claim.job.held_by(claim.token)):
            self._write(parts.release, claim.real, now=self.ledger.now)
            self.model.release(claim)
            return
        with self.ledger.database.write() as session:
            closed = attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=self.ledger.now)
        assert closed == claim.lives
        claim.lives = False

    @rule(at=which, nth=which, settle=st.integers(0, 3))
    def work_on_slice(self, at: int, nth: int, settle: int) -> None:
        """A worker takes a slice and does some of its parts; its attempt stays open."""
        before = len(self.model.claims)
        self.claim_slice(at, nth, "b")
        for _ in range(settle if len(self.model.claims) > before else 0):
            self.begin_part(0, 0)
            self.settle_part(0, 0, "succeeded", 0)

    @rule(at=which, nth=which, begins=st.integers(0, 3), times=st.integers(1, 3))
    def die_at_slice(self, at: int, nth: int, begins: int, times: int) -> None:
        """A worker dies with some parts begun, and the sweep finds it; perhaps again and again."""
        for _ in range(times):
            before = len(self.model.claims)
            self.claim_slice(at, nth, "c")
            if len(self.model.claims) > before:
                for number in range(min(begins, len(self.model.claims[-1].numbers))):
                    self.begin_part(0, number)
                self._let_leases_end()

    def _let_leases_end(self) -> None:
        self.ledger.pass_time(31)
        self.two_sweepers_at_once()

    # Leases.

    @rule(at=st.lists(which, max_size=3))
    def renew(self, at: list[int]) -> None:
        claims = {self.model.claims[n % len(self.model.claims)].token for n in at if self.model.claims}
        until = self._lease()
        with self.ledger.database.write() as session:
            held = attempts.renew(session, claims, until=until)
        assert held == {claim.token for claim in self.model.claims if claim.token in claims and claim.lives}
        for claim in self.model.claims:
            if claim.token in held:
                claim.lease_until = until

    @rule(worker=workers)
    def report_death(self, worker: str) -> None:
        with self.ledger.database.write() as session:
            worked = attempts.report_death(session, worker, cause="killed by SIGKILL", now=self.ledger.now)
        of_worker = [claim for claim in self.model.claims if claim.worker == worker]
        assert worked == bool(of_worker)
        for claim in of_worker:
            if claim.lives:
                claim.lease_until = self.ledger.now

    @rule()
    def two_sweepers_at_once(self) -> None:
        with self.ledger.database.read() as session:
            first = attempts.expired(session, now=self.ledger.now, limit=100)
            second = attempts.expired(session, now=self.ledger.now, limit=100)
        dead = [claim for claim in self.model.claims if claim.lives and claim.lease_until < self.ledger.now]
        assert {token for token, _ in first} == {claim.token for claim in dead}
        buried = [self._bury(token, job_id) for pair in zip(first, second, strict=True) for token, job_id in pair]
        assert sum(buried) == len(dead)
        for claim in dead:
            self.model.bury(claim)

    def _bury(self, token: str, job_id: str) -> bool:
        with self.ledger.database.write() as session:
            work = sweeping.bury(session, token, job_id, max_attempts=self.model.max_attempts, now=self.ledger.now)
        return work is not None

    @rule(lost=st.booleans())
    def ring(self, lost: bool) -> None:
        """Messages are made. They get lost and the marks stay, or the broker is away and the marks are taken back."""
        with self.ledger.database.write() as session:
            rung = self._due(session)
            if not lost:
                due.unring(session, rung)

    # What must be so.

    @invariant()
    def the_ledger_is_sound_and_is_what_the_model_says(self) -> None:
        self.sound = False
        assert self.ledger.check() == []
        with self.ledger.database.read() as session:
            found_jobs = {job.id: job for job in session.scalars(select(tables.Job))}
            found_parts = list(session.scalars(select(tables.Part).order_by(tables.Part.job_id, tables.Part.number)))
        assert {id: _of_job(job) for id, job in found_jobs.items()} == {
            job.id: _of_model(job) for job in self.model.jobs
        }
        assert [_of_part(part) for part in found_parts] == [
            (job.id, part.number, part.state, part.attempts, part.deaths, part.text, part.code)
            for job in self.model.jobs
            for part in job.parts
        ]
        for part in (part for job in self.model.jobs for part in job.parts):
            assert part.code != "worker_lost" or part.deaths >= 1
        self.sound = True

    def teardown(self) -> None:
        """Everybody is gone, and somebody who only hears the bell does the rest."""
        if not self.sound:
            return
        for _ in range(MOST_ROUNDS):
            if not self._open_jobs():
                break
            self.ledger.pass_time(RING_SECONDS + 1)
            self.ledger.bury_dead()
            with self.ledger.database.write() as session:
                rung = self._due(session)
            for message in rung:
                self._hear(message)
            assert self.ledger.check() == []
        assert self._open_jobs() == []

    def _open_jobs(self) -> list[str]:
        return [job.id for job in self.model.jobs if not self.ledger.job(job.id).state.is_final]

    def _hear(self, message: Due) -> None:
        ledger, job_id = self.ledger, message.job_id
        if message.slice is not None:
            if claim := ledger.claim(job_id, message.slice):
                for part in claim.parts:
                    ledger.do(claim, part.number)
        elif plan := ledger.plan_claim(job_id) or ledger.plan_claim(job_id, alone=True):
            ledger.write_plan(plan, pages=2, slice_parts=1)
        elif finish := ledger.finish_claim(job_id) or ledger.finish_claim(job_id, alone=True):
            over = ledger.job(job_id).parts
            self._close(finish, outcome(succeeded=over.succeeded, failed=over.failed))

    def _due(self, session: Any) -> list[Due]:
        stale_before = self.ledger.now - timedelta(seconds=RING_SECONDS)
        bell = Bell(now=self.ledger.now, stale_before=stale_before)
        return [item for ask in (due.finishes, due.slices, due.plans) for item in ask(session, bell, limit=50)]

    # Ways to say it shortly.

    def _job(self, at: int, sensible: Callable[[Job], bool]) -> Job:
        return _pick(self.model.jobs, at, sensible)

    def _claims(self, *phases: Phase) -> list[Claim]:
        """The newest first."""
        return [claim for claim in reversed(self.model.claims) if claim.phase in phases]

    def _claim(self, at: int, *phases: Phase) -> Claim:
        return _pick(self._claims(*phases), at, lambda claim: claim.lives)

    def _claimed_part(self, at: int, nth: int, state: PartState) -> tuple[Claim, Part]:
        claim = self._claim(at, Phase.SLICE)
        mine = [claim.job.part(number) for number in claim.numbers]
        return claim, _pick(mine, nth, lambda part: part.holder == claim.token and part.state is state)

    def _lease(self) -> Any:
        return self.ledger.now + LEASE

    def _write(self, function: Callable[..., object], *args: object, **rest: object) -> None:
        with self.ledger.database.write() as session:
            function(session, *args, **rest)

    @contextmanager
    def _refused_unless(self, allowed: bool) -> Iterator[None]:
        if allowed:
            yield
        else:
            with pytest.raises(LostError):
                yield


def _pick(rows: Sequence[T], at: int, sensible: Callable[[T], bool]) -> T:
    """One of the rows for which it makes sense; any where there is none, and in a part of the cases."""
    chosen = rows if at >= STRAY else [row for row in rows if sensible(row)] or rows
    return chosen[at % len(chosen)]


def _empty(database: Database) -> None:
    with database.write() as session:
        for table in (tables.Part, tables.Attempt, tables.Artifact, tables.Job):
            session.execute(delete(table))
        session.execute(update(tables.Ledger).values(value=0, holder=None, until=None))


def _of_job(row: tables.Job) -> tuple[object, ...]:
    return (
        JobState(row.state), row.token, row.tries, row.deaths, row.parts_total, row.parts_succeeded, row.parts_failed
    )  # fmt: skip


def _of_model(job: Job) -> tuple[object, ...]:
    succeeded, failed = job.count(PartState.SUCCEEDED), job.count(PartState.FAILED)
    return job.state, job.holder, job.tries, job.deaths, len(job.parts), succeeded, failed


def _of_part(row: tables.Part) -> tuple[object, ...]:
    return row.job_id, row.number, PartState(row.state), row.attempts, row.deaths, row.text, row.error_code


@pytest.mark.parametrize(
    ("database_url", "examples", "steps"),
    [
        pytest.param("sqlite", EXAMPLES or 25, 40, id="sqlite"),
        pytest.param("postgresql", EXAMPLES // 4 or 6, 30, id="postgresql", marks=pytest.mark.postgres),
    ],
    indirect=["database_url"],
)
@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_in_any_order_the_ledger_keeps_its_promises(database: Database, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(database),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            phases=(hypothesis.Phase.generate, *((hypothesis.Phase.shrink,) if EXAMPLES else ())),
            suppress_health_check=list(HealthCheck),
        ),
    )
