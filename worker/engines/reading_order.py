"""In which order a reader takes the boxes of a page: columns, then rows, then left to right. Pure geometry.

Boxes stand upright here; `upright` turns the corner boxes of a turned or skewed page into such. Paragraphs, headings
and the joining of words are left to tasks/layout.py, which builds on this.

The page is cut at its gutters: a gutter is an empty upright strip with text columns on both sides of it. What lies
above comes first, then the left side, the right side and what lies below, each cut again. A table has such strips too,
but its cells do not look like lines of text (short, or far from filling their column), so its rows stay together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Corners: TypeAlias = "Sequence[tuple[float, float]]"

# In line heights. Found on scanned brochures, receipts, statements and two-column papers.
MIN_GUTTER = 0.6
MIN_COLUMN_WIDTH = 7.0
MIN_COLUMN_LINES = 3
MIN_FILL = 0.55
MAX_LEADING = 0.8
STRIP_HEIGHT = 3.0
# A page of a thousand table cells has hundreds of gaps that are none; the tallest tell.
MAX_GUTTERS = 60


@dataclass(frozen=True, slots=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass(frozen=True, slots=True)
class _Gutter:
    left: float
    right: float
    top: float
    bottom: float


def reading_rows(boxes: Sequence[Box]) -> tuple[tuple[int, ...], ...]:
    """Rows of indices into `boxes`, each from left to right, in reading order. Every index comes exactly once."""
    if not boxes:
        return ()
    unit = median(box.height for box in boxes) or 1.0
    strips = [i for i, box in enumerate(boxes) if _is_strip(box, unit=unit)]
    rest = [i for i in range(len(boxes)) if i not in set(strips)]
    return (*_rows_of_region(boxes, rest, unit=unit), *((i,) for i in strips))


def reading_order(boxes: Sequence[Box]) -> tuple[int, ...]:
    return tuple(i for row in reading_rows(boxes) for i in row)


def upright(quads: Sequence[Corners]) -> tuple[Box, ...]:
    """Upright boxes of corner boxes (clockwise from the text's own top left), turned by their common direction."""
    angle = common_angle(quads)
    return tuple(_bounds(_turn(quad, angle=-angle)) for quad in quads)


def as_found(box: Box, quads: Sequence[Corners]) -> Box:
    """Around what `box` holds, as it lies in the picture: what `upright` did to these corner boxes, undone."""
    corners = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
    return _bounds(_turn(corners, angle=common_angle(quads)))


def common_angle(quads: Iterable[Corners]) -> float:
    """The direction in which most of the text runs, in radians, clockwise from rightwards. Long lines weigh more."""
    runs = [(math.atan2(b[1] - a[1], b[0] - a[0]), math.dist(a, b)) for a, b, *_ in quads]
    main = math.atan2(sum(w * math.sin(a) for a, w in runs), sum(w * math.cos(a) for a, w in runs))
    near = [(off, weight) for angle, weight in runs if abs(off := _wrap(angle - main)) < math.pi / 8]
    return main + _weighted_median(near)


def _wrap(angle: float) -> float:
    return math.remainder(angle, math.tau)


def _weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    half, passed = sum(weight for _, weight in pairs) / 2, 0.0
    for value, weight in sorted(pairs):
        passed += weight
        if passed >= half:
            return value
    return 0.0


def _turn(quad: Corners, *, angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in quad]


def _bounds(quad: Corners) -> Box:
    xs, ys = [x for x, _ in quad], [y for _, y in quad]
    return Box(min(xs), min(ys), max(xs), max(ys))


def _is_strip(box: Box, *, unit: float) -> bool:
    """Sideways text in a margin would sit beside every row; it is read last."""
    return box.height > STRIP_HEIGHT * unit and box.height > 2 * box.width


def _rows_of_region(boxes: Sequence[Box], region: list[int], *, unit: float) -> Iterator[tuple[int, ...]]:
    gutter = _best_gutter(boxes, region, unit=unit)
    if gutter is None:
        yield from _rows(boxes, region)
        return
    for part in _around(boxes, region, gutter, unit=unit):
        yield from _rows_of_region(boxes, part, unit=unit)


def _around(boxes: Sequence[Box], region: Sequence[int], gutter: _Gutter, *, unit: float) -> tuple[list[int], ...]:
    """Above, left, right, below. Left and right are never empty, so that each part is smaller than the region."""
    left, right = _sides(boxes, region, gutter, unit=unit)
    rest = [i for i in region if i not in left and i not in right]
    middle = (gutter.top + gutter.bottom) / 2
    above = [i for i in rest if boxes[i].middle < middle]
    return above, sorted(left), sorted(right), [i for i in rest if boxes[i].middle >= middle]


def _sides(
    boxes: Sequence[Box], region: Sequence[int], gutter: _Gutter, *, unit: float
) -> tuple[frozenset[int], frozenset[int]]:
    """The columns beside a gutter: what stands there where both sides have text, and what follows on without a gap.

    A heading below two columns that happens to be short is not the end of the left one.
    """
    left = [i for i in region if boxes[i].right <= gutter.left and _meets(boxes[i], gutter)]
    right = [i for i in region if boxes[i].left >= gutter.right and _meets(boxes[i], gutter)]
    if not left or not right:
        return frozenset(), frozenset()
    top = max(min(boxes[i].top for i in side) for side in (left, right))
    bottom = min(max(boxes[i].bottom for i in side) for side in (left, right))
    all_left = [i for i in region if boxes[i].right <= gutter.left]
    all_right = [i for i in region if boxes[i].left >= gutter.right]
    return (
        _run(boxes, all_left, top=top, bottom=bottom, unit=unit),
        _run(boxes, all_right, top=top, bottom=bottom, unit=unit),
    )


def _meets(box: Box, gutter: _Gutter) -> bool:
    return box.bottom > gutter.top and box.top < gutter.bottom


def _run(boxes: Sequence[Box], side: Sequence[int], *, top: float, bottom: float, unit: float) -> frozenset[int]:
    """The boxes between top and bottom, and those that follow on above and below, line by line."""
    taken = {i for i in side if boxes[i].bottom > top and boxes[i].top < bottom}
    for i in sorted(side, key=lambda i: boxes[i].top):
        if boxes[i].top >= bottom and boxes[i].top - bottom <= MAX_LEADING * unit:
            taken.add(i)
            bottom = max(bottom, boxes[i].bottom)
    for i in sorted(side, key=lambda i: -boxes[i].bottom):
        if boxes[i].bottom <= top and top - boxes[i].bottom <= MAX_LEADING * unit:
            taken.add(i)
            top = min(top, boxes[i].top)
    return frozenset(taken)


def _rows(boxes: Sequence[Box], region: Sequence[int]) -> Iterator[tuple[int, ...]]:
    row: list[int] = []
    for i in sorted(region, key=lambda i: (boxes[i].middle, boxes[i].left, i)):
        if row and not _same_row(boxes, row, i):
            yield _left_to_right(boxes, row)
            row = []
        row.append(i)
    if row:
        yield _left_to_right(boxes, row)


def _same_row(boxes: Sequence[Box], row: Sequence[int], i: int) -> bool:
    """By the neighbour in the row that is nearest sideways: the two must share half of the lower one's height, and not
    stand above each other."""
    box = boxes[i]
    near = min((boxes[j] for j in row), key=lambda other: max(other.left - box.right, box.left - other.right))
    shared = min(box.bottom, near.bottom) - max(box.top, near.top)
    beside = min(box.right, near.right) - max(box.left, near.left) <= 0.5 * min(box.width, near.width)
    return beside and shared > 0.5 * min(box.height, near.height)


def _left_to_right(boxes: Sequence[Box], row: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(row, key=lambda i: (boxes[i].left, boxes[i].top, i)))


def _best_gutter(boxes: Sequence[Box], region: list[int], *, unit: float) -> _Gutter | None:
    if len(region) < 2 * MIN_COLUMN_LINES:
        return None
    least = (MIN_COLUMN_LINES - 1) * unit
    tall = {gutter for gutter in _gutters(boxes, region, unit=unit) if gutter.bottom - gutter.top >= least}
    tallest = sorted(tall, key=_by_height)[:MAX_GUTTERS]
    return next((gutter for gutter in tallest if _has_columns(boxes, region, gutter, unit=unit)), None)


def _by_height(gutter: _Gutter) -> tuple[float, float, float, float]:
    return gutter.top - gutter.bottom, gutter.left - gutter.right, gutter.left, gutter.top


def _gutters(boxes: Sequence[Box], region: list[int], *, unit: float) -> Iterator[_Gutter]:
    """Every gap between two boxes of a slab, followed down the page for as long as it stays wide enough."""
    slabs = list(_slabs(boxes, region))
    before: list[tuple[float, float]] = []
    for n, (_, _, spans) in enumerate(slabs):
        gaps = [gap for gap in _gaps(spans) if gap[1] - gap[0] >= MIN_GUTTER * unit]
        for gap in gaps:
            if gap not in before:
                yield from _follow(slabs, n, gap, least=MIN_GUTTER * unit)
        before = gaps


def _slabs(boxes: Sequence[Box], region: Iterable[int]) -> Iterator[tuple[float, float, list[tuple[float, float]]]]:
    """The page in horizontal slabs in which no box begins or ends: top, bottom and the (left, right) of what is there.

    A tenth of each box is shaved off above and below, because detected boxes of neighbouring lines overlap a little.
    """
    shaved = sorted(
        (box.top + 0.1 * box.height, box.bottom - 0.1 * box.height, box.left, box.right)
        for box in (boxes[i] for i in region)
    )
    edges = sorted({edge for top, bottom, _, _ in shaved for edge in (top, bottom)})
    coming = 0
    here: list[tuple[float, float, float, float]] = []
    for top, bottom in pairwise(edges):
        here = [box for box in here if box[1] >= bottom]
        while coming < len(shaved) and shaved[coming][0] <= top:
            here.append(shaved[coming])
            coming += 1
        yield top, bottom, sorted((left, right) for _, _, left, right in here)


def _gaps(spans: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    reach = -math.inf
    for left, right in spans:
        if left > reach > -math.inf:
            yield reach, left
        reach = max(reach, right)


def _follow(
    slabs: Sequence[tuple[float, float, list[tuple[float, float]]]],
    start: int,
    gap: tuple[float, float],
    *,
    least: float,
) -> Iterator[_Gutter]:
    left, right = gap
    top = slabs[start][0]
    bottom = top
    for slab_top, slab_bottom, spans in slabs[start:]:
        narrowed = _narrow(spans, left, right)
        if narrowed[1] - narrowed[0] < least:
            break
        left, right = narrowed
        bottom = slab_bottom if spans else slab_top
    yield _Gutter(left, right, top, bottom)


def _narrow(spans: Sequence[tuple[float, float]], left: float, right: float) -> tuple[float, float]:
    """What is left of the gap beside these spans: a span that reaches in from one side moves that side."""
    centre = (left + right) / 2
    for a, b in spans:
        if a < centre < b:
            return centre, centre
        if b <= centre:
            left = max(left, b)
        else:
            right = min(right, a)
    return left, right


def _has_columns(boxes: Sequence[Box], region: Sequence[int], gutter: _Gutter, *, unit: float) -> bool:
    sides = _sides(boxes, region, gutter, unit=unit)
    return all(_is_text_column([boxes[i] for i in side], unit=unit) for side in sides)


def _is_text_column(column: Sequence[Box], *, unit: float) -> bool:
    if len(column) < MIN_COLUMN_LINES:
        return False
    inks = [sum(column[i].width for i in row) for row in _rows(column, range(len(column)))]
    width = max(box.right for box in column) - min(box.left for box in column)
    ink = median(inks)
    return len(inks) >= MIN_COLUMN_LINES and ink >= MIN_COLUMN_WIDTH * unit and ink >= MIN_FILL * width
