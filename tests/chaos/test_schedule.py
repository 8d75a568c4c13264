"""A seed says everything that chance decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos import faults, schedule

if TYPE_CHECKING:
    from tests.chaos.schedule import Schedule

BOTH = (faults.SQLITE, faults.POSTGRES)


def draw(seed: int, *wanted: str, databases: tuple[str, ...] = BOTH) -> Schedule:
    return schedule.draw(seed, jobs=20, workers=3, databases=databases, wanted=wanted)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(9)


@pytest.mark.parametrize("database", BOTH)
def test_as_many_seeds_as_faults_try_each_fault(database: str) -> None:
    names = faults.names(database)
    tried = {draw(seed, databases=(database,)).faults[0].name for seed in range(100, 100 + len(names))}
    assert tried == set(names)


def test_a_fault_of_postgresql_is_not_drawn_on_sqlite() -> None:
    assert "postgres-restarted" not in faults.names(faults.SQLITE)
    assert "postgres-restarted" in faults.names(faults.POSTGRES)


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(KeyError):
        draw(1, "earthquake")


def test_every_fault_is_over_in_time_and_says_what_it_is() -> None:
    for seed in range(200):
        one = draw(seed)
        assert sum(1 for fault in one.faults if fault.wild) <= 1
        assert all(0 <= act.at <= 2 * one.seconds for _, act in one.acts)
    assert all(kind.sentence.endswith(".") for kind in faults.MATRIX.values())
