"""The contract of a kind, and the five that exist: one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from domain.errors import ParamsError
from domain.params import Copywrite, Params, check_params
from tasks import ask, caption, copywrite, ocr, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.jobs import Job
    from domain.kinds import Kind
    from tasks.planning import Spec
    from tasks.work import Finished, JobWork, PartWork, Planning


class KindModule(Protocol):
    """What a kind's module has. Its functions raise NightowlError; anything else is a defect."""

    kind: Kind
    needs_source: bool

    def plan(self, work: Planning[Any]) -> Sequence[Spec]:
        """The parts of a job, in order."""
        ...

    def run(self, work: PartWork[Any]) -> Finished:
        """The result of one part. Safe to run twice."""
        ...

    def finish(self, work: JobWork[Any]) -> Finished:
        """The job's result from its parts, of which at least one succeeded (or the job has none). Safe to run twice."""
        ...


KINDS: dict[Kind, KindModule] = {
    module.kind: cast("KindModule", module) for module in (summarize, ocr, copywrite, caption, ask)
}


def params_of(job: Job) -> Params:
    """The job's params, checked again: a row may have been inserted by anybody.

    Raises:
        ParamsError: unknown or wrong params, or no source where the kind needs one.
    """
    if not isinstance(job.params, dict):
        raise ParamsError(f"params must be a JSON object, not {type(job.params).__name__}")
    params = check_params(job.kind, job.params)
    if job.source is None and KINDS[job.kind].needs_source:
        raise ParamsError(f"{job.kind} needs a source")
    if isinstance(params, Copywrite):
        copywrite.check(params, has_source=job.source is not None)
    return params
