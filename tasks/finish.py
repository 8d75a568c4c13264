"""Use case: finish a job. One winner merges the parts, stores the files, closes the job."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from domain.errors import Code, Failure, LostError
from domain.jobs import Result
from domain.limits import json_bytes
from domain.plain import clean
from domain.states import JobState, outcome
from storage import artifacts, jobs, parts
from tasks.guards import count_marks
from tasks.kinds import KINDS, params_of
from tasks.plan import give_back, give_up, in_turn
from tasks.work import JobWork, probe_from_json

if TYPE_CHECKING:
    import threading

    from domain.jobs import Part
    from storage.jobs import JobClaim
    from tasks.context import Context
    from tasks.work import Finished

logger = logging.getLogger(__name__)


def finish_job(context: Context, job_id: str) -> None:
    """Finish the job if its parts are all over and nobody else does. Safe to call twice."""
    in_turn(context, job_id, lambda alone: _claim_and_finish(context, job_id, alone=alone))


def _claim_and_finish(context: Context, job_id: str, *, alone: bool) -> bool:
    engine = context.engine
    with context.database.write() as session:
        claim = jobs.claim_finish(
            session,
            job_id,
            context.claimant,
            max_attempts=context.settings.max_attempts,
            engine=engine.name if engine else None,
            model=engine.model if engine else None,
            alone=alone,
        )
    if claim is None:
        return False
    with context.heartbeat.watch(claim.token) as stop:
        context.heartbeat.tell(claim.token, "merging its parts", at_once=alone)
        try:
            state = _finish(context, claim, _parts(context, claim), stop)
        except LostError:
            give_back(context, claim)
        except Exception as error:
            give_up(context, claim, error, phase="finish")
        else:
            logger.info("job %s: %s", claim.job.kind, state, extra={"action": "finished", "state": str(state)})
    return True


def _parts(context: Context, claim: JobClaim) -> list[Part]:
    """All parts of the job, if their texts and data together are no more than a result may be. Raises SourceError."""
    with context.database.read() as session:
        size = parts.size(session, claim.job.id)
        context.settings.limits.check_result(size, name=claim.job.name)
        return parts.of_job(session, claim.job.id)


def _finish(context: Context, claim: JobClaim, done: list[Part], stop: threading.Event) -> JobState:
    failed, damaged = _failed(done), _damaged(done)
    state = outcome(succeeded=len(done) - len(failed), failed=len(failed), damaged=len(damaged))
    if state is JobState.FAILED:
        error = _common_failure(failed)
        with context.database.write() as session:
            jobs.close(session, claim, state=state, error=error, now=context.clock())
        return state
    finished = _merge(context, claim, done, stop)
    _close(context, claim, finished, done, state=state)
    return state


def _failed(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.error]


def _damaged(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.data.get("damaged")]


def _merge(context: Context, claim: JobClaim, done: list[Part], stop: threading.Event) -> Finished:
    work = JobWork(
        context=context,
        job=claim.job,
        params=params_of(claim.job),
        stop=stop,
        deadline_at=time.monotonic() + context.settings.part_seconds,
        parts=done,
        probe=probe_from_json(claim.job.probe) if claim.job.probe else None,
    )
    return KINDS[claim.job.kind].finish(work)


def _close(context: Context, claim: JobClaim, finished: Finished, done: list[Part], *, state: JobState) -> None:
    """Store the files, then commit their rows, the result and the state in one transaction."""
    failed, damaged = _failed(done), _damaged(done)
    data = {**finished.data, "marks": count_marks(done)}
    if warnings := [*(claim.job.probe or {}).get("warnings", ()), *data.get("warnings", ())]:
        data["warnings"] = warnings
    if failed:
        data["failed_parts"] = [{**part.spec, **(part.error.to_json() if part.error else {})} for part in failed]
    names = tuple(name for name, _, _ in finished.files)
    result = Result(text=clean(finished.text), data=clean(data), artifacts=names)
    context.settings.limits.check_result(json_bytes(result.to_json()), name=claim.job.name)
    stored = [context.artifacts.put(content, name=name, media_type=kind) for name, kind, content in finished.files]
    with context.database.write() as session:
        old = artifacts.drop(session, claim.job.id, role="result")
        if state is JobState.SUCCEEDED:  # any other may be tried again, with the same content
            old += artifacts.drop(session, claim.job.id, role="source")
        for file in stored:
            artifacts.add(session, file, role="result", job_id=claim.job.id)
        error = _partly(failed, damaged, claim.job.parts.total)
        jobs.close(session, claim, state=state, result=result, error=error, now=context.clock())
    for file in old:
        context.artifacts.remove(file)


def _partly(failed: list[Part], damaged: list[Part], total: int) -> Failure | None:
    """Why the job is only partial; None where it is not."""
    if not failed and not damaged:
        return None
    if not failed:
        first_warning = "; ".join(damaged[0].data.get("warnings", ()))
        message = f"{len(damaged)} of {total} parts are damaged; the first: {first_warning}"
        return Failure(code=Code.SOURCE_DAMAGED, message=message)
    first = failed[0].error
    message = f"{len(failed)} of {total} parts failed; the first: {first.message if first else 'unknown'}"
    return Failure(code=first.code if first else Code.INTERNAL, message=message)


def _common_failure(failed: list[Part]) -> Failure:
    """A job whose every part failed: the one cause, or the first of several."""
    causes = {part.error.message: part.error for part in failed if part.error}
    first = next(iter(causes.values()))
    if len(causes) == 1:
        return first
    message = f"all {len(failed)} parts failed; the first: {first.message}"
    return Failure(code=first.code, message=message, retryable=first.retryable)
