"""Each promise is broken by hand, and exactly that is found; a ledger in use breaks none."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from domain.errors import Code, Failure
from domain.jobs import Result
from domain.states import JobState
from storage import artifacts, invariants, jobs, sweeping
from storage.artifacts import ArtifactStore
from storage.invariants import Invariant
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from storage.invariants import Violation
    from storage.session import Database

TORN = Failure(code=Code.PAGE_DAMAGED, message="torn")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


@pytest.fixture
def ledger(database: Database, store: ArtifactStore) -> Ledger:
    """A ledger in use: jobs and parts in every state, claimed, begun, buried, ended, opened again."""
    ledger = Ledger(database)
    upload(ledger, store)
    ledger.submit(id="pending", source="artifact:upload")
    ledger.submit(id="planning")
    ledger.plan_claim("planning")
    in_work(ledger)
    finished(ledger, store)
    partial(ledger)
    refused(ledger)
    lost(ledger)
    cancelled(ledger)
    ledger.planned(id="finishing", pages=0)
    ledger.finish_claim("finishing")
    with database.write() as session:
        session.execute(text("INSERT INTO batches (id, name) VALUES ('batch', 'a folder')"))
        session.execute(text("UPDATE jobs SET batch_id = 'batch' WHERE id IN ('done', 'running')"))
        session.execute(text("INSERT INTO jobs (id, kind, params) VALUES ('by-hand', 'ocr', '{\"password\": \"p\"}')"))
    return ledger


def upload(ledger: Ledger, store: ArtifactStore) -> None:
    stored = replace(store.put(b"x", name="up.txt", media_type="text/plain"), id="upload")
    with ledger.database.write() as session:
        artifacts.add(session, stored, role="source", job_id=None)


def in_work(ledger: Ledger) -> None:
    """Part 1 is over, 2 is in work, 3 is claimed, 4 waits in a slice of its own."""
    ledger.planned(id="running", pages=4, slice_parts=3)
    claim = ledger.must_claim("running")
    ledger.do(claim, 1)
    ledger.begin(claim, 2)


def finished(ledger: Ledger, store: ArtifactStore) -> None:
    ledger.planned(id="done", pages=2)
    claim = ledger.must_claim("done")
    ledger.do(claim, 1)
    ledger.do(claim, 2)
    finish = ledger.finish_claim("done")
    assert finish is not None
    stored = store.put(b"all", name="text.md", media_type="text/markdown")
    with ledger.database.write() as session:
        artifacts.add(session, stored, role="result", job_id="done")
        result = Result(text="all", artifacts=("text.md",))
        jobs.close(session, finish, state=JobState.SUCCEEDED, result=result, now=ledger.now)


def partial(ledger: Ledger) -> None:
    ledger.planned(id="partial", pages=2)
    claim = ledger.must_claim("partial")
    ledger.do(claim, 1)
    ledger.fail(claim, 2)
    finish = ledger.finish_claim("partial")
    assert finish is not None
    ledger.close(finish, error=TORN)


def refused(ledger: Ledger) -> None:
    ledger.submit(id="refused")
    claim = ledger.plan_claim("refused")
    assert claim is not None
    with ledger.database.write() as session:
        jobs.close(session, claim, state=JobState.FAILED, error=TORN, now=ledger.now)


def lost(ledger: Ledger) -> None:
    """Its one page killed three workers; the sweep failed it."""
    ledger.planned(id="lost", pages=1)
    for _ in range(3):
        ledger.begin(ledger.must_claim("lost"), 1)
        let_die(ledger, "lost")


def let_die(ledger: Ledger, job_id: str) -> None:
    """The leases of this job's attempts run out, and a sweep finds them; the others are not touched."""
    with ledger.database.write() as session:
        for token in session.scalars(
            text("SELECT token FROM attempts WHERE job_id = :job AND state = 'running'"), {"job": job_id}
        ):
            later = replace(ledger)
            later.pass_time(31)
            assert sweeping.bury(session, token, job_id, max_attempts=3, now=later.now)


def cancelled(ledger: Ledger) -> None:
    ledger.planned(id="cancelled", pages=2)
    claim = ledger.must_claim("cancelled")
    ledger.do(claim, 1)
    ledger.begin(claim, 2)
    assert ledger.cancel("cancelled")


def told(found: list[Violation]) -> list[tuple[str, str | None, int | None]]:
    return [(violation.name, violation.job_id, violation.part) for violation in found]


@contextmanager
def broken(database: Database, *statements: str) -> Iterator[Session]:
    """The ledger after some SQL of somebody who has other rights than we, so that nobody looks at references."""
    with database.engine.connect() as connection, Session(connection) as session:
        is_sqlite = database.dialect == "sqlite"
        session.execute(
            text("PRAGMA defer_foreign_keys = ON" if is_sqlite else "SET LOCAL session_replication_role = replica")
        )
        for statement in statements:
            session.execute(text(statement))
        yield session
        session.rollback()


def test_a_ledger_in_use_breaks_no_promise(ledger: Ledger, store: ArtifactStore) -> None:
    with ledger.database.read() as session:
        states = set(session.scalars(text("SELECT state FROM jobs")))
        assert states == {str(state) for state in JobState}
        assert invariants.check(session, store) == []


