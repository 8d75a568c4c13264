"""What the sweep asks of the ledger: to be its one holder, and to take work back from the dead."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Become, or stay, the one that sweeps until then. Whoever holds it for much longer had a wrong clock."""
    row = tables.Ledger
    impossible = until + (until - now)
    changed = rows_changed(
        session,
        update(row)
        .where(
            row.name == SWEEP, or_(row.holder.is_(None), row.holder == holder, row.until < now, row.until > impossible)
        )
        .values(holder=holder, until=until),
    )
    return changed == 1


def holds(session: Session, *, holder: str) -> bool:
    row = tables.Ledger
    return session.scalar(select(row.holder).where(row.name == SWEEP)) == holder


def let_go(session: Session, *, holder: str) -> None:
    row = tables.Ledger
    session.execute(update(row).where(row.name == SWEEP, row.holder == holder).values(holder=None, until=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What an attempt that died had in hand, and the engine that its job asks for by name."""

    job_id: str
    phase: Phase
    slice: int | None
    engine: str | None


def bury(session: Session, token: str, job_id: str, *, max_attempts: int, now: datetime) -> Returned | None:
    """End an attempt whose lease ran out, and return its work. None if it was renewed or closed meanwhile."""
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
        return None
    how = _last_words(attempt)
    failure = Failure(code=Code.WORKER_LOST, message=how, retryable=True)
    attempts.close(session, token, state=AttemptState.LOST, now=now, failure=failure)
    if attempt.phase == Phase.SLICE:
        parts.take_back(session, attempt, max_attempts=max_attempts, how=how, now=now)
    elif job.token == token:
        _reopen(session, job, attempt, max_attempts=max_attempts, how=how, now=now)
    return Returned(job_id=job_id, phase=Phase(attempt.phase), slice=attempt.slice, engine=job.wants_engine)


def _last_words(attempt: tables.Attempt) -> str:
    """All that is known of an attempt's end: who, how if its parent saw it, and what it was last seen at."""
    cause = f" ({attempt.error_message})" if attempt.error_message else ""
    doing = f"; last seen {attempt.doing}" if attempt.doing else ""
    return f"no sign of life from {attempt.worker}{cause}{doing}"


def _reopen(
    session: Session, job: tables.Job, attempt: tables.Attempt, *, max_attempts: int, how: str, now: datetime
) -> None:
    """Let a job be planned or finished again, or fail it. As with parts, its last death must have been its own."""
    deaths = job.deaths + 1
    if job.tries >= max_attempts and attempt.alone:
        message = f"the worker died {deaths} times while it was to {attempt.phase} the job: {how}"
        jobs.end(session, job.id, state=JobState.FAILED, now=now, error=Failure(code=Code.WORKER_LOST, message=message))
        return
    session.execute(
        update(tables.Job)
        .where(tables.Job.id == job.id)
        .values(
            token=None,
            rung_at=None,
            deaths=deaths,
            tries=min(job.tries, max_attempts - 1),
            attempts=tables.Job.attempts + 1,
        )
    )
    bump(session, job.id)
