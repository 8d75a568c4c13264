"""Parts in the ledger: claiming a slice, beginning, settling, giving back, taking back from the dead.

A slice is claimed as a whole, but a part counts an attempt only when its own work begins. A worker that dies therefore
costs an attempt only to the parts that were in work, and the innocent rest of the slice is not charged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, Text, and_, bindparam, case, cast, func, or_, select, update

from domain.errors import Code, Failure, LostError
from domain.jobs import Job, Part
from domain.states import AttemptState, JobState, PartState, Phase
from storage import attempts, jobs, tables
from storage.attempts import Claimant, new_token
from storage.changes import bump
from storage.jobs import JOBS
from storage.session import change, rows_changed

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningUpdate


_PARTS = tables.table(tables.Part)
_OF_JOB = select(_PARTS).where(_PARTS.c.job_id == bindparam("job_id")).order_by(_PARTS.c.number)
_SIZE = select(
    func.sum(func.coalesce(func.length(_PARTS.c.text), 0) + func.coalesce(func.length(cast(_PARTS.c.data, Text)), 0))
).where(_PARTS.c.job_id == bindparam("job_id"))
_LOCK_JOB = select(JOBS).where(JOBS.c.id == bindparam("job_id")).with_for_update()
_NOW = bindparam("now", type_=_PARTS.c.started_at.type)
_DUE = (
    select(
        _PARTS,
        attempts.is_suspect(
            _PARTS.c.deaths, _PARTS.c.attempts, max_attempts=bindparam("max_attempts", type_=Integer)
        ).label("is_suspect"),
    )
    .where(_PARTS.c.job_id == bindparam("job_id"), _PARTS.c.slice == bindparam("slice"))
    .where(_PARTS.c.state == PartState.PENDING, _PARTS.c.token.is_(None))
    .where(or_(_PARTS.c.not_before.is_(None), _PARTS.c.not_before <= _NOW))
    .order_by(_PARTS.c.number)
    .with_for_update(skip_locked=True)
)
_BEGIN = (
    update(_PARTS)
    .where(_PARTS.c.job_id == bindparam("of_job"), _PARTS.c.number == bindparam("of_number"))
    .where(_PARTS.c.token == bindparam("held"), _PARTS.c.state == PartState.PENDING)
    .values(
        state=PartState.RUNNING,
        attempts=_PARTS.c.attempts + 1,
        started_at=func.coalesce(_PARTS.c.started_at, _NOW),
    )
    .returning(_PARTS.c.attempts)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceClaim:
    """The right to work on some parts of a slice, until its lease runs out.

    `alone`: the one part that it holds must be worked on with nothing else in work beside it.
    """

    token: str
    job: Job
    parts: tuple[Part, ...]
    alone: bool = False


def of_job(session: Session, job_id: str) -> list[Part]:
    return [to_part(row) for row in session.execute(_OF_JOB, {"job_id": job_id})]


def size(session: Session, job_id: str) -> int:
    """Characters of all texts and data of a job's parts, as they are stored."""
    return session.scalar(_SIZE, {"job_id": job_id}) or 0


def claim(
    session: Session, job_id: str, slice: int, claimant: Claimant, *, max_attempts: int, engine: str, model: str
) -> SliceClaim | None:
    """Claim the pending parts of a slice that are due; None if there are none.

    A part that is suspected of killing its workers is claimed alone, and only where nothing else of its slice waits.
    """
    row = session.execute(_LOCK_JOB, {"job_id": job_id}).one_or_none()
    if row is None or row.state != JobState.RUNNING:
        return None
    which = {"job_id": job_id, "slice": slice, "now": claimant.now, "max_attempts": max_attempts}
    due = session.execute(_DUE, which).all()
    fresh = [part for part in due if not part.is_suspect]
    suspects = [part for part in due if part.is_suspect]
    chosen, alone = (fresh, False) if fresh else (suspects[:1], True)
    if not chosen:
        return None
    token = new_token()
    for part in chosen:
        change(session, _PARTS, {"job_id": job_id, "number": part.number}, {"token": token})
    for part in suspects:  # the message that brought us here does not serve those that are left
        change(session, _PARTS, {"job_id": job_id, "number": part.number}, {"rung_at": None})
    attempts.open_attempt(session, claimant, token=token, job_id=job_id, phase=Phase.SLICE, slice=slice, alone=alone)
    job = _running(session, jobs.to_job(row), now=claimant.now, engine=engine, model=model)
    return SliceClaim(token=token, job=job, parts=tuple(to_part(part) for part in chosen), alone=alone)


