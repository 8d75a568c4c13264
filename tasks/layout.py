"""From lines with boxes to text that people read: order, paragraphs, headings, bullets, tables. Pure functions.

The order of the boxes is found in worker/engines/reading_order.py. A text layer has an order of its own: it is kept
where it reads as smoothly as that. Nothing is dropped and nothing is corrected: the words of the result are the words
of the lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from tasks.grids import find_grids, rows_of
from tasks.text import count_words
from worker.engines.reading_order import Box, reading_rows, upright

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.engines.base import Line
    from worker.readers.base import LayerLine, LayerTable

# In line heights.
PARAGRAPH_GAP = 0.7
WORD_GAP = 0.15
# A page may be set with double spacing: then a paragraph ends where the gap is this many times the usual one.
WIDER_GAP = 1.5
# Where boxes are exact, as in a text layer: where the step from line to line is this many times the usual one.
WIDER_STEP = 1.3
FEW_ROWS = 5
# A heading is this much larger than most of the page's text, by font size or, where there is none, by box height:
# detected boxes vary by a third with the letters that they hold.
LARGER_SIZE = 1.15
LARGER_HEIGHT = 1.45
MUCH_LARGER = 1.7
# A heading has no more words than this in all its rows, or than that if it ends as a sentence does: a lead that is set
# larger than the rest is not one.
MAX_HEADING_WORDS = 24
MAX_SENTENCE_WORDS = 8
# The file's own order may jump so much more often than the one that is found from the boxes.
BESIDE_GAP = 2.0
MORE_JUMPS = 3
FEW_JUMPS = 0.1

BULLET = re.compile(r"^\s*(?:[•◦‣▪●○■□–—*·-]|\d{1,3}[.)]|[a-zA-Z][.)]|\([a-zA-Z0-9]{1,3}\))\s+(?=\S)")
DOT = re.compile(r"^\s*[•◦‣▪●○■□·]\s*(?=\S)")
SOFT_HYPHEN = "\u00ad"
BROKEN_WORD = re.compile(rf"(?:^|[\s(\[\"'“‘])([^\W\d_]+)[-{SOFT_HYPHEN}\u2010]$")
WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
HYPHENATED = frozenset(("all", "cross", "ex", "half", "quasi", "self", "semi", "vice", "well"))
"""First halves after which a hyphen at the end of a line was mostly there before: "self-made", "well-known"."""
CJK = re.compile(r"[\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
# What Markdown would take for markup where a plain line begins.
MARKUP = re.compile(r"^(\s*)(#{1,6}\s|>|\+\s|```|~~~|=+\s*$|\|)")


Cells: TypeAlias = "tuple[tuple[str | None, ...], ...]"
"""The rows of a table: "" is an empty cell, None one that a merged cell covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """A piece of text and where it stands, upright; or a whole table, if it has cells. `size` is the font size in
    points, 0 where it is not known; `row` numbers the line of the page that it belongs to where the order is known."""

    text: str
    box: Box
    size: float = 0.0
    bold: bool = False
    row: int | None = None
    cells: Cells = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a page as it is read: its pieces joined. One with cells is a table."""

    text: str
    box: Box
    size: float = 0.0
    bold: bool = False
    cells: Cells = ()


def from_layer(
    lines: Iterable[LayerLine], tables: Sequence[LayerTable] = (), *, as_filed: bool = False
) -> tuple[TextLine, ...]:
    """The lines and tables of a text layer, in reading order; with `as_filed`, in the order of the file."""
    pieces = [TextLine(text=x.text, box=Box(*x.box), size=x.size, bold=x.bold) for x in lines if x.text.strip()]
    return _with_grids(_in_order(_with_tables(pieces, tables), as_filed=as_filed))


def from_engine(lines: Sequence[Line]) -> tuple[TextLine, ...]:
    """The lines of one image, in reading order. A turned or skewed page is turned back by the direction of its
    lines."""
    kept = [line for line in lines if line.text.strip()]
    if not kept:
        return ()
    boxes = upright([line.box for line in kept])
    found = enumerate(reading_rows(boxes))
    return _with_grids(tuple(TextLine(text=kept[i].text, box=boxes[i], row=n) for n, row in found for i in row))


def in_reading_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The recognized lines of one image that say something, as they are read."""
    kept = [line for line in lines if line.text.strip()]
    if not kept:
        return ()
    return tuple(kept[i] for row in reading_rows(upright([line.box for line in kept])) for i in row)


