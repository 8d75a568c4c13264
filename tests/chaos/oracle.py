"""What an undisturbed worker says of a case: the product's own functions, one after the other in one thread.

The chaos runs compare with it: whatever happens to processes, the ledger must hold these states and these texts.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from domain.errors import Code, Failure, NightowlError, SourceError
from domain.jobs import Job, Part, PartCounts
from domain.limits import Limits
from domain.plain import clean
from domain.states import JobState, PartState, outcome
from storage import migrations
from storage.jobs import JobClaim
from storage.session import Database
from tasks.context import utc_now
from tasks.kinds import KINDS, params_of
from tasks.plan import make_plan
from tasks.source import open_source
from tasks.work import JobWork, PartWork, probe_from_json
from tests.chaos.engine import WildEngine
from worker.readers import child

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.context import Context
    from tasks.plan import Plan
    from tests.chaos.cases import Case
    from worker.readers.base import Open, Page, Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How a part must end: with its text, or with the code of its failure."""

    text: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How a job must end. `text` is its result's, `code` that of its error; None where it has none."""

    state: JobState
    parts: tuple[Settled, ...] = ()
    text: str | None = None
    code: str | None = None


class _NearReaders:
    """Reads in this process: the cases that it is asked for are not hostile."""

    def probe(self, source: Open, *, cancel: threading.Event | None = None) -> Probe:
        del cancel
        return child.probe(source)

    def page(self, source: Open, number: int, *, target_pixels: int, cancel: threading.Event | None = None) -> Page:
        del cancel
        return child.page(source, number, target_pixels)


class Oracle:
    """`folder` is for a ledger of its own, in which no digest is found and none kept."""

    def __init__(self, folder: Path) -> None:
        self._engine = WildEngine(delay_seconds=0, chaos=None)
        self._database = Database(f"sqlite:///{folder}/oracle.db")
        migrations.upgrade(self._database)
        settings = SimpleNamespace(limits=Limits(), source_roots=None, part_seconds=60.0, reuse=False)
        context = SimpleNamespace(
            engine=self._engine, readers=_NearReaders(), settings=settings, database=self._database, clock=utc_now
        )
        self._context = cast("Context", context)
        self._stop = threading.Event()

    def expect(self, case: Case) -> Expected:
        job = Job(
            id="expected",
            kind=case.params.kind,
            state=JobState.PENDING,
            source=str(case.source) if case.source else None,
            params=case.params.to_json(),
        )
        try:
            plan = make_plan(self._context, JobClaim(token="", job=job), self._stop)
            assert plan is not None, "nothing is reused here"
            job = replace(job, probe=plan.probe, parts=PartCounts(total=len(plan.parts)))
            return self._finish(job, self._parts(job, plan, case))
        except NightowlError as error:
            return Expected(state=JobState.FAILED, code=error.code)

    def _parts(self, job: Job, plan: Plan, case: Case) -> list[Part]:
        if not plan.parts:
            return []
        with open_source(self._context, job) as source:
            assert source is not None
            return [self._part(job, source, number, spec, case) for number, spec in enumerate(plan.parts, start=1)]

    def _part(self, job: Job, source: Open, number: int, spec: dict[str, Any], case: Case) -> Part:
        part = Part(job_id=job.id, number=number, slice=1, state=PartState.PENDING, spec=spec)
        if code := case.harm.get(number):
            return replace(part, error=Failure(code=code, message="it does harm"))
        work = PartWork(part=part, probe=probe_from_json(job.probe or {}), source=source, **self._desk(job))
        try:
            finished = KINDS[job.kind].run(work)
        except SourceError as error:
            return replace(part, error=error.failure)
        return replace(part, text=clean(finished.text), data=clean(finished.data))

    def _finish(self, job: Job, parts: list[Part]) -> Expected:
        failed = [part for part in parts if part.error]
        state = outcome(succeeded=len(parts) - len(failed), failed=len(failed))
        settled = tuple(Settled(text=part.text, code=part.error.code if part.error else None) for part in parts)
        code: str | None = failed[0].error.code if failed and failed[0].error else None
        if state is JobState.FAILED:
            return Expected(state=state, parts=settled, code=code)
        probe = probe_from_json(job.probe) if job.probe else None
        work = JobWork(parts=parts, probe=probe, **self._desk(job))
        return Expected(state=state, parts=settled, code=code, text=clean(KINDS[job.kind].finish(work).text))

    def _desk(self, job: Job) -> dict[str, Any]:
        return {
            "context": self._context,
            "job": job,
            "params": params_of(job),
            "stop": self._stop,
            "deadline_at": time.monotonic() + 60,
        }

    def close(self) -> None:
        self._engine.close()
        self._database.close()


def worker_lost(expected: Settled) -> Settled:
    """How a part ends whose workers died so often that it is given up, which is by design."""
    del expected
    return Settled(code=Code.WORKER_LOST)
