"""Puts the texts of a page's tiles together, in reading order, no line twice and none lost. Pure functions.

Tiles one above the other: where both show the same lines (`Overlap.is_shared`), what the upper one ends with and the
lower one begins with is taken once. Tiles side by side: their lines go on across the cut. The page's ink says how many
lines a tile has, and where; if each answer has as many, each line is put beside those at its height. If not, but all
have equally many, they are put together by number. Otherwise nobody knows which goes with which, and the tiles follow
one after the other: every word is there, but sentences are torn. A model that writes no line ends is always in that
case wherever a page is more than one tile wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from worker.engines.tiles import Edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.engines.tiles import Span, Tile, Tiling

SIMILAR = 0.8
"""Of two readings of one line, 1 being equal."""
MAX_DOUBLED = 6
"""Words in a strip that two tiles side by side share: it is a quarter of a tile, and a tile holds about 32 letters."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The lines that a tile's text has, and where its ink says they are, if those are as many."""

    tile: Tile
    lines: tuple[str, ...]
    spans: tuple[Span, ...] | None

    def without_first(self, count: int) -> _Answer:
        return _Answer(self.tile, self.lines[count:], self.spans[count:] if self.spans is not None else None)


def stitch(tiling: Tiling, texts: Sequence[str]) -> str:
    """The text of the page from the texts of its tiles, one per tile. Blank lines are dropped. Raises ValueError if
    there are more or fewer texts than tiles."""
    if len(texts) != len(tiling.tiles):
        raise ValueError(f"{len(texts)} texts for {len(tiling.tiles)} tiles; each tile has one")
    given = [_answer(tile, text) for tile, text in zip(tiling.tiles, texts, strict=True)]
    new = [answer.without_first(_repeated(answer, given)) for answer in given]
    rows = groupby(new, key=lambda answer: (answer.tile.region, answer.tile.row))
    return "\n".join(line for _, row in rows for line in _joined(list(row)))


def _answer(tile: Tile, text: str) -> _Answer:
    lines = tuple(stripped for line in text.splitlines() if (stripped := line.strip()))
    return _Answer(tile, lines, tile.lines if len(lines) == len(tile.lines) else None)


def _repeated(answer: _Answer, given: Sequence[_Answer]) -> int:
    """How many of its first lines the tile above ends with."""
    for overlap in answer.tile.overlaps:
        if overlap.edge == Edge.TOP and overlap.is_shared:
            above = given[overlap.neighbour]
            # Lines are more than an x-height apart.
            return _doubled(above.lines, answer.lines, most=int(overlap.pixels / (answer.tile.x_height or 1)) + 1)
    return 0


def _doubled(above: Sequence[str], below: Sequence[str], *, most: int) -> int:
    for count in range(min(most, len(above), len(below)), 0, -1):
        if all(map(_is_same, above[-count:], below[:count])):
            return count
    return 0


def _is_same(one: str, other: str) -> bool:
    """Whether two lines are readings of one, up to a few letters, capitals and spaces."""
    first, second = ("".join(text.casefold().split()) for text in (one, other))
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= SIMILAR and matcher.ratio() >= SIMILAR


def _joined(row: Sequence[_Answer]) -> list[str]:
    """The lines of a row of tiles."""
    answers = [answer for answer in row if answer.lines]
    if all(answer.spans is not None for answer in answers):
        lines = _by_height(answers)
    elif len({len(answer.lines) for answer in answers}) == 1:
        lines = [[_Piece(answer, number) for answer in answers] for number in range(len(answers[0].lines))]
    else:
        lines = None
    if lines is None:
        return [line for answer in answers for line in answer.lines]
    return [_line(pieces) for pieces in lines]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one tile has of a line."""

    answer: _Answer
    number: int

    @property
    def text(self) -> str:
        return self.answer.lines[self.number]

    @property
    def column(self) -> int:
        return self.answer.tile.column

    @property
    def span(self) -> Span | None:
        return self.answer.spans[self.number] if self.answer.spans is not None else None


def _by_height(answers: Sequence[_Answer]) -> list[list[_Piece]] | None:
    """The pieces of each line of the page, from left to right. None if one stands beside two of a neighbour's."""
    found = [(span, _Piece(answer, n)) for answer in answers for n, span in enumerate(answer.spans or ())]
    lines: list[list[_Piece]] = []
    last: Span | None = None
    for span, piece in sorted(found, key=lambda pair: (pair[0].top + pair[0].bottom, pair[1].column)):
        if last is not None and _is_beside(span, last):
            lines[-1].append(piece)
        else:
            lines.append([piece])
        last = span
    if any(len({piece.column for piece in line}) < len(line) for line in lines):
        return None
    return [sorted(line, key=lambda piece: piece.column) for line in lines]


def _is_beside(one: Span, other: Span) -> bool:
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    return 2 * shared > min(one.bottom - one.top, other.bottom - other.top)


def _line(pieces: Sequence[_Piece]) -> str:
    text = pieces[0].text
    for left, right in pairwise(pieces):
        is_neighbour = right.column == left.column + 1
        following = _without_doubled_words(text, right.text) if is_neighbour and _shares(left) else right.text
        is_broken = is_neighbour and left.span is not None and left.span.is_broken
        text = f"{text}{'' if is_broken else ' '}{following}".rstrip()
    return text


def _shares(piece: _Piece) -> bool:
    """Whether the tile to the right shows some of the same words."""
    return any(overlap.edge == Edge.RIGHT and overlap.is_shared for overlap in piece.answer.tile.overlaps)


def _without_doubled_words(before: str, text: str) -> str:
    """The text without the words that it begins with and the line so far ends with."""
    words, following = before.split(), text.split()
    for count in range(min(len(words), len(following), MAX_DOUBLED), 0, -1):
        if _is_same("".join(words[-count:]), "".join(following[:count])):
            return " ".join(following[count:])
    return text
