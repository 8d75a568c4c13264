"""Attempts: claims with a fresh random token, leases, outcomes."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, insert, or_, select, update

from domain.errors import Code, Failure
from domain.states import AttemptState, JobState, Phase
from storage.session import change
from storage.tables import Attempt, Job, table

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime, timedelta

    from sqlalchemy import BindParameter, ColumnElement, SQLColumnExpression
    from sqlalchemy.orm import Session

_ATTEMPTS = table(Attempt)
_INSERT = insert(_ATTEMPTS)
_LOCK_OF_JOB = (
    select(_ATTEMPTS.c.token)
    .where(_ATTEMPTS.c.job_id == bindparam("job_id"), _ATTEMPTS.c.state == bindparam("state"))
    .order_by(_ATTEMPTS.c.token)
    .with_for_update()
)
SUSPECT_DEATHS = 2
"""Work that so many workers died of is done with nothing beside it, so that the next death says whose fault it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims, at which time, for how long."""

    worker: str
    now: datetime
    lease: timedelta


def worker_name(pid: int) -> str:
    """What a worker process calls itself in the ledger; its parent, who knows its pid, finds it by that."""
    return f"{socket.gethostname()}:{pid}"


def new_token() -> str:
    return secrets.token_hex(16)


def is_suspect(
    deaths: SQLColumnExpression[int], begun: SQLColumnExpression[int], *, max_attempts: int | BindParameter[int]
) -> ColumnElement[bool]:
    """Whether work must be done alone: two workers died at it, or one did and it has only its last attempt left."""
    return or_(deaths >= SUSPECT_DEATHS, and_(deaths >= 1, begun >= max_attempts - 1))


def open_attempt(
    session: Session,
    claimant: Claimant,
    *,
    token: str,
    job_id: str,
    phase: Phase,
    slice: int | None = None,
    alone: bool = False,
) -> None:
    row = {"token": token, "job_id": job_id, "phase": phase, "slice": slice, "worker": claimant.worker, "alone": alone}
    times = {"lease_until": claimant.now + claimant.lease, "started_at": claimant.now}
    session.execute(_INSERT, {**row, **times})


def close(session: Session, token: str, *, state: AttemptState, now: datetime, failure: Failure | None = None) -> bool:
    """Write the outcome of a running attempt. False if it was no longer running."""
    why = {"error_code": failure.code if failure else None, "error_message": failure.message if failure else None}
    return change(session, _ATTEMPTS, _running(token), {"state": state, "finished_at": now, **why}) == 1


def renew(session: Session, tokens: Collection[str], *, until: datetime) -> set[str]:
    """Extend the leases of running attempts. Returns the tokens that are still ours."""
    held = _lock(session, Attempt.token.in_(tokens))
    if held:
        session.execute(update(Attempt).where(Attempt.token.in_(held)).values(lease_until=until))
    return set(held)


def note(session: Session, token: str, doing: str) -> None:
    """Write down what a running attempt is at, for the case that nothing more is heard of it."""
    change(session, _ATTEMPTS, _running(token), {"doing": doing})


def _running(token: str) -> dict[str, Any]:
    return {"token": token, "state": AttemptState.RUNNING}


def _lock(session: Session, which: ColumnElement[bool]) -> list[str]:
    """Lock running attempts. In the order of their tokens: two that lock several must not wait for each other."""
    query = select(Attempt.token).where(which, Attempt.state == AttemptState.RUNNING)
    return list(session.scalars(query.order_by(Attempt.token).with_for_update()))


def stopped(session: Session, tokens: Collection[str]) -> set[str]:
    """Those of the attempts whose work must stop: lost, or of a job that is over."""
    alive = session.scalars(
        select(Attempt.token)
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Attempt.token.in_(tokens),
            Attempt.state == AttemptState.RUNNING,
            Job.state.in_((JobState.PENDING, JobState.RUNNING)),
        )
    )
    return set(tokens) - set(alive)


def shorten(session: Session, *, beyond: datetime, until: datetime) -> None:
    """Let leases that end after `beyond`, which no right clock gives, end at `until`. Who lives renews them."""
    too_long = update(Attempt).where(Attempt.state == AttemptState.RUNNING, Attempt.lease_until > beyond)
    session.execute(too_long.values(lease_until=until))


def expired(session: Session, *, now: datetime, limit: int) -> list[tuple[str, str]]:
    """(token, job_id) of running attempts whose lease ran out."""
    rows = session.execute(
        select(Attempt.token, Attempt.job_id)
        .where(Attempt.state == AttemptState.RUNNING, Attempt.lease_until < now)
        .order_by(Attempt.lease_until)
        .limit(limit)
    )
    return [(token, job_id) for token, job_id in rows]


def revoke_all(session: Session, job_id: str, *, now: datetime, why: str) -> None:
    """End every running attempt of a job that was ended: what they have in hand is lost."""
    revoke_many(session, [job_id], now=now, why=why)


def revoke_many(session: Session, job_ids: Collection[str], *, now: datetime, why: str) -> None:
    """The same for many jobs."""
    running = _lock(session, Attempt.job_id.in_(job_ids))
    values = {"state": AttemptState.LOST, "finished_at": now, "error_code": Code.CONFLICT, "error_message": why}
    session.execute(update(Attempt).where(Attempt.token.in_(running)).values(**values))


def close_done(session: Session, job_id: str, *, now: datetime) -> None:
    """Close the running attempts of a job that is finished: its parts are over, so they have nothing in hand.

    Their worker does it too, after the last part; it may be late, or killed in between.
    """
    running = session.scalars(_LOCK_OF_JOB, {"job_id": job_id, "state": AttemptState.RUNNING}).all()
    for token in running:
        close(session, token, state=AttemptState.SUCCEEDED, now=now)


def report_death(session: Session, worker: str, *, cause: str, now: datetime) -> bool:
    """Let the leases of a worker end now, since its parent saw it die. False if it never took any work."""
    values = {"lease_until": now, "error_message": cause}
    session.execute(update(Attempt).where(Attempt.token.in_(_lock(session, Attempt.worker == worker))).values(**values))
    return session.scalar(select(Attempt.token).where(Attempt.worker == worker).limit(1)) is not None
