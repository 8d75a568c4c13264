"""What the doorbell must ring for: jobs to plan, slices to run, jobs to finish. SQL holds the backlog, the queue a few.

Each question marks what it returns as rung. A mark older than `stale_before` is ignored: that message was lost, or no
worker took it, and ringing again is harmless.

Turns are fair (docs/adr/0015-turns-by-lane.md). Jobs outside a batch are one lane, each open batch is another, and one
more lane is of whatever has waited longest. Each round takes one of each lane, so that nothing waits for the end of a
batch and nothing starves; inside a lane a higher priority goes first. No question looks at the whole backlog: the
partial indexes of storage/tables.py lead to the first rows of each lane, and their conditions stand here as literals
because a database cannot match an index to a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, literal_column, or_, select, tuple_, update

from domain.states import JobState, PartState
from storage.session import rows_changed
from storage.tables import Batch, Job, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.orm import Session

MOST_LANES = 200
"""Open batches that one question looks at, the oldest first."""
MANY = 1_000_000
LEAST_TURNS = 4
"""Rows that are fetched of each lane where there are many lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One message to send. `slice` is None for planning and finishing. `priority` has risen with the time it waited."""

    job_id: str
    priority: int
    engine: str | None
    slice: int | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """When we ask, and before which time a message counts as lost. `age` is the wait that raises a priority by one."""

    now: datetime
    stale_before: datetime
    age: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many messages may be sent: in all, and of them for batches."""

    total: int
    batches: int

    def without(self, sent: Iterable[Due]) -> Room:
        sent = list(sent)
        of_batches = sum(due.batch_id is not None for due in sent)
        return Room(total=self.total - len(sent), batches=self.batches - of_batches)


