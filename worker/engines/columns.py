"""Parts a page into regions that are read one after the other, and each region into bands. Pure functions.

A region is a column that runs through, or what stands above, between or below columns. Columns have an empty strip, a
gutter, between them; so has a table, whose rows must stay together. They are told apart by their lines: those of
columns fill them, or do not stand beside each other. A band is what no row of paper parts: in the best case, a line of
text.

worker/engines/reading_order.py does the like for boxes that a detector found. Here nothing is known but the ink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from worker.engines.lettering import pooled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from worker.engines.lettering import Flags, Ints, Lettering, Mask, Words

# In x-heights.
CELL = 0.5
"""Gutters are looked for on a map with cells of this size."""
MIN_GUTTER = 1.5
MIN_GUTTER_HEIGHT = 12.0
MIN_COLUMN_WIDTH = 12.0
WORD_GAP = 1.5
PROSE = 18.0
"""The cells of a table are seldom as long, without a gap in them."""
NEAR = 2.0
HEADING, GAP = 6.0, 1.0
TITLE_SPACE = 0.6
"""Between the words of a title, in its own line height. Lines of ordinary size are further apart across a gutter."""
MIN_LINE, LINE_HEIGHT = 0.6, 2.2
"""Of dots and accents alone; and from the top of an h to the bottom of a g, or less: a larger one is of a heading."""
ACCENT_GAP = 0.45
MAX_LEADING = 2.0
MIN_SPACE, USUAL_SPACE, MAX_SPACE = 0.25, 0.35, 1.0
"""In fourteen typefaces there is 0.33 to 1.4 between words, and up to 0.3 between letters; 0.5 in a typewriter's, whose
words are 1.1 apart. All that is wider is between words."""
DOUBT = 0.8
MIN_GAPS = 30
MAX_LINE = 4.0
"""Taller is not one line."""
# Shares: of a column's width that its lines fill, and of its height that has lines.
MIN_FILL, MIN_LINED = 0.75, 0.25
MIN_LINES, MIN_RULES = 6, 3
APART = 0.5
"""Columns with lines of their own have 0.6 to 1.1 here, tables 0 to 0.3."""
TRIES = 8


class Box(NamedTuple):
    """Whole pixels of the page; right and bottom are the first that are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def of(self, mask: Mask) -> Mask:
        """This part of a mask of the page."""
        return mask[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """`ink` and `print_` are those in its box, and `is_inked` says which of their columns have ink. `unit` is the
    x-height of its text in pixels, 0 if it has none.

    `bands` are first row and first row below; together they have all ink. One without print (a picture, a piece of a
    frame) may be cut anywhere. `sizes` are the x-heights of those that are lines. `blocks` are the columns that stand
    between gaps as wide as between words in every line; `openness` counts, for each column, the lines that have a wider
    gap there. `space` parts gaps between words from those between letters, in x-heights of a line.
    """

    box: Box
    unit: float
    ink: Mask
    print_: Mask
    is_inked: Flags
    bands: tuple[tuple[int, int], ...]
    sizes: Mapping[tuple[int, int], float]
    openness: Ints
    blocks: tuple[tuple[int, int], ...]
    space: float
    words: Words

    def kinds_of_gaps(self, widths: Ints, top: int, bottom: int) -> tuple[Flags, Flags]:
        """Of the gaps in a line, which are between words, and which between letters; what is neither may be either."""
        whole = next((band for band in self.bands if band[0] <= top < band[1]), (top, bottom))
        is_line = whole[1] - whole[0] <= 2 * (bottom - top)
        size = self.sizes.get(whole) if is_line else None
        space = self.space * (size or _size(self.words, self.box, top, bottom, unit=self.unit))
        return widths >= space, widths < DOUBT * space


def find_regions(page: Lettering, *, most: int) -> tuple[Region, ...]:
    """The regions of a page in reading order; together they hold all of its ink. One, if there are more than `most`."""
    whole = _inked(page.ink, Box(0, 0, page.ink.shape[1], page.ink.shape[0]))
    if whole is None:
        return ()
    boxes = [whole] if page.x_height is None else list(_parted(page, whole))
    return tuple(_region(page, box) for box in (boxes if len(boxes) <= most else [whole]))


def find_lines(print_: Mask, *, unit: float) -> list[tuple[int, int]]:
    """First row of each line of text, and the first below it: rows with print, between rows without.

    Dots and accents may stand off their letters: what is low is taken to the line close below it, or else above.
    """
    lines: list[tuple[int, int]] = []
    waiting: int | None = None
    found = runs(print_.max(axis=1, initial=0)).tolist()
    for n, (top, bottom) in enumerate(found):
        is_low = bottom - top < MIN_LINE * unit
        start = top if waiting is None else waiting
        if is_low and n + 1 < len(found) and found[n + 1][0] - bottom <= ACCENT_GAP * unit:
            waiting = start
        elif is_low and waiting is None and lines and top - lines[-1][1] <= ACCENT_GAP * unit:
            lines[-1] = (lines[-1][0], bottom)
        else:
            lines.append((start, bottom))
            waiting = None
    return lines


def runs(profile: npt.NDArray[np.integer] | Flags) -> Ints:
    """(n, 2): where each run of values above 0 begins, and the first place behind it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (profile > 0).astype(np.int8), [0]])))
    return edges.reshape(-1, 2).astype(np.int32)


def _inked(ink: Mask, box: Box) -> Box | None:
    """The part of the box that has ink."""
    left, top, width, height = cv2.boundingRect(box.of(ink))
    if not width:
        return None
    return Box(box.left + left, box.top + top, box.left + left + width, box.top + top + height)


def _region(page: Lettering, box: Box) -> Region:
    print_, ink = box.of(page.print_), box.of(page.ink)
    unit = page.words.typical(*box) or _large(print_, page.x_height or 0.0)
    lines = find_lines(print_, unit=unit)
    rest = ink.max(axis=1)
    for top, bottom in lines:
        rest[top:bottom] = 0
    sizes = [_size(page.words, box, top, bottom, unit=unit) for top, bottom in lines]
    space = _space(print_, lines, sizes=sizes, unit=unit)
    return Region(
        box=box,
        unit=unit,
        ink=ink,
        print_=print_,
        is_inked=ink.max(axis=0) > 0,
        bands=tuple(sorted([*lines, *((int(top), int(bottom)) for top, bottom in runs(rest))])),
        blocks=tuple(_blocks(print_, lines, spaces=[space * size for size in sizes])),
        sizes=dict(zip(lines, sizes, strict=True)),
        openness=_openness(print_, lines, unit=unit),
        space=space,
        words=page.words,
    )


def _large(print_: Mask, x_height: float) -> float:
    """The x-height of letters too large to be taken for words of this page."""
    heights = [bottom - top for top, bottom in find_lines(print_, unit=x_height)]
    return max(x_height, float(np.median(heights)) / LINE_HEIGHT) if x_height and heights else x_height


def _size(words: Words, box: Box, top: int, bottom: int, *, unit: float) -> float:
    """The x-height of a line of a region, which may be a heading."""
    measured = words.typical(box.left, box.top + top, box.right, box.top + bottom)
    return max(measured or unit, (bottom - top) / LINE_HEIGHT)


def _gaps(line: Mask) -> Ints:
    """(n, 2): beginning and end of the gaps between what stands in a line."""
    found = runs(line.max(axis=0))
    return np.stack([found[:-1, 1], found[1:, 0]], axis=1)


def _openness(print_: Mask, lines: Sequence[tuple[int, int]], *, unit: float) -> Ints:
    """(column,): in how many lines it is in a gap that is wider than one between words."""
    openness = np.zeros(print_.shape[1], np.int32)
    for top, bottom in lines:
        for start, end in _gaps(print_[top:bottom]).tolist():
            if end - start > WORD_GAP * unit:
                openness[start:end] += 1
    return openness


def _blocks(print_: Mask, lines: Sequence[tuple[int, int]], *, spaces: Sequence[float]) -> Iterator[tuple[int, int]]:
    used = print_.max(axis=0)
    for (top, bottom), space in zip(lines, spaces, strict=True):
        for start, end in _gaps(print_[top:bottom]).tolist():
            if end - start < space:
                used[start:end] = 1
    yield from (tuple(block) for block in runs(used).tolist())


def _space(print_: Mask, lines: Sequence[tuple[int, int]], *, sizes: Sequence[float], unit: float) -> float:
    """The width between that of gaps between letters and that of gaps between words, in x-heights: where the two kinds
    are most unlike each other (Otsu, 1979)."""
    widths = [
        np.diff(_gaps(print_[top:bottom])).ravel() / size
        for (top, bottom), size in zip(lines, sizes, strict=True)
        if bottom - top <= MAX_LINE * unit
    ]
    found = np.sort(np.minimum(np.concatenate([*widths, np.zeros(0)]), MAX_SPACE))
    if len(found) < MIN_GAPS or found[0] == found[-1]:
        return USUAL_SPACE
    count = np.arange(1, len(found))
    low, whole = np.cumsum(found)[:-1], found.sum()
    apart = low / count - (whole - low) / (len(found) - count)
    best = int(np.argmax(count * (len(found) - count) * apart**2))
    return float(np.clip((found[best] + found[best + 1]) / 2, MIN_SPACE, MAX_SPACE))


def _parted(page: Lettering, box: Box) -> Iterator[Box]:
    """The box; or what lies above its tallest gutter, left of it, right of it and below, each parted again."""
    gutter = _gutter(page, box)
    if gutter is None:
        yield box
        return
    middle = (gutter.left + gutter.right) // 2
    for part in (
        box._replace(bottom=gutter.top),
        Box(box.left, gutter.top, middle, gutter.bottom),
        Box(middle, gutter.top, box.right, gutter.bottom),
        box._replace(top=gutter.bottom),
    ):
        inked = _inked(page.ink, part)
        if inked is not None:
            yield from _parted(page, inked)


def _gutter(page: Lettering, box: Box) -> Box | None:
    """The tallest empty strip with columns of text on both sides."""
    x_height = page.x_height or 0.0
    cell = max(1, round(CELL * x_height))
    unit = x_height / cell  # from here on in cells
    if min(box.width / (2 * MIN_COLUMN_WIDTH), box.height / MIN_GUTTER_HEIGHT) < x_height:
        return None
    marks = pooled(box.of(page.print_), cell=cell)
    tried: set[Box] = set()
    for strip in _strips(marks, width=max(1, int(MIN_GUTTER * unit)), least=MIN_GUTTER_HEIGHT * unit):
        found = _settled(marks, strip, unit=unit)
        if found in tried or found.height < MIN_GUTTER_HEIGHT * unit or not all(map(_is_lined, _sides(marks, found))):
            continue
        tried.add(found)
        gutter = _in_pixels(page, box, found, cell=cell)
        columns = [_is_column(side, unit=unit) for side in _sides(marks, found)]
        if None not in columns and not _is_ruled(page, gutter) and (all(columns) or _is_apart(page, box, gutter)):
            below = gutter._replace(top=gutter.top + _title(page, box, gutter))
            return below if below.height >= MIN_GUTTER_HEIGHT * x_height else None
        if len(tried) == TRIES:
            break
    return None


def _in_pixels(page: Lettering, box: Box, cells: Box, *, cell: int) -> Box:
    """Of the page. Its ends are moved to rows without print, if any are near, so that no line is cut along."""
    used = box.of(page.print_).max(axis=1)
    free = np.flatnonzero(np.append(used, 0) == 0)
    near = NEAR * (page.x_height or 0.0)
    top, bottom = (_nearest(free, y * cell, near=near) if y else 0 for y in (cells.top, cells.bottom))
    return Box(
        box.left + cells.left * cell,
        box.top + min(top, box.height),
        box.left + min(cells.right * cell, box.width),
        box.top + min(bottom, box.height),
    )


def _title(page: Lettering, box: Box, gutter: Box) -> int:
    """Pixels of the gutter's height beside which a title runs across: its words are as far apart as columns are."""
    x_height = page.x_height or 0.0
    left = gutter._replace(left=box.left, right=gutter.left).of(page.print_)
    right = gutter._replace(left=gutter.right, right=box.right).of(page.print_)
    height = 0
    for (top, bottom), (other_top, other_bottom) in zip(
        find_lines(left, unit=x_height), find_lines(right, unit=x_height), strict=False
    ):
        heights = sorted((bottom - top, other_bottom - other_top))
        beside = min(bottom, other_bottom) - max(top, other_top)
        before = left.shape[1] - 1 - int(np.flatnonzero(left[top:bottom].max(axis=0)).max())
        after = int(np.flatnonzero(right[other_top:other_bottom].max(axis=0)).min())
        if 2 * beside <= heights[0] or before + gutter.width + after >= TITLE_SPACE * heights[1]:
            break
        height = max(bottom, other_bottom)
    return height


def _nearest(free: npt.NDArray[np.intp], place: int, *, near: float) -> int:
    nearest = int(free[np.argmin(np.abs(free - place))])
    return nearest if abs(nearest - place) <= near else place


def _sides(marks: Mask, strip: Box) -> tuple[Mask, Mask]:
    rows = marks[strip.top : strip.bottom]
    return rows[:, : strip.left], rows[:, strip.right :]


def _is_lined(side: Mask) -> bool:
    return bool(side.size and side.any(axis=1).mean() >= MIN_LINED)


def _strips(marks: Mask, *, width: int, least: float) -> Iterator[Box]:
    """Empty strips, the tallest first, none beside one that came before."""
    tops, bottoms = _tallest_gaps(marks, width=width)
    heights = bottoms - tops
    seen: set[int] = set()
    for x in np.argsort(-heights, kind="stable").tolist():
        if heights[x] < least:
            return
        if x not in seen:
            seen.update(range(x - width, x + width + 1))
            yield Box(x, int(tops[x]), x + width, int(bottoms[x]))


def _tallest_gaps(marks: Mask, *, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each column, top and bottom of the tallest run of rows that are empty from there on for `width` columns."""
    reach = np.lib.stride_tricks.sliding_window_view(marks, width, axis=1).max(axis=2)  # (row, column)
    since, tops, bottoms = (np.zeros(reach.shape[1], np.int64) for _ in range(3))
    for y, row in enumerate(reach):
        since[row > 0] = y + 1
        taller = y + 1 - since > bottoms - tops
        tops[taller], bottoms[taller] = since[taller], y + 1
    return tops, bottoms


def _settled(marks: Mask, strip: Box, *, unit: float) -> Box:
    """The strip as wide as it is empty, and as tall as there are columns beside it."""
    empty = marks[strip.top : strip.bottom].max(axis=0) == 0
    left, right = strip.left, strip.right
    while left > 0 and empty[left - 1]:
        left -= 1
    while right < len(empty) and empty[right]:
        right += 1
    rows = marks[strip.top : strip.bottom]
    sides = rows[:, :left].max(axis=1, initial=0), rows[:, right:].max(axis=1, initial=0)
    below = _end(*sides, unit=unit) if strip.bottom < len(marks) else len(rows)
    above = len(rows) - _end(*(side[::-1] for side in sides), unit=unit)
    return Box(left, strip.top + above, right, strip.top + below)


def _end(left: Mask, right: Mask, *, unit: float) -> int:
    """Where the columns end, of which this is what their rows have. A short line that stands off below one of them is
    no longer theirs: it is the heading of what follows."""
    lasts = [int(np.flatnonzero(side).max(initial=-1)) + 1 for side in (left, right)]
    free = (left == 0) & (right == 0)
    gap = max(1, round(GAP * unit))
    if max(lasts) - min(lasts) > HEADING * unit:
        return len(left)
    return next((y for y in range(min(lasts), max(lasts)) if free[y : y + gap].all()), len(left))


def _is_ruled(page: Lettering, gutter: Box) -> bool:
    """Whether the rules of a table run across."""
    return len(runs(gutter.of(page.ink).min(axis=1, initial=1))) >= MIN_RULES


def _is_column(side: Mask, *, unit: float) -> bool | None:
    """Whether a side's lines are those of text: the median line covers most of its width, or half of them go on for
    long without a wide gap. None if it is too narrow."""
    used = np.flatnonzero(side.any(axis=0))
    if not used.size or used[-1] + 1 - used[0] < MIN_COLUMN_WIDTH * unit:
        return None
    closed = cv2.morphologyEx(side, cv2.MORPH_CLOSE, np.ones((1, 1 + max(1, round(WORD_GAP * unit))), np.uint8))
    # The rows of ascenders and descenders are not the fullest of a line.
    closed = cv2.dilate(closed, np.ones((1 + 2 * round(unit / 2), 1), np.uint8))
    lines = closed[closed.any(axis=1), used[0] : used[-1] + 1]
    long = cv2.erode(lines, np.ones((1, round(PROSE * unit)), np.uint8), borderValue=0).any(axis=1)
    return bool(np.median(lines.mean(axis=1)) >= MIN_FILL or long.mean() >= 0.5)


def _is_apart(page: Lettering, box: Box, gutter: Box) -> bool:
    """Whether the lines of each side stand as often beside the gaps of the other's as beside its lines: they are not
    the rows of a table."""
    sides = gutter._replace(left=box.left, right=gutter.left), gutter._replace(left=gutter.right, right=box.right)
    left, right = (side.of(page.print_).max(axis=1, initial=0) > 0 for side in sides)
    tallest = MAX_LEADING * (page.x_height or 0.0)
    return min(_cover(left, right, tallest=tallest), _cover(right, left, tallest=tallest)) >= APART


def _cover(side: Flags, other: Flags, *, tallest: float) -> float:
    """How much of the gaps between one side's lines the other side's lines cover, as a share of how much of all rows
    they cover: 0 where the lines stand beside each other, about 1 where they do not."""
    used = np.flatnonzero(side)
    gaps = [(a, b) for a, b in runs(~side).tolist() if used.size and a > used[0] and b <= used[-1] and b - a <= tallest]
    if len(gaps) < MIN_LINES:
        return 0.0
    rows = np.concatenate([np.arange(a, b) for a, b in gaps])
    return float(other[rows].mean() / max(other.mean(), 1e-9))
