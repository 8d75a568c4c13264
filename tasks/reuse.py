"""Not twice: before a source is opened by a reader, an earlier job with the same content, kind, params and engine
revision gives its result, or is waited for (docs/adr/0014-not-twice.md)."""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from domain import reuse as keys
from domain.errors import NightowlError
from storage import artifacts, reuse
from tasks.kinds import params_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from storage.jobs import JobClaim
    from tasks.context import Context
    from worker.readers.base import Open

logger = logging.getLogger(__name__)

WAIT = timedelta(minutes=1)
"""After so long a job that waits for another looks by itself, should nobody have woken it."""


def known_content(claim: JobClaim) -> str | None:
    """The hash of the content, where it is known and cannot have changed: a member's, stored under that hash."""
    job = claim.job
    is_stored = job.sha256 is not None and job.source == f"{artifacts.SCHEME}{job.sha256}"
    return job.sha256 if is_stored else None


def content_of(source: Open) -> str:
    """The hash of the file that would be read."""
    with source.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(context: Context, session: Session, claim: JobClaim, sha256: str) -> bool:
    """Whether the job needs no work now: it was given a result, or waits. Else the work is marked as this job's.

    Raises LostError where the job is no longer ours.
    """
    if not context.settings.reuse or (key := _key(context, claim, sha256)) is None:
        return False
    now = context.clock()
    earlier = reuse.find(session, claim, key)
    if earlier is not None and earlier.state.is_final:
        reuse.give(session, claim, earlier, sha256=sha256, now=now)
        logger.info("the result of job %s is given again", earlier.id, extra={"action": "reused"})
    elif earlier is not None:
        reuse.wait_for(session, claim, earlier, until=now + WAIT, now=now)
        logger.info("waits for job %s, which does the same", earlier.id, extra={"action": "joined"})
    elif reuse.still_runs(session, claim.job.reused_from) and not claim.job.fresh:
        reuse.postpone(session, claim, until=now + WAIT, now=now)
    else:
        reuse.reserve(session, claim, key, sha256=sha256)
        return False
    return True


def _key(context: Context, claim: JobClaim, sha256: str) -> str | None:
    """None where the params are wrong, which planning says, and where a password opens the source: what it opened is
    for those only who know it, and nothing of it is kept to compare."""
    job = claim.job
    if job.password is not None:
        return None
    try:
        params = params_of(job).model_dump(mode="json")
    except NightowlError:
        return None
    return keys.work_key(
        kind=job.kind,
        params=params,
        sha256=sha256,
        name=job.source_name or job.source,
        revision=keys.engine_revision(context.settings, wants_engine=job.wants_engine),
    )
