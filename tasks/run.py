"""Use case: run a slice. Claim its parts, work on a few at a time, commit each as it finishes."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError

from domain.errors import Code, LostError, NightowlError, SourceError, failure_from
from domain.limits import json_bytes
from domain.plain import clean
from domain.states import AttemptState
from storage import attempts, parts
from tasks.bell import ring_due
from tasks.guards import Mark
from tasks.kinds import KINDS, params_of
from tasks.planning import label
from tasks.source import open_source
from tasks.work import PartWork, StoppedError, probe_from_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from domain.errors import Failure
    from domain.jobs import Part
    from domain.params import Params
    from storage.parts import SliceClaim
    from tasks.context import Context
    from tasks.work import Finished
    from worker.engines.base import Completion, Engine, Request
    from worker.readers.base import Frames, Open, Page

logger = logging.getLogger(__name__)


def run_slice(context: Context, engine: Engine, job_id: str, slice: int) -> None:
    """Run the parts of a slice that wait, and ring for what comes next. Safe to call twice, and by two at once."""
    if run_only(context, engine, job_id, slice):
        ring_due(context)


def run_only(context: Context, engine: Engine, job_id: str, slice: int) -> bool:
    """Run the parts of a slice; whoever calls rings afterwards. False if there were none to claim."""
    with context.database.write() as session:
        claim = parts.claim(
            session,
            job_id,
            slice,
            context.claimant,
            max_attempts=context.settings.max_attempts,
            engine=engine.name,
            model=engine.model,
        )
        hard = _hard_parts(session, context, claim)
    if claim is None:
        return False
    with context.heartbeat.watch(claim.token) as stop:
        SliceRun(context, claim, stop, hard_parts=hard).run()
    return True


def _hard_parts(session: Session, context: Context, claim: SliceClaim | None) -> int:
    """Counted only where enough parts failed of whatever cause."""
    if claim is None or claim.job.parts.failed < context.settings.limits.max_hard_parts:
        return 0
    return parts.count_hard(session, claim.job.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldPart(PartWork[Any]):
    """A part that says what is being done to it before it is done: the last that is known if the worker dies of it."""

    tell: Callable[[str], None]

    def page(self) -> Page:
        self.tell("reading")
        return PartWork.page(self)

    def frames(self, *, count: int) -> Frames:
        self.tell("reading")
        return PartWork.frames(self, count=count)

    def complete(self, request: Request) -> Completion:
        self.tell("generating for")
        return PartWork.complete(self, request)


class Steps:
    """What is being done to the parts of one attempt, told to the heartbeat."""

    def __init__(self, context: Context, claim: SliceClaim) -> None:
        self._context = context
        self._claim = claim
        self._now: dict[int, str] = {}
        self._lock = threading.Lock()

    def begin(self, part: Part, step: str) -> None:
        """A part that is alone may end its worker at this step, so that is written down before it is taken."""
        doing = f"{step} {label(part.spec)}"
        with self._lock:
            if self._now.get(part.number) == doing:
                return
            self._now[part.number] = doing
            self._context.heartbeat.tell(self._claim.token, "; ".join(self._now.values()), at_once=self._claim.alone)

    def end(self, part: Part) -> None:
        with self._lock:
            self._now.pop(part.number, None)


class SliceRun:
    """One attempt at one slice."""

    def __init__(self, context: Context, claim: SliceClaim, stop: threading.Event, *, hard_parts: int) -> None:
        self._context = context
        self._claim = claim
        self._stop = stop
        self._hard_parts = hard_parts
        self._steps = Steps(context, claim)
        self._is_closed = False

    def run(self) -> None:
        """Settle every part, or give back what is not settled."""
        finished = False
        try:
            finished = self._run_all()
        finally:
            self._close(finished=finished)

    def _run_all(self) -> bool:
        try:
            limits, done = self._context.settings.limits, self._claim.job.parts.succeeded
            limits.check_hard_parts(self._hard_parts, succeeded=done)
            with open_source(self._context, self._claim.job) as source:
                if source is None:
                    raise SourceError("the job has parts but no source", code=Code.SOURCE_MISSING)
                return self._run_parts(source, params_of(self._claim.job))
        except LostError:
            return False
        except NightowlError as error:
            # The source went away after it was planned, or eats readers: that is the failure of each part.
            return all([self._begin_and_fail(part, error) for part in self._claim.parts])

    def _run_parts(self, source: Open, params: Params) -> bool:
        if len(self._claim.parts) == 1:
            return self._run_part(source, params, self._claim.parts[0])
        workers = self._context.settings.parts_in_flight
        with ThreadPoolExecutor(workers, thread_name_prefix="part") as pool:
            futures = [
                pool.submit(copy_context().run, self._run_part, source, params, part) for part in self._claim.parts
            ]
            return all([future.result() for future in futures])

    def _run_part(self, source: Open, params: Params, part: Part) -> bool:
        """False if the part was left unsettled. One that waits at the gate has not begun: no death is charged to it."""
        try:
            with self._context.gate.work(alone=self._claim.alone, stopped=self._stop.is_set):
                return self._work_on(source, params, part)
        except StoppedError:
            return False
        finally:
            self._steps.end(part)

    def _work_on(self, source: Open, params: Params, part: Part) -> bool:
        if self._stop.is_set():
            return False
        count = self._begin(part)
        if count is None:
            return False
        try:
            finished = KINDS[self._claim.job.kind].run(self._work(source, params, part))
            self._succeed(part, finished)
        except (StoppedError, LostError):
            return False
        except OperationalError:
            raise  # the database is away, so no failure can be written either
        except Exception as error:
            return self._fail(part, error, count)
        return True

    def _work(self, source: Open, params: Params, part: Part) -> PartWork[Any]:
        return ToldPart(
            context=self._context,
            job=self._claim.job,
            params=params,
            stop=self._stop,
            deadline_at=time.monotonic() + self._context.settings.part_seconds,
            part=part,
            probe=probe_from_json(self._claim.job.probe or {}),
            source=source,
            tell=lambda step: self._steps.begin(part, step),
        )

    def _begin(self, part: Part) -> int | None:
        try:
            with self._context.database.write() as session:
                return parts.begin(session, self._claim, part.number, now=self._context.clock())
        except LostError:
            self._stop.set()
            return None

    def _succeed(self, part: Part, finished: Finished) -> None:
        """Raises LostError, and whatever a database says of a value that it cannot store."""
        self._steps.begin(part, "storing")
        limit = self._context.settings.limits.max_text_chars
        text, data = clean(finished.text), clean(finished.data)
        size = json_bytes(text[:limit]) + json_bytes(data)
        self._context.settings.limits.check_result(size, name=label(part.spec))
        marks = list(data.get("marks", ()))
        if len(text) > limit:
            data["truncated"] = len(text)
            marks.append(Mark.TRUNCATED)
        data["marks"] = sorted(set(marks))
        now, is_only = self._context.clock(), len(self._claim.parts) == 1
        with self._context.database.write() as session:
            parts.succeed(session, self._claim, part.number, text=text[:limit], data=data, now=now, closes=is_only)
        self._is_closed = is_only
        self._context.meter.count(part.spec)

    def _begin_and_fail(self, part: Part, error: Exception) -> bool:
        count = self._begin(part)
        return count is not None and self._fail(part, error, count)

    def _fail(self, part: Part, error: Exception, count: int) -> bool:
        failure = failure_from(error)
        if failure.code == Code.INTERNAL:
            logger.exception("part %d failed unexpectedly", part.number, extra={"action": "part_failed"})
        try:
            self._write_failure(part, failure, count)
        except LostError:
            return False
        return True

    def _write_failure(self, part: Part, failure: Failure, count: int) -> None:
        context, now = self._context, self._context.clock()
        decision = context.retry.decide(failure, attempts=count)
        with context.database.write() as session:
            if decision.delay is None:
                parts.fail(session, self._claim, part.number, failure, now=now)
            else:
                parts.put_back(session, self._claim, part.number, not_before=now + decision.delay)
        if decision.gives_up:
            context.meter.count(part.spec)
        verb = "failed" if decision.gives_up else "is tried again"
        logger.warning("part %d %s: %s", part.number, verb, failure.message, extra={"action": "part_failed"})

    def _close(self, *, finished: bool) -> None:
        if self._is_closed:
            return
        with self._context.database.write() as session:
            if finished:
                attempts.close(session, self._claim.token, state=AttemptState.SUCCEEDED, now=self._context.clock())
            else:
                parts.release(session, self._claim, now=self._context.clock())
