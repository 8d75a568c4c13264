"""From a seed to everything that chance decides in a run. A pure function: the same seed, the same schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos import faults
from tests.chaos.faults import MATRIX, Dice, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.faults import Act

SECONDS = 5.0
"""The jobs of a run come, and its faults happen, within this time; some faults need more to be over."""
FAULTS_AT_MOST = 3
CANCELLED_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`submits[i]` says (when, which case), in the order of time; `cancels` (when, which of the submits).

    Faults go on for `seconds` at least.
    """

    seed: int
    database: str
    seconds: float
    faults: tuple[Fault, ...]
    submits: tuple[tuple[float, int], ...]
    cancels: tuple[tuple[float, int], ...]

    @property
    def acts(self) -> list[tuple[Fault, Act]]:
        """Each with the fault that it is of, in the order of time."""
        pairs = [(fault, act) for fault in self.faults for act in fault.acts]
        return sorted(pairs, key=lambda pair: pair[1].at)

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for fault in self.faults for name, value in fault.settings.items()}

    @property
    def has_outage(self) -> bool:
        return any(fault.outage for fault in self.faults)


def draw(
    seed: int,
    *,
    jobs: int,
    workers: int,
    databases: Sequence[str],
    wanted: Sequence[str] = (),
    most: int = FAULTS_AT_MOST,
    seconds: float = SECONDS,
) -> Schedule:
    """The schedule of a seed. Consecutive seeds take the databases in turn, and walk through the matrix on each.

    The first fault of a run is the one whose turn it is; up to `most` - 1 others join it by chance.
    """
    dice = random.Random(seed)
    database = databases[seed % len(databases)]
    names = faults.names(database, wanted)
    first = names[seed // len(databases) % len(names)]
    others = [name for name in names if name != first]
    chosen = [first, *dice.sample(others, k=min(dice.randrange(most), len(others)))]
    return _fill(dice, chosen, seed=seed, database=database, jobs=jobs, workers=workers, seconds=seconds)


def together(*names: str, seed: int, database: str, jobs: int, workers: int, seconds: float) -> Schedule:
    """A schedule of exactly these faults, for tests."""
    dice = random.Random(seed)
    return _fill(dice, names, seed=seed, database=database, jobs=jobs, workers=workers, seconds=seconds)


def _fill(
    dice: random.Random, names: Sequence[str], *, seed: int, database: str, jobs: int, workers: int, seconds: float
) -> Schedule:
    drawn = [MATRIX[name].draw(Dice(dice, workers, seconds)) for name in names]
    return Schedule(
        seed=seed,
        database=database,
        seconds=seconds,
        faults=_compatible(drawn),
        submits=_submits(dice, jobs, seconds),
        cancels=_cancels(dice, jobs, seconds),
    )


def _compatible(drawn: Sequence[Fault]) -> tuple[Fault, ...]:
    """At most one fault that brings a harmful page: they ask for settings that would spoil each other."""
    wild = [fault for fault in drawn if fault.wild]
    return tuple(fault for fault in drawn if fault not in wild[1:])


def _submits(dice: random.Random, jobs: int, seconds: float) -> tuple[tuple[float, int], ...]:
    cases = list(range(jobs))
    dice.shuffle(cases)
    moments = sorted(round(dice.uniform(0, seconds), 3) for _ in cases)
    return tuple(zip(moments, cases, strict=True))


def _cancels(dice: random.Random, jobs: int, seconds: float) -> tuple[tuple[float, int], ...]:
    chosen = dice.sample(range(jobs), k=round(jobs * CANCELLED_SHARE))
    return tuple(sorted((round(dice.uniform(0.1, seconds + 1), 3), which) for which in chosen))
