"""Is there anything on this page? Blank pages are found before a model sees them, so that it invents no text.

What is no writing is taken away first: the dark around a sheet, rulings, punch holes, staples. What is left must be ink
that stands out of the paper, as sharp as print or pen; the other side of a thin sheet shows through faint and blurred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import RGB

Grey: TypeAlias = npt.NDArray[np.uint8]
"""(height, width), uint8: a grey picture, or a mask of 0 and 1."""

_SIDE = 1000
"""Pages are compared at this longer side: a full stop of 10-point type is still a few pixels. All pixels below are of
this size."""
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
_BOLD, _MANY = 60, 3000
"""Grey levels and number of edges of a page of print; the edges of a dark border come to 2000."""
_OUTSIDE, _FRINGE = 0.6, 12
"""Share of the paper's brightness below which a part at the picture's edge is not the sheet; pixels around it."""
_LID, _SEAM = 40, 5
"""Grey levels by which it may vary; pixels."""
_SCAN = 400
"""Pixels; a smaller picture is not of a sheet with something around it."""
_RULING = 80
"""Pixels of a straight line that is no letter's."""
_HOLE, _MARGIN = (12, 50), 0.12
"""Pixels of a punch hole from side to side; share of the sheet's width in which they are punched."""
_CORNER = (0.16, 0.12)
_FAINT, _SOFT = 40, 0.24
"""Grey levels of ink that may have come through the paper; its steepest step over its contrast. The scans of
docs/quality.md have 0.32 to 0.50, faint print 0.33, and print through a sheet 0.16."""


@dataclass(frozen=True, slots=True)
class _Spot:
    """A connected piece of ink: its box, its pixels, and how long it is against its width."""

    left: int
    top: int
    width: int
    height: int
    area: int
    slenderness: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


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
    ink = _without_rulings((contrast > _threshold(contrast)).astype(np.uint8) | _blobs(cast("Grey", paper), sheet))
    left = [spot for spot in _spots(ink) if not _is_office(spot, grey.shape)]
    return not _is_writing(left) or _shows_through(grey, contrast, ink)


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
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = _SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    top, left = grey.shape[0] // 100, grey.shape[1] // 100
    # The outermost percent holds the shadows of scanner lids, never text.
    return cast("Grey", grey[top : grey.shape[0] - top, left : grey.shape[1] - left])


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


def _without_rulings(ink: Grey) -> Grey:
    """The ink without long straight lines across and down, drawn or the edge of something."""
    closed = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    across = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((1, _RULING), np.uint8))
    down = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((_RULING, 1), np.uint8))
    lines = cv2.dilate(cv2.bitwise_or(across, down), np.ones((5, 5), np.uint8))
    return cast("Grey", ink * (1 - lines))


def _spots(mask: Grey) -> Iterator[_Spot]:
    """The pieces of at least _MIN_SPOT pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    for n in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[n])
        if area >= _MIN_SPOT:
            piece = (labels[top : top + height, left : left + width] == n).astype(np.uint8)
            yield _Spot(left, top, width, height, area, _slenderness(piece))


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
    return in_corner and (spot.slenderness >= 4 or (is_round and max(spot.width, spot.height) <= 6))


def _shows_through(grey: Grey, contrast: Grey, ink: Grey) -> bool:
    """Whether all ink is faint and soft."""
    levels = contrast[ink > 0]
    if levels.size == 0 or float(np.quantile(levels, 0.99)) > _FAINT:
        return False
    return _sharpness(grey, contrast, ink) < _SOFT


def _sharpness(grey: Grey, contrast: Grey, ink: Grey) -> float:
    """The steepest steps between neighbouring pixels of the ink, over its contrast."""
    smooth = cv2.GaussianBlur(grey, (3, 3), 0).astype(np.int16)
    steps = np.maximum(
        np.abs(np.diff(smooth, axis=0, prepend=smooth[:1])), np.abs(np.diff(smooth, axis=1, prepend=smooth[:, :1]))
    )
    return float(np.quantile(steps[ink > 0], 0.95) / max(float(np.quantile(contrast[ink > 0], 0.95)), 1.0))


def _odd(size: int) -> int:
    return max(3, size | 1)
