"""Batches in the ledger: opening, adding members by the hundred, counting, and ending or renewing all their jobs.

What concerns a whole batch is done in chunks, each a short transaction of a few statements: nobody waits for long, and
a process that is killed in between has done a part of it that is right by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, exists, func, insert, or_, select, update

from domain import batches as values
from domain.batches import BatchSummary, Found, Skipped
from domain.errors import ConflictError, NotFoundError
from domain.kinds import Kind
from domain.states import JobState, MemberState, PartState
from storage import attempts, jobs
from storage.artifacts import SCHEME
from storage.bulk import insert_rows
from storage.changes import take
from storage.jobs import new_id
from storage.session import rows_changed
from storage.tables import Artifact, Batch, Job, Member, Part, table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from domain.batches import BatchSpec
    from domain.params import Params
    from storage.artifacts import StoredFile

FETCH_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What one chunk did. `rung` are the jobs among the new ones that are marked as rung: the caller sends for them."""

    jobs: tuple[str, ...] = ()
    rung: tuple[str, ...] = ()
    already: int = 0
    skipped: tuple[Skipped, ...] = ()


def open_batch(session: Session, spec: BatchSpec, *, now: datetime) -> values.Batch:
    """The batch of this name, made where there is none; open again where it was over.

    Raises:
        ConflictError: there is one of this name with another kind or other params.
    """
    row = session.scalar(select(Batch).where(Batch.name == spec.name).with_for_update())
    if row is None:
        row = Batch(id=new_id(), name=spec.name, created_at=now, kind=spec.kind, params=spec.params.to_json())
        session.add(row)
    elif (row.kind, row.params) != (spec.kind, spec.params.to_json()):
        raise ConflictError(
            f"batch {spec.name!r} is of kind {row.kind} with params {row.params}; "
            "give what has another kind or other params another name"
        )
    row.source, row.share, row.callback = spec.source, spec.share, spec.callback
    row.submitted_at = row.cancelled_at = row.over_at = None
    session.flush()
    return to_batch(row)


def add(
    session: Session,
    batch: values.Batch,
    spec: BatchSpec,
    entries: Sequence[Found | Skipped],
    *,
    stored: Mapping[str, StoredFile],
    now: datetime,
    ring: int,
) -> Added:
    """Write members and the jobs of those that are new, the first `ring` of them marked as rung.

    `stored` are the files of this chunk by their ids. Change numbers come last, as a block (storage/changes.py).

    Raises:
        ConflictError: the batch was cancelled meanwhile.
        IntegrityError: somebody else added one of them at this moment; roll back, and do it again.
    """
    _require_wanted(session, batch)
    fresh = {entry.digest: entry for entry in entries}
    known = select(Member.digest).where(Member.batch_id == batch.id, Member.digest.in_(list(fresh)))
    for digest in session.scalars(known).all():
        del fresh[digest]
    found = {digest: entry for digest, entry in fresh.items() if isinstance(entry, Found)}
    ids = {digest: new_id() for digest in found}
    _add_files(session, found.values(), stored, now=now)
    rows = [_member_row(digest, entry, ids) for digest, entry in fresh.items()]
    insert_rows(session, table(Member), rows, same={"batch_id": batch.id, "created_at": now})
    if found:
        numbers = take(session, len(found))
        new = [
            _job_row(spec, entry, id=ids[digest], number=number)
            for (digest, entry), number in zip(found.items(), numbers, strict=True)
        ]
        common = _common_columns(batch.id, spec, now)
        for some, rung_at in ((new[:ring], now), (new[ring:], None)):
            _add_jobs(session, some, common={**common, "rung_at": rung_at})
        # Another submit of it may have come to its end meanwhile, and so have all its jobs.
        session.execute(update(Batch).where(Batch.id == batch.id, Batch.over_at.is_not(None)).values(over_at=None))
    return Added(
        jobs=tuple(ids.values()),
        rung=tuple(ids.values())[:ring],
        already=len(entries) - len(fresh),
        skipped=tuple(entry for entry in fresh.values() if isinstance(entry, Skipped)),
    )


