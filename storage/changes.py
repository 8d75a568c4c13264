"""`change_seq`: every change of a job gets the next number, so that a poller asks only for what is new.

The number is taken from one row whose lock is held until the commit. Numbers therefore become visible in their order: a
poller that keeps the highest number it saw misses nothing. It is taken last in a transaction, after the locks on jobs,
parts and attempts (always in this order), so that no two transactions wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from storage.tables import Job, Ledger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningUpdate

CHANGE_SEQ = "change_seq"
SWEEP = "sweep"


def take(session: Session, count: int) -> range:
    """The next `count` change numbers, for as many jobs. Take them last, or before a plain INSERT of these jobs."""
    last = session.execute(_next(count)).scalar_one()
    return range(last - count + 1, last + 1)


def bump(session: Session, job_id: str) -> None:
    """Give the job the next change number. The last statement of its transaction."""
    job = update(Job).where(Job.id == job_id).execution_options(synchronize_session=False)
    if session.get_bind().dialect.name == "postgresql":
        # One statement: others wait for the row from its first word to the commit (docs/adr/0017).
        number = select(_next(1).cte("taken").c.value).scalar_subquery()
        session.execute(job.values(change_seq=number))
    else:
        session.execute(job.values(change_seq=session.scalar(_next(1))))


def _next(count: int) -> ReturningUpdate[int]:
    return update(Ledger).where(Ledger.name == CHANGE_SEQ).values(value=Ledger.value + count).returning(Ledger.value)
