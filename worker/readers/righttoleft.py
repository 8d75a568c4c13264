"""The letters of lines that run from right to left, in the order in which they are read.

MuPDF turns such lines round letter by letter. Two things are put right here, by where they stand:

* The Arabic lam-alef is one glyph and two letters, and comes out as alef-lam, which makes another word. Its first
  letter has the glyph's width, the other none. Files that are drawn in the order of reading are not turned round, and
  are right as they are. Which kind a page is, those of its ligatures tell that have no second lam beside them.
* A space that was drawn out of turn, such as that behind the line's last word, comes to stand inside a word.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LAM, _ALEFS = "\u0644", frozenset("\u0627\u0622\u0623\u0625\u0671")
_NO_WIDTH = 0.01
"""Share of the type size."""
_LEVEL = 0.98
"""Cosine of a line's direction: letters of steeper ones do not stand beside each other."""


@dataclass(frozen=True, slots=True)
class Glyph:
    """A letter of a span with its left and right edge, in shares of the type size."""

    text: str
    left: float
    right: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    @property
    def runs_left(self) -> bool:
        """A letter of a script from right to left; a vowel sign is none, and stands where it should."""
        return unicodedata.bidirectional(self.text) in {"R", "AL"}

    @property
    def runs_right(self) -> bool:
        """Of a Latin word or a number."""
        return unicodedata.bidirectional(self.text) in {"L", "EN", "AN"}


def is_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(letter) in {"R", "AL"} for letter in text)


def put_in_order(blocks: Iterable[dict[str, Any]]) -> None:
    """Gives each span of MuPDF's `rawdict` its `text`, as `dict` has it."""
    lines = [line for block in blocks for line in block.get("lines", ())]
    spans = [(span, line["dir"][0] > _LEVEL) for line in lines for span in line["spans"]]
    level = [glyphs(span) for span, is_level in spans if is_level]
    backwards = are_backwards(level)
    for span, is_level in spans:
        found = glyphs(span)
        span["text"] = in_order(found, backwards=backwards) if is_level else "".join(glyph.text for glyph in found)


def glyphs(span: dict[str, Any]) -> list[Glyph]:
    size = float(span["size"]) or 1.0
    return [Glyph(one["c"], one["bbox"][0] / size, one["bbox"][2] / size) for one in span["chars"]]


def are_backwards(spans: Iterable[Sequence[Glyph]]) -> bool:
    """Whether the two letters of lam-alef ligatures come in the wrong order on this page."""
    sides = [(_is_lam(span, n - 1), _is_lam(span, n + 1)) for span in spans for n in _second_halves(span)]
    return sides.count((False, True)) > sides.count((True, False))


def in_order(span: Sequence[Glyph], *, backwards: bool) -> str:
    """The text of a span. Latin words and numbers in it are left alone."""
    turned = list(span)
    for n in _second_halves(span) if backwards else ():
        if _is_lam(span, n + 1):
            turned[n : n + 2] = span[n + 1], span[n]
    stretches = [(runs_right, list(stretch)) for runs_right, stretch in groupby(turned, key=lambda one: one.runs_right)]
    kept = (stretch if runs_right else _spaces_moved(stretch) for runs_right, stretch in stretches)
    return "".join(glyph.text for stretch in kept for glyph in stretch)


def _second_halves(span: Sequence[Glyph]) -> list[int]:
    """Where the letters without a width of their own are that may be the alef of a lam-alef."""
    return [n for n, glyph in enumerate(span) if glyph.text in _ALEFS and not _has_width(glyph)]


def _is_lam(span: Sequence[Glyph], n: int) -> bool:
    return 0 <= n < len(span) and span[n].text == _LAM and _has_width(span[n])


def _has_width(glyph: Glyph) -> bool:
    return glyph.right - glyph.left > _NO_WIDTH


def _spaces_moved(stretch: Sequence[Glyph]) -> list[Glyph]:
    """Each space that does not stand where its neighbours say is put before the first letter left of it."""
    astray = [n for n, glyph in enumerate(stretch) if glyph.text == " " and _is_astray(stretch, n)]
    kept = [glyph for n, glyph in enumerate(stretch) if n not in astray]
    for n in astray:
        places = (m for m, glyph in enumerate(kept) if glyph.runs_left and glyph.middle < stretch[n].middle)
        kept.insert(next(places, len(kept)), stretch[n])
    return kept


def _is_astray(stretch: Sequence[Glyph], n: int) -> bool:
    before, after = stretch[max(n - 1, 0)], stretch[min(n + 1, len(stretch) - 1)]
    middle = stretch[n].middle
    return (before.runs_left and before.middle < middle) or (after.runs_left and after.middle > middle)
