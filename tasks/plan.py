"""Use case: plan a job. Claim it, look at its source, write its parts down."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain.errors import LostError, failure_from
from domain.plain import clean
from domain.states import JobState
from storage import jobs
from tasks.bell import ring_due
from tasks.kinds import KINDS, params_of
from tasks.source import open_source
from tasks.work import Planning, probe_to_json

if TYPE_CHECKING:
    import threading

    from storage.jobs import JobClaim
    from tasks.context import Context
    from tasks.planning import Spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    parts: list[Spec]
    probe: dict[str, Any]


def plan_job(context: Context, job_id: str) -> None:
    """Plan the job if it is pending and nobody else does. Safe to call twice."""
    with context.database.write() as session:
        claim = jobs.claim_plan(session, job_id, context.claimant)
    if claim is None:
        return
    with context.heartbeat.watch(claim.token) as stop:
        try:
            plan = make_plan(context, claim, stop)
            _write(context, claim, plan)
        except LostError:
            give_back(context, claim)
            return
        except Exception as error:
            give_up(context, claim, error, phase="plan")
            return
    logger.info("planned %s: %d parts", claim.job.kind, len(plan.parts), extra={"action": "planned"})
    ring_due(context)


def _write(context: Context, claim: JobClaim, plan: Plan) -> None:
    with context.database.write() as session:
        jobs.planned(
            session,
            claim,
            parts=plan.parts,
            slice_parts=context.settings.slice_parts,
            probe=plan.probe,
            now=context.clock(),
        )


def make_plan(context: Context, claim: JobClaim, stop: threading.Event) -> Plan:
    """Open the source, bound it, and cut it into parts. Raises NightowlError."""
    params = params_of(claim.job)
    with open_source(context, claim.job) as source:
        if source is None:
            return Plan(parts=[], probe={})
        probe = context.readers.probe(source, cancel=stop)
        work = Planning(context=context, job=claim.job, params=params, source=source, probe=probe, stop=stop)
        return Plan(parts=list(KINDS[claim.job.kind].plan(work)), probe=clean(probe_to_json(probe)))


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
