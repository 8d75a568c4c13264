"""The question that is asked before a job is worked on: has this been done, or is it being done?

Two workers that plan the same work at once must not both find nothing. On SQLite writers take turns anyway; on
PostgreSQL a lock on the work's key, held to the end of the transaction, makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, func, insert, select

from domain.jobs import Result
from domain.states import AttemptState, JobState
from storage import artifacts, attempts, jobs, tables
from storage.jobs import new_id

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from domain.jobs import Job
    from storage.jobs import JobClaim


def find(session: Session, claim: JobClaim, work_key: str) -> Job | None:
    """The job that did this work, or else one that is at it; None where there is none, or this one must do it itself.

    A job that has waited for another once does not wait again: where the first failed, each does its own work.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(work_key, 0))))
    if claim.job.fresh:
        return None
    row = tables.Job
    states = [JobState.SUCCEEDED] if claim.job.reused_from else [JobState.SUCCEEDED, *jobs.OPEN]
    query = (
        select(row)
        .where(row.work_key == work_key, row.id != claim.job.id, row.state.in_(states))
        .order_by(case((row.state == JobState.SUCCEEDED, 0), else_=1), row.created_at)
        .limit(1)
    )
    found = session.scalar(query)
    return jobs.to_job(found) if found else None


def reserve(session: Session, claim: JobClaim, work_key: str, *, sha256: str) -> None:
    """This job does the work, and others may wait for it. Raises LostError."""
    values = {"work_key": work_key, "sha256": sha256, "reused_from": None, "token": claim.token}
    jobs.guarded(session, claim, JobState.PENDING, values)


def give(session: Session, claim: JobClaim, earlier: Job, *, sha256: str, now: datetime) -> None:
    """End the job with the earlier job's result. Its files are the same files under new rows. Raises LostError."""
    values = {"reused_from": earlier.id, "sha256": sha256, "engine": earlier.engine, "model": earlier.model}
    jobs.guarded(session, claim, JobState.PENDING, {**values, "token": claim.token, "probe": earlier.probe})
    files = artifacts.of_job(session, earlier.id)
    if files:
        names = ("name", "media_type", "size", "sha256", "url")
        rows = [{name: getattr(file, name) for name in names} for file in files]
        own = {"role": "result", "job_id": claim.job.id, "created_at": now}
        session.execute(insert(tables.Artifact), [{**row, **own, "id": new_id()} for row in rows])
    result = earlier.result or Result(text="")
    jobs.close(session, claim, state=JobState.SUCCEEDED, result=result, now=now)


def wait_for(session: Session, claim: JobClaim, earlier: Job, *, until: datetime, now: datetime) -> None:
    """Wait for the job that is at it; its end wakes this one, or `until`. The try does not count. Raises LostError."""
    row = tables.Job
    values = {"reused_from": earlier.id, "not_before": until, "rung_at": None, "tries": row.tries - 1}
    values["work_key"] = None  # it had one if it failed before: others, whom it waits for, would wait for it
    jobs.guarded(session, claim, JobState.PENDING, {**values, "attempts": row.attempts - 1})
    attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=now)


def still_runs(session: Session, job_id: str | None) -> bool:
    """Whether the job that another waits for is open."""
    query = select(tables.Job.id).where(tables.Job.id == job_id, tables.Job.state.in_(jobs.OPEN))
    return job_id is not None and session.scalar(query) is not None


def postpone(session: Session, claim: JobClaim, *, until: datetime, now: datetime) -> None:
    """Wait on, unwoken: the other job still runs. Raises LostError."""
    row = tables.Job
    values = {"not_before": until, "rung_at": None, "tries": row.tries - 1, "attempts": row.attempts - 1}
    jobs.guarded(session, claim, JobState.PENDING, values)
    attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=now)
