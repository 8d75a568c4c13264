"""By how much the lines of a page climb or fall. Pure functions.

worker/engines/orientation.py finds this from the boxes that a detector drew; here it is found from the ink, in a few
hundredths of a second, for an engine that has no detector. A page on its side or its head is not noticed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from worker.engines.lettering import pooled, survey
from worker.engines.orientation import rotate

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.engines.base import RGB

    Map = npt.NDArray[np.float32]

MAX_DEGREES = 5.0
COARSE, FINE = 0.5, 0.1
MIN_DEGREES = 0.3
"""Over half of an A4 page of 1344 pixels a line then climbs by 3 pixels, less than the space between lines."""
CELL = 0.2
"""In x-heights: the map on which lines are levelled keeps the space between them."""


def levelled(image: RGB) -> tuple[RGB, float]:
    """The page with its lines level, on a larger canvas, and the degrees, clockwise, by which it was turned for that.
    The page itself, and 0, where they are level enough."""
    degrees = -skew(image)
    if abs(degrees) < MIN_DEGREES:
        return image, 0.0
    return rotate(image, degrees=degrees)[0], degrees


def skew(image: RGB) -> float:
    """The degrees, clockwise, by which the page was turned: its lines fall to the right where this is above 0. To a
    tenth, within 5 either way; 0 where no text is found."""
    page = survey(image)
    if page.x_height is None:
        return 0.0
    marks = pooled(page.print_, cell=max(1, round(CELL * page.x_height))).astype(np.float32)
    # Sheared by nothing at all, a map would stay sharper than by any angle, and so every page seem level.
    marks = cast("Map", cv2.GaussianBlur(marks, (1, 7), 1.5))
    coarse = _sharpest(marks, np.arange(-MAX_DEGREES, MAX_DEGREES + COARSE / 2, COARSE))
    fine = _sharpest(marks, np.arange(coarse - COARSE, coarse + COARSE + FINE / 2, FINE))
    return round(fine, 1)


def _sharpest(marks: Map, angles: npt.NDArray[np.float64]) -> float:
    return float(max(angles, key=lambda degrees: _sharpness(marks, degrees=float(degrees))))


def _sharpness(marks: Map, *, degrees: float) -> float:
    """How much the ink of neighbouring rows differs when the page is sheared back: most where lines are level."""
    slope = math.tan(math.radians(degrees))
    height, width = marks.shape
    shear = np.array([[1, 0, 0], [-slope, 1, slope * width / 2]])
    rows = cv2.warpAffine(marks, shear, (width, height), flags=cv2.INTER_LINEAR).sum(axis=1)
    return float(np.square(np.diff(rows)).sum())
