"""Attempts: claims with a fresh random token, leases, outcomes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from domain.errors import Code, Failure
from domain.states import AttemptState, JobState, Phase
from storage.session import rows_changed
from storage.tables import Attempt, Job

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime, timedelta

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims, at which time, for how long."""

    worker: str
    now: datetime
    lease: timedelta


def new_token() -> str:
    return secrets.token_hex(16)


def open_attempt(
    session: Session, claimant: Claimant, *, token: str, job_id: str, phase: Phase, slice: int | None = None
) -> None:
    session.add(
        Attempt(
            token=token,
            job_id=job_id,
            phase=phase,
            slice=slice,
            worker=claimant.worker,
            lease_until=claimant.now + claimant.lease,
            started_at=claimant.now,
        )
    )


def close(session: Session, token: str, *, state: AttemptState, now: datetime, failure: Failure | None = None) -> bool:
    """Write the outcome of a running attempt. False if it was no longer running."""
    changed = rows_changed(
        session,
        update(Attempt)
        .where(Attempt.token == token, Attempt.state == AttemptState.RUNNING)
        .values(
            state=state,
            finished_at=now,
            error_code=failure.code if failure else None,
            error_message=failure.message if failure else None,
        ),
    )
    return changed == 1


def renew(session: Session, tokens: Collection[str], *, until: datetime) -> set[str]:
    """Extend the leases of running attempts. Returns the tokens that are still ours."""
    held = session.scalars(
        update(Attempt)
        .where(Attempt.token.in_(tokens), Attempt.state == AttemptState.RUNNING)
        .values(lease_until=until)
        .returning(Attempt.token)
    )
    return set(held)


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
    """End every running attempt of a job that is over."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.state == AttemptState.RUNNING)
        .values(state=AttemptState.LOST, finished_at=now, error_code=Code.CONFLICT, error_message=why)
    )
