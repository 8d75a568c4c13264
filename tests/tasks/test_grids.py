"""Tables without lines, and what looks like them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tasks.grids import find_grids
from tasks.layout import from_engine, to_markdown, to_text
from worker.engines.base import Line
from worker.engines.reading_order import Box, as_found, reading_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

BIRDS = [["Month", "Days", "Ringed"], ["March", "14", "186"], ["April", "24", "742"], ["May", "27", "903"]]
ACCOUNT = [["Shop", "2,380"], ["Guided walks", "6,150"], ["County fund", "12,000"], ["Members", "18,400"]]
HEIGHT = 20.0
LETTER = 9.0


def placed(rows: Sequence[Sequence[str]], lefts: Sequence[float], *, top: float = 0.0) -> list[tuple[str, Box]]:
    """Pieces of text at these columns; "" is none."""
    return [
        (text, Box(left, top + 26 * n, left + LETTER * len(text), top + 26 * n + HEIGHT))
        for n, row in enumerate(rows)
        for text, left in zip(row, lefts, strict=False)
        if text
    ]


def tables(pieces: Sequence[tuple[str, Box]]) -> list[list[list[str]]]:
    boxes, texts = [box for _, box in pieces], [text for text, _ in pieces]
    rows = reading_rows(boxes)
    return [
        [[" ".join(texts[i] for i in cell) for cell in row] for row in grid.cells]
        for grid in find_grids(rows, boxes, texts)
    ]


def test_rows_in_columns_are_a_table() -> None:
    assert tables(placed(BIRDS, [0, 150, 250])) == [BIRDS]
    assert tables(placed(ACCOUNT, [0, 300])) == [ACCOUNT]


def test_cells_may_be_empty_and_pieces_of_one_cell_apart() -> None:
    rows = [
        ["Date", "What", "Credits", "Balance"],
        ["1 May", "Cheque", "", "99.15"],
        ["2 May", "Deposit", "14.54", "85"],
    ]
    rows += [["3 May", "Loan", "", "70.42"]]
    assert tables(placed(rows, [0, 47, 250, 400])) == [
        [
            ["Date What", "Credits", "Balance"],
            ["1 May Cheque", "", "99.15"],
            ["2 May Deposit", "14.54", "85"],
            ["3 May Loan", "", "70.42"],
        ]
    ]


def test_what_stands_around_a_table_is_none_of_it() -> None:
    prose = [(f"{n} is a line of prose as long as the page is wide, and longer", 0.0) for n in range(3)]
    above = [(text, Box(left, 26 * n, 600, 26 * n + HEIGHT)) for n, (text, left) in enumerate(prose)]
    below = [(text, Box(left, 300 + 26 * n, 600, 300 + 26 * n + HEIGHT)) for n, (text, left) in enumerate(prose)]
    assert tables([*above, *placed(BIRDS, [0, 150, 250], top=110), *below]) == [BIRDS]


NUMBERED = [[str(n), f"{word} said the owl"] for n, word in enumerate(["Yes", "No", "Who", "When", "There"], start=4)]
LISTED = [[mark, "an owl, 3"] for mark in ("•", "•", "•", "•")]
LETTERS = [[f"{letter})", "owl", "3"] for letter in "abcd"]
WORDS = [["owl", "the barn"], ["hawk", "the wood"], ["wren", "the hedge"], ["robin", "the garden"]]
SENTENCES = [["12", "it hooted at all who came by that night", "3"] for _ in range(5)]


@pytest.mark.parametrize("rows", [NUMBERED, LISTED, LETTERS, WORDS, SENTENCES, BIRDS[:2], ACCOUNT[:3]])
def test_numbered_lines_lists_and_prose_are_no_tables(rows: list[list[str]]) -> None:
    assert tables(placed(rows, [0, 60, 500])) == []


def test_columns_of_prose_are_no_table() -> None:
    words = ["the", "owl", "that", "was", "heard", "in", "the", "wood", "at", "night", "was", "seen", "by", "day"]
    chance = random.Random(1)
    column = [[" ".join(chance.choices(words, k=6))] for _ in range(12)]
    assert tables([*placed(column, [0]), *placed(column[::-1], [520])]) == []


def test_a_row_that_runs_across_ends_a_table() -> None:
    across = [("Whole season, all nets and every month of the year", Box(0, 78, 450, 98))]
    top = placed(BIRDS[:3], [0, 150, 250])
    assert tables([*top, *across, *placed(BIRDS, [0, 150, 250], top=104)]) == [BIRDS[:3], BIRDS]


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_a_table_in_a_picture_is_one_in_markdown(degrees: int) -> None:
    def turned(x: float, y: float) -> tuple[float, float]:
        return {0: (x, y), 90: (900 - y, x), 180: (900 - x, 900 - y)}[degrees]

    lines = [
        Line(
            text=text,
            box=(turned(b.left, b.top), turned(b.right, b.top), turned(b.right, b.bottom), turned(b.left, b.bottom)),
            confidence=1.0,
        )
        for text, b in placed(BIRDS, [0, 150, 250])
    ]
    page = from_engine(lines)
    corners = [corner for line in lines for corner in line.box]
    place = as_found(page[0].box, [line.box for line in lines])
    assert (place.left, place.top) == pytest.approx([min(values) for values in zip(*corners, strict=True)])
    assert (place.right, place.bottom) == pytest.approx([max(values) for values in zip(*corners, strict=True)])
    assert to_markdown(page) == (
        "| Month | Days | Ringed |\n|---|---|---|\n| March | 14 | 186 |\n| April | 24 | 742 |\n| May | 27 | 903 |"
    )
    assert to_text(page) == "Month\tDays\tRinged\nMarch\t14\t186\nApril\t24\t742\nMay\t27\t903"
