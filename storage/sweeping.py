"""What the sweep asks of the ledger: to be its one holder, and to take work back from the dead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from domain.errors import Code, Failure
from domain.states import AttemptState, JobState, Phase
from storage import attempts, jobs, parts, tables
from storage.changes import SWEEP, bump
from storage.session import rows_changed

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session


def hold(session: Session, *, holder: str, now: datetime, until: datetime) -> bool:
    """Become, or stay, the one that sweeps until then."""
    row = tables.Ledger
    changed = rows_changed(
        session,
        update(row)
        .where(row.name == SWEEP, or_(row.holder.is_(None), row.holder == holder, row.until < now))
        .values(holder=holder, until=until),
    )
    return changed == 1


def let_go(session: Session, *, holder: str) -> None:
    row = tables.Ledger
    session.execute(update(row).where(row.name == SWEEP, row.holder == holder).values(holder=None, until=None))


def bury(session: Session, token: str, job_id: str, *, max_attempts: int, now: datetime) -> bool:
    """End an attempt whose lease ran out, and return its work. False if it was renewed or closed meanwhile."""
    job = session.scalar(select(tables.Job).where(tables.Job.id == job_id).with_for_update())
    attempt = session.scalar(
        select(tables.Attempt)
        .where(
            tables.Attempt.token == token,
            tables.Attempt.state == AttemptState.RUNNING,
            tables.Attempt.lease_until < now,
        )
        .with_for_update()
    )
    if job is None or attempt is None:
        return False
    worker, phase = attempt.worker, attempt.phase
    failure = Failure(code=Code.WORKER_LOST, message=f"no sign of life from {worker}", retryable=True)
    if phase == Phase.SLICE:
        parts.take_back(session, token, job_id=job_id, max_attempts=max_attempts, worker=worker, now=now)
    elif job.token == token:
        _reopen(session, job, max_attempts=max_attempts, phase=Phase(phase), worker=worker, now=now)
    attempts.close(session, token, state=AttemptState.LOST, now=now, failure=failure)
    return True


def _reopen(session: Session, job: tables.Job, *, max_attempts: int, phase: Phase, worker: str, now: datetime) -> None:
    if job.tries >= max_attempts:
        message = f"the worker died {max_attempts} times while it was to {phase} the job (last: {worker})"
        jobs.end(session, job.id, state=JobState.FAILED, now=now, error=Failure(code=Code.WORKER_LOST, message=message))
        return
    session.execute(
        update(tables.Job)
        .where(tables.Job.id == job.id)
        .values(token=None, rung_at=None, attempts=tables.Job.attempts + 1)
    )
    bump(session, job.id)
