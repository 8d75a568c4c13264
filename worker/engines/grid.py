"""Lays a grid over each region of a page, with as few cells as keep to a limit. Pure functions.

Rows of the grid are bands packed together, so they are cut between lines of text. Columns are cut in gaps that run
through all bands, as in a table; or else each band at a gap of its own near the ideal place, so that a word is in one
cell. A band that is taller than a cell, or has no gap there, is shown by both neighbours where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from worker.engines.columns import MAX_LINE, Box, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.engines.columns import Band, Region

_T = TypeVar("_T")

# In x-heights.
MARGIN = 0.5
"""Of paper around a cell in the eye."""
MIN_SIDE = 8.0
"""A page number alone is not blown up to fill the eye: two patches to an x-height are enough."""
MIN_WANDER = 6.0
"""A seam has this much room at least to find a gap between words; English words are 5 letters long, one in ten above
8."""
GAP_WORTH, MAX_GAP = 2.0, 4.0
"""A gap that is wider by one x-height is taken from two further away: it may part the columns of a table."""
MAX_STROKE = 0.35
"""Where a line of text has no gap, it may be cut through one thin stroke. What is taller is not one line."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A place in a grid that has ink. `place` is region, row, column. `blanks` are its neighbours' ink in its box.
    `broken` are the rows on which its last word goes on to the right; `shares` says that what stands at its right edge
    is in the cell to the right too."""

    place: tuple[int, int, int]
    box: Box
    blanks: tuple[Box, ...]
    broken: tuple[tuple[int, int], ...]
    shares: bool


@dataclass(frozen=True, slots=True)
class _Seam:
    """Where a band is cut: the left cell ends at `end`, the right one begins at `begin`, further left if both show
    what is between."""

    end: int
    begin: int
    is_broken: bool = False


@dataclass(frozen=True, slots=True)
class _Piece:
    """A band in a row of cells, or a part of a taller one. `is_shared`: it begins with what the piece above ends
    with."""

    number: int
    top: int
    bottom: int
    is_shared: bool = False


def fit(regions: Sequence[Region], *, reach: float, max_cells: int, max_overlap: float) -> tuple[float, list[Cell]]:
    """The cells in reading order, and how many x-heights they are wide and high at most: `reach`, or as little more as
    keeps them from being too many. At most as many regions as cells are given."""
    cells = _cells(regions, reach=reach, max_overlap=max_overlap)
    if len(cells) <= max_cells:
        return reach, cells
    low, high = reach, max(max(region.box.width, region.box.height) / (region.unit or 1) for region in regions) + 2
    cells = _cells(regions, reach=high, max_overlap=max_overlap)
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        tried = _cells(regions, reach=middle, max_overlap=max_overlap)
        if len(tried) <= max_cells:
            high, cells = middle, tried
        else:
            low = middle
    return high, cells


def side_of(box: Box, *, unit: float) -> int:
    """Pixels of the square on which a cell is seen."""
    return max(box.width, box.height, round((MIN_SIDE - 2 * MARGIN) * unit)) + 2 * int(MARGIN * unit)


def _cells(regions: Sequence[Region], *, reach: float, max_overlap: float) -> list[Cell]:
    return [
        cell
        for number, region in enumerate(regions)
        for cell in _grid(region, number=number, limit=_limit(region, reach), max_overlap=max_overlap)
    ]


def _limit(region: Region, reach: float) -> int:
    """Pixels of a cell's box at most. A region without text is one cell."""
    if not region.unit:
        return max(region.box.width, region.box.height)
    return max(1, int((reach - 2 * MARGIN) * region.unit))


def _grid(region: Region, *, number: int, limit: int, max_overlap: float) -> Iterator[Cell]:
    overlap = int(max_overlap * limit)
    seams = _seams(region, limit=limit, overlap=overlap)
    rows = _evenly(lambda limit: _rows(region, limit=limit, overlap=overlap), limit=limit) or ()
    for row, pieces in enumerate(rows):
        for column in range(len(seams) + 1):
            cell = _cell(region, pieces, seams, place=(number, row, column))
            if cell is not None:
                yield cell


