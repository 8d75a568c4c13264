"""Parts in the ledger: claiming a slice, beginning, settling, giving back, taking back from the dead.

A slice is claimed as a whole, but a part counts an attempt only when its own work begins. A worker that dies therefore
costs an attempt only to the parts that were in work, and the innocent rest of the slice is not charged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, and_, case, cast, func, or_, select, update

from domain.errors import Code, Failure, LostError
from domain.jobs import Job, Part
from domain.states import AttemptState, JobState, PartState, Phase
from storage import attempts, jobs, tables
from storage.attempts import Claimant, new_token
from storage.changes import bump
from storage.session import rows_changed

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


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
    query = select(tables.Part).where(tables.Part.job_id == job_id).order_by(tables.Part.number)
    return [to_part(row) for row in session.scalars(query)]


def size(session: Session, job_id: str) -> int:
    """Characters of all texts and data of a job's parts, as they are stored."""
    row = tables.Part
    each = func.coalesce(func.length(row.text), 0) + func.coalesce(func.length(cast(row.data, Text)), 0)
    return session.scalar(select(func.sum(each)).where(row.job_id == job_id)) or 0


def claim(
    session: Session, job_id: str, slice: int, claimant: Claimant, *, max_attempts: int, engine: str, model: str
) -> SliceClaim | None:
    """Claim the pending parts of a slice that are due; None if there are none.

    A part that is suspected of killing its workers is claimed alone, and only where nothing else of its slice waits.
    """
    if not _job_runs(session, job_id):
        return None
    due = _due(session, job_id, slice, now=claimant.now, max_attempts=max_attempts)
    fresh = [row for row, suspect in due if not suspect]
    suspects = [row for row, suspect in due if suspect]
    chosen, alone = (fresh, False) if fresh else (suspects[:1], True)
    if not chosen:
        return None
    token = new_token()
    for row in chosen:
        row.token = token
    for row in suspects:
        row.rung_at = None  # the message that brought us here does not serve those that are left
    session.flush()
    attempts.open_attempt(session, claimant, token=token, job_id=job_id, phase=Phase.SLICE, slice=slice, alone=alone)
    _mark_running(session, job_id, now=claimant.now, engine=engine, model=model)
    job = jobs.get(session, job_id)
    return SliceClaim(token=token, job=job, parts=tuple(to_part(row) for row in chosen), alone=alone)


def _mark_running(session: Session, job_id: str, *, now: datetime, engine: str, model: str) -> None:
    """Write down what runs the job and since when, where that is not known yet. A retry begins with a new time."""
    row = tables.Job
    session.execute(
        update(row)
        .where(row.id == job_id, or_(row.model.is_(None), row.started_at.is_(None)))
        .values(
            engine=case((row.model.is_(None), engine), else_=row.engine),
            model=func.coalesce(row.model, model),
            started_at=func.coalesce(row.started_at, now),
        )
        .execution_options(synchronize_session=False)
    )


def _job_runs(session: Session, job_id: str) -> bool:
    state = session.scalar(select(tables.Job.state).where(tables.Job.id == job_id).with_for_update())
    return state == JobState.RUNNING


def _due(
    session: Session, job_id: str, slice: int, *, now: datetime, max_attempts: int
) -> list[tuple[tables.Part, bool]]:
    """The parts that may be claimed now, each with whether it is suspected of killing its workers."""
    row = tables.Part
    query = (
        select(row, attempts.is_suspect(row.deaths, row.attempts, max_attempts=max_attempts))
        .where(row.job_id == job_id, row.slice == slice, row.state == PartState.PENDING, row.token.is_(None))
        .where(or_(row.not_before.is_(None), row.not_before <= now))
        .order_by(row.number)
        .with_for_update(skip_locked=True)
    )
    return [(part, bool(suspect)) for part, suspect in session.execute(query)]


def begin(session: Session, claim: SliceClaim, number: int, *, now: datetime) -> int:
    """Count an attempt before the work on a part. Returns how many it has had. Raises LostError."""
    row = tables.Part
    count = session.scalar(
        update(row)
        .where(
            row.job_id == claim.job.id, row.number == number, row.token == claim.token, row.state == PartState.PENDING
        )
        .values(state=PartState.RUNNING, attempts=row.attempts + 1, started_at=func.coalesce(row.started_at, now))
        .returning(row.attempts)
    )
    if count is None:
        raise LostError(f"part {number} of job {claim.job.id} is no longer held by this attempt")
    return int(count)


def succeed(
    session: Session, claim: SliceClaim, number: int, *, text: str, data: dict[str, Any], now: datetime
) -> bool:
    """Store a part's result, once. True if it was the job's last part. Raises LostError."""
    last = _count(session, claim.job.id, "parts_succeeded")
    values = {"state": PartState.SUCCEEDED, "text": text, "data": data, "finished_at": now}
    _settle(session, claim, number, {**values, "settled_by": claim.token})
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
    row = tables.Part
    changed = rows_changed(
        session,
        update(row)
        .where(
            row.job_id == claim.job.id, row.number == number, row.token == claim.token, row.state == PartState.RUNNING
        )
        .values(**values),
    )
    if changed != 1:
        raise LostError(f"part {number} of job {claim.job.id} is no longer held by this attempt")


def _count(session: Session, job_id: str, column: str) -> bool:
    """Count a part of a running job as over. True if all are. Locks the job's row first, as every transaction does."""
    row = tables.Job
    counted = session.execute(
        update(row)
        .where(row.id == job_id, row.state == JobState.RUNNING)
        .values({column: getattr(row, column) + 1})
        .returning(row.parts_total, row.parts_succeeded + row.parts_failed)
    ).one_or_none()
    if counted is None:
        raise LostError(f"job {job_id} is over")
    total, over = counted
    return bool(total == over)


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


def to_part(row: tables.Part) -> Part:
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
