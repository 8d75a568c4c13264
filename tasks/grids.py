"""Tables without lines: rows of short pieces that stand in columns. Pure geometry on what was read.

Careful rather than complete, because prose that is taken for a table is worse than a table that stays rows of text:
the columns must stand apart from each other over all rows, and hold few words. Pieces of one column that nearly touch
are one cell, and so are those of the first row, whose heads may be finer than the columns that are found. Numbered
lines, lists and columns of prose are no tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.engines.reading_order import Box

Span: TypeAlias = tuple[float, float]

MIN_ROWS = 3
MIN_ROWS_OF_TWO = 4
"""With two columns; one of them holds figures."""
MIN_GAP, MAX_SPACE = 0.3, 1.2
"""Between two columns, in line heights: the boxes of pictures reach a little over their words. Between two pieces of
one cell."""
MAX_LEADING = 1.2
"""Between two rows, in line heights."""
TRIES = 4
"""Rows from which a table is looked for in a run of rows that hold none, before the run is left."""
MIN_FILLED = 0.6
MOST_WORDS, LONGEST = 4, 12
"""Of the cells of a column, in the median and at most."""
FIGURES = 0.6
"""Share of the cells of a column of figures."""
_FIGURE = re.compile(r"^[^\w\s]{0,3}\d[\d\s.,:/%'’-]*[^\W\d_]{0,3}\W{0,2}$")
_ITEM = re.compile(r"^(?:[•◦‣▪●○■□–—*·-]|\(?\w{1,3}[.):])$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: the rows from `first` up to `end`, and of each the cells, each the numbers of its pieces."""

    first: int
    end: int
    cells: tuple[tuple[tuple[int, ...], ...], ...]


def find_grids(
    rows: Sequence[Sequence[int]], boxes: Sequence[Box], texts: Sequence[str], *, ruled: frozenset[int] = frozenset()
) -> tuple[Grid, ...]:
    """The tables among the rows of a page. `rows` hold numbers of pieces, in reading order; the pieces `ruled` are
    tables already."""
    rows = [() if ruled.intersection(row) else row for row in rows]
    found: list[Grid] = []
    n = failed = 0
    while n < len(rows):
        end = _end(rows, boxes, n)
        grid = _grid(rows, boxes, texts, n, end) if end - n >= MIN_ROWS else None
        if grid is not None:
            found.append(grid)
        # What is above a table may be in step with it by chance, for a few rows.
        failed = failed + 1 if grid is None and end > n + 1 else 0
        n = end if grid is not None or failed > TRIES else n + 1
        failed = 0 if failed > TRIES else failed
    return tuple(found)


def _end(rows: Sequence[Sequence[int]], boxes: Sequence[Box], first: int) -> int:
    """How far down the rows stand in columns, if the one at `first` begins a table."""
    if not _is_row(rows[first], boxes):
        return first + 1
    end, columns = first + 1, [_span(boxes[i]) for i in rows[first]]
    while end < len(rows) and _is_row(rows[end], boxes) and _is_below(rows, boxes, end):
        gap = MIN_GAP * _height(rows[end], boxes)
        wider = _merged([*columns, *(_span(boxes[i]) for i in rows[end])], gap=gap)
        # As long as no two columns become one, the rows above stand in them as they did.
        changed = _are_joined(columns, wider)
        if len(wider) < 2 or not all(_fits(wider, boxes, row) for row in rows[first + 1 if changed else end : end + 1]):
            break
        columns = wider
        end += 1
    return end


def _are_joined(columns: Sequence[Span], wider: Sequence[Span]) -> bool:
    return any(sum(left <= column[0] <= right for column in columns) > 1 for left, right in wider)


def _fits(columns: Sequence[Span], boxes: Sequence[Box], row: Sequence[int]) -> bool:
    """Whether pieces that share a column nearly touch."""
    space = MAX_SPACE * _height(row, boxes)
    return all(
        boxes[b].left - boxes[a].right < space for cell in _cells(columns, boxes, row) for a, b in pairwise(cell)
    )


def _is_row(row: Sequence[int], boxes: Sequence[Box]) -> bool:
    """Two pieces at least, from left to right."""
    lefts = [boxes[i].left for i in row]
    return len(row) >= 2 and lefts == sorted(lefts)


def _is_below(rows: Sequence[Sequence[int]], boxes: Sequence[Box], n: int) -> bool:
    bottom = max(boxes[i].bottom for i in rows[n - 1])
    top = min(boxes[i].top for i in rows[n])
    height = _height(rows[n], boxes)
    return -0.5 * height <= top - bottom <= MAX_LEADING * height


def _height(row: Sequence[int], boxes: Sequence[Box]) -> float:
    return median(boxes[i].height for i in row) or 1.0


def _span(box: Box) -> Span:
    return box.left, box.right


def _merged(spans: Sequence[Span], *, gap: float) -> list[Span]:
    merged: list[Span] = []
    for left, right in sorted(spans):
        if merged and left - merged[-1][1] < gap:
            merged[-1] = merged[-1][0], max(merged[-1][1], right)
        else:
            merged.append((left, right))
    return merged


def _cells(columns: Sequence[Span], boxes: Sequence[Box], row: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The pieces of a row by column."""
    return tuple(tuple(i for i in row if left <= boxes[i].left <= right) for left, right in columns)


def _grid(
    rows: Sequence[Sequence[int]], boxes: Sequence[Box], texts: Sequence[str], first: int, end: int
) -> Grid | None:
    table = rows[first:end]
    height = median(_height(row, boxes) for row in table)
    columns = _merged([_span(boxes[i]) for row in table for i in row], gap=MIN_GAP * height)
    cells = tuple(_cells(columns, boxes, row) for row in table)
    filled = sum(bool(cell) for row in cells for cell in row) / (len(table) * len(columns))
    said = [[" ".join(texts[i] for i in cell) for cell in column if cell] for column in zip(*cells, strict=True)]
    return Grid(first=first, end=end, cells=cells) if filled >= MIN_FILLED and _is_table(said, len(table)) else None


def _is_table(columns: Sequence[Sequence[str]], rows: int) -> bool:
    if any(_is_prose(column) for column in columns) or _share(columns[0], _ITEM) >= FIGURES or _counts(columns[0]):
        return False
    has_figures = any(_share(column, _FIGURE) >= FIGURES for column in columns)
    return len(columns) >= 3 or (rows >= MIN_ROWS_OF_TWO and has_figures)


def _is_prose(column: Sequence[str]) -> bool:
    words = [len(text.split()) for text in column]
    return median(words) > MOST_WORDS or max(words) > LONGEST


def _counts(column: Sequence[str]) -> bool:
    """The numbers of lines."""
    numbers = [int(text) if text.strip().isdecimal() else 0 for text in column]
    steps = sum(after == before + 1 for before, after in pairwise(numbers))
    return steps >= FIGURES * (len(numbers) - 1)


def _share(column: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(bool(pattern.match(text.strip())) for text in column) / len(column)


def rows_of(grids: Sequence[Grid], count: int) -> Iterator[int | Grid]:
    """The numbers of the rows of a page, and the grids in place of those that they hold."""
    starts = {grid.first: grid for grid in grids}
    n = 0
    while n < count:
        yield starts.get(n, n)
        n = starts[n].end if n in starts else n + 1