def test_an_empty_ledger_breaks_no_promise(database: Database, store: ArtifactStore) -> None:
    with database.read() as session:
        assert invariants.check(session, store) == []


BREAKS: dict[str, tuple[Invariant, str | None, int | None, str]] = {
    "a planner that is gone": (
        *(Invariant.JOB_STUCK, "planning", None),
        "DELETE FROM attempts WHERE job_id = 'planning'",
    ),
    "a planner that was buried without its job": (
        *(Invariant.JOB_STUCK, "planning", None),
        "UPDATE attempts SET state = 'lost' WHERE job_id = 'planning'",
    ),
    "a finisher of another phase": (
        *(Invariant.JOB_STUCK, "finishing", None),
        "UPDATE jobs SET token = (SELECT token FROM attempts WHERE job_id = 'running' AND phase = 'slice') "
        "WHERE id = 'finishing'; UPDATE attempts SET state = 'lost' WHERE job_id = 'finishing' AND phase = 'finish'",
    ),
    "a running part that nobody holds": (
        *(Invariant.PART_STUCK, "running", 2),
        "UPDATE parts SET token = NULL WHERE job_id = 'running' AND number = 2",
    ),
    "a part of an attempt at another slice": (
        *(Invariant.PART_STUCK, "running", 4),
        "UPDATE parts SET token = (SELECT token FROM attempts WHERE job_id = 'running' AND phase = 'slice') "
        "WHERE job_id = 'running' AND number = 4",
    ),
    "a lost part": (
        *(Invariant.PART_COUNTS, "running", None),
        "DELETE FROM parts WHERE job_id = 'running' AND number = 4",
    ),
    "a part counted twice": (
        *(Invariant.PART_COUNTS, "running", None),
        "UPDATE jobs SET parts_succeeded = 2 WHERE id = 'running'",
    ),
    "a result without a text": (
        *(Invariant.PART_RESULT, "done", 2),
        "UPDATE parts SET text = NULL WHERE job_id = 'done' AND number = 2",
    ),
    "a failure without a reason": (
        *(Invariant.PART_RESULT, "partial", 2),
        "UPDATE parts SET error_code = NULL WHERE job_id = 'partial' AND number = 2",
    ),
    "a result before its time": (
        *(Invariant.PART_RESULT, "running", 3),
        "UPDATE parts SET text = 'early' WHERE job_id = 'running' AND number = 3",
    ),
    "one attempt too many": (
        *(Invariant.ATTEMPTS_CAP, "done", 1),
        "UPDATE parts SET attempts = 4 WHERE job_id = 'done' AND number = 1",
    ),
    "work that was not counted": (
        *(Invariant.ATTEMPTS_CAP, "running", 2),
        "UPDATE parts SET attempts = 0 WHERE job_id = 'running' AND number = 2",
    ),
    "one try too many": (
        *(Invariant.ATTEMPTS_CAP, "planning", None),
        "UPDATE jobs SET tries = 4 WHERE id = 'planning'",
    ),
    "a try that was not counted": (
        *(Invariant.ATTEMPTS_CAP, "finishing", None),
        "UPDATE jobs SET tries = 0 WHERE id = 'finishing'",
    ),
    "a result of an attempt that did not hold the part": (
        *(Invariant.STALE_OWNER, "done", 1),
        "UPDATE parts SET settled_by = (SELECT token FROM attempts WHERE job_id = 'partial' AND phase = 'slice') "
        "WHERE job_id = 'done' AND number = 1",
    ),
    "a result of nobody": (
        *(Invariant.STALE_OWNER, "done", 1),
        "UPDATE parts SET settled_by = NULL, token = NULL WHERE job_id = 'done' AND number = 1",
    ),
    "a result of an attempt at another job": (
        *(Invariant.STALE_OWNER, "done", 1),
        "UPDATE parts SET settled_by = 'x', token = 'x' WHERE job_id = 'done' AND number = 1",
    ),
    "two planners": (
        *(Invariant.STALE_OWNER, "planning", None),
        "INSERT INTO attempts (token, job_id, phase, worker, lease_until, started_at) "
        "VALUES ('second', 'planning', 'plan', 'two', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
    ),
    "an attempt that is alone with two parts": (
        *(Invariant.STALE_OWNER, "running", None),
        "UPDATE attempts SET alone = true WHERE job_id = 'running' AND phase = 'slice'",
    ),
    "a job that nobody finished": (
        *(Invariant.STALE_OWNER, "done", None),
        "UPDATE attempts SET state = 'lost' WHERE job_id = 'done' AND phase = 'finish'",
    ),
    "a job that is over and held": (
        *(Invariant.JOB_OVER, "done", None),
        "UPDATE jobs SET token = 'x' WHERE id = 'done'",
    ),
    "a lease at a job that is over": (
        *(Invariant.JOB_OVER, "partial", None),
        "UPDATE attempts SET state = 'running' WHERE job_id = 'partial' AND phase = 'slice'",
    ),
    "a part in work of a job that is over": (
        *(Invariant.JOB_OVER, "cancelled", 2),
        "UPDATE parts SET state = 'running' WHERE job_id = 'cancelled' AND number = 2",
    ),
    "a job that ended without a result": (
        *(Invariant.JOB_END, "partial", None),
        "UPDATE jobs SET result = NULL WHERE id = 'partial'",
    ),
    "a job that failed for no reason": (
        *(Invariant.JOB_END, "refused", None),
        "UPDATE jobs SET error_code = NULL WHERE id = 'refused'",
    ),
    "a job that succeeded with a part that failed": (
        *(Invariant.JOB_END, "partial", None),
        "UPDATE jobs SET state = 'succeeded', error_code = NULL WHERE id = 'partial'",
    ),
    "an open job that was finished": (
        *(Invariant.JOB_END, "running", None),
        "UPDATE jobs SET finished_at = '2026-01-01 00:00:00' WHERE id = 'running'",
    ),
    "an upload without a row": (
        *(Invariant.ARTIFACT_MISSING, "pending", None),
        "DELETE FROM artifacts WHERE id = 'upload'",
    ),
    "a result file without a row": (
        *(Invariant.ARTIFACT_MISSING, "done", None),
        "DELETE FROM artifacts WHERE job_id = 'done'",
    ),
    "parts of no job": (
        *(Invariant.ORPHAN, "gone", 7),
        "INSERT INTO parts (job_id, number, slice, spec) VALUES ('gone', 7, 1, '{}')",
    ),
    "attempts of no job": (
        *(Invariant.ORPHAN, "gone", None),
        "INSERT INTO attempts (token, job_id, phase, state, worker, lease_until, started_at) "
        "VALUES ('x', 'gone', 'plan', 'lost', 'two', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
    ),
    "a batch that is not there": (
        *(Invariant.ORPHAN, "done", None),
        "UPDATE jobs SET batch_id = 'gone' WHERE id = 'done'",
    ),
    "a change number that two have": (
        *(Invariant.CHANGE_SEQ, "cancelled", None),
        "UPDATE jobs SET change_seq = (SELECT change_seq FROM jobs WHERE id = 'partial') WHERE id = 'cancelled'",
    ),
    "a change number that was never given": (
        *(Invariant.CHANGE_SEQ, "done", None),
        "UPDATE jobs SET change_seq = 1000000 WHERE id = 'done'",
    ),
    "a password in its column": (
        *(Invariant.PASSWORD_KEPT, "done", None),
        "UPDATE jobs SET password = 'secret' WHERE id = 'done'",
    ),
    "a password among the params": (
        *(Invariant.PASSWORD_KEPT, "done", None),
        "UPDATE jobs SET params = '{\"password\": \"secret\"}' WHERE id = 'done'",
    ),
    "no row that says who sweeps": (*(Invariant.LEDGER_ROWS, None, None), "DELETE FROM ledger WHERE name = 'sweep'"),
}


