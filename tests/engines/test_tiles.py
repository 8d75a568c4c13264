from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.engines.pages import drawings, pictures, sheets
from tests.engines.typesetting import Sheet, columns, font, x_height
from worker.engines.columns import Box
from worker.engines.lettering import survey, text_height
from worker.engines.level import skew
from worker.engines.orientation import rotate
from worker.engines.tiles import EYE, LEGIBLE, LEGIBLE_SQUARE, MAX_OVERLAP, MAX_TILES, Edge, cut, view
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from worker.engines.base import RGB
    from worker.engines.tiles import Tile, Tiling

RANDOM = np.random.default_rng(7)
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dev"


def shown(tiling: Tiling) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which pixels of the page some tile shows."""
    seen = np.zeros((tiling.page.bottom, tiling.page.right), bool)
    for tile in tiling.tiles:
        one = np.zeros_like(seen)
        one[tile.box.top : tile.box.bottom, tile.box.left : tile.box.right] = True
        for blank in tile.blanks:
            one[blank.top : blank.bottom, blank.left : blank.right] = False
        seen |= one
    return seen


def inked(image: RGB) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """(height, width): the ink that was found on the page, in its own pixels."""
    measured = survey(image)
    ink = measured.ink.repeat(measured.scale, axis=0).repeat(measured.scale, axis=1)
    return ink[: image.shape[0], : image.shape[1]] > 0


def lap(one: Box, other: Box) -> tuple[int, int]:
    """How wide and how high the two lie over each other; 0 and 0 if they do not."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    return (width, height) if min(width, height) > 0 else (0, 0)


def check(image: RGB, tiling: Tiling, *, max_tiles: int = MAX_TILES) -> None:
    """What holds for any page."""
    assert tiling.page == Box(0, 0, image.shape[1], image.shape[0])
    assert len(tiling.tiles) <= max_tiles
    for tile in tiling.tiles:
        check_tile(tile, tiling)
    for one, other in combinations(tiling.tiles, 2):
        check_pair(one, other, tiling)
    if (tiling.x_height or 4) >= 4:
        assert tiling.legible == (tiling.reach <= EYE / LEGIBLE)


def check_tile(tile: Tile, tiling: Tiling) -> None:
    assert 0 <= tile.box.left < tile.box.right <= tiling.page.right
    assert 0 <= tile.box.top < tile.box.bottom <= tiling.page.bottom
    assert tile.side >= max(tile.box.width, tile.box.height)
    assert tile.side <= tiling.reach * tile.x_height or not tile.x_height
    for part in tile.blanks:
        assert tile.box.left <= part.left < part.right <= tile.box.right
        assert tile.box.top <= part.top < part.bottom <= tile.box.bottom
    for line in tile.lines:
        assert tile.box.top <= line.top < line.bottom <= tile.box.bottom


def check_pair(one: Tile, other: Tile, tiling: Tiling) -> None:
    """Only neighbours lie over each other, both say so, and never by more than the bound."""
    width, height = lap(one.box, other.box)
    if not width:
        return
    assert one.region == other.region
    bound = MAX_OVERLAP * tiling.reach * one.x_height
    named = {overlap.edge: overlap for overlap in one.overlaps if tiling.tiles[overlap.neighbour] is other}
    if one.row == other.row:
        assert named[Edge.RIGHT].pixels == width <= bound
    elif one.column == other.column:  # not beside and not above each other: the corner of two such strips
        assert named[Edge.BOTTOM].pixels == height <= bound


def ruled(image: RGB) -> RGB:
    """With a frame, a rule under the title and a rule between columns."""
    page = image.copy()
    page[10:12, 10:-10] = page[-12:-10, 10:-10] = page[10:-10, 10:12] = page[10:-10, -12:-10] = 0
    return page


def photographed(image: RGB) -> RGB:
    """On grey paper that is darker on one side, with grain."""
    shade = np.linspace(0.95, 0.75, image.shape[1])[None, :, None]
    grain = RANDOM.normal(0, 3, (*image.shape[:2], 1))
    return np.clip(image * shade + grain, 0, 255).astype(np.uint8)


def with_picture(image: RGB) -> RGB:
    page = image.copy()
    page[:300, -300:] = RANDOM.integers(0, 255, (300, 300, 3), np.uint8)
    return page


def with_margins(image: RGB) -> RGB:
    return np.pad(image, ((320, 40), (40, 320), (0, 0)), constant_values=255)


