"""Ruled tables: their cells are found, whichever way the page is turned, and nothing else is taken for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from worker.readers.mupdf import pymupdf
from worker.readers.pdf import Documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.readers.base import LayerTable, Open

    Opener = Callable[..., Open]

BIRDS = [["Bird", "Seen", "Heard"], ["Tawny owl", "3", "12"], ["Barn owl", "1", ""], ["Eagle owl", "0", "2.5"]]


def sheet(*, rotation: int = 0) -> tuple[Any, Any]:
    document = pymupdf.open()
    page = document.new_page(width=400, height=400)
    page.set_rotation(rotation)
    return document, page


def ruled(page: Any, cells: Sequence[Sequence[str]], *, rules: Sequence[int] | None = None) -> None:
    """A grid of cells of 100 x 20 points from (50, 60); `rules` are the rows above which a line is drawn. Drawn in the
    page as people see it."""
    back = page.derotation_matrix
    height, width = 20 * len(cells), 100 * len(cells[0])
    for n in [*(range(len(cells)) if rules is None else rules), len(cells)]:
        page.draw_line(pymupdf.Point(50, 60 + 20 * n) * back, pymupdf.Point(50 + width, 60 + 20 * n) * back)
    for n in range(len(cells[0]) + 1):
        page.draw_line(pymupdf.Point(50 + 100 * n, 60) * back, pymupdf.Point(50 + 100 * n, 60 + height) * back)
    for y, row in enumerate(cells):
        for x, text in enumerate(row):
            place = pymupdf.Point(54 + 100 * x, 74 + 20 * y) * back
            page.insert_text(place, text, fontsize=9, rotate=page.rotation)


def tables(open_: Opener, document: Any) -> tuple[LayerTable, ...]:
    source = open_(document.tobytes(), "tables.pdf")
    layer = Documents().page(source, 1, target_pixels=800, format="pdf").layer
    assert layer is not None
    assert layer.trusted
    return layer.tables


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_cells_are_found_however_the_page_is_turned(open_: Opener, rotation: int) -> None:
    document, page = sheet(rotation=rotation)
    ruled(page, BIRDS)
    (table,) = tables(open_, document)
    assert [list(row) for row in table.rows] == BIRDS
    assert table.box == pytest.approx((100, 120, 700, 280), abs=4)


def test_rows_that_are_not_ruled_are_parted_by_their_figures(open_: Opener) -> None:
    document, page = sheet()
    cells = [["Place", "2019", "2020"], *([f"Wood {n}", f"{n}", f"{n + 1}.5"] for n in range(6))]
    cells = [[*row, row[-1]] for row in cells]
    page.set_mediabox(pymupdf.Rect(0, 0, 500, 400))
    ruled(page, cells, rules=[0, 1, 4])
    (table,) = tables(open_, document)
    assert [list(row) for row in table.rows] == cells


def test_a_merged_cell_covers_the_next(open_: Opener) -> None:
    document, page = sheet()
    ruled(page, [["Bird", "Seen"], ["owl", "3"], ["hawk", "4"]])
    page.draw_line((50, 140), (250, 140))
    page.draw_line((50, 120), (50, 140))
    page.draw_line((250, 120), (250, 140))
    page.insert_text((54, 134), "Nothing more that year in the wood", fontsize=9)
    (table,) = tables(open_, document)
    assert table.rows[-1] == ("Nothing more that year in the wood", None)


def test_frames_diagrams_and_paragraphs_are_no_tables(open_: Opener) -> None:
    document, page = sheet()
    page.draw_rect((20, 20, 380, 120))
    page.insert_textbox((30, 30, 370, 110), "A framed paragraph of text. " * 8, fontsize=9)
    for n in range(6):  # the grid of a diagram: hardly anything stands in it
        page.draw_line((40, 150 + 30 * n), (340, 150 + 30 * n))
        page.draw_line((40 + 60 * n, 150), (40 + 60 * n, 300))
    page.insert_text((50, 165), "mW", fontsize=9)
    page.insert_textbox((20, 310, 380, 400), "Words under it. " * 12, fontsize=9)
    assert tables(open_, document) == ()


def test_a_drawing_of_very_many_lines_is_not_searched(open_: Opener) -> None:
    document, page = sheet()
    shape = page.new_shape()
    for n in range(2100):
        shape.draw_line((10 + n % 300, 10), (10 + n % 300, 40))
        shape.draw_line((10, 10 + n % 300), (40, 10 + n % 300))
    shape.finish()
    shape.commit()
    ruled(page, BIRDS)
    assert tables(open_, document) == ()


def test_squared_paper_is_not_searched(open_: Opener) -> None:
    """500 lines each way cross in a quarter of a million places: cells would be looked for in all of them."""
    document = pymupdf.open()
    page = document.new_page(width=2100, height=2100)
    shape = page.new_shape()
    for n in range(500):
        shape.draw_line((10 + 4 * n, 10), (10 + 4 * n, 2010))
        shape.draw_line((10, 10 + 4 * n), (2010, 10 + 4 * n))
    shape.finish()
    shape.commit()
    page.insert_text((20, 2060), "Squared paper", fontsize=30)
    assert tables(open_, document) == ()
