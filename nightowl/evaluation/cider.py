"""CIDEr-D (Vedantam, Zitnick & Parikh, 2015): n-grams weighted by how rare they are among the references of a data set.

Kept here because the packages that have it bring a Java tool for their other measures. On the scale of the paper: a
text that equals its only reference has 10.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightowl.evaluation.texts import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Gram = tuple[str, ...]

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
SCALE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A text as weights of its n-grams, one mapping for each n."""

    weights: tuple[Mapping[Gram, float], ...]
    norms: tuple[float, ...]
    length: int


class Cider:
    """The measure over one data set: rarity is counted in its references."""

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._documents = len(references)
        self._frequency = Counter(gram for texts in references for gram in {g for text in texts for g in grams(text)})

    def score(self, text: str, references: Sequence[str]) -> float:
        """The mean over its references."""
        own = self.vector(text)
        return sum(self.likeness(own, self.vector(one)) for one in references) / len(references)

    def likeness(self, text: Vector, reference: Vector) -> float:
        """0 to 10. Repeating a word does not help, and neither does another length."""
        total = 0.0
        for own, other, norm, norm_other in zip(
            text.weights, reference.weights, text.norms, reference.norms, strict=True
        ):
            shared = sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other)
            total += shared / (norm * norm_other) if norm and norm_other else 0.0
        penalty = math.exp(-((text.length - reference.length) ** 2) / (2 * SIGMA**2))
        return SCALE * penalty * total / len(ORDERS)

    def vector(self, text: str) -> Vector:
        counted = Counter(grams(text))
        weights = tuple({g: n * self._rarity(g) for g, n in counted.items() if len(g) == order} for order in ORDERS)
        norms = tuple(math.sqrt(sum(weight**2 for weight in one.values())) for one in weights)
        return Vector(weights=weights, norms=norms, length=len(tokens(text)))

    def _rarity(self, gram: Gram) -> float:
        return math.log(max(self._documents, 1)) - math.log(max(1, self._frequency[gram]))


def grams(text: str) -> list[Gram]:
    found = tokens(text)
    return [tuple(found[at : at + order]) for order in ORDERS for at in range(len(found) - order + 1)]
