"""The judgement of a run: what the ledger holds, against what it must hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from domain.errors import Code
from domain.states import AttemptState, JobState, Phase
from storage import invariants, jobs, parts
from storage.tables import Attempt
from tests.chaos import witness
from tests.chaos.oracle import Settled
from tests.chaos.site import LEASE_SECONDS, SWEEP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Session

    from domain.jobs import Job, Part
    from storage.artifacts import ArtifactStore
    from storage.session import Database
    from tests.chaos.oracle import Expected
    from tests.chaos.site import Death, Life
    from tests.chaos.witness import Note

RECOVERY_SECONDS = LEASE_SECONDS + SWEEP_SECONDS + 2
"""From the death of a worker to the next claim of what it had in hand: what is promised for 99 of 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job that the client was told is stored. `cancelled` if the client asked for that, in time or not."""

    job_id: str
    name: str
    expected: Expected
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """`seconds` from the death of a worker to the next claim of a part, or of a job, that it had in hand; `buried` to
    the moment when the ledger gave it free. `survived`: another worker was there all that time, or at least for as
    long as the promise gives it.
    """

    worker: str
    job_id: str
    part: int | None
    seconds: float
    buried: float
    survived: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`lost`: jobs without an end. `doubled`: results or ends that were written twice. `exhausted`: parts and jobs that
    were given up because their workers died again and again, as they should be; `wrong`: everything else."""

    jobs: int
    parts: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    exhausted: tuple[str, ...]
    wrong: tuple[str, ...]
    recoveries: tuple[Recovery, ...] = field(repr=False, default=())

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.wrong]


def judge(
    database: Database,
    store: ArtifactStore,
    accepted: Sequence[Accepted],
    deaths: Sequence[Death],
    lives: Sequence[Life],
    *,
    max_attempts: int,
) -> Verdict:
    by_id = {job.job_id: job for job in accepted}
    with database.read() as session:
        found = {job_id: jobs.get(session, job_id) for job_id in by_id if jobs.exists(session, job_id)}
        done = {job_id: parts.of_job(session, job_id) for job_id in found}
        violations = invariants.check(session, store, max_attempts=max_attempts)
        tries = _tries_in_vain(session)
    notes = witness.read(database, list(by_id))
    verdicts = [_Job(by_id[job_id], job, done[job_id], tries[job_id], max_attempts) for job_id, job in found.items()]
    return Verdict(
        jobs=len(accepted),
        parts=sum(len(of_job) for of_job in done.values()),
        lost=tuple([f"{job.name} ({job.job_id}) is not there" for job in accepted if job.job_id not in found])
        + tuple(problem for one in verdicts for problem in one.lost()),
        doubled=tuple(_doubled(notes)),
        exhausted=tuple(problem for one in verdicts for problem in one.exhausted()),
        wrong=tuple(f"{one.name}: job {one.job_id}, part {one.part}: {one.detail}" for one in violations)
        + tuple(problem for one in verdicts for problem in one.wrong()),
        recoveries=tuple(_recoveries(database, notes, deaths, lives)),
    )


def _tries_in_vain(session: Session) -> Counter[str]:
    """Of each job: attempts at planning or finishing it that came to nothing."""
    in_vain = (Attempt.phase != Phase.SLICE, Attempt.state.in_((AttemptState.LOST, AttemptState.FAILED)))
    query = select(Attempt.job_id, func.count()).where(*in_vain).group_by(Attempt.job_id)
    return Counter({job_id: count for job_id, count in session.execute(query)})