def inverted(image: RGB) -> RGB:
    return 255 - image


# --- The height of the text ---


@pytest.mark.parametrize("size", [10, 12, 16, 24, 40, 80])
def test_text_height_is_that_of_an_x(size: int) -> None:
    page = columns(1, width=50 * size, height=30 * size, size=size)
    assert text_height(page.image) == pytest.approx(x_height(size), abs=1 + 0.04 * size)


@pytest.mark.parametrize("spoil", [ruled, photographed, inverted, lambda image: with_picture(with_margins(image))])
def test_text_height_is_found_beside_other_things(spoil: object) -> None:
    assert callable(spoil)
    image = spoil(columns(2, width=1100, height=1300, size=20).image)
    assert text_height(image) == pytest.approx(x_height(20), abs=1.5)


def test_a_title_and_a_footnote_do_not_change_the_typical_height() -> None:
    page = Sheet.blank(1200, 1400)
    page.write(["The", "title"], left=50, baseline=120, size=90)
    page.fill(Box(50, 200, 1150, 1250), size=22, seed=1)
    page.fill(Box(50, 1300, 1150, 1370), size=13, seed=2)
    assert text_height(page.image) == pytest.approx(x_height(22), abs=1)


@pytest.mark.parametrize("columns_", [1, 2, 3])
def test_touching_letters_are_measured_as_if_they_stood_alone(columns_: int) -> None:
    page = columns(columns_, width=1400, height=1200, size=24).image
    smeared = np.minimum(page, np.roll(np.minimum(page, np.roll(page, 1, axis=1)), 2, axis=1))
    assert text_height(smeared) == pytest.approx(x_height(24), abs=2)


@pytest.mark.parametrize(
    "image",
    [
        np.full((500, 400, 3), 255, np.uint8),
        np.zeros((500, 400, 3), np.uint8),
        np.clip(RANDOM.normal(200, 5, (500, 400, 3)), 0, 255).astype(np.uint8),
        np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (500, 400, 3)).copy(),
        ruled(np.full((500, 400, 3), 255, np.uint8)),
        np.zeros((1, 1, 3), np.uint8),
    ],
    ids=["white", "black", "grain", "gradient", "a frame alone", "one pixel"],
)
def test_there_is_no_text_height_without_text(image: RGB) -> None:
    assert text_height(image) is None


# --- The tiles ---

PAGES = {
    "one column": lambda: columns(1, width=1000, height=1400, size=20, title="A title over all of it"),
    "two columns": lambda: columns(2, width=1200, height=1500, size=18, title="A title over all of it"),
    "three columns": lambda: columns(3, width=1500, height=1500, size=16),
    "wide": lambda: columns(1, width=2600, height=700, size=24),
    "tall": lambda: columns(2, width=700, height=2000, size=14),
    "receipt": lambda: columns(1, width=300, height=3000, size=22),
}


@pytest.mark.parametrize("name", PAGES)
def test_all_ink_is_shown_within_the_bounds(name: str) -> None:
    page = PAGES[name]()
    tiling = cut(page.image)
    check(page.image, tiling)
    assert shown(tiling)[page.image.min(axis=2) < 128].all()


@settings(max_examples=25, derandomize=True)
@given(page=sheets(), max_tiles=st.integers(1, 40))
def test_every_letter_of_any_page_is_shown_within_the_bounds(page: Sheet, max_tiles: int) -> None:
    tiling = cut(page.image, max_tiles=max_tiles)
    check(page.image, tiling, max_tiles=max_tiles)
    assert shown(tiling)[page.ink].all()


@settings(max_examples=25, derandomize=True)
@given(pages=drawings(), max_tiles=st.integers(1, 40))
def test_every_stroke_of_a_drawing_is_shown_within_the_bounds(pages: tuple[RGB, RGB], max_tiles: int) -> None:
    image, blank = pages
    tiling = cut(image, max_tiles=max_tiles)
    check(image, tiling, max_tiles=max_tiles)
    contrast = np.abs(image.astype(int) - blank).max(axis=2)
    assert shown(tiling)[contrast > contrast.max() / 2].all()


