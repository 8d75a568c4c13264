"""What is to be sent to callbacks: rows that a trigger writes when a job ends, and what became of each.

An attempt counts, and the time of the next is set, before the sending: a sender that dies after it sends once more,
with the same id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select, update

from domain.jobs import iso
from domain.states import DeliveryState
from storage import batches
from storage.session import rows_changed
from storage.tables import Batch, Delivery, Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One attempt at one delivery, the `attempts`-th. `body` is what is sent, as JSON."""

    id: str
    url: str
    attempts: int
    body: dict[str, Any]


def claim(session: Session, *, now: datetime, limit: int, delay: Callable[[int], timedelta]) -> list[Sending]:
    """The oldest that are due; each is due again after `delay` of its number of attempts unless it is settled."""
    due = or_(Delivery.not_before.is_(None), Delivery.not_before <= now)
    query = (
        select(Delivery, Job, Batch)
        .join(Job, Job.id == Delivery.job_id, isouter=True)
        .join(Batch, Batch.id == Delivery.batch_id, isouter=True)
        .where(Delivery.state == DeliveryState.PENDING, due)
        .order_by(Delivery.created_at, Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Delivery)
    )
    claimed = []
    for row, job, batch in session.execute(query).all():
        row.attempts += 1
        row.not_before = now + delay(row.attempts)
        body = _about_batch(session, row, batch) if job is None else _about_job(row, job)
        claimed.append(Sending(id=row.id, url=row.url, attempts=row.attempts, body=body))
    return claimed


def _about_job(row: Delivery, job: Job) -> dict[str, Any]:
    """Without the result, which may be large: the receiver reads it by the job's id."""
    error = {"code": job.error_code, "message": job.error_message} if job.error_code else None
    return {
        "id": row.id,
        "type": "job.ended",
        "job_id": job.id,
        "state": row.job_state,
        "kind": job.kind,
        "batch_id": job.batch_id,
        "key": job.key,
        "source_name": job.source_name,
        "parts": {"total": job.parts_total, "succeeded": job.parts_succeeded, "failed": job.parts_failed},
        "error": error,
        "finished_at": iso(job.finished_at),
    }


def _about_batch(session: Session, row: Delivery, batch: Batch) -> dict[str, Any]:
    """As the batch stands when the message is sent: who was told late may find it open again."""
    told = batches.summary(session, batches.to_batch(batch)).to_json()
    return {**told, "id": row.id, "type": "batch.ended", "batch_id": batch.id, "finished_at": told["over_at"]}


def settle(session: Session, sending: Sending, *, state: DeliveryState, error: str | None, now: datetime) -> bool:
    """Write what became of an attempt. False if another attempt has begun meanwhile."""
    values: dict[str, Any] = {"state": state, "error_message": error}
    if state is not DeliveryState.PENDING:
        values["finished_at"] = now
    row = Delivery
    guard = (row.id == sending.id, row.attempts == sending.attempts, row.state == DeliveryState.PENDING)
    return rows_changed(session, update(row).where(*guard).values(**values)) == 1
