"""Is there anything on this page? Blank pages are found before a model sees them, so that it invents no text.

What is no writing is taken away first: the dark around a sheet, rulings, punch holes, staples. What is left must be ink
that stands out of the paper, as sharp as print or pen; the other side of a thin sheet shows through faint and blurred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import RGB, TextLayer

Grey: TypeAlias = npt.NDArray[np.uint8]
"""(height, width), uint8: a grey picture, or a mask of 0 and 1."""

_SIDE, _MOST_ENLARGED = 1000, 2.0
"""Pages are compared at this longer side: a full stop of 10-point type is still a few pixels. All pixels below are of
this size. Smaller ones are enlarged, but not more often than that."""
_MIN_CONTRAST = 10
"""Grey levels between ink and the paper around it; faint pencil on a clean scan is about 15."""
_NOISE_SIGMAS = 6
_MIN_SPOT = 3
"""Pixels of a spot of ink; smaller ones are dust or noise."""
_SPECK, _MANY_SPECKS = 5, 300
"""Pixels from side to side of the smallest letter that can be read; number of specks that no dusty glass has."""
_MIN_INK = 12
"""Pixels of all spots together: less than one small letter."""
_DARKEST = 0.55
"""How far the light may fall over an empty sheet; darker, or steeper, is a picture, if a smooth one."""
_MAX_SHADE = 64
"""Grey levels that shades may differ from an even light: the shadow of a fold, blotches of cheap paper."""
_STEP = 8
_FEW = 0.02
_PAPER = 41
"""Pixels; what is smaller is no shade of the paper."""
_BOLD, _MANY = 60, 8000
"""Grey levels and number of edges of a page of print; the edges of a dark border come to 6000."""
_LINES = 3
_OUTSIDE, _FRINGE = 0.6, 18
"""Share of the paper's brightness below which a part at the picture's edge is not the sheet; pixels around it."""
_LID, _SEAM = 40, 5
"""Grey levels by which it may vary; pixels."""
_SCAN = 400
"""Pixels; a smaller picture is not of a sheet with something around it."""
_RULING = 80
"""Pixels of a straight line that is no letter's."""
_STROKE, _EVEN = 9, 0.75
"""Pixels of a stroke's width and the gaps beside it; share of a straight line's pixels that are about as dark as what
is beside them along it. Of a line of letters that run into each other, half are."""
_HALO, _AROUND = 0.2, 15
"""What is so much paler than the darkest within so many pixels is what compression leaves around it."""
_HOLE, _MARGIN = (12, 50), 0.12
"""Pixels of a punch hole from side to side; share of the sheet's width in which they are punched."""
_CORNER = (0.16, 0.12)
_FAINT = 50
"""Grey levels of ink that may have come through the paper."""
_BLUR, _FINEST, _SHARPEST = 0.0008, 0.85, 2000
"""A sheet blurs what comes through it at least so far, as a share of the page's longer side. A picture blurs by so many
pixels anyway, and is looked at with at most so many on the longer side: print has its own sharpness at any size, while
what comes through has less the more pixels there are."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """A connected piece of ink: its box, its pixels, how long it is against its width, its contrast to the paper."""

    left: int
    top: int
    width: int
    height: int
    area: int
    slenderness: float
    darkest: int

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


def shows_text(image: RGB, layer: TextLayer | None) -> bool:
    """True if the first lines of a layer that can be trusted stand in the picture where it says, as bold as print. Such
    a page is not blank, and need not be searched for ink, which takes longer than to draw it."""
    lines = layer.lines[:_LINES] if layer is not None and layer.trusted else ()
    return bool(lines) and all(_is_bold(image, line.box) for line in lines)


def _is_bold(image: RGB, box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = (max(0, round(value)) for value in box)
    cut = image[top:bottom, left:right]
    return bool(cut.size) and int(np.ptp(cut)) > 2 * _BOLD


def is_blank(image: RGB) -> bool:
    """True if no writing is found: a plain colour, an empty sheet with uneven light, lines, holes, noise, or the faint
    other side."""
    grey = _small_grey(image)
    if min(grey.shape) < 8:
        return int(np.ptp(grey)) < _MIN_CONTRAST
    if _is_full(grey):
        return False
    paper = cv2.medianBlur(grey, _odd(min(_PAPER, min(grey.shape) // 2)))
    sheet = _sheet(grey, cast("Grey", paper))
    if _is_picture(cast("Grey", paper), sheet):
        return False
    contrast = cast("Grey", cv2.absdiff(grey, paper) * sheet)
    ink = _without_rulings(_ink(contrast), contrast, blobs=_blobs(cast("Grey", paper), sheet))
    left = [spot for spot in _spots(ink, contrast) if not _is_office(spot, grey.shape)]
    return not _is_writing(left) or (
        not _is_writing([spot for spot in left if spot.darkest > _FAINT]) and _is_soft(image, ink, cast("Grey", paper))
    )


def _is_writing(spots: list[_Spot]) -> bool:
    """Specks alone are dust, unless they are so many that they may be the pieces of small or broken letters."""
    large = [spot for spot in spots if max(spot.width, spot.height) >= _SPECK]
    return sum(spot.area for spot in (spots if len(spots) >= _MANY_SPECKS else large)) >= _MIN_INK


def _is_full(grey: Grey) -> bool:
    """The common case, without the filters: many neighbours that differ as print and paper do. A column in which nearly
    all do is a line across them."""
    bold = (cv2.absdiff(grey[:, 1:], grey[:, :-1]) > _BOLD).sum(axis=0)
    return int(bold[bold < grey.shape[0] // 2].sum()) > _MANY


def _small_grey(image: RGB) -> Grey:
    grey = _grey(image, scale=min(_SIDE / max(image.shape[:2]), _MOST_ENLARGED))
    top, left = grey.shape[0] // 100, grey.shape[1] // 100
    # The outermost percent holds the shadows of scanner lids, never text.
    return grey[top : grey.shape[0] - top, left : grey.shape[1] - left]


def _grey(image: RGB, *, scale: float) -> Grey:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    return cast("Grey", cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def _sheet(grey: Grey, paper: Grey) -> Grey:
    """A mask of the sheet itself: without the dark that reaches the picture's edge, if it is as even as a scanner's
    lid, and what is close to it."""
    dark = (paper < _OUTSIDE * float(np.median(paper))).astype(np.uint8)
    if not dark.any() or max(paper.shape) < _SCAN:
        return np.ones_like(dark)
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, edge[edge > 0]).astype(np.uint8)
    # Without its seam to the sheet, where the median is dark and the picture already light.
    shades = grey[cv2.erode(outside, np.ones((_SEAM, _SEAM), np.uint8)) > 0]
    if shades.size == 0 or float(np.ptp(np.quantile(shades, (0.05, 0.95)))) > _LID:
        return np.ones_like(dark)
    return cast("Grey", 1 - cv2.dilate(outside, np.ones((2 * _FRINGE + 1, 2 * _FRINGE + 1), np.uint8)))


def _is_picture(paper: Grey, sheet: Grey) -> bool:
    """Whether what is left when all small things are gone varies more than the light on a sheet does."""
    shades = paper[sheet > 0]
    if shades.size == 0:
        return True
    darkest, lightest = np.quantile(shades, (_FEW, 1 - _FEW))
    return bool(darkest < _DARKEST * lightest - 4) or _unevenness(paper, sheet) > _MAX_SHADE


def _unevenness(paper: Grey, sheet: Grey) -> float:
    """Grey levels by which the shades differ from those of one light, which fall off evenly (to the second order)."""
    y, x = np.nonzero(sheet[::_STEP, ::_STEP])
    shades = paper[::_STEP, ::_STEP][y, x].astype(float)
    if shades.size < 12:
        return 0.0
    u, v = x / x.max(initial=1), y / y.max(initial=1)
    terms = np.stack([np.ones_like(u), u, v, u * v, u * u, v * v], axis=1)
    light, *_ = np.linalg.lstsq(terms, shades, rcond=None)
    low, high = np.quantile(shades - terms @ light, (_FEW, 1 - _FEW))
    return float(high - low)


def _blobs(paper: Grey, sheet: Grey) -> Grey:
    """Dark things on the sheet that are larger than letters; the paper's own shade would follow them."""
    dark = paper < _DARKEST * float(np.median(paper[sheet > 0]))
    return cast("Grey", dark.astype(np.uint8) * sheet)