@settings(max_examples=25, derandomize=True)
@given(image=pictures(), max_tiles=st.integers(1, 40))
def test_all_ink_of_anything_is_shown_within_the_bounds(image: RGB, max_tiles: int) -> None:
    tiling = cut(image, max_tiles=max_tiles)
    check(image, tiling, max_tiles=max_tiles)
    assert shown(tiling)[inked(image)].all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((1400, 1000, 3), 255, np.uint8),
        np.full((1400, 1000, 3), 30, np.uint8),
        np.clip(RANDOM.normal(235, 3, (700, 500, 3)), 0, 255).astype(np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.full((1, 900, 3), 255, np.uint8),
        np.full((900, 1, 3), 255, np.uint8),
    ],
    ids=["white", "dark", "grain", "one pixel", "one row", "one column"],
)
def test_an_empty_page_has_no_tiles(image: RGB) -> None:
    tiling = cut(image)
    assert tiling.tiles == ()
    assert tiling.legible
    check(image, tiling)


def test_paper_between_two_paragraphs_is_not_read() -> None:
    page = Sheet.blank(1000, 3000)
    page.fill(Box(40, 40, 960, 300), size=20, seed=1)
    page.fill(Box(40, 2700, 960, 2960), size=20, seed=2)
    tiling = cut(page.image)
    assert {row for tile in tiling.tiles for row in (tile.box.top // 1500,)} == {0, 1}
    assert all(tile.box.height < 300 for tile in tiling.tiles)


def test_specks_of_dust_make_no_tiles() -> None:
    page = columns(1, width=1000, height=600, size=20)
    spotted = np.pad(page.image, ((600, 600), (0, 0), (0, 0)), constant_values=255)
    for y, x in RANDOM.integers(30, 550, (40, 2)):
        spotted[y : y + 2, x : x + 2] = 0
    clean, spotted_tiling = cut(page.image), cut(spotted)
    assert [tile.lines for tile in spotted_tiling.tiles] == [
        tuple(line._replace(top=line.top + 600, bottom=line.bottom + 600) for line in tile.lines)
        for tile in clean.tiles
    ]


def test_faint_pencil_is_shown() -> None:
    page = Sheet.blank(1000, 900, paper=250)
    page.fill(Box(40, 40, 960, 300), size=24, seed=1)
    page.write(["a", "note", "in", "pencil"], left=400, baseline=820, size=30, shade=225)
    assert shown(cut(page.image))[800:820][page.image[800:820].min(axis=2) < 232].all()


def test_one_word_is_one_tile_and_not_blown_up() -> None:
    page = Sheet.blank(800, 1000)
    page.write(["page"], left=380, baseline=960, size=24)
    (tile,) = cut(page.image).tiles
    assert tile.box.width < 80
    assert tile.side >= 8 * x_height(24) - 8


def test_one_line_is_cut_between_words() -> None:
    page = Sheet.blank(2000, 80)
    words = "the notebook and the photograph gathered through winter evenings near the river"
    page.write(words.split(" "), left=20, baseline=50, size=44)
    tiling = cut(page.image)
    assert len(tiling.tiles) > 1
    assert not any(line.is_broken for tile in tiling.tiles for line in tile.lines)
    assert " ".join(page.read(tile) for tile in tiling.tiles) == page.text


def test_a_poster_needs_one_tile() -> None:
    page = Sheet.blank(3000, 4000)
    page.write(["Owls"], left=300, baseline=1500, size=900)
    page.write(["by", "night"], left=300, baseline=2600, size=500)
    tiling = cut(page.image)
    assert len(tiling.tiles) == 1
    assert tiling.legible
    assert shown(tiling)[page.image.min(axis=2) < 128].all()


@pytest.mark.parametrize("count", [2, 3])
def test_columns_are_read_one_after_the_other(count: int) -> None:
    page = columns(count, width=500 * count, height=1200, size=18)
    tiling = cut(page.image)
    assert [tile.region for tile in tiling.tiles] == sorted(tile.region for tile in tiling.tiles)
    assert {tile.region for tile in tiling.tiles} == set(range(count))
    edges = [max(tile.box.right for tile in tiling.tiles if tile.region == n) for n in range(count)]
    assert edges == sorted(edges)


def test_a_title_over_columns_comes_first() -> None:
    page = columns(2, width=1200, height=1200, size=18, title="A title that runs over both of the columns below it")
    first = cut(page.image).tiles[0]
    assert first.box.bottom < 40 + 4 * 18
    assert first.region == 0


def test_rows_of_a_table_stay_together() -> None:
    page = Sheet.blank(1400, 900)
    for n in range(20):
        for left, word in ((40, "station"), (500, "feather"), (800, "old"), (1200, "ring")):
            page.write([word], left=left, baseline=60 + 40 * n, size=20)
    tiling = cut(page.image)
    assert {tile.region for tile in tiling.tiles} == {0}
    assert not any(tile.overlaps for tile in tiling.tiles)


def test_rows_are_cut_between_lines() -> None:
    page = columns(1, width=300, height=2600, size=20)
    tiles = cut(page.image).tiles
    assert len(tiles) > 2
    assert not any(tile.overlaps for tile in tiles)
    assert sum(len(tile.lines) for tile in tiles) == len(page.lines)


def test_where_no_row_is_free_each_line_is_whole_in_one_of_two_tiles() -> None:
    page = columns(1, width=300, height=2600, size=20, margin=60)
    for y in range(40, 2560, 14):  # a squiggle down the margin joins all lines
        page.pen.line([(20 + y % 4, y), (34, y + 16)], fill=(0, 0, 0), width=3)
    tiling = cut(page.image)
    check(page.image, tiling)
    shared = [overlap for tile in tiling.tiles for overlap in tile.overlaps if overlap.edge == Edge.BOTTOM]
    assert shared and all(overlap.is_shared for overlap in shared)
    read = {line for tile in tiling.tiles for line in page.read(tile).splitlines()}
    assert read >= set(page.text.splitlines())


def test_small_type_beside_large_is_seen_in_smaller_tiles() -> None:
    page = Sheet.blank(1600, 1500)
    page.write(["Owls", "count", "by", "night"], left=40, baseline=160, size=150)
    page.fill(Box(40, 260, 770, 1460), size=18, seed=1)
    page.fill(Box(830, 260, 1560, 1460), size=18, seed=2)
    tiles = cut(page.image).tiles
    assert tiles[0].side > 1.5 * max(tile.side for tile in tiles if tile.region)


def test_a_page_that_needs_more_tiles_gets_larger_ones_and_says_so() -> None:
    page = columns(1, width=1500, height=1500, size=14).image
    few, many = cut(page), cut(page, max_tiles=200)
    assert many.legible and many.x_height_seen is not None and many.x_height_seen >= LEGIBLE
    assert not few.legible and few.x_height_seen is not None and few.x_height_seen < LEGIBLE
    assert len(few.tiles) <= MAX_TILES < len(many.tiles)


def test_scripts_of_square_characters_get_more_tiles() -> None:
    page = columns(1, width=700, height=500, size=30).image
    tiling = cut(page, legible=LEGIBLE_SQUARE)
    assert tiling.x_height_seen is not None and tiling.x_height_seen >= LEGIBLE_SQUARE
    assert len(tiling.tiles) > len(cut(page).tiles)


def test_print_too_small_for_the_page_itself_is_not_legible() -> None:
    page = columns(1, width=1500, height=1200, size=24).image
    thumbnail = np.asarray(Image.fromarray(page).resize((300, 240), Image.Resampling.BOX))
    assert not cut(thumbnail).legible


def test_a_large_page_is_cut_as_a_small_one() -> None:
    page = columns(2, width=1200, height=1500, size=18)
    large = np.asarray(Image.fromarray(page.image).resize((3300, 4125), Image.Resampling.BICUBIC))
    small_tiling, tiling = cut(page.image), cut(large)
    check(large, tiling)
    assert shown(tiling)[large.min(axis=2) < 100].all()
    assert len(tiling.tiles) == len(small_tiling.tiles)
    assert tiling.x_height == pytest.approx(2.75 * x_height(18), abs=3)


def test_twelve_megapixels_are_cut_in_well_below_a_second() -> None:
    page = columns(2, width=1200, height=1500, size=18, title="A title over all of it")
    large = np.asarray(Image.fromarray(page.image).resize((3100, 3875), Image.Resampling.BICUBIC))
    began = time.thread_time()
    cut(large)
    # The time of this thread alone, because others may use the machine. 0.2 s on one core of an AMD EPYC.
    assert time.thread_time() - began < 0.9


@pytest.mark.parametrize(
    ("bounds", "name"),
    [({"max_tiles": 0}, "max_tiles"), ({"legible": 0.0}, "legible"), ({"legible": 60.0}, "legible"),
     ({"max_overlap": 0.8}, "max_overlap")],
)  # fmt: skip
def test_bounds_that_cannot_be_kept_are_refused(bounds: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        cut(np.full((10, 10, 3), 255, np.uint8), **bounds)  # type: ignore[arg-type]


# --- What the model is shown ---


def test_a_view_is_a_square_of_the_tile_and_paper() -> None:
    page = columns(1, width=900, height=500, size=24)
    for tile in cut(page.image).tiles:
        square = view(page.image, tile)
        assert square.shape == (tile.side, tile.side, 3)
        assert square[:2].min() > 200 and square[:, :2].min() > 200
        assert square.min() < 30


def test_a_view_shows_no_ink_of_a_neighbour() -> None:
    page = columns(1, width=1000, height=700, size=22)
    tiles = cut(page.image).tiles
    assert any(tile.blanks for tile in tiles)
    ink = sum(int((view(page.image, tile) < 128).sum()) for tile in tiles)
    assert ink == int((page.image < 128).sum())


def test_the_paper_of_a_view_is_that_of_the_page() -> None:
    page = Sheet.blank(900, 300)
    page.picture.paste((30, 60, 120), (0, 0, 900, 300))
    page.pen.text((40, 100), "white on blue", font=font(40), fill=(255, 255, 255))
    (tile,) = cut(page.image).tiles
    assert view(page.image, tile)[0, 0].tolist() == [30, 60, 120]


# --- Pages that do not lie straight ---


@pytest.mark.parametrize("degrees", [-4.0, -1.2, 0.0, 0.5, 2.7])
def test_skew_is_found(degrees: float) -> None:
    page = columns(1, width=1000, height=1300, size=20).image
    turned, _ = rotate(page, degrees=degrees)
    assert skew(turned) == pytest.approx(degrees, abs=0.25)


def test_a_page_without_text_has_no_skew() -> None:
    assert skew(np.full((300, 300, 3), 255, np.uint8)) == 0.0


@pytest.mark.parametrize("degrees", [0.3, 1.0, 3.0])
def test_a_skewed_page_is_shown_whole(degrees: float) -> None:
    page, _ = rotate(columns(2, width=1200, height=1400, size=20).image, degrees=degrees)
    tiling = cut(page)
    check(page, tiling)
    assert shown(tiling)[page.min(axis=2) < 100].all()


# --- Real documents ---

TYPICAL_SIZES = {
    "latex_4pages": 9.96,
    "two_column_latex": 9.96,
    "multi_page_history": 12.0,
    "code_and_formula": 10.0,
    "wikipedia_edgar": 12.0,
}


def rendered(name: str, *, side: int = 2000) -> tuple[RGB, float]:
    """The first page of a shared PDF, and its pixels per point."""
    path = SHARED / "pdf_born_digital" / f"{name}.pdf"
    if not path.is_file():
        pytest.skip(f"the shared test files are not at {SHARED}")
    with pymupdf.open(path) as document:
        page = document[0]
        scale = side / max(page.rect.width, page.rect.height)
        pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False, colorspace=pymupdf.csRGB)
        image = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()
    return image, scale


@pytest.mark.shared
@pytest.mark.parametrize("name", TYPICAL_SIZES)
def test_text_height_of_real_documents(name: str) -> None:
    image, scale = rendered(name)
    height = text_height(image)
    assert height is not None
    assert 0.40 < height / (scale * TYPICAL_SIZES[name]) < 0.56


@pytest.mark.shared
@pytest.mark.parametrize("name", [*TYPICAL_SIZES, "fbi_background_checks_table", "debian_refcard_zh_cn"])
def test_real_documents_are_shown_whole_within_the_bounds(name: str) -> None:
    image, _ = rendered(name)
    tiling = cut(image)
    check(image, tiling)
    assert shown(tiling)[survey(image).ink > 0].all()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["meditations.jpg", "who_poster.png", "phototest.tif", "bank_statement.png"])
def test_real_photographs_and_scans_are_shown_whole_within_the_bounds(name: str) -> None:
    path = SHARED / "images" / name
    if not path.is_file():
        pytest.skip(f"the shared test files are not at {SHARED}")
    with Image.open(path) as picture:
        image = np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).copy()
    tiling = cut(image)
    check(image, tiling)
    assert shown(tiling)[inked(image)].all()


@pytest.mark.shared
def test_a_page_of_two_columns_is_read_column_by_column() -> None:
    image, _ = rendered("two_column_latex")
    tiles = cut(image).tiles
    middle = image.shape[1] / 2
    sides = [tile.box.left + tile.box.width / 2 > middle for tile in tiles if tile.region in (1, 2)]
    assert sides == sorted(sides) and len(set(sides)) == 2