def count_hard(session: Session, job_id: str) -> int:
    """How many parts of the job cost a reader its time, its memory or its life."""
    hard = (Code.READ_TIMEOUT, Code.READ_MEMORY, Code.READER_CRASHED)
    which = select(func.count()).where(_PARTS.c.job_id == job_id, _PARTS.c.error_code.in_(hard))
    return session.execute(which.where(_PARTS.c.state == PartState.FAILED)).scalar_one()


def _running(session: Session, job: Job, *, now: datetime, engine: str, model: str) -> Job:
    """The job, with what runs it and since when: written down where that is not known yet. A retry begins with a new
    time."""
    values: dict[str, Any] = {} if job.model is not None else {"engine": engine, "model": model}
    if job.started_at is None:
        values["started_at"] = now
    if values:
        change(session, JOBS, {"id": job.id}, values)
    return replace(job, **values)


def begin(session: Session, claim: SliceClaim, number: int, *, now: datetime) -> int:
    """Count an attempt before the work on a part. Returns how many it has had. Raises LostError."""
    values = {"of_job": claim.job.id, "of_number": number, "held": claim.token, "now": now}
    count = session.execute(_BEGIN, values).scalar_one_or_none()
    if count is None:
        raise LostError(f"part {number} of job {claim.job.id} is no longer held by this attempt")
    return int(count)


def succeed(
    session: Session,
    claim: SliceClaim,
    number: int,
    *,
    text: str,
    data: dict[str, Any],
    now: datetime,
    closes: bool = False,
) -> bool:
    """Store a part's result, once, and close the attempt with it if that `closes`. True if it was the job's last part.

    Raises LostError.
    """
    last = _count(session, claim.job.id, "parts_succeeded")
    values = {"state": PartState.SUCCEEDED, "text": text, "data": data, "finished_at": now}
    _settle(session, claim, number, {**values, "settled_by": claim.token})
    if closes:
        attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=now)
    bump(session, claim.job.id)
    return last


def fail(session: Session, claim: SliceClaim, number: int, failure: Failure, *, now: datetime) -> bool:
    """Store a part's failure. True if it was the job's last part. Raises LostError."""
    last = _count(session, claim.job.id, "parts_failed")
    _settle(session, claim, number, _failed(failure, token=claim.token, now=now))
    bump(session, claim.job.id)
    return last


def put_back(session: Session, claim: SliceClaim, number: int, *, not_before: datetime) -> None:
    """Let a part be tried again at `not_before`. Raises LostError."""
    session.execute(update(tables.Job).where(tables.Job.id == claim.job.id).values(attempts=tables.Job.attempts + 1))
    values = {"state": PartState.PENDING, "not_before": not_before, "rung_at": None}
    _settle(session, claim, number, {**values, "token": None})
    bump(session, claim.job.id)


def _failed(failure: Failure, *, token: str, now: datetime) -> dict[str, Any]:
    return {
        "state": PartState.FAILED,
        "settled_by": token,
        "error_code": failure.code,
        "error_message": failure.message,
        "error_retryable": failure.retryable,
        "finished_at": now,
    }


def _settle(session: Session, claim: SliceClaim, number: int, values: dict[str, Any]) -> None:
    held = {"job_id": claim.job.id, "number": number, "token": claim.token, "state": PartState.RUNNING}
    if change(session, _PARTS, held, values) != 1:
        raise LostError(f"part {number} of job {claim.job.id} is no longer held by this attempt")


