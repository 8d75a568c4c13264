"""The states of jobs, parts, attempts and members, and the moves between them (drawn in docs/glossary.md)."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """pending → running → succeeded | partial | failed | cancelled."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.PENDING, JobState.RUNNING)


class PartState(StrEnum):
    """pending → running → succeeded | failed; back to pending when its lease runs out and attempts are left."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (PartState.SUCCEEDED, PartState.FAILED)


class AttemptState(StrEnum):
    """running → succeeded | failed | lost."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"


class MemberState(StrEnum):
    """What became of a member of a batch when it was submitted."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"


class DeliveryState(StrEnum):
    """What became of a message to a callback."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class Phase(StrEnum):
    """What an attempt does: plan the job, run one slice of its parts, or finish it."""

    PLAN = "plan"
    SLICE = "slice"
    FINISH = "finish"


def outcome(*, succeeded: int, failed: int, damaged: int = 0) -> JobState:
    """The final state of a job whose parts are all over: failed only if every part failed.

    `damaged` counts the parts among those that succeeded of which something could not be read.
    """
    if failed and not succeeded:
        return JobState.FAILED
    return JobState.PARTIAL if failed or damaged else JobState.SUCCEEDED