def _threshold(contrast: Grey) -> float:
    """Above the noise of this page: the median difference is noise even where there is much text."""
    sigma = 1.4826 * float(np.median(contrast))
    return max(float(_MIN_CONTRAST), min(_NOISE_SIGMAS * sigma, 60.0))


def _ink(contrast: Grey) -> Grey:
    """What stands out of the noise, and is not the halo of something darker."""
    around = cv2.dilate(contrast, np.ones((_AROUND, _AROUND), np.uint8))
    return cast("Grey", ((contrast > _threshold(contrast)) & (contrast > _HALO * around)).astype(np.uint8))


def _without_rulings(ink: Grey, contrast: Grey, *, blobs: Grey) -> Grey:
    """The ink without long straight lines across and down, drawn or the edge of something. Nothing else is as long, so
    they may be paler than ink."""
    pale = (contrast > _threshold(contrast) / 2).astype(np.uint8) | blobs
    closed = cast("Grey", cv2.morphologyEx(pale, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    across = _rulings(closed, contrast, blobs)
    down = _rulings(closed.T, contrast.T, blobs.T).T
    lines = cv2.dilate(cv2.bitwise_or(across, np.ascontiguousarray(down)), np.ones((5, 5), np.uint8))
    return cast("Grey", (ink | blobs) * (1 - lines))


def _rulings(ink: Grey, contrast: Grey, blobs: Grey) -> Grey:
    """The lines across."""
    long = cv2.morphologyEx(np.ascontiguousarray(ink), cv2.MORPH_OPEN, np.ones((1, _RULING), np.uint8))
    count, labels = cv2.connectedComponents(long, connectivity=8)
    beside = cv2.morphologyEx(np.ascontiguousarray(contrast), cv2.MORPH_OPEN, np.ones((1, _STROKE), np.uint8))
    even = (contrast < 2.0 * beside + _MIN_CONTRAST) | (blobs > 0)
    shares = np.bincount(labels.ravel(), even.ravel(), count) / np.maximum(
        np.bincount(labels.ravel(), minlength=count), 1
    )
    shares[0] = 0.0
    return cast("Grey", (shares >= _EVEN)[labels].astype(np.uint8))


def _spots(mask: Grey, contrast: Grey) -> Iterator[_Spot]:
    """The pieces of at least _MIN_SPOT pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for n in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[n])
        if area >= _MIN_SPOT:
            there = np.s_[top : top + height, left : left + width]
            piece = (labels[there] == n).astype(np.uint8)
            darkest = int((contrast[there] * piece).max())
            yield _Spot(left, top, width, height, area, _slenderness(piece), darkest)


def _slenderness(piece: npt.NDArray[np.uint8]) -> float:
    points = cv2.findNonZero(piece)
    (_, (one, other), _) = cv2.minAreaRect(points)
    return (max(one, other) + 1) / (min(one, other) + 1)


def _is_office(spot: _Spot, shape: tuple[int, ...]) -> bool:
    """Whether a spot looks like a punch hole in a margin, or like a staple or its holes in a corner."""
    height, width = shape[:2]
    x, y = spot.centre
    beside = min(x, width - x) < _MARGIN * width
    is_round = 0.75 < spot.width / spot.height < 1.33 and spot.slenderness < 1.4
    if beside and is_round and _HOLE[0] <= spot.width <= _HOLE[1]:
        return True
    in_corner = min(x, width - x) < _CORNER[0] * width and min(y, height - y) < _CORNER[1] * height
    return in_corner and (spot.slenderness >= 4 or (spot.slenderness < 1.6 and max(spot.width, spot.height) <= 8))


def _is_soft(image: RGB, ink: Grey, paper: Grey) -> bool:
    """Whether the ink is blurred as by a sheet that it has come through: the steepest steps between neighbouring pixels
    are low for its contrast."""
    side = min(max(image.shape[:2]), _SHARPEST)
    grey = _grey(image, scale=side / max(image.shape[:2]))
    top, left = grey.shape[0] // 100, grey.shape[1] // 100
    smooth = cv2.GaussianBlur(grey, (3, 3), 0)[top : grey.shape[0] - top, left : grey.shape[1] - left]
    size = smooth.shape[::-1]
    there = cv2.resize(ink, size, interpolation=cv2.INTER_NEAREST) > 0
    contrast = cv2.absdiff(smooth, cv2.resize(paper, size, interpolation=cv2.INTER_LINEAR))[there]
    levels = smooth.astype(np.int16)
    across, down = np.diff(levels, axis=1, prepend=levels[:, :1]), np.diff(levels, axis=0, prepend=levels[:1])
    steps = np.maximum(np.abs(across), np.abs(down))[there]
    sharpness = float(np.quantile(steps, 0.95) / max(float(np.quantile(contrast, 0.95)), 1.0))
    # The steepest step of an edge that is blurred by a Gaussian, for an edge of 1.
    return sharpness < 1 / math.sqrt(math.tau * ((_BLUR * side) ** 2 + _FINEST**2))


def _odd(size: int) -> int:
    return max(3, size | 1)
