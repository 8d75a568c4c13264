"""Use case: plan a job. Claim it, look at its source, write its parts down."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain.errors import LostError, ParamsError, failure_from
from domain.plain import clean
from domain.states import JobState
from storage import artifacts, jobs
from tasks import reuse
from tasks.bell import ring_due
from tasks.kinds import KINDS, params_of
from tasks.source import fetch_source, keep_fetched
from tasks.work import Planning, StoppedError, probe_to_json

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from storage.artifacts import StoredFile
    from storage.jobs import JobClaim
    from tasks.context import Context
    from tasks.planning import Spec
    from worker.readers.base import Open

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`fetched` is the stored copy of a source that lies on the network."""

    parts: list[Spec]
    probe: dict[str, Any]
    fetched: StoredFile | None = None


def plan_job(context: Context, job_id: str) -> None:
    """Plan the job if it is pending and nobody else does, and ring for its parts. Safe to call twice."""
    if plan_only(context, job_id):
        ring_due(context)


def plan_only(context: Context, job_id: str) -> bool:
    """Plan the job; whoever calls rings afterwards. False if it was not ours to plan."""
    return in_turn(context, job_id, lambda alone: _plan(context, job_id, alone=alone))


def in_turn(context: Context, job_id: str, work: Callable[[bool], bool]) -> bool:
    """Let `work` claim the job and do what it does: beside others, or alone if workers died of it.

    A claim counts a try, so it is made inside the gate: what only waits there is not charged for the death of others.
    `work` returns whether it got its claim, as this does.
    """
    with suppress(StoppedError):
        with context.gate.work(alone=False, stopped=lambda: context.heartbeat.shutting_down):
            if work(False):
                return True
        with context.database.read() as session:
            suspect = jobs.is_suspect(session, job_id, max_attempts=context.settings.max_attempts)
        if not suspect:
            return False
        with context.gate.work(alone=True, stopped=lambda: context.heartbeat.shutting_down):
            return work(True)
    with context.database.write() as session:
        jobs.unring(session, job_id)
    return False


def _plan(context: Context, job_id: str, *, alone: bool) -> bool:
    with context.database.write() as session:
        max_attempts = context.settings.max_attempts
        claim = jobs.claim_plan(session, job_id, context.claimant, max_attempts=max_attempts, alone=alone)
        if claim is None:
            return False
        sha256 = reuse.known_content(claim)
        if sha256 is not None and reuse.settle(context, session, claim, sha256):
            return True
    with context.heartbeat.watch(claim.token) as stop:
        context.heartbeat.tell(claim.token, "reading its source", at_once=alone)
        try:
            plan = make_plan(context, claim, stop)
            if plan is None:
                return True
            _write(context, claim, plan)
        except LostError:
            give_back(context, claim)
        except Exception as error:
            give_up(context, claim, error, phase="plan")
        else:
            logger.info("planned %s: %d parts", claim.job.kind, len(plan.parts), extra={"action": "planned"})
    return True


def _write(context: Context, claim: JobClaim, plan: Plan) -> None:
    """The plan and the row of what was fetched for it, in one transaction."""
    try:
        with context.database.write() as session:
            jobs.planned(
                session,
                claim,
                parts=plan.parts,
                slice_parts=context.settings.slice_parts,
                probe=plan.probe,
                now=context.clock(),
            )
            if plan.fetched:
                artifacts.add(session, plan.fetched, role="source", job_id=claim.job.id)
    except LostError:
        if plan.fetched:
            context.artifacts.remove(plan.fetched)
        raise


def make_plan(context: Context, claim: JobClaim, stop: threading.Event) -> Plan | None:
    """Open the source, bound it, and cut it into parts; None where another job has done it, or is at it.

    Raises NightowlError.
    """
    context.settings.limits.check_params(claim.job.params)
    params = params_of(claim.job)
    with fetch_source(context, claim.job, stop) as source:
        if source is None:
            return Plan(parts=[], probe={})
        if _is_settled(context, claim, source):
            return None
        probe = context.readers.probe(source, cancel=stop)
        work = Planning(context=context, job=claim.job, params=params, source=source, probe=probe, stop=stop)
        parts = list(KINDS[claim.job.kind].plan(work))
        return Plan(parts=parts, probe=clean(probe_to_json(probe)), fetched=keep_fetched(context, claim.job, source))


def _is_settled(context: Context, claim: JobClaim, source: Open) -> bool:
    """Ask once more where the content was not known before. Raises LostError."""
    if not context.settings.reuse or reuse.known_content(claim) is not None:
        return False
    sha256 = reuse.content_of(source)
    with context.database.write() as session:
        return reuse.settle(context, session, claim, sha256)


def refuse_large_params(context: Context, job_id: str, values: dict[str, Any]) -> bool:
    """Store a job whose params are too large without them, as failed: whoever sent it polls for its end."""
    try:
        context.settings.limits.check_params(values["params"])
    except ParamsError as error:
        with context.database.write() as session:
            jobs.insert_once(session, job_id, {**values, "params": {}}, now=context.clock())
            jobs.end(session, job_id, state=JobState.FAILED, now=context.clock(), error=error.failure)
        return True
    return False


def give_back(context: Context, claim: JobClaim) -> None:
    """At shutdown: somebody else plans or finishes. Nothing to do where the job is no longer ours."""
    try:
        with context.database.write() as session:
            jobs.release(session, claim, now=context.clock())
    except LostError:
        logger.info("the job is no longer held by this worker", extra={"action": "lost"})


def give_up(context: Context, claim: JobClaim, error: Exception, *, phase: str) -> None:
    """Write the failure of planning or finishing: to be tried again later, or the end of the job."""
    failure = failure_from(error)
    now = context.clock()
    try:
        with context.database.write() as session:
            decision = context.retry.decide(failure, attempts=jobs.tries(session, claim.job.id))
            if decision.delay is None:
                jobs.close(session, claim, state=JobState.FAILED, error=failure, now=now)
            else:
                jobs.put_back(session, claim, failure, not_before=now + decision.delay, now=now)
    except LostError:
        logger.info("the job is no longer held by this worker", extra={"action": "lost"})
        return
    log = logger.warning if failure.code != "internal" else logger.exception
    log("cannot %s: %s", phase, failure.message, extra={"action": f"{phase}_failed", "code": str(failure.code)})