class _Job:
    """One job as it is, beside what it should be. `tries` at planning or finishing it came to nothing."""

    def __init__(self, accepted: Accepted, job: Job, done: list[Part], tries: int, max_attempts: int) -> None:
        self._accepted, self._expected = accepted, accepted.expected
        self._job, self._parts, self._tries, self._most = job, done, tries, max_attempts
        self._name = f"{accepted.name} ({job.id})"

    def lost(self) -> list[str]:
        return [] if self._job.state.is_final else [f"{self._name} is {self._job.state}"]

    def exhausted(self) -> list[str]:
        """Where every attempt ended with its worker. A part that is expected to kill its workers is none of them."""
        given_up = [
            f"{self._name} part {part.number}"
            for part, settled in zip(self._parts, self._expected.parts, strict=False)
            if _code(part) == Code.WORKER_LOST != settled.code and part.attempts == self._most
        ]
        return [*given_up, *([self._name] if self._is_given_up else [])]

    @property
    def _is_given_up(self) -> bool:
        """Its workers died again and again while they planned or finished it."""
        code = self._job.error.code if self._job.error else None
        return self._job.state is JobState.FAILED and code == Code.WORKER_LOST and self._tries >= self._most

    def wrong(self) -> list[str]:
        if not self._job.state.is_final or self._is_cancelled:
            return []
        if self.exhausted():
            return self._wrong_parts(worker_lost_is_right=True)
        return [*self._wrong_parts(worker_lost_is_right=False), *self._wrong_end()]

    @property
    def _is_cancelled(self) -> bool:
        return self._accepted.cancelled and self._job.state is JobState.CANCELLED

    def _wrong_parts(self, *, worker_lost_is_right: bool) -> list[str]:
        if self._is_given_up and not self._parts:
            return []  # nobody could plan it
        if len(self._parts) != len(self._expected.parts):
            return [f"{self._name} has {len(self._parts)} parts, not {len(self._expected.parts)}"]
        return [
            f"{self._name} part {part.number} is {part.state}: {_as_settled(part)}, not {settled}"
            for part, settled in zip(self._parts, self._expected.parts, strict=True)
            if _as_settled(part) != settled and not (worker_lost_is_right and _code(part) == Code.WORKER_LOST)
        ]

    def _wrong_end(self) -> list[str]:
        job = self._job
        end = (job.state, job.error.code if job.error else None, job.result.text if job.result else None)
        right = (self._expected.state, self._expected.code, self._expected.text)
        return [] if end == right else [f"{self._name} ended as {end}, not {right}"]


def _code(part: Part) -> str | None:
    return part.error.code if part.error else None


def _as_settled(part: Part) -> Settled:
    return Settled(text=part.text, code=_code(part))


def _doubled(notes: Iterable[Note]) -> list[str]:
    """Results of parts, and ends of jobs, that were written more than once."""
    written = Counter((note.what, note.job_id, note.part) for note in notes if note.what != witness.CLAIMED)
    return [
        f"job {job_id} part {part}: {what} {times} times"
        for (what, job_id, part), times in written.items()
        if times > 1
    ]


def _recoveries(
    database: Database, notes: Sequence[Note], deaths: Iterable[Death], lives: Sequence[Life]
) -> list[Recovery]:
    """How long it took until what a killed worker had in hand was claimed again."""
    killed = {death.worker: death.at for death in deaths if death.why != "SIGTERM"}
    with database.read() as session:
        query = select(Attempt.token, Attempt.worker, Attempt.finished_at)
        rows = session.execute(query.where(Attempt.worker.in_(killed), Attempt.state == AttemptState.LOST)).all()
        lost = {token: (worker, finished_at.timestamp()) for token, worker, finished_at in rows if finished_at}
    claims: dict[tuple[str, int | None], list[Note]] = defaultdict(list)
    for note in notes:
        if note.what == witness.CLAIMED:
            claims[note.job_id, note.part].append(note)
    found = []
    for (job_id, part), made in claims.items():
        for one, following in pairwise(made):
            worker, buried_at = lost.get(one.token or "", ("", 0.0))
            if worker and one.at <= (at := killed[worker]) < following.at:
                survived = any(life.since < at and life.until > at + RECOVERY_SECONDS for life in lives)
                found.append(
                    Recovery(
                        worker=worker,
                        job_id=job_id,
                        part=part,
                        seconds=following.at - at,
                        buried=buried_at - at,
                        survived=survived,
                    )
                )
    return found
