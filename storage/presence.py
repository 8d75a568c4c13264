"""Workers as they report themselves now and then, and how all work stands: what a live view shows."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from domain.states import JobState
from storage.jobs import OPEN
from storage.tables import Job, Ledger, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A worker process: what it serves and what it does. `occupancy` is the share of the engine's slots at work.

    `parts` and `pages` count since its start; the rates are those of about the last minute.
    """

    name: str
    seen_at: datetime
    started_at: datetime
    engine: str | None = None
    in_hand: int = 0
    parts: int = 0
    pages: int = 0
    parts_per_second: float = 0.0
    pages_per_second: float = 0.0
    occupancy: float | None = None


def report(session: Session, presence: Presence) -> None:
    """Write the worker's row, or write it anew."""
    values: dict[str, Any] = {name.name: getattr(presence, name.name) for name in fields(Presence)}
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Worker).values(**values)
    session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


def leave(session: Session, name: str) -> None:
    session.execute(delete(Worker).where(Worker.name == name))


def forget(session: Session, *, seen_before: datetime) -> None:
    """Workers that did not say goodbye."""
    session.execute(delete(Worker).where(Worker.seen_at < seen_before))


def workers(session: Session, *, seen_after: datetime) -> list[Presence]:
    rows = session.scalars(select(Worker).where(Worker.seen_at >= seen_after).order_by(Worker.name))
    return [Presence(**{name.name: getattr(row, name.name) for name in fields(Presence)}) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Jobs by state and by error code, and their parts. `planned` counts the jobs whose parts are known."""

    states: Mapping[JobState, int] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    planned: int = 0
    parts_total: int = 0
    parts_over: int = 0

    @property
    def open(self) -> int:
        return sum(self.states.get(state, 0) for state in OPEN)

    @property
    def parts_left(self) -> float:
        """Of open jobs; those not yet planned are taken for average ones."""
        mean = self.parts_total / self.planned if self.planned else 1.0
        return self.parts_total - self.parts_over + self.states.get(JobState.PENDING, 0) * mean


def last_change(session: Session) -> int:
    return session.scalar(select(Ledger.value).where(Ledger.name == "change_seq")) or 0


def standing(session: Session, *, batch_id: str | None, since: int) -> Standing:
    """Of a batch; or, where it is None, of all jobs that are open or have changed since then."""
    which = Job.batch_id == batch_id if batch_id else or_(Job.state.in_(OPEN), Job.change_seq > since)
    over = Job.parts_succeeded + Job.parts_failed
    counts = (func.count(), func.count(func.nullif(Job.parts_total, 0)), func.sum(Job.parts_total), func.sum(over))
    query = select(Job.state, Job.error_code, *counts).where(which).group_by(Job.state, Job.error_code)
    states: dict[JobState, int] = {}
    codes: dict[str, int] = {}
    planned = parts_total = parts_over = 0
    for state, code, count, with_parts, total, done in session.execute(query):
        states[JobState(state)] = states.get(JobState(state), 0) + count
        if code is not None:
            codes[code] = codes.get(code, 0) + count
        planned += with_parts
        # What is over needs no more of its parts: a cancelled job leaves some undone.
        parts_over += int(done or 0) if state in OPEN else int(total or 0)
        parts_total += int(total or 0)
    return Standing(states=states, codes=codes, planned=planned, parts_total=parts_total, parts_over=parts_over)
