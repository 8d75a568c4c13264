"""The ledger against a model of it, in any order: claims, crashes, stale writers, two sweepers, cancels, retries, and
batches, whose members take turns, and jobs that do the same work, of which one waits for the other.

Hypothesis makes up the orders. After every step the invariants hold and the rows are what the model says; at the end,
whatever happened, ringing and working on leaves every job over. `NIGHTOWL_FUZZ_EXAMPLES=2000 pytest
tests/storage/test_machine.py` makes up that many, each time others; `--hypothesis-seed` makes them again.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
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

from domain.batches import BatchSpec, Found
from domain.errors import Code, ConflictError, Failure, LostError
from domain.jobs import Result
from domain.params import Ocr
from domain.settings import Settings
from domain.states import AttemptState, JobState, PartState, Phase, outcome
from storage import attempts, batches, due, jobs, parts, sweeping, tables
from storage.due import Bell
from tasks import reuse
from tests.storage.ledger import LEASE, Ledger
from tests.storage.model import AGAIN, Batch, Claim, Job, Model, Part
from tests.storage.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from storage.due import Due
    from storage.session import Database

T = TypeVar("T")
EXAMPLES = int(os.environ.get("NIGHTOWL_FUZZ_EXAMPLES", "0"))  # read before the tests clear the environment
MOST_JOBS = 6
MOST_ROUNDS = 200
"""Rounds of the bell in which every job must be over, where the members of a batch go one by one."""
RING_SECONDS = 60
NO_BOUND = 50
BROKEN = Failure(code=Code.ENGINE_FAILED, message="broken", retryable=True)

which = st.integers(0, 9)
"""Picks one of the jobs, claims or parts, however many there are: mostly one for which it makes sense, see `_pick`."""
STRAY = 7
"""From here on, any is picked: claims of the dead, jobs that are over."""
workers = st.sampled_from("abc")
seconds = st.integers(-20, 40)
"""Clocks are stepped back, too."""
delays = st.integers(0, 30)
contents = st.sampled_from("qqr")
shares = st.sampled_from((None, 1, 2))
members = st.lists(st.tuples(st.sampled_from(("1.pdf", "2.pdf", "3.pdf")), contents), max_size=3, unique=True)


class LedgerMachine(RuleBasedStateMachine):
    """One ledger, three workers, two sweepers, and people."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.ledger = Ledger(database)
        self.model = Model(max_attempts=3)
        self.context: Any = SimpleNamespace(settings=Settings(reuse=True), clock=lambda: self.ledger.now)
        self.sound = True
        _empty(database)

    @initialize(
        max_attempts=st.sampled_from((3, 3, 2, 1, 4)),
        pages=st.integers(1, 4),
        slice_parts=st.integers(1, 3),
        members=members,
        share=shares,
    )
    def begin(
        self, max_attempts: int, pages: int, slice_parts: int, members: list[tuple[str, str]], share: int | None
    ) -> None:
        """One job is planned and a batch is there, so that there is something to do from the start."""
        self.ledger.max_attempts = self.model.max_attempts = max_attempts
        self.submit(by_hand=False, content="q")
        self.claim_job(0, False, "a")
        self.look_for_the_same(0)
        self.write_plan(0, pages, slice_parts)
        self.submit_batch("x", share, members, False, 0, True)

    # People.

    @precondition(lambda self: len(self.model.jobs) < MOST_JOBS)
    @rule(by_hand=st.booleans(), content=contents)
    def submit(self, by_hand: bool, content: str) -> None:
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
        self.model.jobs.append(Job(id, content, locked=by_hand))

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
            self.model.end(job, JobState.FAILED if late else JobState.CANCELLED, self.ledger.now)

    @rule(at=which)
    def retry(self, at: int) -> None:
        job = self._job(at, lambda job: job.state in AGAIN)
        if job.state in AGAIN:
            self.ledger.retry(job.id)
            self.model.retry(job)
        else:
            with pytest.raises(ConflictError):
                self.ledger.retry(job.id)

    # Batches.

    @precondition(lambda self: len(self.model.jobs) < MOST_JOBS)
    @rule(
        name=st.sampled_from("xy"),
        share=shares,
        members=members,
        fresh=st.booleans(),
        ring=st.integers(0, 2),
        ends=st.booleans(),
    )
    def submit_batch(
        self, name: str, share: int | None, members: list[tuple[str, str]], fresh: bool, ring: int, ends: bool
    ) -> None:
        self.open_batch(name, share)
        batch = next(batch for batch in self.model.batches if batch.name == name)
        self._add(batch, members, fresh=fresh, ring=ring)
        if ends:
            self._close_submit(batch)

    @rule(name=st.sampled_from("xy"), share=shares)
    def open_batch(self, name: str, share: int | None) -> None:
        """A submit begins: of a batch that is new, or goes on, or was cancelled, or is over."""
        spec = BatchSpec(name=name, params=Ocr(), share=share)
        with self.ledger.database.write() as session:
            id = batches.open_batch(session, spec, now=self.ledger.now).id
        batch = next((batch for batch in self.model.batches if batch.name == name), None)
        if batch is None:
            self.model.batches.append(batch := Batch(id, name))
        assert batch.id == id
        batch.share, batch.is_submitted, batch.is_cancelled, batch.is_over = share, False, False, False

    @precondition(lambda self: self.model.batches and len(self.model.jobs) < MOST_JOBS)
    @rule(at=which, members=members, ring=st.integers(0, 2))
    def add_members(self, at: int, members: list[tuple[str, str]], ring: int) -> None:
        batch = _pick(self.model.batches, at, lambda batch: not batch.is_cancelled)
        self._add(batch, members, fresh=False, ring=ring)

    def _add(self, batch: Batch, members: list[tuple[str, str]], *, fresh: bool, ring: int) -> None:
        """What is there already is not added again, and nothing to a batch that was cancelled meanwhile."""
        spec = BatchSpec(name=batch.name, params=Ocr(), share=batch.share, fresh=fresh)
        entries = [Found(path=path, source=f"/archive/{path}", sha256=64 * content) for path, content in members]
        with self._refused_unless(not batch.is_cancelled, ConflictError), self.ledger.database.write() as session:
            value = batches.find(session, batch.id)
            added = batches.add(session, value, spec, entries, stored={}, now=self.ledger.now, ring=ring)
        if batch.is_cancelled:
            return
        new = [member for member in members if member not in batch.members]
        assert (len(added.jobs), added.already) == (len(new), len(members) - len(new))
        batch.members.update(new)
        batch.is_over = batch.is_over and not new
        for id, (_, content) in zip(added.jobs, new, strict=True):
            self.model.jobs.append(Job(id, content, batch=batch, fresh=fresh))

    @precondition(lambda self: self.model.batches)
    @rule(at=which)
    def close_submit(self, at: int) -> None:
        self._close_submit(_pick(self.model.batches, at, lambda batch: not batch.is_submitted))

    def _close_submit(self, batch: Batch) -> None:
        self._write(batches.close_submit, batch.id, now=self.ledger.now)
        batch.is_submitted = True

    @precondition(lambda self: self.model.batches)
    @rule(at=which, limit=st.integers(1, 3), urgent=st.booleans())
    def cancel_batch(self, at: int, limit: int, urgent: bool) -> None:
        """It is marked, and a few of its jobs end; whoever cancelled it may be gone then. What runs goes first."""
        batch = _pick(self.model.batches, at, lambda batch: any(job.is_open for job in self.model.of_batch(batch)))
        self._write(batches.mark_cancelled, batch.id, now=self.ledger.now)
        batch.is_cancelled = True
        is_open = [job for job in self.model.of_batch(batch) if job.is_open]
        running = [job for job in is_open if job.state is JobState.RUNNING]
        with self.ledger.database.write() as session:
            count = batches.cancel_some(session, batch.id, now=self.ledger.now, limit=limit, urgent=urgent)
        ended = self._ended(is_open, count)
        assert set(map(id, running)) <= set(map(id, ended)) or count <= min(len(running), limit)
        assert urgent or count == min(len(is_open), limit)

    @rule(limit=st.integers(0, 3))
    def end_cancelled(self, limit: int) -> None:
        """The sweep goes on where somebody who cancelled a batch was killed."""
        is_open = [job for job in self.model.jobs if job.is_open and job.batch and job.batch.is_cancelled]
        with self.ledger.database.write() as session:
            count = batches.end_cancelled(session, now=self.ledger.now, limit=limit)
        assert count == min(len(is_open), limit)
        self._ended(is_open, count)

    def _ended(self, among: list[Job], count: int) -> list[Job]:
        """Which of the open jobs were cancelled: the ledger chooses, as many as it says."""
        ended = [job for job in among if self.ledger.job(job.id).state is JobState.CANCELLED]
        assert len(ended) == count
        for job in ended:
            self.model.end(job, JobState.CANCELLED, self.ledger.now)
        return ended

    @precondition(lambda self: self.model.batches)
    @rule(at=which, limit=st.integers(1, 3))
    def retry_batch(self, at: int, limit: int) -> None:
        now = self.ledger.now

        def ended_jobs(batch: Batch) -> list[Job]:
            again = [job for job in self.model.of_batch(batch) if job.state in AGAIN]
            return [job for job in again if job.finished_at and job.finished_at <= now]

        batch = _pick(self.model.batches, at, lambda batch: bool(ended_jobs(batch)))
        ended = ended_jobs(batch)
        self._write(jobs.open_again, batch.id)
        batch.is_cancelled = batch.is_over = False
        with self.ledger.database.write() as session:
            count = batches.retry_some(session, batch.id, ended_before=now, limit=limit)
        assert count == min(len(ended), limit)
        again = [job for job in ended if not self.ledger.job(job.id).state.is_final]
        assert len(again) == count
        for job in again:
            self.model.retry(job)

    @rule()
    def close_over(self) -> None:
        over = [
            batch
            for batch in self.model.batches
            if batch.is_submitted and not batch.is_over and not any(job.is_open for job in self.model.of_batch(batch))
        ]
        with self.ledger.database.write() as session:
            assert batches.close_over(session, now=self.ledger.now) == len(over)
        for batch in over:
            batch.is_over = True

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

    @rule(at=which, worker=workers, pages=st.integers(0, 3))
    def plan_job(self, at: int, worker: str, pages: int) -> None:
        """As workers do it, if nobody dies: claim, look whether it was done before, write the plan."""
        before = len(self.model.claims)
        self.claim_job(at, False, worker)
        if len(self.model.claims) > before and self.model.claims[-1].phase is Phase.PLAN:
            self.look_for_the_same(0)
            if self.model.claims[-1].lives:
                self.write_plan(0, pages, 1)

    @precondition(lambda self: self._claims(Phase.PLAN))
    @rule(at=which)
    def look_for_the_same(self, at: int) -> None:
        """Before it is planned: has another job done this, or is one at it? Then it is given that, or waits."""
        claim = self._claim(at, Phase.PLAN)
        job, now = claim.job, self.ledger.now
        real: Any = claim.real
        if real.job.password is not None:
            assert not self._settle(real, job)
            return
        same = self.model.same(job)
        waits = job.reused is not None and job.reused.is_open and not job.fresh
        with self._refused_unless(claim.lives):
            settled = self._settle(real, job)
        if not claim.lives:
            return
        assert settled == bool(same or waits)
        if not settled:
            job.work, job.reused = job.content, None
            return
        if same:
            job.reused = next(other for other in same if other.id == self.ledger.job(job.id).reused_from)
        if same and same[0].state is JobState.SUCCEEDED:
            self.model.end(job, JobState.SUCCEEDED, now)
            return
        claim.lives, job.holder, job.not_before = False, None, now + reuse.WAIT
        job.work = None
        job.tries -= 1

    def _settle(self, claim: Any, job: Job) -> bool:
        with self.ledger.database.write() as session:
            return reuse.settle(self.context, session, claim, 64 * job.content)

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
            self.model.end(job, state, self.ledger.now)

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
            self.model.end(job, JobState.FAILED, now)
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
        closes = len(claim.numbers) == 1 and delay % 2 == 0  # the attempt with its only part, or later
        with self._refused_unless(allowed):
            if how == "succeeded":
                values = {"text": claim.token, "data": {}, "now": now, "closes": closes}
                self._write(parts.succeed, claim.real, part.number, **values)
            elif how == "failed":
                self._write(parts.fail, claim.real, part.number, BROKEN, now=now)
            else:
                self._write(parts.put_back, claim.real, part.number, not_before=not_before)
        if not allowed:
            return
        if how == "succeeded":
            part.settle(PartState.SUCCEEDED, text=claim.token)
            claim.lives = claim.lives and not closes
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

    @rule()
    def cut_leases(self) -> None:
        """The sweep cuts those that no right clock gives."""
        beyond = self.ledger.now + 2 * LEASE
        self._write(attempts.shorten, beyond=beyond, until=self._lease())
        for claim in self.model.claims:
            if claim.lives and claim.lease_until > beyond:
                claim.lease_until = self._lease()

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
            self.model.bury(claim, self.ledger.now)

    def _bury(self, token: str, job_id: str) -> bool:
        with self.ledger.database.write() as session:
            work = sweeping.bury(session, token, job_id, max_attempts=self.model.max_attempts, now=self.ledger.now)
        return work is not None

    @rule(lost=st.booleans(), limit=st.sampled_from((0, 1, 2, 4, 8, NO_BOUND)), share=st.integers(0, 4))
    def ring(self, lost: bool, limit: int, share: int) -> None:
        """Messages are made. They get lost and the marks stay, or the broker is away and the marks are taken back."""
        with self.ledger.database.write() as session:
            rung = self._due(session, limit=limit, batches=limit * share // 4)
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
            found_batches = {batch.id: _of_batch(batch) for batch in session.scalars(select(tables.Batch))}
        assert {id: _of_job(job) for id, job in found_jobs.items()} == {
            job.id: _of_model(job) for job in self.model.jobs
        }
        assert [_of_part(part) for part in found_parts] == [
            (job.id, part.number, part.state, part.attempts, part.deaths, part.text, part.code)
            for job in sorted(self.model.jobs, key=lambda job: job.id)
            for part in job.parts
        ]
        assert found_batches == {
            batch.id: (batch.is_submitted, batch.is_cancelled, batch.is_over) for batch in self.model.batches
        }
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
                batches.end_cancelled(session, now=self.ledger.now, limit=1)
                batches.close_over(session, now=self.ledger.now)
                rung = self._due(session, limit=NO_BOUND, batches=NO_BOUND)
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
            job = next(job for job in self.model.jobs if job.id == job_id)
            if not self._settle(plan, job):
                ledger.write_plan(plan, pages=2, slice_parts=1)
        elif finish := ledger.finish_claim(job_id) or ledger.finish_claim(job_id, alone=True):
            over = ledger.job(job_id).parts
            self._close(finish, outcome(succeeded=over.succeeded, failed=over.failed))

    def _due(self, session: Any, *, limit: int, batches: int) -> list[Due]:
        """At most `limit` of each sort, and `batches` of them of batches."""
        bell = Bell(now=self.ledger.now, stale_before=self.ledger.now - timedelta(seconds=RING_SECONDS))
        turns = Turns(session, bell, limit=limit, batches=batches)
        slices = due.slices(session, bell, limit=limit, batches=batches)
        plans = due.plans(session, bell, limit=limit, batches=batches)
        turns.check_slices(slices)
        turns.check_plans(plans)
        return [*due.finishes(session, bell, limit=limit), *slices, *plans]

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
    def _refused_unless(self, allowed: bool, how: type[Exception] = LostError) -> Iterator[None]:
        if allowed:
            yield
        else:
            with pytest.raises(how):
                yield


def _pick(rows: Sequence[T], at: int, sensible: Callable[[T], bool]) -> T:
    """One of the rows for which it makes sense; any where there is none, and in a part of the cases."""
    chosen = rows if at >= STRAY else [row for row in rows if sensible(row)] or rows
    return chosen[at % len(chosen)]


def _empty(database: Database) -> None:
    with database.write() as session:
        for table in (tables.Part, tables.Attempt, tables.Artifact, tables.Member, tables.Job, tables.Batch):
            session.execute(delete(table))
        session.execute(update(tables.Ledger).values(value=0, holder=None, until=None))


def _of_job(row: tables.Job) -> tuple[object, ...]:
    held = (JobState(row.state), row.token, row.tries, row.deaths, row.not_before)
    counts = (row.parts_total, row.parts_succeeded, row.parts_failed)
    return *held, *counts, row.reused_from, row.work_key is not None


def _of_model(job: Job) -> tuple[object, ...]:
    held = (job.state, job.holder, job.tries, job.deaths, job.not_before)
    counts = (len(job.parts), job.count(PartState.SUCCEEDED), job.count(PartState.FAILED))
    return *held, *counts, job.reused.id if job.reused else None, job.work is not None


def _of_batch(row: tables.Batch) -> tuple[bool, ...]:
    return row.submitted_at is not None, row.cancelled_at is not None, row.over_at is not None


def _of_part(row: tables.Part) -> tuple[object, ...]:
    return row.job_id, row.number, PartState(row.state), row.attempts, row.deaths, row.text, row.error_code


@pytest.mark.parametrize(
    ("database_url", "examples", "steps"),
    [
        pytest.param("sqlite", EXAMPLES or 25, 50, id="sqlite"),
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