def rows(lines: Sequence[TextLine]) -> tuple[Row, ...]:
    """The page line by line, in reading order."""
    if lines and all(line.row is not None for line in lines):
        return tuple(_joined(list(pieces)) for _, pieces in groupby(lines, key=lambda line: line.row))
    return tuple(_joined([lines[i] for i in row]) for row in reading_rows([line.box for line in lines]))


def _with_tables(pieces: Sequence[TextLine], tables: Sequence[LayerTable]) -> list[TextLine]:
    """The pieces, and where the first of a table's stood, the table instead of all of them."""
    kept: list[TextLine] = []
    placed: set[int] = set()
    for piece in pieces:
        n = next((n for n, table in enumerate(tables) if _stands_in(piece.box, Box(*table.box))), None)
        if n is None:
            kept.append(piece)
        elif n not in placed:
            placed.add(n)
            kept.append(TextLine(text=_cells_text(tables[n].rows), box=Box(*tables[n].box), cells=tables[n].rows))
    return kept


def _with_grids(pieces: Sequence[TextLine]) -> tuple[TextLine, ...]:
    """The pieces, in order, and tables instead of those that stand in rows and columns without lines."""
    page = [[i for i, _ in row] for _, row in groupby(enumerate(pieces), key=lambda piece: piece[1].row)]
    boxes, texts = [piece.box for piece in pieces], [piece.text for piece in pieces]
    ruled = frozenset(i for i, piece in enumerate(pieces) if piece.cells)
    kept: list[TextLine] = []
    for found in rows_of(find_grids(page, boxes, texts, ruled=ruled), len(page)):
        if isinstance(found, int):
            kept.extend(pieces[i] for i in page[found])
            continue
        cells = tuple(
            tuple(_joined([pieces[i] for i in cell]).text if cell else "" for cell in row) for row in found.cells
        )
        inside = [pieces[i] for row in page[found.first : found.end] for i in row]
        kept.append(TextLine(text=_cells_text(cells), box=_around(inside), row=inside[0].row, cells=cells))
    return tuple(kept)


def _stands_in(box: Box, frame: Box) -> bool:
    x = (box.left + box.right) / 2
    return frame.left <= x < frame.right and frame.top <= box.middle < frame.bottom


def _in_order(pieces: Sequence[TextLine], *, as_filed: bool) -> tuple[TextLine, ...]:
    """The pieces with their rows numbered: in the file's order, unless that jumps about the page more than the order of
    the boxes does. Most files are written as they are read, and know better which box beside the text comes when."""
    boxes = [piece.box for piece in pieces]
    best = _given_rows(boxes)
    if not as_filed:
        found = reading_rows(boxes)
        allowed = _jumps(boxes, found) + MORE_JUMPS + FEW_JUMPS * len(best)
        best = best if _jumps(boxes, best) <= allowed else found
    return tuple(replace(pieces[i], row=n) for n, row in enumerate(best) for i in row)


def _given_rows(boxes: Sequence[Box]) -> tuple[tuple[int, ...], ...]:
    """The file's order: pieces that follow on each other, at one height and side by side, are one row."""
    found: list[list[int]] = []
    for n, box in enumerate(boxes):
        if found and _beside(boxes[found[-1][-1]], box):
            found[-1].append(n)
        else:
            found.append([n])
    return tuple(tuple(row) for row in found)


def _beside(before: Box, box: Box) -> bool:
    shared = min(before.bottom, box.bottom) - max(before.top, box.top)
    overlap = min(before.right, box.right) - max(before.left, box.left)
    return shared > 0.5 * min(before.height, box.height) and overlap <= 0.5 * min(before.width, box.width)


