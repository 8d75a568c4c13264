"""Ringing for what is due, within the bound on messages. A second ring is harmless; one that fails is made up later.

A message that nobody took for long was lost, or it still waits behind others. Both look the same in SQL, so the broker
is asked how many messages lie there: only as many as are missing are sent again. Without that, each of a backlog would
be sent anew every `ring_seconds`, for as long as the backlog lasts.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from domain.messages import CPU, FINISH_JOB, GPU, INTERACTIVE, PLAN_JOB, RUN_SLICE, message_priority, queue_for
from domain.states import Phase
from storage import due
from storage.due import Room

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from storage.due import Bell, Due
    from storage.sweeping import Returned
    from tasks.context import Context

logger = logging.getLogger(__name__)

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""As `stale_before`: no message counts as lost."""
PAUSE_SECONDS = 0.1
"""What a worker takes in so short a time is far less than the messages that may wait, so they need not be made up for
after each job."""


class Turn:
    """Lets one thread of a worker ring at a time. Those that come meanwhile go on; it rings once more for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._rung_at = -PAUSE_SECONDS

    def ring(self, context: Context, *, may_wait: bool = False) -> None:
        """`may_wait`: what is due is no more urgent than any other work. Then one that rang just now is enough, as long
        as this worker has something in hand, whose end rings again."""
        if may_wait and context.heartbeat.in_hand and time.monotonic() - self._rung_at < PAUSE_SECONDS:
            return
        self._wanted = True
        while self._wanted and self._lock.acquire(blocking=False):
            try:
                self._wanted = False
                self._rung_at = time.monotonic()
                ring_due(context)
            finally:
                self._lock.release()


def ring_due(context: Context) -> int:
    """Send a message for each job and slice that nobody was told of, up to the bound. Returns how many were sent."""
    with context.database.write() as session:
        room = due.room(session, context.bell, max_messages=context.settings.max_messages)
        messages = _due(session, replace(context.bell, stale_before=NEVER), room)
    return _send_all(context, messages)


def ring_again(context: Context) -> int:
    """Send as many messages again as are missing at the broker, of those that nobody took for `ring_seconds`."""
    with context.database.read() as session:
        sent = due.outstanding(session, replace(context.bell, stale_before=NEVER))
        queues = {queue_for(GPU, engine) for engine in due.engines(session)} if sent else set()
    if not sent:
        return 0
    try:
        missing = sent - context.queued({CPU, GPU, *queues})
    except (OperationalError, OSError) as error:
        logger.warning("the broker cannot be asked what it holds: %s", error, extra={"action": "ring"})
        return 0
    with context.database.write() as session:
        messages = _due(session, context.bell, Room(total=missing, batches=missing)) if missing > 0 else []
    return _send_all(context, messages)


def ring_first(context: Context, work: Returned) -> None:
    """Tell of work that was begun and came back, before all that waits: it has waited for a lease already.

    The row is not marked, so the next question finds it too. One message more is the price of not being lost.
    """
    task = {Phase.PLAN: PLAN_JOB, Phase.SLICE: RUN_SLICE, Phase.FINISH: FINISH_JOB}[work.phase]
    queue = CPU if task == PLAN_JOB else queue_for(GPU, work.engine)
    args = (work.job_id,) if work.slice is None else (work.job_id, work.slice)
    try:
        context.ring(task, *args, queue=queue, priority=INTERACTIVE)
    except (OperationalError, OSError) as error:
        logger.warning("the broker cannot be reached, ringing again later: %s", error, extra={"action": "ring"})


def _due(session: Session, bell: Bell, room: Room) -> list[tuple[str, Due]]:
    """What to send, with the name of its task; marked as rung."""
    finishes = due.finishes(session, bell, limit=room.total)
    room = room.without(finishes)
    slices = due.slices(session, bell, limit=room.total, batches=room.batches)
    room = room.without(slices)
    plans = due.plans(session, bell, limit=room.total, batches=room.batches)
    messages = [(FINISH_JOB, item) for item in finishes]
    messages += [(RUN_SLICE, item) for item in slices]
    return messages + [(PLAN_JOB, item) for item in plans]


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
