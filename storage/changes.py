"""`change_seq`: every change of a job gets the next number, so that a poller asks only for what is new.

The number is taken from one row whose lock is held until the commit. Numbers therefore become visible in their order: a
poller that keeps the highest number it saw misses nothing. It is taken last in a transaction, after the locks on jobs,
parts and attempts (always in this order), so that no two transactions wait for each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, update

from storage.tables import Job, Ledger, table

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningUpdate

CHANGE_SEQ = "change_seq"
_JOBS, _LEDGER = table(Job), table(Ledger)
SWEEP = "sweep"


def take(session: Session, count: int) -> range:
    """The next `count` change numbers, for as many jobs. Take them last, or before a plain INSERT of these jobs."""
    last = session.execute(_NEXT, {"count": count}).scalar_one()
    return range(last - count + 1, last + 1)


def bump(session: Session, job_id: str) -> None:
    """Give the job the next change number. The last statement of its transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_BUMP, {"job_id": job_id, "count": 1})
    else:
        session.execute(_NUMBER, {"job_id": job_id, "number": take(session, 1).start})


def _next() -> ReturningUpdate[int]:
    value = _LEDGER.c.value
    counted = {"value": value + bindparam("count", type_=value.type)}
    return update(_LEDGER).where(_LEDGER.c.name == CHANGE_SEQ).values(counted).returning(value)


_NEXT = _next()
_OF_JOB = update(_JOBS).where(_JOBS.c.id == bindparam("job_id"))
_NUMBER = _OF_JOB.values(change_seq=bindparam("number"))
# One statement: others wait for the row from its first word to the commit (docs/adr/0017).
_BUMP = _OF_JOB.values(change_seq=select(_NEXT.cte("taken").c.value).scalar_subquery())
