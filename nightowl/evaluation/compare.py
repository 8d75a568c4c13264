"""Two runs over the same data set: what got better, what got worse, file by file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.errors import ParamsError
from nightowl.evaluation.scoring import LOWER_IS_BETTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from storage.evaluations import EvalItem

SAME = 1e-6
"""Scores that differ by no more are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A score of one item in both runs. `gain` is above 0 where the second run is better."""

    name: str
    score: str
    before: float
    after: float

    @property
    def gain(self) -> float:
        difference = self.after - self.before
        return -difference if self.score in LOWER_IS_BETTER else difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`worse` and `better` have the greatest change first. `other_text`: scored alike, or not at all, and not the same
    text. `only_before` and `only_after` are names that one run alone has."""

    score: str
    worse: tuple[Change, ...]
    better: tuple[Change, ...]
    same: int
    other_text: tuple[str, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare(before: Sequence[EvalItem], after: Sequence[EvalItem], *, score: str) -> Comparison:
    """Raises ParamsError where both have items of the same name, but none that has the score in both."""
    old, new = ({item.name: item for item in items} for items in (before, after))
    both = [(old[name], new[name]) for name in old if name in new]
    scored = [(one, other) for one, other in both if score in one.scores and score in other.scores]
    if both and not scored:
        raise ParamsError(f"no item has the score {score!r} in both runs; there are {', '.join(names(both))}")
    changes = [
        Change(name=one.name, score=score, before=one.scores[score], after=other.scores[score]) for one, other in scored
    ]
    moved = {change.name for change in changes if abs(change.gain) > SAME}
    return Comparison(
        score=score,
        worse=tuple(sorted((one for one in changes if one.gain < -SAME), key=lambda one: one.gain)),
        better=tuple(sorted((one for one in changes if one.gain > SAME), key=lambda one: -one.gain)),
        same=len(both) - len(moved),
        other_text=tuple(o.name for o, n in both if o.name not in moved and o.prediction != n.prediction),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
    )


def names(pairs: Iterable[tuple[EvalItem, EvalItem]]) -> list[str]:
    """The scores that at least one item has in both runs."""
    return sorted({name for one, other in pairs for name in one.scores if name in other.scores}) or ["none"]
