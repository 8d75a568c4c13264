"""Tables of a page that are drawn with lines: their cells, from the rulings and the text layer.

MuPDF finds the cells; what stands in them is taken from the layer's own spans, because its own extraction puts full
stops and superscripts on lines of their own. Tables without rulings are left to the lines' order (tasks/layout.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from worker.readers.base import LayerTable
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Box: TypeAlias = tuple[float, float, float, float]
"""left, top, right, bottom."""

# In points.
_SNAP = 3.0
_LONG = 10.0
_THIN = 3.0
_MIN_RULINGS = 2
_MAX_RULINGS = 4000
"""Maps and drawings have tens of thousands; looking for cells in them takes minutes."""
_MAX_CROSSINGS = 5000
"""Squared paper of 60 x 60 lines takes a fifth of a second, of 150 x 150 eight, of 500 x 500 minutes."""
_MIN_FILLED = 0.25
_MIN_CELLS = 4
_MAX_CELLS = 20_000
_MANY_COLUMNS = 4
"""So many cells side by side with the same number of lines are several rows; of fewer, all may be wrapped text."""
_ALIGNED = 0.6
"""Share of a line's height by which the lines of two cells may differ and still be one row."""


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of the layer's text, upright, in pixels of the page's picture."""

    text: str
    box: Box

    @property
    def middle(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


def read_tables(page: Any, words: Sequence[Word], *, matrix: Any, scale: float) -> tuple[LayerTable, ...]:
    """The ruled tables of a page from top to bottom. `words` are in the file's order; `matrix` takes the page's points
    to pixels of its picture, `scale` is pixels per point."""
    if not words or not _is_ruled(page):
        return ()
    grids = [_mapped(cells, matrix) for cells in _found(page) if len(cells) <= _MAX_CELLS]
    tables = [_table(cells, words, snap=_SNAP * scale) for cells in grids]
    return tuple(sorted((table for table in tables if table is not None), key=lambda table: table.box[1]))


def _found(page: Any) -> list[list[Any]]:
    """The cells of each table, in points of the page before it is turned: on a turned one, none are found."""
    pymupdf.no_recommend_layout()  # it would print an advertisement
    rotation = page.rotation
    try:
        if rotation:
            page.set_rotation(0)
        return [list(table.cells) for table in page.find_tables(strategy="lines_strict", use_layout=False).tables]
    finally:
        if rotation:
            page.set_rotation(rotation)


def _is_ruled(page: Any) -> bool:
    """Whether there are lines across and lines down, few enough of them, and not too many places where they may cross.
    Costs a look at the drawings."""
    across: list[float] = []
    down: list[float] = []
    for drawing in page.get_cdrawings():
        for left, top, right, bottom in _strokes(drawing):
            wide, high = abs(right - left), abs(bottom - top)
            across.extend([top] if wide >= _LONG and high <= _THIN else [])
            down.extend([left] if high >= _LONG / 2 and wide <= _THIN else [])
            if len(across) + len(down) > _MAX_RULINGS:
                return False
    crossings = len({round(y / _SNAP) for y in across}) * len({round(x / _SNAP) for x in down})
    return min(len(across), len(down)) >= _MIN_RULINGS and crossings <= _MAX_CROSSINGS


def _strokes(drawing: dict[str, Any]) -> Iterator[Box]:
    for item in drawing["items"]:
        if item[0] == "l":
            yield (*item[1], *item[2])
        elif item[0] == "re":
            left, top, right, bottom = item[1]
            if min(abs(right - left), abs(bottom - top)) <= _THIN or drawing["type"] != "f":
                yield left, top, right, top
                yield left, top, left, bottom
                yield left, bottom, right, bottom
                yield right, top, right, bottom


def _mapped(cells: Sequence[Any], matrix: Any) -> list[Box]:
    boxes = (pymupdf.Rect(cell) * matrix for cell in cells if cell is not None)
    return [(float(box.x0), float(box.y0), float(box.x1), float(box.y1)) for box in boxes]


def _table(cells: Sequence[Box], words: Sequence[Word], *, snap: float) -> LayerTable | None:
    """The cells as rows; None where it is no table: a frame, a diagram, a box around a paragraph."""
    if len(cells) < _MIN_CELLS:
        return None
    lefts, tops = _edges([cell[0] for cell in cells], snap=snap), _edges([cell[1] for cell in cells], snap=snap)
    rights, bottoms = max(cell[2] for cell in cells), max(cell[3] for cell in cells)
    box = (lefts[0], tops[0], rights, bottoms)
    inside = [word for word in words if _holds(box, word.middle)]
    grid: list[list[list[Word] | None]] = [[None] * len(lefts) for _ in tops]
    for cell, content in _filled(cells, inside):
        row = _nearest(tops, cell[1])
        for column, words_there in _columns(cell, content, lefts).items():
            grid[row][column] = [*(grid[row][column] or ()), *words_there]
    rows = _tidy([row for band in grid for row in _rows_of(band)])
    return LayerTable(box=box, rows=rows) if _is_table(rows) else None


def _filled(cells: Sequence[Box], words: Sequence[Word]) -> Iterator[tuple[Box, list[Word]]]:
    """Each word in the smallest cell around it: a frame around several cells counts as one, too."""
    left = list(words)
    for cell in sorted(cells, key=lambda cell: (cell[2] - cell[0]) * (cell[3] - cell[1])):
        yield cell, [word for word in left if _holds(cell, word.middle)]
        left = [word for word in left if not _holds(cell, word.middle)]


def _columns(cell: Box, words: list[Word], lefts: Sequence[float]) -> dict[int, list[Word]]:
    """The words of a cell by column. A merged cell is one, unless several words on one line stand in columns of their
    own: a row of names that is drawn without lines between them."""
    first = _nearest(lefts, cell[0])
    columns: dict[int, list[Word]] = {first: list(words)}
    for line in _by_line(words):
        places = [_column(word, lefts) for word in line]
        own = {place for place in places if place is not None}
        if len(own) < 2:
            continue
        for word, place in zip(line, places, strict=True):
            if place is not None and place != first:
                columns[first].remove(word)
                columns.setdefault(place, []).append(word)
    return columns


def _column(word: Word, lefts: Sequence[float]) -> int | None:
    """The column that holds all of the word; None where it reaches over an edge."""
    within = [n for n, left in enumerate(lefts) if left <= word.middle[0]]
    n = within[-1] if within else 0
    ends = lefts[n + 1] if n + 1 < len(lefts) else float("inf")
    slack = 0.2 * word.height
    return n if lefts[n] - slack <= word.box[0] and word.box[2] <= ends + slack else None


def _edges(values: Sequence[float], *, snap: float) -> list[float]:
    edges: list[float] = []
    for value in sorted(values):
        if not edges or value - edges[-1] > snap:
            edges.append(value)
    return edges


def _nearest(edges: Sequence[float], value: float) -> int:
    return min(range(len(edges)), key=lambda i: abs(edges[i] - value))


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def _rows_of(band: Sequence[list[Word] | None]) -> list[list[str | None]]:
    """The rows between two rulings: one; or several, where most cells have as many lines at the same heights, as in a
    table that is ruled every fifth row. Beside those, a cell of one line belongs to all of the rows."""
    cells = [None if words is None else _lines(words) for words in band]
    many = [lines for lines in cells if lines and len(lines) > 1]
    others = [lines for lines in cells if lines and len(lines) == 1]
    if len(many) < max(_MANY_COLUMNS, len(others) + 1) or not _in_step(many) or not _are_figures(many):
        return [[None if lines is None else " ".join(text for _, text in lines) for lines in cells]]
    return [[_nth(lines, n) for lines in cells] for n in range(len(many[0]))]


def _are_figures(cells: Sequence[Sequence[tuple[Word, str]]]) -> bool:
    """The words of a table's head are wrapped in step, too; figures are not wrapped."""
    figures = sum(all(any(map(str.isdigit, text)) for _, text in lines) for lines in cells)
    return 2 * figures >= len(cells)