def _count(session: Session, job_id: str, column: str) -> bool:
    """Count a part of a running job as over. True if all are. Locks the job's row first, as every transaction does."""
    counted = session.execute(_counting(column), {"job_id": job_id}).one_or_none()
    if counted is None:
        raise LostError(f"job {job_id} is over")
    total, over = counted
    return bool(total == over)


@cache
def _counting(column: str) -> ReturningUpdate[int, int]:
    row = JOBS.c
    return (
        update(JOBS)
        .where(row.id == bindparam("job_id"), row.state == JobState.RUNNING)
        .values({column: row[column] + 1})
        .returning(row.parts_total, row.parts_succeeded + row.parts_failed)
    )


def release(session: Session, claim: SliceClaim, *, now: datetime) -> None:
    """Give back what is not settled, at shutdown or cancel: attempts that were begun do not count."""
    # The job first, as in every transaction on several tables: one that takes the parts back may run at this moment.
    session.execute(select(tables.Job.id).where(tables.Job.id == claim.job.id).with_for_update())
    row = tables.Part
    begun = case((row.state == PartState.RUNNING, 1), else_=0)
    session.execute(
        update(row)
        .where(*_held(claim.job.id, claim.token))
        .values(state=PartState.PENDING, attempts=row.attempts - begun, token=None, rung_at=None)
    )
    failure = Failure(code=Code.WORKER_LOST, message="given back unfinished", retryable=True)
    attempts.close(session, claim.token, state=AttemptState.LOST, now=now, failure=failure)


def take_back(session: Session, attempt: tables.Attempt, *, max_attempts: int, how: str, now: datetime) -> None:
    """Return the parts of a dead attempt; `how` says what is known of its end.

    Only a part that was alone with its worker is failed, with `worker_lost`, once it has no attempt left. One that had
    neighbours may be innocent: it keeps its last attempt, and will be alone with it.
    """
    failed = _condemn(session, attempt, max_attempts=max_attempts, how=how, now=now) if attempt.alone else 0
    row = tables.Part
    begun = row.state == PartState.RUNNING
    returned = rows_changed(
        session,
        update(row)
        .where(*_held(attempt.job_id, attempt.token))
        .values(
            state=PartState.PENDING,
            deaths=row.deaths + case((begun, 1), else_=0),
            attempts=case((and_(begun, row.attempts >= max_attempts), max_attempts - 1), else_=row.attempts),
            token=None,
            rung_at=None,
        ),
    )
    if not failed and not returned:
        return  # it died after its last part
    job = tables.Job
    session.execute(
        update(job)
        .where(job.id == attempt.job_id)
        .values(parts_failed=job.parts_failed + failed, attempts=job.attempts + 1)
    )
    bump(session, attempt.job_id)


def _condemn(session: Session, attempt: tables.Attempt, *, max_attempts: int, how: str, now: datetime) -> int:
    """Fail the part that was alone with its worker at its last attempt. Returns how many that are: one or none."""
    row = tables.Part
    guilty = (*_held(attempt.job_id, attempt.token), row.state == PartState.RUNNING, row.attempts >= max_attempts)
    earlier = session.scalar(select(row.deaths).where(*guilty))
    if earlier is None:
        return 0
    message = f"its worker died {earlier + 1} times, the last time with nothing else in work: {how}"
    failure = Failure(code=Code.WORKER_LOST, message=message)
    values = {"deaths": row.deaths + 1, **_failed(failure, token=attempt.token, now=now)}
    return rows_changed(session, update(row).where(*guilty).values(**values))


def _held(job_id: str, token: str) -> tuple[ColumnElement[bool], ...]:
    """The parts that an attempt has claimed and not settled."""
    row = tables.Part
    return row.job_id == job_id, row.token == token, row.state.in_(jobs.UNSETTLED)


def to_part(row: tables.Part | Row[Any]) -> Part:
    error = None
    if row.error_code is not None:
        error = Failure(code=row.error_code, message=row.error_message or "", retryable=bool(row.error_retryable))
    return Part(
        job_id=row.job_id,
        number=row.number,
        slice=row.slice,
        state=PartState(row.state),
        spec=row.spec,
        text=row.text,
        data=row.data or {},
        error=error,
        attempts=row.attempts,
    )
