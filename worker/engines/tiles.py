"""Cuts a page into tiles that an eye of 224 pixels can read. Pure functions; worker/engines/stitch.py puts the texts
together.

A page is parted into regions: columns that run through, and what stands above, between and below them. Each region is a
grid. Its rows are cut between lines of text, its columns between words, each line at its own gap, so that one word is
in one tile; what a tile's box holds of a neighbour's words is painted over. Where the ink leaves no gap, neighbours
overlap and both show it. Every pixel of ink is shown by a tile, and a tile without ink is not read.

The page should stand upright and level (worker/engines/orientation.py): lines that climb by more than the space between
them cannot be parted, and are cut with an overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worker.engines.columns import Box, find_lines, find_regions
from worker.engines.grid import fit, side_of
from worker.engines.lettering import SMALL_PRINT, survey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.engines.base import RGB
    from worker.engines.columns import Region
    from worker.engines.grid import Cell
    from worker.engines.lettering import Lettering

EYE = 224
"""Pixels of the model's square view; its patches are 14 x 14."""
LEGIBLE = 7.0
"""Pixels of x-height in the eye: half a patch. Line spacing is about 2.4 x-heights, so a line has a row of patches for
itself, and a letter is about as wide as an x is tall, so two share a patch: 32 letters by 13 lines, about 100 tokens
in the 64 vectors that the model makes of a view. Chinese, Japanese and Korean need LEGIBLE_SQUARE."""
LEGIBLE_SQUARE = 14.0
"""The same for scripts whose characters fill a square: one has the strokes of a syllable, so it gets a patch."""
MAX_TILES = 20
"""A tile costs 65 visual positions and its prompt, and a view of the vision side; the words of the page are generated
once however it is cut. 20 make a page of 11-point text legible, and are what UReader (Ye et al., 2023, arXiv
2310.05126) trains this model's weights on: grids of up to 20 views of 224 pixels."""
MAX_OVERLAP = 0.25
"""Share of the longest side that a tile may have, by which it may lie over a neighbour."""


class Edge(StrEnum):
    LEFT = "left"
    TOP = "top"
    RIGHT = "right"
    BOTTOM = "bottom"


