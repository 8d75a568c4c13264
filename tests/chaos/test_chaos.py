"""The short form: a few faults at once, on both databases, and a promise broken on purpose. The whole: `make chaos`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.chaos import faults, schedule
from tests.chaos.run import make_pool, run
from tests.chaos.seams import MUTATION, STRUCK, Point
from tests.chaos.site import Postgres, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.run import Pool, Report
    from tests.chaos.schedule import Schedule

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]  # less than a minute where the machine is quiet

JOBS, WORKERS, SECONDS = 20, 3, 2.5
RUNS = (("kill-stored", "messages-thrice", "redis-emptied"), ("zombie-writes", "commits-lie", "kill-ended"))
SEAMS = {"clock", "bell", "sweepers", "disk", "commits", "engine", "stop-storing", "stop-closing"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("sources"), JOBS)


@pytest.fixture(scope="module", params=[faults.SQLITE, pytest.param(faults.POSTGRES, marks=pytest.mark.postgres)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == faults.SQLITE:
        with Site(workers=WORKERS) as site:
            yield site
    else:
        with Postgres() as postgres, Site(workers=WORKERS, postgres=postgres) as site:
            yield site


def made(*names: str, database: str, seed: int = 1) -> Schedule:
    """One worker at most is killed at each point: to start another takes as long as the rest of a run."""
    one = schedule.together(*names, seed=seed, database=database, jobs=JOBS, workers=WORKERS, seconds=SECONDS)
    shorter = [replace(it, acts=it.acts[:1]) if it.name.startswith("kill-") else it for it in one.faults]
    return replace(one, faults=tuple(shorter))


def did(report: Report) -> dict[str, bool]:
    return {fault.name: report.struck(fault) for fault in report.schedule.faults}


def test_nothing_is_lost_and_nothing_is_stored_twice(site: Site, pool: Pool) -> None:
    """One test for all runs of a site: they need its workers, whose start is what takes long."""
    database = faults.POSTGRES if site.postgres else faults.SQLITE
    for seed, names in enumerate(RUNS, start=1):
        report = run(site, made(*names, database=database, seed=seed), pool)
        assert report.broken == []
        assert did(report) == dict.fromkeys(names, True)
    passed = {mark for mark in site.switches.reached() if not mark.startswith(STRUCK)}
    assert passed >= {*SEAMS, *Point}


def test_a_broken_promise_is_found(pool: Pool) -> None:
    """Workers that write without the guard: a zombie's result is stored over that of its successor.

    The job is then never over, which is not waited for.
    """
    one = made("zombie-writes", database=faults.SQLITE)
    # Only one is stopped: with both, nobody would be left who takes their work back.
    mutated = tuple(replace(it, acts=it.acts[:1], settings={MUTATION: "unguarded-writes"}) for it in one.faults)
    with Site(workers=2) as site:
        report = run(site, replace(one, faults=mutated, cancels=()), pool, still_seconds=1)
    assert report.struck(mutated[0])
    assert report.verdict.doubled or any("stale_owner" in problem for problem in report.broken)
