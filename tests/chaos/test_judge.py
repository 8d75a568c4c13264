"""The judge can fail: each kind of harm is done to a sound ledger by hand, and it is told."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert, text, update

from domain.states import AttemptState, JobState, Phase
from storage.artifacts import ArtifactStore
from storage.tables import Attempt, Job, Part
from tests.chaos import witness
from tests.chaos.oracle import Expected, Settled
from tests.chaos.report import Record, matrix, never_struck, quantile
from tests.chaos.site import Death, Life, Worker, why_ended
from tests.chaos.verdict import Accepted, judge
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from storage.session import Database
    from tests.chaos.verdict import Verdict

EXPECTED = Expected(
    state=JobState.SUCCEEDED, parts=(Settled(text="page 1"), Settled(text="page 2")), text="page 1 page 2"
)
ACCEPTED = Accepted(job_id="job", name="a.pdf", expected=EXPECTED)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    """One job of two parts that is over, and a witness who saw it all."""
    witness.install(database)
    ledger = Ledger(database)
    ledger.planned(id="job", pages=2)
    claim = ledger.must_claim("job")
    for number in (1, 2):
        ledger.do(claim, number, text=f"page {number}")
    finish = ledger.finish_claim("job")
    assert finish is not None
    ledger.close(finish, text="page 1 page 2")
    return ledger


def judged(
    ledger: Ledger,
    tmp_path: Path,
    *,
    accepted: Accepted = ACCEPTED,
    deaths: Sequence[Death] = (),
    lives: Sequence[Life] = (),
) -> Verdict:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    return judge(ledger.database, store, [accepted], deaths, lives, max_attempts=3)


def execute(ledger: Ledger, statement: str) -> None:
    with ledger.database.write() as session:
        session.execute(text(statement))


def test_a_sound_ledger_passes(ledger: Ledger, tmp_path: Path) -> None:
    verdict = judged(ledger, tmp_path)
    assert (verdict.broken, verdict.jobs, verdict.parts) == ([], 1, 2)


def test_a_job_without_an_end_is_lost(ledger: Ledger, tmp_path: Path) -> None:
    ledger.submit(id="other")
    verdict = judged(ledger, tmp_path, accepted=replace(ACCEPTED, job_id="other"))
    assert verdict.lost == ("a.pdf (other) is pending",)


def test_a_job_that_is_not_there_is_lost(ledger: Ledger, tmp_path: Path) -> None:
    verdict = judged(ledger, tmp_path, accepted=replace(ACCEPTED, job_id="never"))
    assert verdict.lost == ("a.pdf (never) is not there",)


def test_a_result_written_twice_is_told_even_where_the_row_looks_right(ledger: Ledger, tmp_path: Path) -> None:
    execute(ledger, "UPDATE parts SET text = 'other' WHERE number = 2")
    execute(ledger, "UPDATE parts SET text = 'page 2' WHERE number = 2")
    verdict = judged(ledger, tmp_path)
    assert verdict.doubled == ("job job part 2: stored 3 times",)
    assert verdict.wrong == ()


def test_an_end_written_twice_is_told(ledger: Ledger, tmp_path: Path) -> None:
    execute(ledger, "UPDATE jobs SET finished_at = '2027-01-01 00:00:00+00:00'")
    assert judged(ledger, tmp_path).doubled == ("job job part None: ended 2 times",)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("UPDATE parts SET text = 'astray' WHERE number = 1", "text='astray'"),
        ("UPDATE parts SET settled_by = 'a zombie' WHERE number = 1", "stale_owner"),
        ("UPDATE jobs SET parts_succeeded = 1", "part_counts"),
        ("UPDATE parts SET attempts = 4 WHERE number = 1", "attempts_cap"),
        ("DELETE FROM parts WHERE number = 2", "has 1 parts, not 2"),
        ("UPDATE attempts SET state = 'running'", "job_over"),
        ("UPDATE jobs SET token = 'somebody'", "job_over"),
    ],
)
def test_what_is_wrong_is_told(ledger: Ledger, tmp_path: Path, harm: str, told: str) -> None:
    execute(ledger, harm)
    assert told in " ".join(judged(ledger, tmp_path).wrong)


def test_another_end_than_that_of_an_undisturbed_worker_is_told(ledger: Ledger, tmp_path: Path) -> None:
    expected = replace(EXPECTED, text="page 1")
    verdict = judged(ledger, tmp_path, accepted=replace(ACCEPTED, expected=expected))
    assert len(verdict.wrong) == 1 and "not (" in verdict.wrong[0]


def given_up(ledger: Ledger, *, phase: Phase, tries: int) -> None:
    """A job that failed with `worker_lost` after so many tries that came to nothing."""
    times = {"started_at": ledger.now, "lease_until": ledger.now, "finished_at": ledger.now}
    lost = {"job_id": "job", "phase": phase, "worker": "dead", "state": AttemptState.LOST, **times}
    with ledger.database.write() as session:
        session.execute(delete(Attempt).where(Attempt.phase == Phase.FINISH))
        session.execute(insert(Attempt), [{**lost, "token": f"lost {number}"} for number in range(tries)])
        over = {"state": JobState.FAILED, "result": None, "error_code": "worker_lost", "error_message": "it died"}
        session.execute(update(Job).values(**over, error_retryable=False))
        if phase is Phase.PLAN:
            session.execute(delete(Part))
            session.execute(update(Job).values(parts_total=0, parts_succeeded=0))


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.FINISH])
def test_a_job_whose_workers_died_again_and_again_is_given_up(ledger: Ledger, tmp_path: Path, phase: Phase) -> None:
    given_up(ledger, phase=phase, tries=3)
    verdict = judged(ledger, tmp_path)
    assert (verdict.lost, verdict.wrong, verdict.exhausted) == ((), (), ("a.pdf (job)",))


@pytest.mark.parametrize("phase", [Phase.PLAN, Phase.FINISH])
def test_a_job_that_is_given_up_too_early_is_told(ledger: Ledger, tmp_path: Path, phase: Phase) -> None:
    given_up(ledger, phase=phase, tries=2)
    verdict = judged(ledger, tmp_path)
    assert verdict.wrong != () and verdict.exhausted == ()


def test_recovery_is_from_the_death_to_the_next_claim(database: Database, tmp_path: Path) -> None:
    """The witness has the database's clock, so the death gets the real time."""
    witness.install(database)
    ledger = Ledger(database, worker="one")
    ledger.planned(id="job", pages=1)
    ledger.begin(ledger.must_claim("job"), 1)
    died_at = time.time()
    ledger.pass_time(31)
    ledger.bury_dead()
    ledger.as_worker("two").must_claim("job")
    (recovery,) = judged(
        ledger,
        tmp_path,
        deaths=[Death(worker="one", at=died_at, why="SIGKILL")],
        lives=[Life(worker="two", since=died_at - 1, until=died_at + 60)],
    ).recoveries
    assert (recovery.worker, recovery.part, recovery.survived) == ("one", 1, True)
    assert 0 < recovery.seconds < 60


