"""Jobs in the ledger: submitting, reading, planning, closing, cancelling, retrying.

Every change of state is one guarded UPDATE whose row count is read. A function that finds its guard broken raises
LostError, and the transaction around it is rolled back: nothing of a stale worker is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import uuid_utils
from sqlalchemy import Integer, bindparam, func, insert, not_, or_, select, update
from sqlalchemy.exc import IntegrityError

from domain.errors import Code, ConflictError, Failure, LostError, NotFoundError
from domain.jobs import Job, JobSpec, PartCounts, Result
from domain.kinds import Kind
from domain.sources import without_query
from domain.states import AttemptState, JobState, PartState, Phase
from storage import attempts, tables
from storage.attempts import Claimant, new_token
from storage.changes import bump
from storage.session import change

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningUpdate

OPEN = (JobState.PENDING, JobState.RUNNING)
AGAIN = (JobState.FAILED, JobState.PARTIAL, JobState.CANCELLED)
"""The states of a job that may be tried again."""
UNSETTLED = (PartState.PENDING, PartState.RUNNING)
JOBS = tables.table(tables.Job)
_INSERT, _INSERT_PARTS = insert(JOBS), insert(tables.table(tables.Part))
_GET = select(JOBS).where(JOBS.c.id == bindparam("job_id"))
_IS_OVER = JOBS.c.parts_succeeded + JOBS.c.parts_failed == JOBS.c.parts_total
_AHEAD = select(JOBS.c.parts_total, _IS_OVER.label("is_over"), JOBS.c.wants_engine).where(
    JOBS.c.id == bindparam("job_id"), JOBS.c.state == bindparam("state"), JOBS.c.token.is_(None)
)
_WAKE = (
    update(JOBS)
    .where(JOBS.c.reused_from.in_(bindparam("job_ids", expanding=True)))
    .where(JOBS.c.state == bindparam("pending"), JOBS.c.token.is_(None))
    .values(not_before=None, rung_at=None)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaim:
    """The right to plan or to finish a job, until its lease runs out. `alone`: with nothing else in work beside it."""

    token: str
    job: Job
    alone: bool = False


def new_id() -> str:
    return str(uuid_utils.uuid7())


def submit(session: Session, spec: JobSpec, *, now: datetime, job_id: str | None = None) -> tuple[Job, bool]:
    """Insert a pending job. With a key that is in use, returns the job that has it, and False.

    Raises:
        ConflictError: the key belongs to a job with another kind, source or params.
    """
    if spec.key and (found := session.scalar(select(tables.Job).where(tables.Job.key == spec.key))):
        return _same(found, spec), False
    values = {
        "kind": spec.kind,
        "source": spec.source,
        "source_name": spec.source_name,
        "params": spec.params.to_json(),
        "password": spec.password,
        "key": spec.key,
        "priority": spec.priority,
        "wants_engine": spec.engine,
        "batch_id": spec.batch_id,
        "callback": spec.callback,
        "fresh": spec.fresh,
    }
    id = job_id or new_id()
    if not spec.key:
        return insert_row(session, id, values, now=now), True
    try:
        with session.begin_nested():
            return insert_row(session, id, values, now=now), True
    except IntegrityError:
        # Somebody else used the key between our look and our insert.
        if found := session.scalar(select(tables.Job).where(tables.Job.key == spec.key)):
            return _same(found, spec), False
        raise


def insert_once(session: Session, job_id: str, values: Mapping[str, Any], *, now: datetime) -> None:
    """Insert a pending job unless there is one of this id, however many do it at once."""
    if exists(session, job_id):
        return
    try:
        with session.begin_nested():
            insert_row(session, job_id, values, now=now)
    except IntegrityError:
        if not exists(session, job_id):
            raise


def insert_row(session: Session, job_id: str, values: Mapping[str, Any], *, now: datetime) -> Job:
    """Insert a pending job as it is said; planning checks its params and fails it where they are wrong."""
    # Rung already: whoever inserts a job rings for it, and takes the mark back if that fails.
    row = {"id": job_id, "created_at": now, "rung_at": now, **values, **_without_password(values["params"])}
    session.execute(_INSERT, row)
    bump(session, job_id)
    return get(session, job_id)


def exists(session: Session, job_id: str) -> bool:
    return session.scalar(select(tables.Job.id).where(tables.Job.id == job_id)) is not None


def unring(session: Session, job_id: str) -> None:
    """The message for this job was not sent; the sweep rings for it."""
    unring_many(session, [job_id])


def unring_many(session: Session, job_ids: Sequence[str]) -> None:
    """The same for several. Those that a worker claimed meanwhile need no message."""
    row = tables.Job
    session.execute(update(row).where(row.id.in_(job_ids), row.token.is_(None)).values(rung_at=None))


def _same(row: tables.Job, spec: JobSpec) -> Job:
    sources = (spec.source, without_query(spec.source) if spec.source else None)
    if row.source not in sources or (row.kind, row.params) != (spec.kind, spec.params.to_json()):
        raise ConflictError(f"key {spec.key!r} belongs to job {row.id}, which has another kind, source or params")
    return to_job(row)


def get(session: Session, job_id: str) -> Job:
    """Raises NotFoundError."""
    row = session.execute(_GET, {"job_id": job_id}).one_or_none()
    if row is None:
        raise NotFoundError(f"no job {job_id!r}")
    return to_job(row)


def recent(session: Session, *, limit: int, states: Collection[JobState] = ()) -> list[Job]:
    """The newest jobs first."""
    query = select(tables.Job).order_by(tables.Job.created_at.desc(), tables.Job.id.desc()).limit(limit)
    if states:
        query = query.where(tables.Job.state.in_(states))
    return [to_job(row) for row in session.scalars(query)]


def changes(session: Session, *, since: int, limit: int) -> list[Job]:
    """Jobs that changed after `since`, in the order of their change numbers."""
    query = select(tables.Job).where(tables.Job.change_seq > since).order_by(tables.Job.change_seq).limit(limit)
    return [to_job(row) for row in session.scalars(query)]


def count_by_state(session: Session) -> dict[JobState, int]:
    rows = session.execute(select(tables.Job.state, func.count()).group_by(tables.Job.state))
    return {JobState(state): count for state, count in rows}


def find_ids(session: Session, prefix: str, *, limit: int = 5) -> list[str]:
    """Ids that begin with `prefix`, so that people can type the first letters."""
    query = select(tables.Job.id).where(tables.Job.id.startswith(prefix, autoescape=True)).limit(limit)
    return list(session.scalars(query))


def claim_plan(
    session: Session, job_id: str, claimant: Claimant, *, max_attempts: int, alone: bool = False
) -> JobClaim | None:
    """The right to plan a pending job; None if somebody else has it, it is not due, or it must be planned alone."""
    claim = _claim(session, job_id, claimant, Phase.PLAN, JobState.PENDING, max_attempts=max_attempts, alone=alone)
    if claim is not None and (moved := _without_password(claim.job.params)):
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(**moved))
        return replace(claim, job=get(session, job_id))
    return claim


def _without_password(params: Any) -> dict[str, Any]:
    """The columns to write where a password stands among the params: it has a column of its own, which is cleared."""
    if not isinstance(params, dict) or "password" not in params:
        return {}
    password = params["password"]
    return {
        "params": {name: value for name, value in params.items() if name != "password"},
        "password": None if password is None else str(password),
    }


def claim_finish(
    session: Session,
    job_id: str,
    claimant: Claimant,
    *,
    max_attempts: int,
    engine: str | None,
    model: str | None,
    alone: bool = False,
) -> JobClaim | None:
    """The right to finish a running job whose parts are all over; None as for `claim_plan`.

    Writes `engine` and `model` where none ran yet.
    """
    claim = _claim(session, job_id, claimant, Phase.FINISH, JobState.RUNNING, max_attempts=max_attempts, alone=alone)
    if claim is not None and claim.job.model is None:
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(engine=engine, model=model))
    return claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What is left to do for a running job that nobody plans or finishes."""

    parts: int
    is_over: bool
    wants_engine: str | None