def _nth(lines: Sequence[tuple[Word, str]] | None, n: int) -> str | None:
    if not lines:
        return None if lines is None else ""
    return lines[n][1] if n < len(lines) else None


def _in_step(cells: Sequence[Sequence[tuple[Word, str]]]) -> bool:
    first = cells[0]
    return all(
        len(lines) == len(first)
        and all(
            abs(one.middle[1] - other.middle[1]) <= _ALIGNED * one.height
            for (one, _), (other, _) in zip(first, lines, strict=True)
        )
        for lines in cells
    )


def _lines(words: Sequence[Word]) -> list[tuple[Word, str]]:
    """The lines of one cell, each with its first word."""
    return [(line[0], " ".join("".join(_spaced(line)).split())) for line in _by_line(words)]


def _by_line(words: Sequence[Word]) -> list[list[Word]]:
    """Words of one height together, from top to bottom; in a line they keep the file's order."""
    lines: list[list[Word]] = []
    height = median(word.height for word in words) if words else 0.0
    for word in sorted(words, key=lambda word: word.middle[1]):
        if lines and abs(word.middle[1] - lines[-1][0].middle[1]) <= _ALIGNED * height:
            lines[-1].append(word)
        else:
            lines.append([word])
    order = {id(word): n for n, word in enumerate(words)}
    return [sorted(line, key=lambda word: order[id(word)]) for line in lines]


def _spaced(line: Sequence[Word]) -> Iterator[str]:
    """Pieces of a line; those that touch, such as a superscript and its number, belong together."""
    before: Word | None = None
    for word in line:
        if before is not None and word.box[0] - before.box[2] > 0.15 * before.height:
            yield " "
        yield word.text
        before = word


def _tidy(rows: Sequence[Sequence[str | None]]) -> tuple[tuple[str | None, ...], ...]:
    """Without rows and columns that hold nothing."""
    kept = [row for row in rows if any(row)]
    used = [n for n in range(len(kept[0]) if kept else 0) if any(row[n] for row in kept)]
    return tuple(tuple(row[n] for n in used) for row in kept)


def _is_table(rows: Sequence[Sequence[str | None]]) -> bool:
    cells = [cell for row in rows for cell in row if cell is not None]
    filled = sum(bool(cell) for cell in cells)
    return len(rows) >= 2 and len(rows[0]) >= 2 and filled >= max(_MIN_CELLS, _MIN_FILLED * len(cells))
