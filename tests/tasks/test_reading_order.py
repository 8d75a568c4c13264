"""Whole pages as they are set: running head, title, columns, a figure with its caption, a list, a foot. Their lines
come shuffled, as boxes in the picture or as a layer, and must be read as people do."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from tasks import layout
from worker.engines.base import Line
from worker.readers.base import LayerLine
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN, GAP = 595, 842, 50, 22
WORDS = ["the", "keeper", "old", "wood", "wrote", "down", "which", "hour", "each", "owl", "was", "heard", "before"]


def prose(name: str, count: int) -> str:
    """Sentences whose first word says which they are."""
    random_words = random.Random(name)
    return " ".join(f"{name}{n} {' '.join(random_words.choices(WORDS, k=11))}." for n in range(count))


@lru_cache(maxsize=3)
def page(columns: int) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """The lines of a page in the order in which people read them, and their boxes."""
    with pymupdf.open() as document:
        sheet = document.new_page(width=WIDTH, height=HEIGHT)
        sheet.insert_text((MARGIN, 40), "RUNNING HEAD OF THE JOURNAL", fontsize=8)
        sheet.insert_text((WIDTH - 80, 40), "page 117", fontsize=8)
        sheet.insert_text((MARGIN, 90), "A Title Over All the Columns", fontsize=22)
        width = (WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
        for n in range(columns):
            left = MARGIN + n * (width + GAP)
            _column(sheet, "abc"[n], pymupdf.Rect(left, 120, left + width, 780), has_figure=n == columns - 1)
        sheet.insert_text(
            (MARGIN, 810), "A note at the foot of the page, over all of its width, in small type", fontsize=7
        )
        return tuple(_lines(sheet))


def _column(sheet: Any, name: str, frame: Any, *, has_figure: bool) -> None:
    """Two paragraphs; between them a list, or a figure with its caption."""
    left, top, right, bottom = frame
    assert sheet.insert_textbox((left, top, right, top + 250), prose(f"{name}x", 5), fontsize=9) >= 0
    if has_figure:
        sheet.draw_rect((left, top + 260, right, top + 370), fill=(0.8, 0.8, 0.9))
        sheet.insert_text((left, top + 384), f"Fig. {name}: an owl", fontsize=7.5)
    else:
        for n in range(4):
            sheet.insert_text((left, top + 275 + 26 * n), f"• {name}item{n} of the list", fontsize=9)
    assert sheet.insert_textbox((left, top + 400, right, bottom), prose(f"{name}y", 5), fontsize=9) >= 0


def _lines(sheet: Any) -> Sequence[tuple[str, tuple[float, ...]]]:
    blocks = sheet.get_text("dict")["blocks"]
    lines = [line for block in blocks for line in block.get("lines", ())]
    return [("".join(span["text"] for span in line["spans"]).strip(), tuple(line["bbox"])) for line in lines]


def told(columns: int) -> list[str]:
    return [text for text, _ in page(columns)]


def words(rows: Sequence[layout.Row]) -> list[str]:
    return " ".join(row.text for row in rows).split()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_lines_of_a_picture_are_read_as_people_do(columns: int, seed: int) -> None:
    """A detector draws its boxes a little unevenly."""
    uneven = random.Random(seed)
    lines = [
        Line(text=text, box=_corners(tuple(edge * 2.4 + uneven.uniform(-2, 2) for edge in box)), confidence=0.9)
        for text, box in page(columns)
    ]
    uneven.shuffle(lines)
    assert words(layout.rows(layout.from_engine(lines))) == " ".join(told(columns)).split()


def _corners(box: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_layer_is_read_as_people_do_in_whatever_order_it_was_written(columns: int) -> None:
    lines = [LayerLine(text=text, box=tuple(2.4 * edge for edge in box), size=9) for text, box in page(columns)]  # type: ignore[arg-type]
    expected = " ".join(told(columns)).split()
    assert words(layout.rows(layout.from_layer(lines))) == expected
    random.Random(1).shuffle(lines)
    assert words(layout.rows(layout.from_layer(lines))) == expected


@pytest.mark.parametrize("columns", [2, 3])
def test_lists_headings_and_captions_keep_their_form(columns: int) -> None:
    lines = [
        Line(text=text, box=_corners(tuple(2.4 * edge for edge in box)), confidence=0.9) for text, box in page(columns)
    ]
    blocks = layout.to_markdown(layout.from_engine(lines)).split("\n\n")
    assert "# A Title Over All the Columns" in blocks
    assert "\n".join(f"- aitem{n} of the list" for n in range(4)) in blocks
    assert f"Fig. {'abc'[columns - 1]}: an owl" in blocks