def _jumps(boxes: Sequence[Box], order: Sequence[Sequence[int]]) -> int:
    """How often the eye leaves the column: the next piece is neither under the one before nor close beside it."""
    return sum(not _follows(boxes[a], boxes[b]) for a, b in pairwise(i for row in order for i in row))


def _follows(before: Box, box: Box) -> bool:
    unit = min(before.height, box.height)
    apart = max(box.left - before.right, before.left - box.right)
    if _beside(before, box):
        return apart < BESIDE_GAP * unit
    return box.top >= before.top and apart < 0


def _cells_text(cells: Cells) -> str:
    """The table as text: a line for a row, tabs between cells."""
    return "\n".join("\t".join(cell or "" for cell in row).rstrip("\t") for row in cells)


def paragraphs(page: Sequence[Row]) -> tuple[tuple[Row, ...], ...]:
    """Rows that follow on from each other, together. A heading and a list item stand alone or begin one."""
    if not page:
        return ()
    body = _body(page)
    groups: list[list[Row]] = [[page[0]]]
    for before, row in pairwise(page):
        if _begins(before, row, body=body):
            groups.append([])
        groups[-1].append(row)
    return tuple(tuple(group) for group in groups)


def to_text(lines: Sequence[TextLine], *, join_hyphens: bool = True) -> str:
    """Plain text: the lines of the page, a blank line between paragraphs. A word that is broken at the end of a line is
    put together at the end of that line, unless `join_hyphens` is False."""
    page = rows(lines)
    words = _words(page) if join_hyphens else None
    return "\n\n".join("\n".join(_texts(group, words=words)) for group in paragraphs(page))


def to_markdown(lines: Sequence[TextLine]) -> str:
    """Markdown: paragraphs on one line each, larger lines as headings, list items kept."""
    page = rows(lines)
    if not page:
        return ""
    body = _body(page)
    words = _words(page)
    blocks = [_block(group, body=body, words=words) for group in paragraphs(page)]
    text = blocks[0]
    for before, block in pairwise(blocks):
        text += ("\n" if _is_item(before) and _is_item(block) else "\n\n") + block
    return text


def _joined(pieces: Sequence[TextLine]) -> Row:
    text = pieces[0].text.strip()
    for before, piece in pairwise(pieces):
        text += _space(before, piece) + piece.text.strip()
    box = _around(pieces)
    bold = all(piece.bold for piece in pieces)
    cells = next((piece.cells for piece in pieces if piece.cells), ())
    return Row(text=text, box=box, size=max(piece.size for piece in pieces), bold=bold, cells=cells)


def _around(pieces: Sequence[TextLine]) -> Box:
    return Box(
        min(piece.box.left for piece in pieces),
        min(piece.box.top for piece in pieces),
        max(piece.box.right for piece in pieces),
        max(piece.box.bottom for piece in pieces),
    )


def _space(before: TextLine, piece: TextLine) -> str:
    """Words are apart by a space; Chinese characters that nearly touch are not."""
    gap = piece.box.left - before.box.right
    touches = gap < WORD_GAP * min(piece.box.height, before.box.height)
    return "" if touches and CJK.match(before.text[-1:]) and CJK.match(piece.text[:1]) else " "


@dataclass(frozen=True, slots=True)
class _Body:
    """What most of the page's text is like, long lines counting more. `size` is 0 where no line has one; `gap` is the
    usual one between rows, `step` that from one top to the next where sizes are known; both 0 on a page of few rows."""

    size: float
    height: float
    gap: float
    step: float


