"""What a round of the bell must have done: whose turn it was, within its bounds, judged from the rows before it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from domain.states import JobState, PartState
from storage.tables import Batch, Job, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from storage.due import Bell, Due

LANES_MORE = 2
"""Beside the lanes of single jobs and of each batch: what was rung for in vain, and what has waited longest."""


class Turns:
    """The rows before a round of at most `limit` messages of a sort, `batches` of them of batches."""

    def __init__(self, session: Session, bell: Bell, *, limit: int, batches: int) -> None:
        self._bell, self._limit, self._most_of_batches = bell, limit, batches
        job = (Job.id, Job.batch_id, Job.state, Job.token, Job.rung_at, Job.not_before)
        self._jobs = {row.id: row for row in session.execute(select(*job))}
        part = (Part.job_id, Part.slice, Part.state, Part.token, Part.rung_at, Part.not_before)
        self._parts = session.execute(select(*part)).all()
        self._batches = {row.id: row for row in session.execute(select(Batch.id, Batch.share, *_OPEN))}

    # Planning.

    def check_plans(self, rung: Sequence[Due]) -> None:
        self._check_bounds(rung)
        assert len({item.job_id for item in rung}) == len(rung)
        rows = [self._jobs[item.job_id] for item in rung]
        assert all(row.state == JobState.PENDING and self._waits(row) for row in rows)
        new = Counter(row.batch_id for row in rows if row.batch_id and row.rung_at is None)
        assert all(count <= self._may_be_planned(batch) for batch, count in new.items())
        lanes = {row.batch_id for row in self._jobs.values() if self._has_a_turn(row)}
        if self._limit >= len(lanes) + LANES_MORE and self._most_of_batches >= len(lanes) + LANES_MORE:
            assert lanes <= {row.batch_id for row in rows}

    def _has_a_turn(self, row: Any) -> bool:
        """Whether the job is one that its lane must bring forward."""
        if row.state != JobState.PENDING or row.rung_at is not None or not self._waits(row):
            return False
        return row.batch_id is None or self._may_be_planned(row.batch_id) > 0

    def _may_be_planned(self, batch_id: str) -> int:
        """How many more jobs of a batch: as its share has parts, less those planned or soon to be."""
        batch = self._batches[batch_id]
        if batch.over_at is not None or batch.cancelled_at is not None:
            return 0
        of_batch = [row for row in self._jobs.values() if row.batch_id == batch_id]
        planned = sum(
            row.state == JobState.RUNNING or (row.state == JobState.PENDING and row.rung_at is not None)
            for row in of_batch
        )
        return len(of_batch) if batch.share is None else batch.share - planned

    # Running.

    def check_slices(self, rung: Sequence[Due]) -> None:
        self._check_bounds(rung)
        waiting: Counter[tuple[str, int]] = Counter()
        for part in self._parts:
            is_running = self._jobs[part.job_id].state == JobState.RUNNING
            if is_running and part.state == PartState.PENDING and self._waits(part):
                waiting[part.job_id, part.slice] += 1
        slices = [(item.job_id, item.slice or 0) for item in rung]
        assert len(set(slices)) == len(slices)
        assert set(slices) <= set(waiting)
        taken: dict[str, list[int]] = defaultdict(list)
        for job_id, slice in slices:
            if batch_id := self._jobs[job_id].batch_id:
                taken[batch_id].append(waiting[job_id, slice])
        bounded = {id for id, row in self._batches.items() if row.share is not None and row.over_at is None}
        for batch_id in bounded & set(taken):
            *before_last, _ = taken[batch_id]
            assert self._in_flight(batch_id) + sum(before_last) < self._batches[batch_id].share
        if self._limit >= len(waiting) <= self._most_of_batches:
            free = {pair for pair in waiting if self._jobs[pair[0]].batch_id not in bounded}
            assert free <= set(slices)

    def _in_flight(self, batch_id: str) -> int:
        """Parts that a worker has, or that a message is under way for."""
        return sum(
            part.state in (PartState.PENDING, PartState.RUNNING)
            and (part.token is not None or (part.rung_at is not None and part.rung_at >= self._bell.stale_before))
            for part in self._parts
            if (job := self._jobs[part.job_id]).batch_id == batch_id and job.state == JobState.RUNNING
        )

    # Both.

    def _check_bounds(self, rung: Sequence[Due]) -> None:
        assert len(rung) <= self._limit
        assert sum(self._jobs[item.job_id].batch_id is not None for item in rung) <= self._most_of_batches

    def _waits(self, row: Any) -> bool:
        """Nobody has it, it is due, and no message is under way."""
        is_due = row.not_before is None or row.not_before <= self._bell.now
        return row.token is None and is_due and (row.rung_at is None or row.rung_at < self._bell.stale_before)


_OPEN = (Batch.over_at, Batch.cancelled_at)
