"""Results as a stream: the members of a batch in the order of their paths, or jobs as they changed.

One statement is read some rows at a time: memory stays flat, and what comes is the ledger at one moment, however long
it takes to read.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, select

from domain.errors import Failure
from storage.artifacts import StoredFile, to_file
from storage.jobs import to_job
from storage.session import take_time
from storage.tables import Artifact, Job, Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from domain import jobs as values
    from domain.states import JobState

ROWS = 200
"""Rows that are in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """What to export: a batch, else the named jobs, else what changed after `since`; of it what is in `states`."""

    batch_id: str | None = None
    job_ids: tuple[str, ...] = ()
    since: int = 0
    states: tuple[JobState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One row. `path` is that of the batch's member; `job` is None where the member was skipped, `error` says why."""

    path: str | None
    job: values.Job | None
    error: Failure | None
    files: tuple[StoredFile, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether its result is still to come."""
        return self.job is not None and not self.job.state.is_final


def stream(session: Session, which: Which) -> Iterator[Exported]:
    """Rows of one moment. Keep the transaction open while you read."""
    take_time(session)
    if which.batch_id is None:
        yield from _of_jobs(session, _chosen(which))
        return
    yield from _of_members(session, which)
    strays = select(Job).where(Job.batch_id == which.batch_id, ~exists().where(Member.job_id == Job.id))
    yield from _of_jobs(session, _in_states(strays, which).order_by(Job.id))


def _chosen(which: Which) -> Select[Job]:
    if which.job_ids:
        return _in_states(select(Job).where(Job.id.in_(which.job_ids)), which).order_by(Job.id)
    return _in_states(select(Job).where(Job.change_seq > which.since), which).order_by(Job.change_seq)


def _in_states(query: Select[*tuple[Any, ...]], which: Which) -> Select[*tuple[Any, ...]]:
    return query.where(Job.state.in_(which.states)) if which.states else query


def _of_jobs(session: Session, query: Select[Job]) -> Iterator[Exported]:
    for chunk in session.scalars(query.execution_options(yield_per=ROWS)).partitions():
        files = _files(session, chunk)
        for row in chunk:
            yield _exported(None, row, files[row.id])


def _of_members(session: Session, which: Which) -> Iterator[Exported]:
    query = select(Member, Job).join(Job, Job.id == Member.job_id, isouter=True)
    query = _in_states(query.where(Member.batch_id == which.batch_id), which).order_by(Member.path, Member.digest)
    for chunk in session.execute(query.execution_options(yield_per=ROWS)).partitions():
        files = _files(session, [job for _, job in chunk if job])
        for member, job in chunk:
            yield _exported(member, job, files[job.id] if job else ())


def _exported(member: Member | None, job: Job | None, files: Iterable[StoredFile]) -> Exported:
    made = to_job(job) if job else None
    error = made.error if made else None
    if made is None and member is not None:
        error = Failure(code=member.error_code or "unknown", message=member.error_message or "")
    return Exported(path=member.path if member else None, job=made, error=error, files=tuple(files))


def _files(session: Session, jobs: Sequence[Job]) -> defaultdict[str, list[StoredFile]]:
    found: defaultdict[str, list[StoredFile]] = defaultdict(list)
    ids = [job.id for job in jobs]
    query = select(Artifact).where(Artifact.job_id.in_(ids), Artifact.role == "result").order_by(Artifact.name)
    for row in session.scalars(query):
        found[str(row.job_id)].append(to_file(row))
    return found