def _evenly(pack: Callable[[int], Sequence[_T] | None], *, limit: int) -> Sequence[_T] | None:
    """As few as the limit allows, packed with the lowest limit that makes no more."""
    packed = pack(limit)
    low, high = limit // 2, limit
    while packed and high - low > max(1, limit // 50):
        middle = (low + high) // 2
        tried = pack(middle)
        if tried is not None and len(tried) == len(packed):
            high, packed = middle, tried
        else:
            low = middle
    return packed


def _rows(region: Region, *, limit: int, overlap: int) -> list[list[_Piece]]:
    rows: list[list[_Piece]] = []
    for number, band in enumerate(region.bands):
        for piece in _pieces(band, number=number, limit=limit, overlap=min(overlap, limit // 2)):
            if rows and not piece.is_shared and piece.bottom - rows[-1][0].top <= limit:
                rows[-1].append(piece)
            else:
                rows.append([piece])
    return rows


def _pieces(band: Band, *, number: int, limit: int, overlap: int) -> Iterator[_Piece]:
    """The band, or parts of it that are no taller than the limit, each with the end of the one above."""
    if band.height <= limit:
        yield _Piece(number, band.top, band.bottom)
        return
    shared = overlap if band.print_.any() else 0
    count = -(-(band.height - shared) // (limit - shared))
    step = (band.height - shared) / count
    for n in range(count):
        top, bottom = band.top + round(n * step), min(band.bottom, band.top + round((n + 1) * step) + shared)
        yield _Piece(number, top, bottom, is_shared=n > 0)


def _seams(region: Region, *, limit: int, overlap: int) -> list[list[_Seam]]:
    """From left to right, each with a cut per band: in gaps that run through all of them, if that makes no more columns
    than to cut evenly does."""
    even = _even_cuts(region, limit=limit, overlap=overlap)
    through = _evenly(lambda limit: _through_cuts(region, limit=limit), limit=limit)
    if through is not None and len(through) <= len(even):
        return [[_Seam(cut, cut)] * len(region.bands) for cut in through]
    room = int(min((limit - region.box.width / (len(even) + 1)) / 2, overlap / 2))
    return [[_cut(band, region, ideal=cut, room=room) for band in region.bands] for cut in even]


def _even_cuts(region: Region, *, limit: int, overlap: int) -> list[int]:
    width = region.box.width
    if width <= limit:
        return []
    wander = min(overlap, round(MIN_WANDER * region.unit))
    count = -(-(width - wander) // (limit - wander))
    return [region.box.left + round(width * n / count) for n in range(1, count)]


def _through_cuts(region: Region, *, limit: int) -> list[int] | None:
    """In gaps between words that run through all bands; None if what stands between two does not fit.

    Where rules run through such a gap, the cell to its left goes on to the cut, and the next begins there.
    """
    cuts: list[int] = []
    begin = 0
    for left, right in _blocks(region):
        if right - begin > limit:
            cut = min(left, begin + limit)
            begin = cut if region.ink[cut:left].any() else left
            cuts.append(region.box.left + cut)
        if right - begin > limit:
            return None
    return cuts if region.box.width - begin <= limit else None


def _blocks(region: Region) -> list[tuple[int, int]]:
    """What stands between gaps that are as wide as one between words."""
    least = region.space * region.unit
    blocks: list[tuple[int, int]] = []
    for left, right in runs(region.print_).tolist():
        if blocks and left - blocks[-1][1] < least:
            blocks[-1] = (blocks[-1][0], right)
        else:
            blocks.append((left, right))
    return blocks


def _cut(band: Band, region: Region, *, ideal: int, room: int) -> _Seam:
    gap = _gap(band, region, ideal=ideal, room=room)
    if gap is not None:
        return gap
    stroke = _thin_stroke(band, region, ideal=ideal, room=room)
    if stroke is not None:
        return _Seam(stroke, stroke, is_broken=True)
    return _Seam(ideal + room, ideal - room)


def _gap(band: Band, region: Region, *, ideal: int, room: int) -> _Seam | None:
    """In a gap between words within `room` of the ideal place, or else between letters: a near and wide one."""
    low, high = ideal - room - region.box.left, ideal + room - region.box.left
    start, end = band.gaps[(band.gaps[:, 0] <= high) & (band.gaps[:, 1] >= low)].T
    if not start.size:
        return None
    width = end - start
    is_space, is_between_letters = region.kinds_of_gaps(width, band)
    fits = next((kind for kind in (is_space, is_between_letters) if kind.any()), ~is_space)
    at = np.clip((start + end) // 2, low, high)
    cost = np.abs(at - (low + high) / 2) - GAP_WORTH * np.minimum(width, MAX_GAP * region.unit)
    best = int(np.argmin(np.where(fits, cost, np.inf)))
    cut = region.box.left + int(at[best])
    return _Seam(cut, cut, is_broken=not is_space[best])


def _thin_stroke(band: Band, region: Region, *, ideal: int, room: int) -> int | None:
    if band.height > MAX_LINE * region.unit:
        return None
    low = ideal - room - region.box.left
    window = band.print_[low : low + 2 * room + 1]
    at = int(np.argmin(window))
    return region.box.left + low + at if window[at] <= MAX_STROKE * region.unit else None


def _cell(
    region: Region, pieces: Sequence[_Piece], seams: Sequence[Sequence[_Seam]], *, place: tuple[int, int, int]
) -> Cell | None:
    """What stands at a place of the grid; None if there is no ink."""
    column = place[2]
    owned = [own for piece in pieces if (own := _owned(region, seams, piece, column=column))]
    if not owned:
        return None
    box = Box(min(own.left for own in owned), owned[0].top, max(own.right for own in owned), owned[-1].bottom)
    cuts = [(piece, seams[column][piece.number]) for piece in pieces] if column < len(seams) else []
    return Cell(
        place=place,
        box=box,
        blanks=tuple(blank for piece in pieces for blank in _blanks(region, seams, piece, box, column=column)),
        broken=tuple((piece.top, piece.bottom) for piece, seam in cuts if seam.is_broken),
        shares=any(seam.end > seam.begin for _, seam in cuts),
    )


def _extent(region: Region, seams: Sequence[Sequence[_Seam]], piece: _Piece, *, column: int) -> tuple[int, int]:
    """From where to where a column of the grid has a piece."""
    left = seams[column - 1][piece.number].begin if column else region.box.left
    right = seams[column][piece.number].end if column < len(seams) else region.box.right
    return left, right


def _owned(region: Region, seams: Sequence[Sequence[_Seam]], piece: _Piece, *, column: int) -> Box | None:
    """The ink of a piece in a column of the grid."""
    band = region.bands[piece.number]
    left, right = _extent(region, seams, piece, column=column)
    columns = slice(left - region.box.left, right - region.box.left)
    if not band.ink[columns].any():
        return None
    ink = np.ascontiguousarray(band.pixels[piece.top - band.top : piece.bottom - band.top, columns])
    x, y, width, height = cv2.boundingRect(ink)
    return Box(left + x, piece.top + y, left + x + width, piece.top + y + height) if width else None


def _blanks(region: Region, seams: Sequence[Sequence[_Seam]], piece: _Piece, box: Box, *, column: int) -> Iterator[Box]:
    """What a cell's box holds of its neighbours' ink on the rows of a piece."""
    top, bottom = max(piece.top, box.top), min(piece.bottom, box.bottom)
    if top >= bottom:
        return
    left, right = _extent(region, seams, piece, column=column)
    ink = region.bands[piece.number].ink
    for start, end in ((box.left, min(left, box.right)), (max(right, box.left), box.right)):
        if start < end and ink[start - region.box.left : end - region.box.left].any():
            yield Box(start, top, end, bottom)
