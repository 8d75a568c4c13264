"""Dashes that stand alone in a row, such as those behind the amounts of a statement; the detector passes them over.

A dash is a short, level, solid bar in the middle of a line's height, near that line, with nothing else about it; the
bars of a dashed ruling have neighbours, and underscores and specks do not stand in the middle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from worker.engines.base import RGB
    from worker.engines.recognizer import Quads

Grey: TypeAlias = npt.NDArray[np.uint8]

# In heights of the line's box.
LENGTH, THICKEST = (0.2, 0.9), 0.25
OFF_MIDDLE = 0.15
NEAREST, FARTHEST = 0.1, 3.0
ALONE = 1.0
DARK = 0.5
"""Share of the contrast of the page's text that a dash has at least."""
SOLID = 0.7
FLATTEST = 2.0


def find_dashes(image: RGB, quads: Quads) -> Quads:
    """The boxes of lone dashes on an upright page whose lines have these boxes; (dash, 4, 2)."""
    none = np.zeros((0, 4, 2), np.float32)
    if not len(quads):
        return none
    lefts, rights = quads[:, :, 0].min(axis=1), quads[:, :, 0].max(axis=1)
    tops, bottoms = quads[:, :, 1].min(axis=1), quads[:, :, 1].max(axis=1)
    heights, middles = bottoms - tops, (tops + bottoms) / 2
    contrast = _contrast(image, size=float(np.median(heights)))
    inside = np.zeros(contrast.shape, np.uint8)
    cv2.fillPoly(inside, [np.round(quad).astype(np.int32) for quad in quads], 1)
    text = contrast[inside > 0]
    if not text.size:
        return none
    ink = ((contrast > DARK * float(np.quantile(text, 0.95))) & (inside == 0)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    spots = stats[1:].astype(float)  # (spot, 5): left, top, width, height, area
    found: list[list[list[float]]] = []
    wide, high, area = spots[:, 2], spots[:, 3], spots[:, 4]
    bars = (wide >= FLATTEST * high) & (area >= SOLID * wide * high) & (wide >= LENGTH[0] * heights.min())
    for n in np.flatnonzero(bars).tolist():
        left, top, width, height, _ = spots[n].tolist()
        apart = np.maximum(lefts - (left + width), left - rights) / heights
        off = np.abs(middles - (top + height / 2)) / heights
        beside = np.flatnonzero((off < OFF_MIDDLE) & (apart > NEAREST) & (apart < FARTHEST))
        if not beside.size:
            continue
        row = beside[np.argmin(apart[beside])]
        size = heights[row]
        if (
            LENGTH[0] * size <= width <= LENGTH[1] * size
            and height <= THICKEST * size
            and _is_alone(spots, n, reach=ALONE * size)
        ):
            right, above, below = left + width, float(tops[row]), float(bottoms[row])
            found.append([[left, above], [right, above], [right, below], [left, below]])
    return np.array(found, np.float32).reshape(-1, 4, 2)


def _contrast(image: RGB, *, size: float) -> Grey:
    """(height, width): how much darker things of a letter's size are than the paper around them."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    side = max(3, round(size)) | 1
    return cast("Grey", cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((side, side), np.uint8)))


def _is_alone(spots: npt.NDArray[np.float64], n: int, *, reach: float) -> bool:
    """Whether no other ink outside the lines is near."""
    left, top, width, height, _ = spots[n]
    beside = np.maximum(spots[:, 0] - (left + width), left - (spots[:, 0] + spots[:, 2]))
    above = np.maximum(spots[:, 1] - (top + height), top - (spots[:, 1] + spots[:, 3]))
    near = (beside < reach) & (above < reach / 2)
    return int(near.sum()) == 1
