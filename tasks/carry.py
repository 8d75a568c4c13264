"""Use case: carry a job on. What comes next for a job that this worker has in hand it does at once, without a message.

A job of one part is planned, run and finished by one worker for one message, and whoever settles a job's last part also
finishes it. Each step claims what it does, as if a message had come, so another worker may take any of them first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import jobs
from tasks.finish import finish_job
from tasks.plan import plan_only
from tasks.run import run_only

if TYPE_CHECKING:
    from storage.jobs import Ahead
    from tasks.context import Context
    from worker.engines.base import Engine


def plan_and_carry_on(context: Context, job_id: str) -> None:
    """Plan the job; then run it, if it has one part, and finish it."""
    if plan_only(context, job_id):
        context.turn.ring(context, may_wait=_carry_on(context, job_id))


def run_and_carry_on(context: Context, engine: Engine, job_id: str, slice: int) -> None:
    """Run the slice; then finish the job, if that was its last."""
    if run_only(context, engine, job_id, slice):
        context.turn.ring(context, may_wait=_carry_on(context, job_id))


def _carry_on(context: Context, job_id: str) -> bool:
    """Whether nothing of the job is left that another worker must be told of."""
    engine = context.engine
    if engine is None or context.heartbeat.shutting_down:
        return False
    ahead = _ahead(context, job_id)
    if ahead is not None and ahead.wants_engine not in (None, engine.name):
        return False
    if ahead is not None and ahead.parts == 1 and not ahead.is_over and run_only(context, engine, job_id, 1):
        ahead = _ahead(context, job_id)
    if ahead is None or context.heartbeat.shutting_down:
        return ahead is None
    if ahead.is_over:
        finish_job(context, job_id)
    return ahead.is_over


def _ahead(context: Context, job_id: str) -> Ahead | None:
    with context.database.read() as session:
        return jobs.ahead(session, job_id)
