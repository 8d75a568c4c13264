"""Lays a grid over each region of a page, with as few cells as keep to a limit. Pure functions.

Rows of the grid are bands packed together, so they are cut between lines of text. Columns are cut in gaps that run
through all bands, as in a table; or else along a seam, which takes for each line a gap of its own near the ideal place,
so that a word is in one cell. A band that is taller than a cell is cut in each column between lines of its own, and
what has no gap is shown by both neighbours where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

from worker.engines.columns import LINE_HEIGHT, MAX_LINE, Box, find_lines, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.engines.columns import Region
    from worker.engines.lettering import Flags, Ints, Mask

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


@dataclass(frozen=True, slots=True, eq=False)
class _Seam:
    """Where each row of a region is cut, (row,): the left cell ends at `ends`, the right one begins at `begins`,
    further left if both show what is between. `is_broken`: through a word."""

    ends: Ints
    begins: Ints
    is_broken: Flags


class _Step(NamedTuple):
    """Rows that a strip has from `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True, eq=False)
class _Strip:
    """A column of the grid, from column `left` of the region: what it shows of the region's ink and print."""

    left: int
    ink: Mask
    print_: Mask
    steps: tuple[_Step, ...]
    seam: _Seam | None
    """At its right edge."""


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
    rows = _evenly(lambda limit: _rows(region, limit=limit, overlap=overlap), limit=limit) or ()
    strips = _strips(region, _seams(region, limit=limit, overlap=overlap))
    columns = [_parted(strip, rows, unit=region.unit) for strip in strips]
    for row in range(len(rows)):
        for column, strip in enumerate(strips):
            cell = _cell(region, strip, columns[column][row], place=(number, row, column))
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


def _rows(region: Region, *, limit: int, overlap: int) -> list[tuple[int, int]]:
    """Of the grid, as first row of the region and the first below it. They lie over each other in tall bands."""
    rows: list[tuple[int, int]] = []
    for band in region.bands:
        for number, (top, bottom) in enumerate(_parts(region, band, limit=limit, overlap=min(overlap, limit // 2))):
            if rows and not number and bottom - rows[-1][0] <= limit:
                rows[-1] = (rows[-1][0], bottom)
            else:
                rows.append((top, bottom))
    return rows


def _parts(region: Region, band: tuple[int, int], *, limit: int, overlap: int) -> Iterator[tuple[int, int]]:
    """The band, or parts of it that are no taller than the limit, each with the end of the one above."""
    first, last = band
    if last - first <= limit:
        yield band
        return
    shared = overlap if region.print_[first:last].any() else 0
    count = -(-(last - first - shared) // (limit - shared))
    step = (last - first - shared) / count
    for n in range(count):
        yield first + round(n * step), min(last, first + round((n + 1) * step) + shared)


def _seams(region: Region, *, limit: int, overlap: int) -> list[_Seam]:
    """From left to right: in gaps that run through all bands, if that makes no more columns than to cut evenly does."""
    cuts, room = _ideal_cuts(region, limit=limit, overlap=overlap)
    through = _evenly(lambda limit: _through_cuts(region, limit=limit), limit=limit)
    if through is not None and len(through) <= len(cuts):
        return [_straight(region, at=cut) for cut in through]
    return [_wound(region, ideal=cut, room=room) for cut in cuts]


def _ideal_cuts(region: Region, *, limit: int, overlap: int) -> tuple[list[int], int]:
    """Where to cut into as few columns as the limit allows, and how far a seam may leave these places: evenly, or where
    half of the lines have a wide gap."""
    width = region.box.width
    if width <= limit:
        return [], 0
    wander = min(overlap, round(MIN_WANDER * region.unit)) // 2 * 2
    step = limit - wander
    count = -(-(width - wander) // step)
    cuts: list[int] = []
    for n in range(1, count):
        low, high = width - (count - n) * step - wander // 2, (cuts[-1] if cuts else wander // 2) + step
        even = min(max(round(width * n / count), low), high)
        wide = max(1, low) + np.flatnonzero(2 * region.openness[max(1, low) : high + 1] >= len(region.sizes))
        cuts.append(int(min(wide, key=lambda x: abs(int(x) - even), default=even)))
    edges = [wander // 2, *cuts, width - wander // 2]
    widest = max(end - begin for begin, end in pairwise(edges))
    return cuts, min(overlap, limit - widest) // 2


def _through_cuts(region: Region, *, limit: int) -> list[int] | None:
    """In gaps between words that run through all bands; None if what stands between two does not fit.

    Where rules run through such a gap, the cell to its left goes on to the cut, and the next begins there.
    """
    cuts: list[int] = []
    begin = 0
    for left, right in region.blocks:
        if right - begin > limit:
            cut = min(left, begin + limit)
            begin = cut if region.is_inked[cut:left].any() else left
            cuts.append(cut)
        if right - begin > limit:
            return None
    return cuts if region.box.width - begin <= limit else None


def _straight(region: Region, *, at: int) -> _Seam:
    cuts = np.full(region.box.height, at, np.int32)
    return _Seam(cuts, cuts.copy(), np.zeros(len(cuts), np.bool_))


def _wound(region: Region, *, ideal: int, room: int) -> _Seam:
    """A seam that leaves the ideal place by up to `room`, in each line by itself."""
    seam = _straight(region, at=ideal)
    for band in region.bands:
        for top, bottom in _lines_at(region, *band, ideal=ideal, room=room):
            rows = slice(top, bottom)
            seam.ends[rows], seam.begins[rows], seam.is_broken[rows] = _cut(region, top, bottom, ideal=ideal, room=room)
    return seam


def _lines_at(region: Region, first: int, last: int, *, ideal: int, room: int) -> list[tuple[int, int]]:
    """The band, if it has a gap between words near the ideal place; or else what lines it has there."""
    gap = _gap(region, first, last, ideal=ideal, room=room)
    if gap is not None and gap[1]:
        return [(first, last)]
    lines: list[tuple[int, int]] = []
    for top, bottom in find_lines(region.print_[first:last, ideal - room : ideal + room + 1], unit=region.unit):
        if lines and first + bottom - lines[-1][0] <= LINE_HEIGHT * region.unit:  # a character of two parts
            lines[-1] = (lines[-1][0], first + bottom)
        else:
            lines.append((first + top, first + bottom))
    return lines


def _cut(region: Region, top: int, bottom: int, *, ideal: int, room: int) -> tuple[int, int, bool]:
    """End, beginning and whether it is through a word: in a gap, through a thin stroke, or both show what is there."""
    gap = _gap(region, top, bottom, ideal=ideal, room=room)
    if gap is not None:
        at, is_space = gap
        return at, at, not is_space
    strokes = region.print_[top:bottom, ideal - room : ideal + room + 1].sum(axis=0)
    if bottom - top <= MAX_LINE * region.unit and strokes.min() <= MAX_STROKE * region.unit:
        at = ideal - room + int(np.argmin(strokes))
        return at, at, True
    return ideal + room, ideal - room, False


def _gap(region: Region, top: int, bottom: int, *, ideal: int, room: int) -> tuple[int, bool] | None:
    """A place in a gap between words within `room` of the ideal place, and True; or else between letters, and False.
    It is near and wide."""
    start, end = runs(region.print_[top:bottom].max(axis=0) == 0).T
    near = (start <= ideal + room) & (end >= ideal - room)
    start, end = start[near], end[near]
    if not start.size:
        return None
    width = end - start
    is_space, is_between_letters = region.kinds_of_gaps(width, top, bottom)
    fits = next((kind for kind in (is_space, is_between_letters) if kind.any()), ~is_space)
    at = np.clip((start + end) // 2, ideal - room, ideal + room)
    cost = np.abs(at - ideal) - GAP_WORTH * np.minimum(width, MAX_GAP * region.unit)
    best = int(np.argmin(np.where(fits, cost, np.inf)))
    return int(at[best]), bool(is_space[best])


def _strips(region: Region, seams: Sequence[_Seam]) -> list[_Strip]:
    edges = [None, *seams, None]
    return [_strip(region, left, right) for left, right in pairwise(edges)]


def _strip(region: Region, left: _Seam | None, right: _Seam | None) -> _Strip:
    begins = np.zeros(region.box.height, np.int32) if left is None else left.begins
    ends = np.full(region.box.height, region.box.width, np.int32) if right is None else right.ends
    first, last = int(begins.min()), int(ends.max())
    changes = np.flatnonzero(np.diff(begins) | np.diff(ends)) + 1
    rows = pairwise([0, *changes.tolist(), region.box.height])
    steps = tuple(_Step(top, bottom, int(begins[top]), int(ends[top])) for top, bottom in rows)
    ink, print_ = region.ink[:, first:last].copy(), region.print_[:, first:last].copy()
    for step in steps:
        for mask in (ink, print_):
            mask[step.top : step.bottom, : step.left - first] = 0
            mask[step.top : step.bottom, step.right - first :] = 0
    return _Strip(first, ink, print_, steps, right)


def _parted(strip: _Strip, rows: Sequence[tuple[int, int]], *, unit: float) -> list[tuple[int, int]]:
    """The rows of the grid; where they lie over each other, they are parted between lines of this strip, if any."""
    parted = list(rows)
    for number, ((top, bottom), (next_top, next_bottom)) in enumerate(pairwise(rows)):
        cut = _between_lines(strip.print_[top:next_bottom], next_top - top, bottom - top, unit=unit)
        if next_top < bottom and cut is not None:
            parted[number] = (parted[number][0], top + cut)
            parted[number + 1] = (top + cut, next_bottom)
    return parted


def _between_lines(print_: Mask, low: int, high: int, *, unit: float) -> int | None:
    """The row between lines that is nearest to the middle of these."""
    lines = [(0, 0), *find_lines(print_, unit=unit), (len(print_), len(print_))]
    cuts = [max(low, above) for (_, above), (below, _) in pairwise(lines) if above <= high and below >= low]
    return min(cuts, key=lambda cut: abs(2 * cut - low - high), default=None)


def _cell(region: Region, strip: _Strip, rows: tuple[int, int], *, place: tuple[int, int, int]) -> Cell | None:
    """What stands at a place of the grid; None if there is no ink."""
    top, bottom = rows
    x, y, width, height = cv2.boundingRect(strip.ink[top:bottom])
    if not width:
        return None
    box = Box(strip.left + x, top + y, strip.left + x + width, top + y + height)  # of the region
    seam = strip.seam
    return Cell(
        place=place,
        box=_moved(box, region),
        blanks=tuple(_moved(blank, region) for blank in _blanks(region, strip, box)),
        broken=() if seam is None else _broken(seam, region, box),
        shares=seam is not None and bool((seam.ends > seam.begins)[box.top : box.bottom].any()),
    )


def _moved(box: Box, region: Region) -> Box:
    """From pixels of the region to those of the page."""
    left, top = region.box.left, region.box.top
    return Box(box.left + left, box.top + top, box.right + left, box.bottom + top)


def _broken(seam: _Seam, region: Region, box: Box) -> tuple[tuple[int, int], ...]:
    first = region.box.top + box.top
    return tuple((first + top, first + bottom) for top, bottom in runs(seam.is_broken[box.top : box.bottom]).tolist())


def _blanks(region: Region, strip: _Strip, box: Box) -> Iterator[Box]:
    """What a cell's box holds of its neighbours' ink."""
    for step in strip.steps:
        top, bottom = max(step.top, box.top), min(step.bottom, box.bottom)
        for left, right in ((box.left, min(step.left, box.right)), (max(step.right, box.left), box.right)):
            blank = Box(left, top, right, bottom)
            if top < bottom and left < right and blank.of(region.ink).any():
                yield blank
