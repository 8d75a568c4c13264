"""What the doorbell must ring for: jobs to plan, slices to run, jobs to finish. SQL holds the backlog, the queue a few.

Each question marks what it returns as rung. A mark older than `stale_before` is ignored: that message was lost, or no
worker took it, and ringing again is harmless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, or_, select, tuple_, update

from domain.states import JobState, PartState
from storage.tables import Job, Part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One message to send. `slice` is None for planning and finishing."""

    job_id: str
    priority: int
    engine: str | None
    slice: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """When we ask, and before which time a message counts as lost."""

    now: datetime
    stale_before: datetime


def plans(session: Session, bell: Bell, *, limit: int) -> list[Due]:
    """Pending jobs that nobody plans."""
    return _jobs(session, bell, limit, Job.state == JobState.PENDING)


def finishes(session: Session, bell: Bell, *, limit: int, job_id: str | None = None) -> list[Due]:
    """Running jobs whose parts are all over."""
    over = and_(Job.state == JobState.RUNNING, Job.parts_succeeded + Job.parts_failed == Job.parts_total)
    return _jobs(session, bell, limit, over if job_id is None else and_(over, Job.id == job_id))


def _jobs(session: Session, bell: Bell, limit: int, which: ColumnElement[bool]) -> list[Due]:
    query = (
        select(Job.id, Job.priority, Job.wants_engine)
        .where(which, Job.token.is_(None), _is_due(Job, bell), _unrung(Job, bell))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = [Due(job_id=id, priority=priority, engine=engine) for id, priority, engine in session.execute(query)]
    if found:
        session.execute(update(Job).where(Job.id.in_([due.job_id for due in found])).values(rung_at=bell.now))
    return found


def slices(session: Session, bell: Bell, *, limit: int) -> list[Due]:
    """Slices of running jobs with pending parts that nobody has claimed."""
    query = (
        select(Part.job_id, Part.slice, Job.priority, Job.wants_engine)
        .join(Job, Job.id == Part.job_id)
        .where(Job.state == JobState.RUNNING, *_waiting(bell))
        .group_by(Part.job_id, Part.slice, Job.priority, Job.wants_engine, Job.created_at)
        .order_by(Job.priority.desc(), Job.created_at, Part.job_id, Part.slice)
        .limit(limit)
    )
    found = [
        Due(job_id=job_id, slice=slice, priority=priority, engine=engine)
        for job_id, slice, priority, engine in session.execute(query)
    ]
    if found:
        pairs = tuple_(Part.job_id, Part.slice).in_([(due.job_id, due.slice) for due in found])
        session.execute(update(Part).where(pairs, *_waiting(bell)).values(rung_at=bell.now))
    return found


def unring(session: Session, items: Sequence[Due]) -> None:
    """Take the marks back: those messages were not sent."""
    pairs = [(due.job_id, due.slice) for due in items if due.slice is not None]
    session.execute(
        update(Job).where(Job.id.in_([due.job_id for due in items if due.slice is None])).values(rung_at=None)
    )
    session.execute(update(Part).where(tuple_(Part.job_id, Part.slice).in_(pairs)).values(rung_at=None))


def outstanding(session: Session, bell: Bell) -> int:
    """Messages sent lately that nobody has taken yet."""
    waiting_slices = (
        select(Part.job_id)
        .join(Job, Job.id == Part.job_id)
        .where(
            Job.state == JobState.RUNNING,
            Part.state == PartState.PENDING,
            Part.token.is_(None),
            Part.rung_at >= bell.stale_before,
        )
        .group_by(Part.job_id, Part.slice)
        .subquery()
    )
    slices = session.scalar(select(func.count()).select_from(waiting_slices)) or 0
    jobs = session.scalar(
        select(func.count()).where(
            Job.state.in_((JobState.PENDING, JobState.RUNNING)), Job.token.is_(None), Job.rung_at >= bell.stale_before
        )
    )
    return slices + (jobs or 0)


def _waiting(bell: Bell) -> tuple[ColumnElement[bool], ...]:
    return (Part.state == PartState.PENDING, Part.token.is_(None), _is_due(Part, bell), _unrung(Part, bell))


def _is_due(row: type[Job] | type[Part], bell: Bell) -> ColumnElement[bool]:
    return or_(row.not_before.is_(None), row.not_before <= bell.now)


def _unrung(row: type[Job] | type[Part], bell: Bell) -> ColumnElement[bool]:
    return or_(row.rung_at.is_(None), row.rung_at < bell.stale_before)
