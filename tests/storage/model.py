"""What the ledger promises, in plain Python: the state machine of test_machine.py holds the real one against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from domain.states import JobState, PartState, Phase
from storage.attempts import SUSPECT_DEATHS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from storage.jobs import JobClaim
    from storage.parts import SliceClaim

OPEN = (JobState.PENDING, JobState.RUNNING)
AGAIN = (JobState.FAILED, JobState.PARTIAL, JobState.CANCELLED)


@dataclass
class Part:
    number: int
    slice: int
    state: PartState = PartState.PENDING
    attempts: int = 0
    deaths: int = 0
    holder: str | None = None
    not_before: datetime | None = None
    text: str | None = None
    code: str | None = None

    @property
    def is_open(self) -> bool:
        return not self.state.is_final

    def free(self) -> None:
        self.state, self.holder = PartState.PENDING, None

    def settle(self, state: PartState, *, text: str | None = None, code: str | None = None) -> None:
        self.state, self.holder, self.text, self.code = state, None, text, code

    def begin_anew(self) -> None:
        self.free()
        self.attempts = self.deaths = 0
        self.not_before = self.code = None


@dataclass
class Batch:
    """`is_submitted`: nothing more is added by the submit that was last. `share` bounds its parts in flight."""

    id: str
    name: str
    share: int | None = None
    is_submitted: bool = False
    is_cancelled: bool = False
    is_over: bool = False
    members: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Job:
    """`content` is what its source holds. A password opens one that is `locked`, so that nothing is reused. `work` is
    what it does and others may wait for; `reused` the job whose result it was given, or, while pending, waits for."""

    id: str
    content: str
    batch: Batch | None = None
    fresh: bool = False
    locked: bool = False
    state: JobState = JobState.PENDING
    parts: list[Part] = field(default_factory=list)
    tries: int = 0
    deaths: int = 0
    holder: str | None = None
    not_before: datetime | None = None
    finished_at: datetime | None = None
    work: str | None = None
    reused: Job | None = None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    def count(self, state: PartState) -> int:
        return sum(part.state is state for part in self.parts)

    @property
    def parts_are_over(self) -> bool:
        return all(not part.is_open for part in self.parts)

    @property
    def slices(self) -> list[int]:
        return sorted({part.slice for part in self.parts}) or [1]

    def part(self, number: int) -> Part:
        return self.parts[number - 1]

    def held_by(self, token: str) -> Iterator[Part]:
        return (part for part in self.parts if part.holder == token)


@dataclass
class Claim:
    """An attempt of somebody. `lives` until it is closed, buried or revoked; its claimant may not know."""

    token: str
    job: Job
    phase: Phase
    worker: str
    alone: bool
    lease_until: datetime
    real: JobClaim | SliceClaim
    numbers: tuple[int, ...] = ()
    lives: bool = True


def is_due(row: Job | Part, now: datetime) -> bool:
    return row.holder is None and (row.not_before is None or row.not_before <= now)


@dataclass
class Model:
    """The jobs, and every claim that was ever made."""

    max_attempts: int
    jobs: list[Job] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def of_batch(self, batch: Batch) -> list[Job]:
        return [job for job in self.jobs if job.batch is batch]

    def live(self, job: Job) -> Iterator[Claim]:
        return (claim for claim in self.claims if claim.job is job and claim.lives)

    def must_be_alone(self, row: Job | Part) -> bool:
        begun = row.tries if isinstance(row, Job) else row.attempts
        return row.deaths >= SUSPECT_DEATHS or (row.deaths >= 1 and begun >= self.max_attempts - 1)

    def may_take(self, job: Job, now: datetime, *, alone: bool) -> bool:
        """Whether a claim to plan the job, or to finish it, is granted."""
        is_ready = job.state is JobState.PENDING or (job.state is JobState.RUNNING and job.parts_are_over)
        return is_ready and is_due(job, now) and (alone or not self.must_be_alone(job))

    def claimable(self, job: Job, slice: int, now: datetime) -> tuple[list[int], bool]:
        """The numbers of the parts that a claim of the slice gets, and whether it must be alone."""
        if job.state is not JobState.RUNNING:
            return [], False
        due = [
            part for part in job.parts if part.slice == slice and part.state is PartState.PENDING and is_due(part, now)
        ]
        fresh = [part.number for part in due if not self.must_be_alone(part)]
        return (fresh, False) if fresh or not due else ([due[0].number], True)

    def same(self, job: Job) -> list[Job]:
        """The jobs of which one must be asked before this one is worked on, the best ones only.

        A job that has waited once does not wait again.
        """
        if job.locked or job.fresh:
            return []
        others = [other for other in self.jobs if other is not job and other.work == job.content]
        done = [other for other in others if other.state is JobState.SUCCEEDED]
        return done or ([] if job.reused else [other for other in others if other.is_open])

    def end(self, job: Job, state: JobState, now: datetime) -> None:
        """The job is over: nobody has anything of it in hand, and who waits for it may look."""
        job.state, job.holder, job.finished_at, job.locked = state, None, now, False
        for other in self.jobs:
            if other.reused is job and other.state is JobState.PENDING and other.holder is None:
                other.not_before = None
        for part in job.parts:
            if part.is_open:
                part.free()
        for claim in self.live(job):
            claim.lives = False

    def retry(self, job: Job) -> None:
        job.state = JobState.RUNNING if job.parts else JobState.PENDING
        job.tries = job.deaths = 0
        job.not_before = job.finished_at = job.reused = None
        if job.batch:
            job.batch.is_cancelled = job.batch.is_over = False
        for part in job.parts:
            if part.state is not PartState.SUCCEEDED:
                part.begin_anew()

    def release(self, claim: Claim) -> None:
        """What was begun and given back does not count."""
        claim.lives = False
        for part in claim.job.held_by(claim.token):
            part.attempts -= part.state is PartState.RUNNING
            part.free()

    def bury(self, claim: Claim, now: datetime) -> None:
        claim.lives = False
        if claim.phase is Phase.SLICE:
            for part in list(claim.job.held_by(claim.token)):
                self._lose_part(part, alone=claim.alone)
        else:
            self._lose_job(claim.job, now, alone=claim.alone)

    def _lose_part(self, part: Part, *, alone: bool) -> None:
        if part.state is PartState.RUNNING:
            part.deaths += 1
            if part.attempts >= self.max_attempts:
                if alone:
                    return part.settle(PartState.FAILED, code="worker_lost")
                part.attempts = self.max_attempts - 1
        return part.free()

    def _lose_job(self, job: Job, now: datetime, *, alone: bool) -> None:
        job.deaths += 1
        if job.tries >= self.max_attempts and alone:
            job.deaths -= 1  # its row keeps the count of before
            return self.end(job, JobState.FAILED, now)
        job.tries = min(job.tries, self.max_attempts - 1)
        job.holder = None
        return None