def _require_wanted(session: Session, batch: values.Batch) -> None:
    """Holds off a cancel, and the end of the batch, for the length of this transaction: neither must miss what is added
    here. Two submits of one batch write in turn.
    """
    query = select(Batch.cancelled_at).where(Batch.id == batch.id).with_for_update(key_share=True)
    if session.execute(query).scalar_one() is not None:
        raise ConflictError(f"batch {batch.name!r} was cancelled while it was submitted")


def _add_files(session: Session, found: Collection[Found], stored: Mapping[str, StoredFile], *, now: datetime) -> None:
    """The rows of the files that the members read. One content is one row, whoever writes it last."""
    wanted = sorted({entry.source.removeprefix(SCHEME) for entry in found if entry.source.startswith(SCHEME)})
    rows = [stored[id].columns for id in wanted if id in stored]
    same = {"role": "source", "job_id": None, "created_at": now}
    insert_rows(session, table(Artifact), rows, same=same, renewed="url")


def _member_row(digest: str, entry: Found | Skipped, ids: Mapping[str, str]) -> dict[str, str | int | None]:
    common = {"digest": digest, "path": entry.path, "size": entry.size}
    if isinstance(entry, Found):
        facts = {"sha256": entry.sha256, "format": entry.format, "error_code": None, "error_message": None}
        return {**common, **facts, "state": MemberState.SUBMITTED, "job_id": ids[digest]}
    facts = {"sha256": None, "format": None, "error_code": entry.code, "error_message": entry.message}
    return {**common, **facts, "state": MemberState.SKIPPED, "job_id": None}


def _add_jobs(session: Session, rows: Sequence[_JobRow], *, common: Mapping[str, Any]) -> None:
    """Those with params of their own by themselves: each of these is a statement's worth of columns."""
    alike = [row for row, own in rows if own is None]
    insert_rows(session, table(Job), alike, same=common)
    others = [{**common, **row, **own} for row, own in rows if own is not None]
    if others:
        session.execute(insert(table(Job)), others)


def _common_columns(batch_id: str, spec: BatchSpec, now: datetime) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "kind": spec.kind,
        "params": spec.params.to_json(),
        "password": _password(spec.params),
        "priority": spec.priority,
        "wants_engine": spec.engine,
        "fresh": spec.fresh,
        "callback": spec.callback if spec.tells_each else None,
        "created_at": now,
    }


_JobRow = tuple[dict[str, str | int | None], dict[str, Any] | None]
"""A job's columns, and those of its own params where it has any."""


def _job_row(spec: BatchSpec, entry: Found, *, id: str, number: int) -> _JobRow:
    row = {"id": id, "source": entry.source, "source_name": entry.path[-1024:], "sha256": entry.sha256}
    if entry.params is None:
        return {**row, "change_seq": number}, None
    own = {"params": entry.params.to_json(), "password": _password(entry.params) or _password(spec.params)}
    return {**row, "change_seq": number}, own


def _password(params: Params) -> str | None:
    return params.password.get_secret_value() if params.password else None


def close_submit(session: Session, batch_id: str, *, now: datetime) -> None:
    """Nothing more is added by this submit."""
    session.execute(update(Batch).where(Batch.id == batch_id).values(submitted_at=now))


def close_over(session: Session, *, now: datetime) -> int:
    """Mark the batches of which no job is open any more. Returns how many those are."""
    is_open = exists().where(Job.batch_id == Batch.id, Job.state.in_(jobs.OPEN))
    over = (Batch.over_at.is_(None), Batch.submitted_at.is_not(None), ~is_open)
    # Locked first: a statement that waits for the lock of somebody who adds jobs would not see those jobs then.
    ids = session.scalars(select(Batch.id).where(*over).with_for_update(skip_locked=True)).all()
    if not ids:
        return 0
    return rows_changed(session, update(Batch).where(Batch.id.in_(ids), *over).values(over_at=now))