def ahead(session: Session, job_id: str) -> Ahead | None:
    """None where the job does not run, or somebody has it."""
    found = session.execute(_AHEAD, {"job_id": job_id, "state": JobState.RUNNING}).one_or_none()
    return Ahead(parts=found[0], is_over=bool(found[1]), wants_engine=found[2]) if found else None


def is_suspect(session: Session, job_id: str, *, max_attempts: int) -> bool:
    """Whether the job waits for somebody who plans or finishes it with nothing else in work."""
    row = tables.Job
    suspect = attempts.is_suspect(row.deaths, row.tries, max_attempts=max_attempts)
    query = select(row.id).where(row.id == job_id, row.state.in_(OPEN), row.token.is_(None), suspect)
    return session.scalar(query) is not None


def _claim(
    session: Session,
    job_id: str,
    claimant: Claimant,
    phase: Phase,
    state: JobState,
    *,
    max_attempts: int,
    alone: bool,
) -> JobClaim | None:
    token = new_token()
    values = {"job_id": job_id, "in_state": state, "new_token": token, "now": claimant.now}
    statement = _claiming(phase, alone=alone)
    row = session.execute(statement, values if alone else {**values, "max_attempts": max_attempts}).one_or_none()
    if row is None:
        return None
    attempts.open_attempt(session, claimant, token=token, job_id=job_id, phase=phase, alone=alone)
    return JobClaim(token=token, job=to_job(row), alone=alone)


