"""Is there anything on this page? Blank pages are found before a model sees them, so that it invents no text."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from worker.readers.base import RGB

_SIDE = 1000
"""Pages are compared at this longer side: a full stop of 10-point type is still a few pixels."""
_MIN_CONTRAST = 10
"""Grey levels between ink and the paper around it; faint pencil on a clean scan is about 15."""
_NOISE_SIGMAS = 6
_MIN_SPOT = 3
"""Pixels of a spot of ink; smaller ones are dust or noise."""
_MIN_INK = 12
"""Pixels of all spots together: less than one small letter."""
_BOLD, _MANY = 60, 300
"""Grey levels and number of edges that no noise makes."""
_MAX_SHADE = 64
"""Grey levels that the light may vary over an empty sheet; more is a picture, if a smooth one."""


def is_blank(image: RGB) -> bool:
    """True if no ink is found: a plain colour, an empty sheet with uneven light, or faint noise."""
    grey = _small_grey(image)
    if min(grey.shape) < 8:
        return int(np.ptp(grey)) < _MIN_CONTRAST
    if _has_bold_edges(grey):
        return False
    paper = cv2.medianBlur(grey, _odd(min(41, min(grey.shape) // 2)))
    if int(np.ptp(paper)) > _MAX_SHADE:
        return False
    contrast = cast("npt.NDArray[np.uint8]", cv2.absdiff(grey, paper))
    return _spots((contrast > _threshold(contrast)).astype(np.uint8)) < _MIN_INK


def _small_grey(image: RGB) -> npt.NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = _SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    top, left = grey.shape[0] // 100, grey.shape[1] // 100
    # The outermost percent holds the shadows of scanner lids, never text.
    return cast("npt.NDArray[np.uint8]", grey[top : grey.shape[0] - top, left : grey.shape[1] - left])


def _has_bold_edges(grey: npt.NDArray[np.uint8]) -> bool:
    """The common case, without the filters: neighbours that differ as print and paper do, and many of them."""
    return int(np.count_nonzero(cv2.absdiff(grey[:, 1:], grey[:, :-1]) > _BOLD)) > _MANY


def _threshold(contrast: npt.NDArray[np.uint8]) -> float:
    """Above the noise of this page: the median difference is noise even where there is much text."""
    sigma = 1.4826 * float(np.median(contrast))
    return max(float(_MIN_CONTRAST), min(_NOISE_SIGMAS * sigma, 60.0))


def _spots(mask: npt.NDArray[np.uint8]) -> int:
    """Pixels in spots of at least _MIN_SPOT pixels."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return int(areas[areas >= _MIN_SPOT].sum())


def _odd(size: int) -> int:
    return max(3, size | 1)