# Reading.


def find(session: Session, name_or_id: str) -> values.Batch:
    """The batch of this name or id, or the one whose id begins so. Raises NotFoundError, also where several do."""
    exact = select(Batch).where(or_(Batch.name == name_or_id, Batch.id == name_or_id)).limit(1)
    if row := session.scalar(exact):
        return to_batch(row)
    found = list(session.scalars(select(Batch).where(Batch.id.startswith(name_or_id, autoescape=True)).limit(2)))
    if len(found) != 1:
        raise NotFoundError(f"{'several batches have ids' if found else 'no batch has a name or id'} {name_or_id!r}")
    return to_batch(found[0])


def recent(session: Session, *, limit: int) -> list[values.Batch]:
    """The newest batches first."""
    return [to_batch(row) for row in session.scalars(select(Batch).order_by(Batch.created_at.desc()).limit(limit))]


def summary(session: Session, batch: values.Batch) -> BatchSummary:
    """Counts of all jobs of the batch, in one statement, and of what was skipped."""
    counts = (func.count(), func.sum(Job.parts_total), func.sum(Job.parts_succeeded + Job.parts_failed))
    reused = func.sum(case((and_(Job.reused_from.is_not(None), Job.state == JobState.SUCCEEDED), 1), else_=0))
    query = (
        select(Job.state, Job.error_code, reused, *counts)
        .where(Job.batch_id == batch.id)
        .group_by(Job.state, Job.error_code)
    )
    states: dict[JobState, int] = {}
    codes: dict[str, int] = {}
    sums = [0, 0, 0]
    for state, code, again, count, total, over in session.execute(query):
        states[JobState(state)] = states.get(JobState(state), 0) + count
        if code is not None:
            codes[code] = codes.get(code, 0) + count
        sums = [one + int(more or 0) for one, more in zip(sums, (again, total, over), strict=True)]
    return BatchSummary(
        batch=batch,
        states=states,
        codes=codes,
        skipped=_skipped(session, batch.id),
        reused=sums[0],
        parts_total=sums[1],
        parts_over=sums[2],
    )


def _skipped(session: Session, batch_id: str) -> dict[str, int]:
    query = (
        select(Member.error_code, func.count())
        .where(Member.batch_id == batch_id, Member.state == MemberState.SKIPPED)
        .group_by(Member.error_code)
    )
    return {code or "unknown": count for code, count in session.execute(query)}


def members(
    session: Session, batch_id: str, *, skipped: bool | None = None, after: str = "", limit: int = FETCH_ROWS
) -> list[values.Member]:
    """A page of the manifest, in the order of digests behind `after`."""
    query = select(Member, Job.state).join(Job, Job.id == Member.job_id, isouter=True)
    query = query.where(Member.batch_id == batch_id, Member.digest > after).order_by(Member.digest).limit(limit)
    if skipped is not None:
        query = query.where(Member.state == (MemberState.SKIPPED if skipped else MemberState.SUBMITTED))
    return [_to_member(row, job_state) for row, job_state in session.execute(query)]


# The whole batch.


def mark_cancelled(session: Session, batch_id: str, *, now: datetime) -> None:
    """From here on nothing of the batch is rung for, and nothing is added to it."""
    session.execute(update(Batch).where(Batch.id == batch_id).values(cancelled_at=now))