def _body(page: Sequence[Row]) -> _Body:
    letters = [row for row in page if not row.cells for _ in range(max(1, len(row.text) // 8))]
    sizes = [row.size for row in letters if row.size]
    gaps = [gap for before, row in pairwise(page) if (gap := row.box.top - before.box.bottom) > 0]
    size = median(sizes) if sizes else 0.0
    body = [(a.box.top, b.box.top) for a, b in pairwise(page) if a.size == b.size == size > 0]
    steps = [below - above for above, below in body if below > above]
    return _Body(
        size=size,
        height=(median(row.box.height for row in letters) if letters else 0.0) or 1.0,
        gap=median(gaps) if len(gaps) >= FEW_ROWS else 0.0,
        step=median(steps) if len(steps) >= FEW_ROWS else 0.0,
    )


def _level(row: Row, *, body: _Body) -> int:
    """1 or 2 for type as large as that of headings, 0 for any other line."""
    if row.cells or not any(char.isalpha() for char in row.text):
        return 0
    known = bool(row.size and body.size)
    ratio = row.size / body.size if known else row.box.height / body.height
    if ratio >= MUCH_LARGER:
        return 1
    return 2 if ratio >= (LARGER_SIZE if known else LARGER_HEIGHT) else 0


def _is_prose(text: str) -> bool:
    """Whether text in large type is too long for a heading."""
    count = count_words(text)
    return count > MAX_HEADING_WORDS or (count > MAX_SENTENCE_WORDS and text.endswith((".", "!", "。", ":", ",")))


def _begins(before: Row, row: Row, *, body: _Body) -> bool:
    """Whether a paragraph begins here: a gap, a jump to another column, a bullet, or another type."""
    if before.cells or row.cells:
        return True
    gap = row.box.top - before.box.bottom
    if gap > max(PARAGRAPH_GAP * body.height, WIDER_GAP * body.gap):
        return True
    if row.box.bottom < before.box.top and not row.text[:1].islower():  # a small letter goes on from the column before
        return True
    if body.step and row.size and row.box.top - before.box.top > WIDER_STEP * body.step * max(row.size / body.size, 1):
        return True
    level = _level(row, body=body)
    if level != _level(before, body=body) or row.bold != before.bold or BULLET.match(row.text):
        return True
    return bool(level and before.size and max(row.size, before.size) >= LARGER_SIZE * min(row.size, before.size))


def _texts(group: Sequence[Row], *, words: frozenset[str] | None) -> list[str]:
    """The rows of a paragraph, broken words put together; `words` are those of the page, None to leave all as it is."""
    texts = [row.text for row in group]
    for n in range(len(texts) - 1):
        if words is not None and _is_broken(texts[n], texts[n + 1]):
            rest, _, texts[n + 1] = texts[n + 1].partition(" ")
            texts[n] = _put_together(texts[n], rest, words=words)
    return [text for text in texts if text]


def _is_broken(text: str, following: str) -> bool:
    """A hyphen after letters alone and before a small letter; that of "state-of-the-" is left, it may be meant."""
    return bool(BROKEN_WORD.search(text)) and following[:1].islower()


def _put_together(text: str, rest: str, *, words: frozenset[str]) -> str:
    """A broken word. Its hyphen is kept where the page writes the word with one elsewhere, or where the first half
    hardly stands without: "well-known", "self-made"."""
    if text.endswith(SOFT_HYPHEN):
        return text[:-1] + rest
    first = text.split()[-1].lstrip("([\"'“‘").lower()
    second = rest.rstrip(".,;:!?)]}\"'”’").lower()
    spelled, joined = f"{first}{second}", f"{first[:-1]}{second}"
    hyphen = spelled in words or (joined not in words and first[:-1] in HYPHENATED)
    return text + rest if hyphen else text[:-1] + rest


def _words(page: Sequence[Row]) -> frozenset[str]:
    """The words of the page in small letters, each with the hyphens inside it."""
    return frozenset(word.lower() for row in page for word in WORD.findall(row.text))


def _table(cells: Cells) -> str:
    """A Markdown table; the first row is its head. Markdown has no merged cells: what one covers is left empty."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("\\", "\\\\").replace("|", "\\|")


def _block(group: Sequence[Row], *, body: _Body, words: frozenset[str]) -> str:
    if group[0].cells:
        return _table(group[0].cells)
    text = " ".join(_texts(group, words=words))
    level = _level(group[0], body=body)
    if level and not _is_prose(text):
        return f"{'#' * level} {text}"
    if DOT.match(text):
        return DOT.sub("- ", text, count=1)
    return MARKUP.sub(r"\1\\\2", text, count=1)


def _is_item(block: str) -> bool:
    return bool(BULLET.match(block))