def test_what_is_broken_by_hand_is_found_and_nothing_else(
    ledger: Ledger, store: ArtifactStore, subtests: pytest.Subtests
) -> None:
    for what, (name, job_id, part, statements) in BREAKS.items():
        with subtests.test(what), broken(ledger.database, *statements.split("; ")) as session:
            found = invariants.check(session, store)
            assert told(found) == [(name, job_id, part)]
            assert "{" not in found[0].detail


def test_every_invariant_is_broken_in_some_way() -> None:
    assert {name for name, *_ in BREAKS.values()} == set(Invariant)


@pytest.mark.parametrize(("role", "job_id"), [("result", "done"), ("source", None)])
def test_a_stored_file_that_is_gone_is_found(
    ledger: Ledger, store: ArtifactStore, role: Any, job_id: str | None
) -> None:
    with ledger.database.read() as session:
        id = session.scalar(text("SELECT id FROM artifacts WHERE role = :role"), {"role": role})
        store.remove(artifacts.get(session, str(id)))
        found = invariants.check(session, store)
        assert told(found) == [(Invariant.ARTIFACT_MISSING, job_id, None)]
        assert invariants.check(session) == []  # nobody looked


def test_params_that_are_no_json_do_not_stop_the_check(ledger: Ledger) -> None:
    if ledger.database.dialect == "postgresql":
        pytest.skip("PostgreSQL refuses such a row")
    statement = "UPDATE jobs SET params = '{\"mode\": ' WHERE id IN ('done', 'pending')"
    with broken(ledger.database, statement) as session:
        assert invariants.check(session) == []


def test_a_ledger_that_is_broken_all_over_is_not_printed_whole(database: Database) -> None:
    values = ", ".join(f"('job{number}', 'ocr', 'token', 1)" for number in range(invariants.MOST + 20))
    with broken(database, f"INSERT INTO jobs (id, kind, token, tries) VALUES {values}") as session:
        assert len(invariants.check(session)) == invariants.MOST


def test_the_cap_is_the_one_of_the_settings(ledger: Ledger) -> None:
    ledger.max_attempts = 2
    assert told(ledger.check()) == [(Invariant.ATTEMPTS_CAP, "lost", 1)]