def cancel_some(session: Session, batch_id: str, *, now: datetime, limit: int, urgent: bool = False) -> int:
    """Cancel some open jobs of the batch, those that run first. Returns how many.

    `urgent`: only those that hold a worker, or may at any moment, since they were rung for. Rows that a worker holds
    at this moment are left for the next call, so that neither waits for the other.
    """
    in_work = or_(Job.state == JobState.RUNNING, Job.rung_at.is_not(None), Job.token.is_not(None))
    query = (
        select(Job.id, Job.params, Job.source)
        .where(Job.batch_id == batch_id, Job.state.in_(jobs.OPEN), *((in_work,) if urgent else ()))
        .order_by(Job.state.desc())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(query).all()
    plain = [id for id, params, source in rows if not jobs.holds_secret(params, source)]
    for id, params, source in rows:
        if jobs.holds_secret(params, source):
            jobs.end(session, id, state=JobState.CANCELLED, now=now)
    if plain:
        _end_all(session, plain, now=now)
    return len(rows)


def end_cancelled(session: Session, *, now: datetime, limit: int) -> int:
    """Cancel some jobs that are open though their batch was cancelled: who did that was killed. Returns how many."""
    is_open = exists().where(Job.batch_id == Batch.id, Job.state.in_(jobs.OPEN))
    query = select(Batch.id).where(Batch.over_at.is_(None), Batch.cancelled_at.is_not(None), is_open)
    count = 0
    # Locked, so that nothing of a batch that is opened again at this moment is cancelled.
    for id in session.scalars(query.with_for_update(skip_locked=True)).all():
        count += cancel_some(session, id, now=now, limit=limit - count)
    return count


def _end_all(session: Session, ids: Sequence[str], *, now: datetime) -> None:
    """As `jobs.end`, for many jobs that this transaction has locked."""
    held = and_(Part.job_id.in_(ids), Part.token.is_not(None), Part.state.in_(jobs.UNSETTLED))
    session.execute(update(Part).where(held).values(token=None, state=PartState.PENDING))
    attempts.revoke_many(session, ids, now=now, why="the batch was cancelled")
    jobs.wake(session, ids)
    _renumber(session, ids, jobs.ending(JobState.CANCELLED, now=now))


def _renumber(session: Session, ids: Sequence[str], values: Mapping[str, Any]) -> None:
    """Change many jobs that are locked, and give each a change number of its own."""
    numbers = take(session, len(ids))
    order = func.row_number().over(order_by=Job.id) + (numbers.start - 1)
    numbered = select(Job.id, order.label("number")).where(Job.id.in_(ids)).subquery()
    session.execute(
        update(Job)
        .where(Job.id == numbered.c.id)
        .values(**values, change_seq=numbered.c.number)
        .execution_options(synchronize_session=False)
    )


def count_open(session: Session, batch_id: str) -> int:
    query = select(func.count()).where(Job.batch_id == batch_id, Job.state.in_(jobs.OPEN))
    return session.scalar(query) or 0


def retry_some(
    session: Session, batch_id: str, *, ended_before: datetime, limit: int, password: str | None = None
) -> int:
    """Open some of the batch's jobs again that failed, were cancelled or are partial. Returns how many.

    Only those that ended before that time: one that fails anew is not tried for ever.
    """
    query = (
        select(Job.id)
        .where(Job.batch_id == batch_id, Job.state.in_(jobs.AGAIN), Job.finished_at <= ended_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids: Sequence[str] = session.scalars(query).all()
    if not ids:
        return 0
    jobs.renew_parts(session, Part.job_id.in_(ids))
    anew: dict[str, ColumnElement[Any] | Any] = jobs.anew(password=password)
    state = case((Job.parts_total > 0, JobState.RUNNING), else_=JobState.PENDING)
    _renumber(session, ids, {**anew, "state": state})
    return len(ids)


def to_batch(row: Batch) -> values.Batch:
    return values.Batch(
        id=row.id,
        name=row.name,
        kind=Kind(row.kind) if row.kind else None,
        source=row.source,
        share=row.share,
        created_at=row.created_at,
        submitted_at=row.submitted_at,
        cancelled_at=row.cancelled_at,
        over_at=row.over_at,
    )


def _to_member(row: Member, job_state: str | None) -> values.Member:
    return values.Member(
        digest=row.digest,
        path=row.path,
        state=MemberState(row.state),
        sha256=row.sha256,
        size=row.size,
        format=row.format,
        job_id=row.job_id,
        job_state=JobState(job_state) if job_state else None,
        error_code=row.error_code,
        error_message=row.error_message,
    )
