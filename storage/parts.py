"""Parts in the ledger: claiming a slice, beginning, settling, giving back, taking back from the dead.

A slice is claimed as a whole, but a part counts an attempt only when its own work begins. A worker that dies therefore
costs an attempt only to the parts that were in work, and the innocent rest of the slice is not charged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, update

from domain.errors import Code, Failure, LostError
from domain.jobs import Job, Part
from domain.states import AttemptState, JobState, PartState, Phase
from storage import attempts, jobs, tables
from storage.attempts import Claimant, new_token
from storage.changes import bump
from storage.session import rows_changed

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceClaim:
    """The right to work on some parts of a slice, until its lease runs out."""

    token: str
    job: Job
    parts: tuple[Part, ...]


def of_job(session: Session, job_id: str) -> list[Part]:
    query = select(tables.Part).where(tables.Part.job_id == job_id).order_by(tables.Part.number)
    return [to_part(row) for row in session.scalars(query)]


def claim(
    session: Session, job_id: str, slice: int, claimant: Claimant, *, max_attempts: int, engine: str, model: str
) -> SliceClaim | None:
    """Claim the pending parts of a slice that are due; None if there are none.

    A part that has cost its worker all attempts but the last runs alone, so that it harms no neighbour.
    """
    if not _job_runs(session, job_id):
        return None
    due = _due(session, job_id, slice, now=claimant.now)
    fresh = [row for row in due if row.attempts < max_attempts - 1 or max_attempts == 1]
    chosen = fresh or due[:1]
    if not chosen:
        return None
    token = new_token()
    for row in chosen:
        row.token = token
    session.flush()
    attempts.open_attempt(session, claimant, token=token, job_id=job_id, phase=Phase.SLICE, slice=slice)
    session.execute(
        update(tables.Job).where(tables.Job.id == job_id, tables.Job.model.is_(None)).values(engine=engine, model=model)
    )
    return SliceClaim(token=token, job=jobs.get(session, job_id), parts=tuple(to_part(row) for row in chosen))


def _job_runs(session: Session, job_id: str) -> bool:
    state = session.scalar(select(tables.Job.state).where(tables.Job.id == job_id).with_for_update())
    return state == JobState.RUNNING


def _due(session: Session, job_id: str, slice: int, *, now: datetime) -> list[tables.Part]:
    row = tables.Part
    query = (
        select(row)
        .where(row.job_id == job_id, row.slice == slice, row.state == PartState.PENDING, row.token.is_(None))
        .where(or_(row.not_before.is_(None), row.not_before <= now))
        .order_by(row.number)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(query))


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
    _settle(session, claim, number, {"state": PartState.SUCCEEDED, "text": text, "data": data, "finished_at": now})
    bump(session, claim.job.id)
    return last


def fail(session: Session, claim: SliceClaim, number: int, failure: Failure, *, now: datetime) -> bool:
    """Store a part's failure. True if it was the job's last part. Raises LostError."""
    last = _count(session, claim.job.id, "parts_failed")
    _settle(session, claim, number, _failed(failure, now=now))
    bump(session, claim.job.id)
    return last


def put_back(session: Session, claim: SliceClaim, number: int, *, not_before: datetime) -> None:
    """Let a part be tried again at `not_before`. Raises LostError."""
    session.execute(update(tables.Job).where(tables.Job.id == claim.job.id).values(attempts=tables.Job.attempts + 1))
    _settle(session, claim, number, {"state": PartState.PENDING, "not_before": not_before, "rung_at": None})
    bump(session, claim.job.id)


def _failed(failure: Failure, *, now: datetime) -> dict[str, Any]:
    return {
        "state": PartState.FAILED,
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
        .values(token=None, **values),
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
    row = tables.Part
    held = (row.job_id == claim.job.id, row.token == claim.token)
    session.execute(
        update(row)
        .where(*held, row.state == PartState.RUNNING)
        .values(state=PartState.PENDING, attempts=row.attempts - 1, token=None, rung_at=None)
    )
    session.execute(update(row).where(*held).values(token=None, rung_at=None))
    failure = Failure(code=Code.WORKER_LOST, message="given back unfinished", retryable=True)
    attempts.close(session, claim.token, state=AttemptState.LOST, now=now, failure=failure)


def take_back(session: Session, token: str, *, job_id: str, max_attempts: int, worker: str, now: datetime) -> None:
    """Return the parts of a dead attempt. A part that was in work at its last attempt fails with `worker_lost`."""
    row = tables.Part
    held = (row.job_id == job_id, row.token == token)
    dead = {
        "token": None,
        **_failed(
            Failure(code=Code.WORKER_LOST, message=f"its worker died {max_attempts} times (last: {worker})"), now=now
        ),
    }
    lost = rows_changed(
        session, update(row).where(*held, row.state == PartState.RUNNING, row.attempts >= max_attempts).values(**dead)
    )
    session.execute(update(row).where(*held).values(state=PartState.PENDING, token=None, rung_at=None))
    session.execute(
        update(tables.Job)
        .where(tables.Job.id == job_id)
        .values(parts_failed=tables.Job.parts_failed + lost, attempts=tables.Job.attempts + 1)
    )
    bump(session, job_id)


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