@cache
def _claiming(phase: Phase, *, alone: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    row, now = JOBS.c, bindparam("now", type_=JOBS.c.started_at.type)
    guard = [row.id == bindparam("job_id"), row.state == bindparam("in_state"), row.token.is_(None)]
    guard.append(or_(row.not_before.is_(None), row.not_before <= now))
    if phase is Phase.FINISH:
        guard.append(_IS_OVER)
    if not alone:
        most = bindparam("max_attempts", type_=Integer)
        guard.append(not_(attempts.is_suspect(row.deaths, row.tries, max_attempts=most)))
    values = {
        "token": bindparam("new_token"),
        "tries": row.tries + 1,
        "attempts": row.attempts + (1 if phase is Phase.PLAN else 0),
        "started_at": func.coalesce(row.started_at, now),
    }
    return update(JOBS).where(*guard).values(values).returning(JOBS)


def planned(
    session: Session,
    claim: JobClaim,
    *,
    parts: Sequence[Mapping[str, Any]],
    slice_parts: int,
    probe: dict[str, Any],
    now: datetime,
) -> None:
    """Write the plan: the parts, each with its slice; the job runs from now on.

    Raises:
        LostError: the job was cancelled, or the lease is gone.
    """
    job_id = claim.job.id
    guarded(
        session,
        claim,
        JobState.PENDING,
        {
            "state": JobState.RUNNING,
            "parts_total": len(parts),
            "probe": probe,
            "tries": 0,
            "deaths": 0,
            "rung_at": None,
            "not_before": None,
        },
    )
    rows = [
        {"job_id": job_id, "number": index + 1, "slice": index // slice_parts + 1, "spec": dict(spec)}
        for index, spec in enumerate(parts)
    ]
    if rows:
        session.execute(_INSERT_PARTS, rows)
    attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=now)
    bump(session, job_id)


def put_back(
    session: Session, claim: JobClaim, failure: Failure, *, not_before: datetime | None, now: datetime
) -> None:
    """Give up this attempt at planning or finishing; the job is due again at `not_before`."""
    guarded(
        session,
        claim,
        claim.job.state,
        {"not_before": not_before, "rung_at": None, "attempts": tables.Job.attempts + 1},
    )
    attempts.close(session, claim.token, state=AttemptState.FAILED, now=now, failure=failure)
    bump(session, claim.job.id)


def release(session: Session, claim: JobClaim, *, now: datetime) -> None:
    """Give planning or finishing back untouched, at shutdown: the try does not count."""
    failure = Failure(code=Code.WORKER_LOST, message="given back at shutdown", retryable=True)
    guarded(session, claim, claim.job.state, {"rung_at": None, "tries": tables.Job.tries - 1})
    attempts.close(session, claim.token, state=AttemptState.LOST, now=now, failure=failure)


def tries(session: Session, job_id: str) -> int:
    return session.scalar(select(tables.Job.tries).where(tables.Job.id == job_id)) or 0


def close(
    session: Session,
    claim: JobClaim,
    *,
    state: JobState,
    now: datetime,
    result: Result | None = None,
    error: Failure | None = None,
) -> None:
    """End the job that `claim` holds. Raises LostError."""
    end = ending(state, now=now, result=result, error=error)
    guarded(session, claim, claim.job.state, {**_forgetting(claim.job.params, claim.job.source), **end})
    outcome = AttemptState.FAILED if state is JobState.FAILED and error else AttemptState.SUCCEEDED
    attempts.close(session, claim.token, state=outcome, now=now, failure=error)
    attempts.close_done(session, claim.job.id, now=now)
    wake(session, [claim.job.id])
    bump(session, claim.job.id)


def end(session: Session, job_id: str, *, state: JobState, now: datetime, error: Failure | None = None) -> bool:
    """End an open job whoever works on it: cancel, deadline. False if it was over already."""
    row = tables.Job
    is_open = (row.id == job_id, row.state.in_(OPEN))
    if (
        found := session.execute(select(row.params, row.source).where(*is_open).with_for_update()).one_or_none()
    ) is None:
        return False
    values = {**_forgetting(found.params, found.source), **ending(state, now=now, error=error)}
    session.execute(update(row).where(*is_open).values(**values))
    _free_parts(session, job_id)
    attempts.revoke_all(session, job_id, now=now, why=f"the job was ended: {state}")
    wake(session, [job_id])
    bump(session, job_id)
    return True


def wake(session: Session, job_ids: Collection[str]) -> None:
    """Let those look again that wait for these jobs, which are over. Before a change number is taken, as all locks."""
    session.execute(_WAKE, {"job_ids": list(job_ids), "pending": JobState.PENDING})


def _free_parts(session: Session, job_id: str) -> None:
    session.execute(
        update(tables.Part)
        .where(tables.Part.job_id == job_id, tables.Part.token.is_not(None), tables.Part.state.in_(UNSETTLED))
        .values(token=None, state=PartState.PENDING)
    )


def _forgetting(params: Any, source: str | None) -> dict[str, Any]:
    """The columns to write when a job ends: without a password among its params, readable to us or not, and without the
    query of its URL, which may be a signature."""
    kept = {"source": without_query(source)} if source else {}
    if isinstance(params, dict):
        return {**kept, **_without_password(params)}
    return {**kept, "params": {}} if holds_password(params) else kept


def holds_secret(params: Any, source: str | None) -> bool:
    """Whether the row has something that must be removed when the job ends, besides the column for a password."""
    return holds_password(params) or (source is not None and without_query(source) != source)


def holds_password(params: Any) -> bool:
    """Whether a password may stand among the params, readable to us or not."""
    return "password" in (params if isinstance(params, dict) else str(params))


def ending(
    state: JobState, *, now: datetime, result: Result | None = None, error: Failure | None = None
) -> dict[str, Any]:
    return {
        "state": state,
        "token": None,
        "password": None,
        "finished_at": now,
        "result": result.to_json() if result else None,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "error_retryable": error.retryable if error else None,
    }


def guarded(session: Session, claim: JobClaim, state: JobState, values: Mapping[str, Any]) -> None:
    held = {"id": claim.job.id, "token": claim.token, "state": state}
    if change(session, JOBS, held, {"token": None, **values}) != 1:
        raise LostError(f"job {claim.job.id} is no longer held by this attempt")


def cancel(session: Session, job_id: str, *, now: datetime) -> bool:
    """End an open job as cancelled. False if it was over. Raises NotFoundError."""
    job = get(session, job_id)
    return not job.state.is_final and end(session, job_id, state=JobState.CANCELLED, now=now)


def retry(session: Session, job_id: str, *, password: str | None = None) -> Job:
    """Open a job that failed, was cancelled or is partial again. Parts that succeeded keep their results.

    Raises:
        ConflictError: the job is open, or it succeeded.
    """
    row = tables.Job
    columns = (row.state, row.parts_total, row.batch_id)
    found = session.execute(select(*columns).where(row.id == job_id).with_for_update()).one_or_none()
    if found is None:
        raise NotFoundError(f"no job {job_id!r}")
    if found.state not in AGAIN:
        raise ConflictError(
            f"job {job_id} is {found.state}; only a failed, partial or cancelled job can be tried again"
        )
    state = JobState.RUNNING if found.parts_total else JobState.PENDING
    session.execute(update(row).where(row.id == job_id).values(**anew(password=password), state=state))
    renew_parts(session, tables.Part.job_id == job_id)
    if found.batch_id is not None:
        open_again(session, found.batch_id)
    bump(session, job_id)
    return get(session, job_id)


def open_again(session: Session, batch_id: str) -> None:
    """Let the batch's jobs be rung for again, though all were over or it was cancelled."""
    session.execute(update(tables.Batch).where(tables.Batch.id == batch_id).values(cancelled_at=None, over_at=None))


def anew(*, password: str | None) -> dict[str, Any]:
    """The columns of a job that begins again, but for its state."""
    return {
        "attempts": tables.Job.attempts + 1,
        "password": password,
        **dict.fromkeys(("parts_failed", "tries", "deaths"), 0),
        **dict.fromkeys(("result", "error_code", "error_message", "error_retryable")),
        **dict.fromkeys(("started_at", "finished_at", "not_before", "rung_at", "reused_from")),
    }


def renew_parts(session: Session, which: ColumnElement[bool]) -> None:
    """Let everything that has not succeeded begin from nothing."""
    part = tables.Part
    anew = {
        "state": PartState.PENDING,
        **dict.fromkeys(("attempts", "deaths"), 0),
        **dict.fromkeys(("text", "data", "error_code", "error_message", "error_retryable")),
        **dict.fromkeys(("token", "settled_by", "not_before", "rung_at", "started_at", "finished_at")),
    }
    session.execute(update(part).where(which, part.state != PartState.SUCCEEDED).values(**anew))


def overdue(session: Session, *, started_before: datetime, limit: int) -> list[str]:
    """Open jobs whose work began before that time."""
    query = select(tables.Job.id).where(tables.Job.state.in_(OPEN), tables.Job.started_at < started_before).limit(limit)
    return list(session.scalars(query))


def to_job(row: tables.Job | Row[Any]) -> Job:
    error = None
    if row.error_code is not None:
        error = Failure(code=row.error_code, message=row.error_message or "", retryable=bool(row.error_retryable))
    result = row.result
    return Job(
        id=row.id,
        kind=Kind(row.kind),
        state=JobState(row.state),
        source=row.source,
        source_name=row.source_name,
        batch_id=row.batch_id,
        key=row.key,
        priority=row.priority,
        params=row.params,
        password=row.password,
        parts=PartCounts(total=row.parts_total, succeeded=row.parts_succeeded, failed=row.parts_failed),
        result=Result(text=result["text"], data=result["data"], artifacts=tuple(result["artifacts"]))
        if result
        else None,
        error=error,
        attempts=row.attempts,
        engine=row.engine or row.wants_engine,
        model=row.model,
        probe=row.probe,
        wants_engine=row.wants_engine,
        sha256=row.sha256,
        reused_from=row.reused_from,
        fresh=row.fresh,
        change_seq=row.change_seq,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
