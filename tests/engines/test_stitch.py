from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from tests.engines.pages import sheets
from tests.engines.typesetting import Sheet, columns
from worker.engines.columns import Box
from worker.engines.stitch import stitch
from worker.engines.tiles import Edge, Overlap, Span, Tile, Tiling, cut

if TYPE_CHECKING:
    from collections.abc import Sequence


def read(page: Sheet, tiling: Tiling) -> str:
    """What a reader that makes no mistakes makes of the page."""
    return stitch(tiling, [page.read(tile) for tile in tiling.tiles])


def tile(*, row: int = 0, column: int = 0, up: int = 0, lines: int = 0, broken: Sequence[int] = (), region: int = 0,
         overlaps: Sequence[Overlap] = ()) -> Tile:  # fmt: skip
    """Lines of 20 pixels, 5 apart, in a grid of cells of 300 x 100."""
    box = Box(300 * column, 100 * row - up, 300 * column + 300, 100 * row + 100 - up)
    tops = [box.top + 25 * n for n in range(lines)]
    return Tile(
        box=box,
        x_height=10,
        region=region,
        row=row,
        column=column,
        side=320,
        lines=tuple(Span(top, top + 20, n in broken) for n, top in enumerate(tops)),
        overlaps=tuple(overlaps),
    )


def tiling(*tiles: Tile) -> Tiling:
    return Tiling(page=Box(0, 0, 900, 900), eye=224, reach=32, tiles=tiles, x_height=10, x_height_seen=7, legible=True)


@settings(max_examples=30, derandomize=True)
@given(page=sheets())
def test_stitching_is_the_inverse_of_cutting(page: Sheet) -> None:
    assert read(page, cut(page.image)) == page.text


@settings(max_examples=8, derandomize=True)
@given(page=sheets())
def test_few_tiles_lose_and_double_no_letter(page: Sheet) -> None:
    for most in (1, 2, 5):
        assert Counter("".join(read(page, cut(page.image, max_tiles=most)).split())) == Counter(
            "".join(page.text.split())
        )


@pytest.mark.parametrize("size", [9, 10, 14, 28])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_columns_under_a_title_come_back(count: int, size: int) -> None:
    page = columns(count, width=1400, height=900, size=size, title="the old bird gathered")
    assert read(page, cut(page.image)) == page.text


def test_there_is_one_text_per_tile() -> None:
    with pytest.raises(ValueError, match="1 texts for 2 tiles"):
        stitch(tiling(tile(), tile(row=1)), ["one"])


def test_an_empty_page_is_empty_text() -> None:
    assert stitch(tiling(), []) == ""


def test_lines_go_on_across_a_cut() -> None:
    page = tiling(tile(lines=2), tile(column=1, lines=2))
    assert stitch(page, ["the old\nsun", "bird\nand river"]) == "the old bird\nsun and river"


def test_a_word_that_was_cut_is_joined() -> None:
    page = tiling(tile(lines=2, broken=[1]), tile(column=1, lines=2))
    assert stitch(page, ["the old\nmig", "bird\nrating"]) == "the old bird\nmigrating"


def test_a_line_that_only_one_tile_has_keeps_its_place() -> None:
    page = tiling(tile(lines=3), tile(column=1, lines=1))
    assert stitch(page, ["one\ntwo\nthree", "more"]) == "one more\ntwo\nthree"


def test_a_reader_that_missed_a_line_tears_no_others_apart() -> None:
    page = tiling(tile(lines=3), tile(column=1, lines=3))
    assert stitch(page, ["one\nthree", "a\nb\nc"]) == "one\nthree\na\nb\nc"


def test_equally_many_lines_are_joined_by_number() -> None:
    page = tiling(tile(lines=3), tile(column=1, lines=3))
    assert stitch(page, ["one\ntwo", "a\nb"]) == "one a\ntwo b"


def test_lines_that_two_tiles_show_are_taken_once() -> None:
    below = Overlap(edge=Edge.TOP, neighbour=0, pixels=50, is_shared=True)
    page = tiling(tile(lines=4), tile(row=1, up=50, lines=3, overlaps=[below]))
    assert stitch(page, ["one\ntwo\nthree is here\nfour", "three is hero\nFour\nfive"]) == (
        "one\ntwo\nthree is here\nfour\nfive"
    )


def test_words_that_two_tiles_show_are_taken_once() -> None:
    right = Overlap(edge=Edge.RIGHT, neighbour=1, pixels=50, is_shared=True)
    page = tiling(tile(lines=1, overlaps=[right]), tile(column=1, lines=1))
    assert stitch(page, ["the old bird", "old bird sings"]) == "the old bird sings"


def test_equal_lines_that_no_tile_shares_stay_twice() -> None:
    page = tiling(tile(lines=1), tile(row=1, lines=1))
    assert stitch(page, ["and so on", "and so on"]) == "and so on\nand so on"


def test_a_tile_that_was_not_read_costs_its_own_text() -> None:
    page = tiling(tile(lines=1), tile(row=1, lines=1), tile(row=2, lines=1))
    assert stitch(page, ["one", "", "three"]) == "one\nthree"
