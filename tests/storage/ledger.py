"""Short ways to drive the ledger in tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from domain.errors import Code, Failure
from domain.jobs import Job, JobSpec, Part, Result
from domain.params import Ocr, Params
from domain.states import JobState
from storage import attempts, invariants, jobs, parts, sweeping
from storage.attempts import Claimant

if TYPE_CHECKING:
    from storage.invariants import Violation
    from storage.jobs import JobClaim
    from storage.parts import SliceClaim
    from storage.session import Database

LEASE = timedelta(seconds=30)


@dataclass
class Ledger:
    """One worker's view of a database, with a clock that tests move."""

    database: Database
    worker: str = "one"
    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    max_attempts: int = 3

    def as_worker(self, name: str) -> Ledger:
        return Ledger(self.database, worker=name, now=self.now, max_attempts=self.max_attempts)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def claimant(self) -> Claimant:
        return Claimant(worker=self.worker, now=self.now, lease=LEASE)

    def submit(
        self, *, key: str | None = None, source: str = "/a.pdf", params: Params | None = None, id: str | None = None
    ) -> Job:
        spec = JobSpec(kind=(params or Ocr()).kind, params=params or Ocr(), source=source, key=key)
        with self.database.write() as session:
            return jobs.submit(session, spec, now=self.now, job_id=id)[0]

    def plan_claim(self, job_id: str, *, alone: bool = False) -> JobClaim | None:
        with self.database.write() as session:
            return jobs.claim_plan(session, job_id, self.claimant, max_attempts=self.max_attempts, alone=alone)

    def planned(self, *, pages: int = 4, slice_parts: int = 8, id: str | None = None) -> str:
        """A running job with that many pages."""
        job = self.submit(id=id)
        claim = self.plan_claim(job.id)
        assert claim is not None
        self.write_plan(claim, pages=pages, slice_parts=slice_parts)
        return job.id

    def write_plan(self, claim: JobClaim, *, pages: int, slice_parts: int = 8) -> None:
        specs: list[dict[str, Any]] = [{"page": page + 1} for page in range(pages)]
        with self.database.write() as session:
            jobs.planned(session, claim, parts=specs, slice_parts=slice_parts, probe={}, now=self.now)

    def claim(self, job_id: str, slice: int = 1) -> SliceClaim | None:
        with self.database.write() as session:
            return parts.claim(
                session, job_id, slice, self.claimant, max_attempts=self.max_attempts, engine="fake", model="m"
            )

    def must_claim(self, job_id: str, slice: int = 1) -> SliceClaim:
        claim = self.claim(job_id, slice)
        assert claim is not None
        return claim

    def begin(self, claim: SliceClaim, number: int) -> int:
        with self.database.write() as session:
            return parts.begin(session, claim, number, now=self.now)

    def succeed(self, claim: SliceClaim, number: int, text: str = "text") -> bool:
        with self.database.write() as session:
            return parts.succeed(session, claim, number, text=text, data={}, now=self.now)

    def do(self, claim: SliceClaim, number: int, text: str = "text") -> bool:
        self.begin(claim, number)
        return self.succeed(claim, number, text)

    def fail(self, claim: SliceClaim, number: int) -> bool:
        """Begin a part, and fail it for good."""
        self.begin(claim, number)
        failure = Failure(code=Code.PAGE_DAMAGED, message="torn")
        with self.database.write() as session:
            return parts.fail(session, claim, number, failure, now=self.now)

    def finish_claim(self, job_id: str, *, alone: bool = False) -> JobClaim | None:
        with self.database.write() as session:
            return jobs.claim_finish(
                session, job_id, self.claimant, max_attempts=self.max_attempts, engine="fake", model="m", alone=alone
            )

    def close(self, claim: JobClaim, text: str = "all", *, error: Failure | None = None) -> None:
        """End a job as succeeded, or as partial where there is an error."""
        state = JobState.PARTIAL if error else JobState.SUCCEEDED
        with self.database.write() as session:
            jobs.close(session, claim, state=state, result=Result(text=text), error=error, now=self.now)

    def cancel(self, job_id: str) -> bool:
        with self.database.write() as session:
            return jobs.cancel(session, job_id, now=self.now)

    def retry(self, job_id: str) -> Job:
        with self.database.write() as session:
            return jobs.retry(session, job_id)

    def check(self) -> list[Violation]:
        with self.database.read() as session:
            return invariants.check(session, max_attempts=self.max_attempts)

    def bury_dead(self) -> int:
        """One sweep's burying. Returns how many attempts were buried."""
        with self.database.read() as session:
            dead = attempts.expired(session, now=self.now, limit=100)
        buried = 0
        for token, job_id in dead:
            with self.database.write() as session:
                work = sweeping.bury(session, token, job_id, max_attempts=self.max_attempts, now=self.now)
            buried += work is not None
        return buried

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def parts(self, job_id: str) -> list[Part]:
        with self.database.read() as session:
            return parts.of_job(session, job_id)
