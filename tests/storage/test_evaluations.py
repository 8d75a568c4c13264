from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import NotFoundError
from domain.jobs import JobSpec
from domain.params import Ocr
from storage import evaluations, jobs, tables
from storage.evaluations import EvalItem

if TYPE_CHECKING:
    from storage.session import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def begin(database: Database, **values: Any) -> str:
    wanted = {"task": "ocr", "manifest": "/set", "name": None, "params": {}, "now": NOW, **values}
    with database.write() as session:
        return evaluations.begin(session, **wanted)


def test_a_run_and_its_items_are_kept_as_they_came(database: Database) -> None:
    run_id = begin(database, name="first", params={"mode": "image"})
    asked = EvalItem(number=1, name="a", source="/a", params={"x": 1}, labels={"group": "g"}, references=("r\0", "s"))
    done = EvalItem(number=1, name="a", prediction="p", facts={"n": float("nan")}, scores={"cer": 0.5}, seconds=2.5)
    with database.write() as session:
        evaluations.add(session, run_id, asked)
        evaluations.settle(session, run_id, done)
        evaluations.end(session, run_id, scores={"whole": {}}, engine="fake", model="m", now=NOW)
    with database.read() as session:
        run = evaluations.find(session, "first")
        (item,) = evaluations.items(session, run.id)
    assert (run.id, run.items, run.engine, run.params, run.scores) == (
        run_id,
        1,
        "fake",
        {"mode": "image"},
        {"whole": {}},
    )
    assert (item.references, item.labels, item.params, item.source) == (("r", "s"), {"group": "g"}, {"x": 1}, "/a")
    assert (item.prediction, item.scores, item.seconds, item.facts) == ("p", {"cer": 0.5}, 2.5, {"n": None})


def test_a_run_is_found_by_its_newest_name_or_the_beginning_of_its_id(database: Database) -> None:
    old = begin(database, name="nightly")
    new = begin(database, name="nightly", now=datetime(2026, 1, 2, tzinfo=UTC))
    with database.read() as session:
        assert evaluations.find(session, "nightly").id == new
        assert evaluations.find(session, old).id == old
        assert [run.id for run in evaluations.recent(session, limit=5)] == [new, old]
        with pytest.raises(NotFoundError, match="several runs"):
            evaluations.find(session, "0")
        with pytest.raises(NotFoundError, match="eval list"):
            evaluations.find(session, "%")


def test_items_outlive_their_jobs(database: Database) -> None:
    run_id = begin(database)
    with database.write() as session:
        job, _ = jobs.submit(session, JobSpec(kind=Ocr.kind, params=Ocr(), source="/a"), now=NOW)
        evaluations.add(session, run_id, EvalItem(number=1, name="a", job_id=job.id))
    with database.write() as session:
        session.delete(session.get_one(tables.Job, job.id))
    with database.read() as session:
        (item,) = evaluations.items(session, run_id)
    assert (item.name, item.job_id) == ("a", None)