def room(session: Session, bell: Bell, *, max_messages: int) -> Room:
    """What is left of the bound. A quarter of it is never a batch's, so that a message about another job has room."""
    others, batches = _outstanding(session, bell)
    return Room(
        total=max(max_messages - others - batches, 0), batches=max(max_messages - max_messages // 4 - batches, 0)
    )


def is_crowded(session: Session, bell: Bell, max_messages: int) -> bool:
    """Whether so many messages are under way that one more should be left to the workers, who ring as they get on."""
    rung = select(Job.id).where(*_rung_and_untaken(), _is_rung(Job, bell)).limit(2 * max_messages).subquery()
    return (session.scalar(select(func.count()).select_from(rung)) or 0) >= 2 * max_messages


def plans(session: Session, bell: Bell, *, limit: int, batches: int | None = None) -> list[Due]:
    """Pending jobs that nobody plans; of them at most `batches` that belong to a batch."""
    room = Room(total=limit, batches=limit if batches is None else batches)
    if room.total <= 0:
        return []
    open_batches = _batches_to_plan(session) if room.batches > 0 else {}
    lanes = [Job.batch_id.is_(None), *(Job.batch_id == id for id in open_batches)]
    most = room.total if len(lanes) < 4 else room.total // len(lanes) + LEAST_TURNS
    waiting = [_first_by_priority(session, bell, lane, limit=most) for lane in lanes]
    waiting.append(_longest_waiting(session, bell, open_batches, limit=most))
    found = list(_take_turns([_lost_plans(session, bell, limit=room.total), *waiting], room, open_batches))
    if found:
        session.execute(update(Job).where(Job.id.in_([row.id for row in found])).values(rung_at=bell.now))
    return [_due(row, bell) for row in found]


def finishes(session: Session, bell: Bell, *, limit: int, job_id: str | None = None) -> list[Due]:
    """Running jobs whose parts are all over."""
    if limit <= 0:
        return []
    over = and_(_is(Job.state, JobState.RUNNING), Job.parts_succeeded + Job.parts_failed == Job.parts_total)
    query = (
        _jobs()
        .where(over, Job.token.is_(None), _is_due(Job, bell), _unrung(Job, bell))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = list(session.execute(query if job_id is None else query.where(Job.id == job_id)))
    if found:
        session.execute(update(Job).where(Job.id.in_([row.id for row in found])).values(rung_at=bell.now))
    return [_due(row, bell) for row in found]


# Planning: the lanes.


def _jobs() -> Select[*tuple[Any, ...]]:
    return select(Job.id, Job.batch_id, Job.priority, Job.wants_engine, Job.created_at)


def _never_rung(bell: Bell) -> tuple[ColumnElement[bool], ...]:
    pending = (_is(Job.state, JobState.PENDING), Job.token.is_(None), Job.rung_at.is_(None))
    return (*pending, _is_due(Job, bell))


def _first_by_priority(session: Session, bell: Bell, lane: ColumnElement[bool], *, limit: int) -> list[Row[Any]]:
    """The lane's first rows, one priority after the other: each step reads the index in its own order."""
    found: list[Row[Any]] = []
    here = and_(lane, *_never_rung(bell))
    top = session.scalar(select(Job.priority).where(here).order_by(Job.priority.desc()).limit(1))
    while top is not None and len(found) < limit:
        query = _jobs().where(here, Job.priority == top).order_by(Job.created_at, Job.id)
        found += session.execute(query.limit(limit - len(found)).with_for_update(skip_locked=True))
        below = select(Job.priority).where(here, Job.priority < top).order_by(Job.priority.desc()).limit(1)
        top = session.scalar(below)
    return found


def _longest_waiting(session: Session, bell: Bell, batches: Iterable[str], *, limit: int) -> list[Row[Any]]:
    # Hidden in a function, so that the index in the order of time is read and none by batch.
    may_run = func.coalesce(Job.batch_id, "").in_(["", *batches])
    query = _jobs().where(*_never_rung(bell), may_run).order_by(Job.created_at, Job.id).limit(limit)
    return list(session.execute(query.with_for_update(skip_locked=True)))


def _lost_plans(session: Session, bell: Bell, *, limit: int) -> list[Row[Any]]:
    """Those that were rung for long ago, and nobody came."""
    query = (
        _jobs()
        .where(*_rung_and_untaken(), Job.rung_at < bell.stale_before)
        .where(_is(Job.state, JobState.PENDING), _is_due(Job, bell))
        .order_by(Job.rung_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.execute(query))


def _batches_to_plan(session: Session) -> dict[str, int]:
    """Open batches with jobs that nobody was told of, and how many more of each their shares let be planned.

    A job has a part or more: no more jobs than the share's parts need to be planned at a time.
    """
    waits = (
        select(Job.id)
        .where(Job.batch_id == Batch.id, _is(Job.state, JobState.PENDING))
        .where(Job.token.is_(None), Job.rung_at.is_(None))
        .exists()
    )
    query = select(Batch.id, Batch.share).where(Batch.over_at.is_(None), Batch.cancelled_at.is_(None), waits)
    rows = session.execute(query.order_by(Batch.created_at).limit(MOST_LANES)).all()
    left = {id: MANY if share is None else share - _planned(session, id, limit=share) for id, share in rows}
    return {id: count for id, count in left.items() if count > 0}


def _planned(session: Session, batch_id: str, *, limit: int) -> int:
    """Jobs of the batch that are rung for to be planned, or planned and not over; counted up to `limit`."""
    running = and_(_is(Job.state, JobState.RUNNING), Job.batch_id == batch_id)
    planning = and_(_is(Job.state, JobState.PENDING), Job.batch_id == batch_id, Job.rung_at.is_not(None))
    return sum(
        session.scalar(select(func.count()).select_from(select(Job.id).where(which).limit(limit).subquery())) or 0
        for which in (running, planning)
    )


def _take_turns(lanes: Sequence[Sequence[Row[Any]]], room: Room, left: dict[str, int]) -> Iterator[Row[Any]]:
    """One of each lane, round by round, while there is room and, of a batch, something left of its share."""
    seen: set[str] = set()
    of_batches = 0
    for row in chain.from_iterable(zip_longest(*lanes)):
        if row is None or row.id in seen:
            continue
        if row.batch_id is not None and (of_batches >= room.batches or left.get(row.batch_id, MANY) <= 0):
            continue
        if len(seen) >= room.total:
            return
        seen.add(row.id)
        if row.batch_id is not None:
            of_batches += 1
            left[row.batch_id] = left.get(row.batch_id, MANY) - 1
        yield row


# Running: the same turns, over the slices of the few jobs that run.


def slices(session: Session, bell: Bell, *, limit: int, batches: int | None = None) -> list[Due]:
    """Slices of running jobs with pending parts that nobody has claimed; at most `batches` of them of batches."""
    room = Room(total=limit, batches=limit if batches is None else batches)
    if room.total <= 0:
        return []
    found = list(_within(session, bell, session.execute(_slices_in_turn(bell).limit(2 * room.total)), room))
    if found:
        pairs = tuple_(Part.job_id, Part.slice).in_([(row.id, row.slice) for row in found])
        session.execute(update(Part).where(pairs, *_waiting(bell)).values(rung_at=bell.now))
    return [_due(row, bell, slice=row.slice) for row in found]


def _slices_in_turn(bell: Bell) -> Select[*tuple[Any, ...]]:
    """Due slices in the order of their turns: lane by lane, and in a lane job by job; every second is the oldest."""
    due = (
        select(
            *(Part.job_id.label("id"), Part.slice, Job.batch_id, Job.priority, Job.wants_engine, Job.created_at),
            func.count().label("parts"),
            func.row_number().over(partition_by=Part.job_id, order_by=Part.slice).label("job_turn"),
        )
        .select_from(Part)
        .join(Job, Job.id == Part.job_id)
        .where(_is(Job.state, JobState.RUNNING), *_waiting(bell))
        .group_by(Part.job_id, Part.slice, Job.batch_id, Job.priority, Job.wants_engine, Job.created_at)
        .subquery()
    )
    in_lane = (due.c.priority.desc(), due.c.job_turn, due.c.created_at, due.c.id)
    oldest = (due.c.created_at, due.c.id, due.c.slice)
    turns = select(
        due,
        func.row_number().over(partition_by=due.c.batch_id, order_by=in_lane).label("lane_turn"),
        func.row_number().over(order_by=oldest).label("age_turn"),
    ).subquery()
    turn = case((turns.c.age_turn * 2 < turns.c.lane_turn, turns.c.age_turn * 2), else_=turns.c.lane_turn)
    return select(turns).order_by(turn, turns.c.priority.desc(), turns.c.created_at, turns.c.id, turns.c.slice)


def _within(session: Session, bell: Bell, rows: Iterable[Row[Any]], room: Room) -> Iterator[Row[Any]]:
    """What the room and the shares of the batches leave of the rows."""
    left = _shares_left(session, bell)
    taken = of_batches = 0
    for row in rows:
        if row.batch_id is not None and (of_batches >= room.batches or left.get(row.batch_id, 1) <= 0):
            continue
        if taken >= room.total:
            return
        if row.batch_id in left:
            left[row.batch_id] -= row.parts
        taken += 1
        of_batches += row.batch_id is not None
        yield row


def _shares_left(session: Session, bell: Bell) -> dict[str, int]:
    """For each open batch with a share: the parts that may still be put in flight."""
    in_flight = and_(Part.state.in_(("pending", "running")), or_(Part.token.is_not(None), _is_rung(Part, bell)))
    query = (
        select(Batch.id, Batch.share, func.count(Part.number))
        .select_from(Batch)
        .join(Job, and_(Job.batch_id == Batch.id, _is(Job.state, JobState.RUNNING)))
        .join(Part, and_(Part.job_id == Job.id, in_flight), isouter=True)
        .where(Batch.over_at.is_(None), Batch.share.is_not(None))
        .group_by(Batch.id, Batch.share)
    )
    return {id: (share or 0) - flying for id, share, flying in session.execute(query)}


# What was rung for.


def unring(session: Session, items: Sequence[Due]) -> None:
    """Take the marks back: those messages were not sent."""
    pairs = [(due.job_id, due.slice) for due in items if due.slice is not None]
    session.execute(
        update(Job).where(Job.id.in_([due.job_id for due in items if due.slice is None])).values(rung_at=None)
    )
    session.execute(update(Part).where(tuple_(Part.job_id, Part.slice).in_(pairs)).values(rung_at=None))


def outstanding(session: Session, bell: Bell) -> int:
    """Messages sent, and not so long ago that they count as lost, that nobody has taken yet."""
    return sum(_outstanding(session, bell))


def correct_times(session: Session, bell: Bell, *, longest: timedelta) -> None:
    """Bring marks, and times of a retry, that no right clock gives back to now: a clock that was ahead wrote them, and
    the work would wait until the right ones have caught up with it. Nothing is put off for longer than `longest`.

    Each reads an index of what waits; of a job that is over the times mean nothing.
    """
    marked_after = bell.now + (bell.now - bell.stale_before)
    put_off_after = bell.now + 2 * longest
    waits = _is(Part.state, PartState.PENDING)
    for statement in (
        update(Job).where(*_rung_and_untaken(), Job.rung_at > marked_after).values(rung_at=bell.now),
        update(Job).where(Job.not_before > put_off_after).values(not_before=bell.now),
        update(Part).where(waits, Part.rung_at > marked_after).values(rung_at=bell.now),
        update(Part).where(waits, Part.not_before > put_off_after).values(not_before=bell.now),
    ):
        rows_changed(session, statement)


def engines(session: Session) -> list[str | None]:
    """What open jobs that were rung for ask for, each once: it says in which queues their messages lie."""
    rung = or_(Job.rung_at.is_not(None), _is(Job.state, JobState.RUNNING))
    return list(session.scalars(select(Job.wants_engine).where(_is_open(), rung).distinct()))


def _outstanding(session: Session, bell: Bell) -> tuple[int, int]:
    """The same, for jobs outside a batch and in one."""
    in_batch = Job.batch_id.is_not(None)
    waiting_slices = (
        select(Part.job_id, in_batch.label("in_batch"))
        .select_from(Part)
        .join(Job, Job.id == Part.job_id)
        .where(
            _is(Job.state, JobState.RUNNING),
            _is(Part.state, PartState.PENDING),
            Part.token.is_(None),
            _is_rung(Part, bell),
        )
        .group_by(Part.job_id, Part.slice, in_batch)
        .subquery()
    )
    counts = {False: 0, True: 0}
    for query in (
        select(waiting_slices.c.in_batch, func.count()).group_by(waiting_slices.c.in_batch),
        select(in_batch, func.count()).where(*_rung_and_untaken(), _is_rung(Job, bell)).group_by(in_batch),
    ):
        for of_batch, count in session.execute(query):
            counts[bool(of_batch)] += count
    return counts[False], counts[True]


def _rung_and_untaken() -> tuple[ColumnElement[bool], ...]:
    """Spelt as the condition of ix_jobs_rung."""
    return Job.rung_at.is_not(None), Job.token.is_(None), _is_open()


def _is_open() -> ColumnElement[bool]:
    return Job.state.in_([literal_column("'pending'"), literal_column("'running'")])


def _due(row: Row[Any], bell: Bell, *, slice: int | None = None) -> Due:
    aged = row.priority + max(int((bell.now - row.created_at) / bell.age), 0)
    return Due(job_id=row.id, priority=aged, engine=row.wants_engine, slice=slice, batch_id=row.batch_id)


def _waiting(bell: Bell) -> tuple[ColumnElement[bool], ...]:
    return (_is(Part.state, PartState.PENDING), Part.token.is_(None), _is_due(Part, bell), _unrung(Part, bell))


def _is(column: Any, value: JobState | PartState) -> ColumnElement[bool]:
    """The comparison with the value as a literal: a partial index is found by it, and not by a parameter."""
    return and_(column == literal_column(f"'{value}'"))


def _is_due(row: type[Job] | type[Part], bell: Bell) -> ColumnElement[bool]:
    return or_(row.not_before.is_(None), row.not_before <= bell.now)


def _is_rung(row: type[Job] | type[Part], bell: Bell) -> ColumnElement[bool]:
    return row.rung_at >= bell.stale_before


def _unrung(row: type[Job] | type[Part], bell: Bell) -> ColumnElement[bool]:
    return or_(row.rung_at.is_(None), row.rung_at < bell.stale_before)