@pytest.mark.parametrize(
    ("status", "was_up", "outage_ended", "is_known"),
    [(1, False, 1.0, True), (1, False, -1.0, False), (1, True, 1.0, False), (3, False, 1.0, False)],
)
def test_a_worker_without_a_database_may_not_start_and_no_other(
    status: int, was_up: bool, outage_ended: float, is_known: bool
) -> None:
    """`outage_ended`: so many seconds after the worker was started."""
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
    process.wait()
    worker = Worker(slot=0, process=process, started_at=100.0)
    why = why_ended(worker, was_up=was_up, outages=[(90.0, 100.0 + outage_ended)])
    assert Death(worker="one", at=101.0, why=why).is_known is is_known


RECORD = Record(
    seed=1,
    database="sqlite",
    faults={"kill-all": True, "zombie": False},
    jobs=1,
    parts=1,
    deaths=0,
    starts=3,
    lost=0,
    doubled=0,
    broken=[],
    exhausted=0,
    seconds=1.0,
    calm_seconds=1.0,
    recoveries=[1.0],
    buried=[1.0],
    others=[],
)


def test_a_fault_that_never_struck_is_told() -> None:
    assert never_struck([RECORD]) == ["zombie"]
    assert never_struck([RECORD, replace(RECORD, faults={"zombie": True})]) == []
    assert [line.split() for line in matrix([RECORD])][1:] == [
        ["kill-all", "1", "of", "1", "0", "of", "0"],
        ["zombie", "0", "of", "1", "0", "of", "0"],
    ]


def test_a_record_survives_its_file() -> None:
    assert Record.from_json(RECORD.to_json()) == RECORD


def test_quantile_is_the_least_value_not_below_the_share() -> None:
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([], 0.99) == 0.0
