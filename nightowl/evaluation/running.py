"""A data set through the queue: jobs in, predictions and scores as rows.

Questions of a conversation wait for the answer before them; everything else is submitted at once and runs as workers
have room.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from domain.kinds import Kind
from domain.params import Ask, check_params
from nightowl.evaluation import owleval, scoring
from nightowl.evaluation.items import Outcome, Task
from storage import evaluations
from storage.evaluations import EvalItem, EvalRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from domain.jobs import Job
    from domain.params import Params
    from nightowl.client import Client
    from nightowl.evaluation.items import Item
    from storage.session import Database

LOOK_SECONDS = 0.2
BEHIND = -1
"""Priority of the jobs of an evaluation: below what an application submits."""
PAGE = 500


class Evaluation:
    """One run. `database` is that of the client's settings; `on_change` hears of every job that changed."""

    def __init__(
        self,
        client: Client,
        database: Database,
        *,
        task: Task,
        items: Sequence[Item],
        on_change: Callable[[Job], None],
    ) -> None:
        self._client = client
        self._database = database
        self._task = task
        self._items = list(items)
        self._on_change = on_change
        self._jobs: dict[str, Item] = {}
        self._answers: dict[int, str] = {}
        self._ended: dict[int, Job] = {}
        self._cursor: int | None = None

    def run(self, *, manifest: str, name: str | None, params: Mapping[str, Any], check: Callable[[], None]) -> EvalRun:
        """Run all; the run as it ended. `check` is called now and then, and may raise."""
        with self._database.write() as session:
            run_id = evaluations.begin(
                session, task=self._task, manifest=manifest, name=name, params=params, now=datetime.now(UTC)
            )
        try:
            self._follow(run_id, check)
        except KeyboardInterrupt:
            self._cancel()
            raise
        return self._end(run_id)

    def _follow(self, run_id: str, check: Callable[[], None]) -> None:
        for item in self._items:
            if item.after is None:
                self._submit(run_id, item)
        while len(self._ended) < len(self._items):
            check()
            self._look(run_id)
            time.sleep(LOOK_SECONDS)

    def _submit(self, run_id: str, item: Item) -> None:
        params = self._with_history(item)
        job = self._client.submit(params, item.source, name=item.name, priority=BEHIND, fresh=True)
        if self._cursor is None:
            self._cursor = max(0, job.change_seq - 1)
        self._jobs[job.id] = item
        with self._database.write() as session:
            evaluations.add(
                session,
                run_id,
                EvalItem(
                    number=item.number,
                    name=item.name,
                    source=item.source,
                    job_id=job.id,
                    params=params.to_json(),
                    labels=item.labels,
                    references=item.references,
                ),
            )

    def _with_history(self, item: Item) -> Params:
        """The question after those before it and our own answers to them."""
        if item.after is None or not isinstance(item.params, Ask):
            return item.params
        turns = []
        for earlier in owleval.conversation(self._items, item):
            if answer := self._answers.get(earlier.number):
                asked = {"role": "user", "text": earlier.labels["question"]}
                turns += [asked, {"role": "assistant", "text": answer}]
        turns.append({"role": "user", "text": item.labels["question"]})
        values = {name: value for name, value in item.params.to_json().items() if name != "question"}
        return check_params(Kind.ASK, {**values, "turns": turns})

    def _look(self, run_id: str) -> None:
        changed = self._client.changes(self._cursor or 0, limit=PAGE)
        self._cursor = changed.cursor
        for job in changed.jobs:
            item = self._jobs.get(job.id)
            if item is None or item.number in self._ended:
                continue
            self._on_change(job)
            if job.state.is_final:
                self._settle(run_id, item, job)

    def _settle(self, run_id: str, item: Item, job: Job) -> None:
        self._ended[item.number] = job
        found = outcome(job)
        if found.text:
            self._answers[item.number] = found.text
        stored = EvalItem(
            number=item.number,
            name=item.name,
            labels=item.labels,
            references=item.references,
            prediction=found.text,
            facts=found.data,
            seconds=found.seconds,
            error=found.error,
        )
        scores = scoring.score(self._task, stored, found)
        with self._database.write() as session:
            evaluations.settle(session, run_id, _with_scores(stored, scores))
        for following in self._items:
            if following.after == item.number:
                self._submit(run_id, following)

    def _cancel(self) -> None:
        for job_id, item in self._jobs.items():
            if item.number not in self._ended:
                self._client.cancel(job_id)

    def _end(self, run_id: str) -> EvalRun:
        """The scores that take the whole data set, then the run's own row."""
        with self._database.read() as session:
            found = evaluations.items(session, run_id)
        rare = {} if self._task is Task.OCR else scoring.with_cider(found)
        found = [
            _with_scores(one, {**one.scores, "cider": rare[one.number]}) if one.number in rare else one for one in found
        ]
        ran = next((job for job in self._ended.values() if job.engine), None)
        with self._database.write() as session:
            for one in found:
                if one.number in rare:
                    evaluations.settle(session, run_id, one)
            evaluations.end(
                session,
                run_id,
                scores=scoring.overall(self._task, found),
                engine=ran.engine if ran else None,
                model=ran.model if ran else None,
                now=datetime.now(UTC),
            )
            return evaluations.find(session, run_id)


def outcome(job: Job) -> Outcome:
    """What a job that is over came to. One that is partial has a text and an error."""
    return Outcome(
        text=job.result.text if job.result else None,
        data=job.result.data if job.result else {},
        error=f"{job.error.message} [{job.error.code}]" if job.error else None if job.result else str(job.state),
        seconds=job.seconds(now=datetime.now(UTC)),
        pages=job.parts.total,
    )


def _with_scores(item: EvalItem, scores: Mapping[str, float]) -> EvalItem:
    return replace(item, scores=dict(scores))
