"""Ringing for what is due, within the bound on messages. A second ring is harmless; one that fails is made up later."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from domain.messages import CPU, FINISH_JOB, GPU, PLAN_JOB, RUN_SLICE, message_priority, queue_for
from storage import due

if TYPE_CHECKING:
    from storage.due import Due
    from tasks.context import Context

logger = logging.getLogger(__name__)


def ring_due(context: Context) -> int:
    """Send a message for each job and slice that waits, up to the bound. Returns how many were sent."""
    bell = context.bell
    with context.database.write() as session:
        room = due.room(session, bell, max_messages=context.settings.max_messages)
        finishes = due.finishes(session, bell, limit=room.total)
        room = room.without(finishes)
        slices = due.slices(session, bell, limit=room.total, batches=room.batches)
        room = room.without(slices)
        plans = due.plans(session, bell, limit=room.total, batches=room.batches)
    messages = [(FINISH_JOB, item) for item in finishes]
    messages += [(RUN_SLICE, item) for item in slices]
    messages += [(PLAN_JOB, item) for item in plans]
    return _send_all(context, messages)


def _send_all(context: Context, messages: list[tuple[str, Due]]) -> int:
    for sent, (task, item) in enumerate(messages):
        try:
            _send(context, task, item)
        except (OperationalError, OSError) as error:
            logger.warning("the broker cannot be reached, ringing again later: %s", error, extra={"action": "ring"})
            with context.database.write() as session:
                due.unring(session, [unsent for _, unsent in messages[sent:]])
            return sent
    return len(messages)


def _send(context: Context, task: str, item: Due) -> None:
    queue = CPU if task == PLAN_JOB else queue_for(GPU, item.engine)
    args = (item.job_id,) if item.slice is None else (item.job_id, item.slice)
    context.ring(task, *args, queue=queue, priority=message_priority(item.priority))
