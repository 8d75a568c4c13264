"""From lines with boxes to text that people read: order, paragraphs, headings, bullets. Pure functions.

The order of the boxes is found in worker/engines/reading_order.py. Nothing is dropped and nothing is corrected: the
words of the result are the words of the lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from worker.engines.reading_order import Box, reading_rows, upright

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.engines.base import Line
    from worker.readers.base import LayerLine

# In line heights.
PARAGRAPH_GAP = 0.7
WORD_GAP = 0.15
# A page may be set with double spacing: then a paragraph ends where the gap is this many times the usual one.
WIDER_GAP = 1.5
FEW_ROWS = 5
# A heading is this much larger than most of the page's text, by font size or, where there is none, by box height:
# detected boxes vary by a third with the letters that they hold.
LARGER_SIZE = 1.15
LARGER_HEIGHT = 1.45
MUCH_LARGER = 1.7
MAX_HEADING_WORDS = 16

BULLET = re.compile(r"^\s*(?:[•◦‣▪●○■□–—*·-]|\d{1,3}[.)]|[a-zA-Z][.)]|\([a-zA-Z0-9]{1,3}\))\s+(?=\S)")
DOT = re.compile(r"^\s*[•◦‣▪●○■□·]\s*(?=\S)")
BROKEN_WORD = re.compile(r"(?:^|[\s(\[\"'“‘])([^\W\d_]+)-$")
CJK = re.compile(r"[\u2e80-\u303f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
# What Markdown would take for markup where a plain line begins.
MARKUP = re.compile(r"^(\s*)(#{1,6}\s|>|\+\s|```|~~~|=+\s*$|\|)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """A piece of text and where it stands, upright. `size` is the font size in points, 0 where it is not known."""

    text: str
    box: Box
    size: float = 0.0
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a page as it is read: its pieces joined."""

    text: str
    box: Box
    size: float = 0.0
    bold: bool = False


def from_layer(lines: Iterable[LayerLine]) -> tuple[TextLine, ...]:
    return tuple(TextLine(text=x.text, box=Box(*x.box), size=x.size, bold=x.bold) for x in lines if x.text.strip())


def from_engine(lines: Sequence[Line]) -> tuple[TextLine, ...]:
    """The lines of one image. A turned or skewed page is turned back by the direction of its lines."""
    kept = [line for line in lines if line.text.strip()]
    if not kept:
        return ()
    boxes = upright([line.box for line in kept])
    return tuple(TextLine(text=line.text, box=box) for line, box in zip(kept, boxes, strict=True))


def rows(lines: Sequence[TextLine]) -> tuple[Row, ...]:
    """The page line by line, in reading order."""
    return tuple(_joined([lines[i] for i in row]) for row in reading_rows([line.box for line in lines]))


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
    return "\n\n".join("\n".join(_texts(group, join=join_hyphens)) for group in paragraphs(rows(lines)))


def to_markdown(lines: Sequence[TextLine]) -> str:
    """Markdown: paragraphs on one line each, larger lines as headings, list items kept."""
    page = rows(lines)
    if not page:
        return ""
    body = _body(page)
    blocks = [_block(group, body=body) for group in paragraphs(page)]
    text = blocks[0]
    for before, block in pairwise(blocks):
        text += ("\n" if _is_item(before) and _is_item(block) else "\n\n") + block
    return text


def _joined(pieces: Sequence[TextLine]) -> Row:
    text = pieces[0].text.strip()
    for before, piece in pairwise(pieces):
        text += _space(before, piece) + piece.text.strip()
    box = Box(
        min(piece.box.left for piece in pieces),
        min(piece.box.top for piece in pieces),
        max(piece.box.right for piece in pieces),
        max(piece.box.bottom for piece in pieces),
    )
    bold = all(piece.bold for piece in pieces)
    return Row(text=text, box=box, size=max(piece.size for piece in pieces), bold=bold)


def _space(before: TextLine, piece: TextLine) -> str:
    """Words are apart by a space; Chinese characters that nearly touch are not."""
    gap = piece.box.left - before.box.right
    touches = gap < WORD_GAP * min(piece.box.height, before.box.height)
    return "" if touches and CJK.match(before.text[-1:]) and CJK.match(piece.text[:1]) else " "


@dataclass(frozen=True, slots=True)
class _Body:
    """What most of the page's text is like, long lines counting more. `size` is 0 where no line has one; `gap` is the
    usual one between rows, 0 on a page of few rows."""

    size: float
    height: float
    gap: float


def _body(page: Sequence[Row]) -> _Body:
    letters = [row for row in page for _ in range(max(1, len(row.text) // 8))]
    sizes = [row.size for row in letters if row.size]
    gaps = [gap for before, row in pairwise(page) if (gap := row.box.top - before.box.bottom) > 0]
    return _Body(
        size=median(sizes) if sizes else 0.0,
        height=median(row.box.height for row in letters) or 1.0,
        gap=median(gaps) if len(gaps) >= FEW_ROWS else 0.0,
    )


def _level(row: Row, *, body: _Body) -> int:
    """1 or 2 for a heading, 0 for any other line."""
    if len(row.text.split()) > MAX_HEADING_WORDS or not any(char.isalpha() for char in row.text):
        return 0
    known = bool(row.size and body.size)
    ratio = row.size / body.size if known else row.box.height / body.height
    if ratio >= MUCH_LARGER:
        return 1
    return 2 if ratio >= (LARGER_SIZE if known else LARGER_HEIGHT) else 0


def _begins(before: Row, row: Row, *, body: _Body) -> bool:
    """Whether a paragraph begins here: a gap, a jump to another column, a bullet, or larger or smaller type."""
    gap = row.box.top - before.box.bottom
    if gap > max(PARAGRAPH_GAP * body.height, WIDER_GAP * body.gap) or row.box.bottom < before.box.top:
        return True
    return bool(BULLET.match(row.text)) or _level(row, body=body) != _level(before, body=body)


def _texts(group: Sequence[Row], *, join: bool) -> list[str]:
    texts = [row.text for row in group]
    for n in range(len(texts) - 1):
        if join and _is_broken(texts[n], texts[n + 1]):
            rest, _, texts[n + 1] = texts[n + 1].partition(" ")
            texts[n] = texts[n][:-1] + rest
    return [text for text in texts if text]


def _is_broken(text: str, following: str) -> bool:
    """A hyphen after letters alone and before a small letter; that of "state-of-the-" is left, it may be meant."""
    return bool(BROKEN_WORD.search(text)) and following[:1].islower()


def _block(group: Sequence[Row], *, body: _Body) -> str:
    text = " ".join(_texts(group, join=True))
    level = _level(group[0], body=body)
    if level:
        return f"{'#' * level} {text}"
    if DOT.match(text):
        return DOT.sub("- ", text, count=1)
    return MARKUP.sub(r"\1\\\2", text, count=1)


def _is_item(block: str) -> bool:
    return bool(BULLET.match(block))