class Span(NamedTuple):
    """A line of text in a tile, from its top to its bottom on the page. `is_broken`: its last word goes on in the tile
    to the right."""

    top: int
    bottom: int
    is_broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """An edge at which a tile's box lies over that of a neighbour (an index into the tiles), by so many pixels.
    `is_shared`: both show the same ink, because no gap was found; otherwise each is painted over what is the
    other's."""

    edge: Edge
    neighbour: int
    pixels: int
    is_shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One piece of the page, read on its own. Its place in reading order is its index in `Tiling.tiles`.

    `row` and `column` are those of the grid of its `region`, whose text is `x_height` pixels tall, 0 if it has none. It
    is seen on a square of `side` pixels of the page. `lines` are the lines of text in it, from top to bottom, none
    where it shows a picture or a rule; `blanks` are what belongs to neighbours, painted over.
    """

    box: Box
    x_height: float
    region: int
    row: int
    column: int
    side: int
    lines: tuple[Span, ...]
    blanks: tuple[Box, ...] = ()
    overlaps: tuple[Overlap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """`page` is the global view; `tiles` are in reading order, none for an empty page. A tile with text reaches over at
    most `reach` x-heights. `x_height` is the page's, in its pixels, None if no text was found; `x_height_seen` is that
    of the tile that shows its text smallest, in pixels of the eye.

    A page that would need more tiles than are allowed has larger ones, and is not `legible`; nor is print that is too
    small in the page itself.
    """

    page: Box
    eye: int
    reach: float
    tiles: tuple[Tile, ...]
    x_height: float | None
    x_height_seen: float | None
    legible: bool


def cut(
    image: RGB,
    *,
    eye: int = EYE,
    max_tiles: int = MAX_TILES,
    legible: float = LEGIBLE,
    max_overlap: float = MAX_OVERLAP,
) -> Tiling:
    """The tiles of a page: as few as show its text `legible` pixels of x-height tall, and at most `max_tiles`.

    Raises ValueError for bounds that no tiling can keep.
    """
    _check(eye=eye, max_tiles=max_tiles, legible=legible, max_overlap=max_overlap)
    page = survey(image)
    regions = find_regions(page, most=max_tiles)
    reach, cells = fit(regions, reach=eye / legible, max_cells=max_tiles, max_overlap=max_overlap)
    whole = Box(0, 0, image.shape[1], image.shape[0])
    tiles = tuple(_scaled(tile, page.scale, within=whole) for tile in _tiles(cells, page, regions))
    seen = [tile.x_height * eye / tile.side for tile in tiles if tile.x_height]
    x_height = None if page.x_height is None else page.x_height * page.scale
    return Tiling(
        page=whole,
        eye=eye,
        reach=reach,
        tiles=tiles,
        x_height=x_height,
        x_height_seen=min(seen, default=None),
        legible=reach <= eye / legible and (x_height or SMALL_PRINT) >= SMALL_PRINT,
    )


def view(image: RGB, tile: Tile) -> RGB:
    """What the model is shown of a tile, (side, side, 3): its box in the middle of a square of the paper's colour,
    without what belongs to its neighbours. Square, because one variant of the model squeezes other shapes and one crops
    them."""
    left, top, right, bottom = tile.box
    shown = image[top:bottom, left:right].copy()
    paper = np.median(shown[:: max(1, shown.shape[0] // 64), :: max(1, shown.shape[1] // 64)], axis=(0, 1))
    for blank in tile.blanks:
        shown[blank.top - top : blank.bottom - top, blank.left - left : blank.right - left] = paper
    square = np.empty((tile.side, tile.side, 3), np.uint8)
    square[:] = paper
    x, y = (tile.side - tile.box.width) // 2, (tile.side - tile.box.height) // 2
    square[y : y + tile.box.height, x : x + tile.box.width] = shown
    return square


def _check(*, eye: int, max_tiles: int, legible: float, max_overlap: float) -> None:
    if max_tiles < 1:
        raise ValueError(f"max_tiles is {max_tiles}; a page has at least one tile")
    if not 0 < legible <= eye / 8:
        raise ValueError(f"legible is {legible} pixels of {eye}; it must be above 0 and at most an eighth of the eye")
    if not 0 <= max_overlap <= 0.5:
        raise ValueError(f"max_overlap is {max_overlap}; it must be between 0 and 0.5 of a tile")


def _tiles(cells: Sequence[Cell], page: Lettering, regions: Sequence[Region]) -> Iterator[Tile]:
    indices = {cell.place: index for index, cell in enumerate(cells)}
    for cell in cells:
        region, row, column = cell.place
        unit = regions[region].unit
        yield Tile(
            box=cell.box,
            x_height=unit,
            region=region,
            row=row,
            column=column,
            side=side_of(cell.box, unit=unit),
            lines=tuple(_lines(cell, page, unit=unit)),
            blanks=cell.blanks,
            overlaps=tuple(_overlaps(cell, cells, indices)),
        )


def _overlaps(cell: Cell, cells: Sequence[Cell], indices: Mapping[tuple[int, int, int], int]) -> Iterator[Overlap]:
    region, row, column = cell.place
    for edge, down, across in _NEIGHBOURS:
        index = indices.get((region, row + down, column + across))
        if index is None:
            continue
        other = cells[index]
        common = _common(cell.box, other.box)
        if common is not None:
            shares = {Edge.LEFT: other.shares, Edge.RIGHT: cell.shares}.get(edge, True)
            pixels = common.width if across else common.height
            yield Overlap(edge=edge, neighbour=index, pixels=pixels, is_shared=shares)


def _scaled(tile: Tile, scale: int, *, within: Box) -> Tile:
    """The same in pixels of the page itself, if it was shrunk."""
    if scale == 1:
        return tile
    return replace(
        tile,
        box=_scaled_box(tile.box, scale, within=within),
        x_height=tile.x_height * scale,
        side=tile.side * scale,
        lines=tuple(Span(top * scale, bottom * scale, is_broken) for top, bottom, is_broken in tile.lines),
        blanks=tuple(_scaled_box(blank, scale, within=within) for blank in tile.blanks),
        overlaps=tuple(replace(overlap, pixels=overlap.pixels * scale) for overlap in tile.overlaps),
    )


def _scaled_box(box: Box, scale: int, *, within: Box) -> Box:
    left, top, right, bottom = (edge * scale for edge in box)
    return Box(left, top, min(right, within.right), min(bottom, within.bottom))


_NEIGHBOURS = ((Edge.LEFT, 0, -1), (Edge.TOP, -1, 0), (Edge.RIGHT, 0, 1), (Edge.BOTTOM, 1, 0))


def _common(one: Box, other: Box) -> Box | None:
    left, top = max(one.left, other.left), max(one.top, other.top)
    right, bottom = min(one.right, other.right), min(one.bottom, other.bottom)
    return Box(left, top, right, bottom) if left < right and top < bottom else None


def _lines(cell: Cell, page: Lettering, *, unit: float) -> Iterator[Span]:
    """The lines of a tile."""
    box = cell.box
    shown = box.of(page.print_).copy()
    for blank in cell.blanks:
        shown[blank.top - box.top : blank.bottom - box.top, blank.left - box.left : blank.right - box.left] = 0
    for top, bottom in find_lines(shown, unit=unit):
        middle = box.top + (top + bottom) // 2
        is_broken = any(first <= middle < last for first, last in cell.broken)
        yield Span(box.top + top, box.top + bottom, is_broken)
