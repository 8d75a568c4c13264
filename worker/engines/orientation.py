"""Reads a page that may lie on its side, upside down or askew, and says how it lay.

The turn is found on the whole page, not line by line: the shape of the boxes tells lying from standing, and a vote over
its longest lines tells top from bottom. How well the lines read does not: PP-OCRv6 reads upside-down lines as surely as
upright ones, only their order comes out reversed. An upright page pays about 50 ms for the vote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Line
from worker.engines.dashes import find_dashes
from worker.engines.reading_order import common_angle
from worker.engines.recognizer import Reading, confident

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.engines.base import RGB
    from worker.engines.recognizer import Quads, Recognizer

Matrix: TypeAlias = npt.NDArray[np.float64]
"""(3, 3): pixels of the given image to pixels of the one that is read."""

SAMPLE = 10
# Mean probability of "upside down" over the windows of ten lines: upright pages 0.00 to 0.22, turned ones 0.84 to 1.00;
# handwriting, which nobody can tell, 0.59 against 0.57.
DOUBT = 0.4
MARGIN = 0.3
# A box follows a skewed line by itself, but where a line climbs by most of its height its neighbours get into the box:
# a page of long lines at 2.7 degrees goes from 3.2 % wrong characters to 0.1 %; a photograph of signs gains nothing.
MIN_CLIMB = 0.8
MAX_SKEW_DEGREES = 15.0
# A photograph of signs with a longer side of 1024 pixels goes from 8.9 % wrong characters to 2.2 % when it is enlarged
# by a half; five other small pictures stay as they are.
SMALL_SIDE = 1100
ENLARGED = 1.5
# Boxes that reach into each other on one line: shares of their height and width. A statement goes from 2.8 to 2.3 %.
SAME_LINE = 0.6
MOST_SEAM = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A page as read. `lines` are in pixels of the given image; `rotation` (0, 90, 180, 270) and then `skew` are the
    degrees, clockwise, by which it was turned to stand upright."""

    lines: tuple[Line, ...]
    rotation: int = 0
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class _View:
    """The page as it is looked at: the picture, how it was got from the given one, and the boxes found in it."""

    image: RGB
    matrix: Matrix
    quads: Quads
    rotation: int = 0
    skew: float = 0.0


def read_sheet(recognizer: Recognizer, image: RGB, *, check: Callable[[], None] = lambda: None) -> Sheet:
    """The lines of a page, whichever way up it lies, in the order in which they were found.

    `check` is called about once a second, and may raise to give the page up.
    """
    image, matrix = _enlarged(image)
    view = _View(image, matrix, recognizer.find(image))
    check()
    if _is_sideways(view.quads):
        view = _turned(recognizer, view, degrees=90)
    if len(view.quads):
        view = _straightened(recognizer, _way_up(recognizer, view))
    check()
    view = replace(view, quads=parted(view.quads))
    return _sheet(view, recognizer.read(view.image, view.quads, check=check))


def _enlarged(image: RGB) -> tuple[RGB, Matrix]:
    """A small picture made larger, because its letters are small, and the matrix of its pixels."""
    if max(image.shape[:2]) > SMALL_SIDE:
        return image, np.eye(3)
    larger = cv2.resize(image, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    return cast("RGB", larger), np.diag([larger.shape[1] / image.shape[1], larger.shape[0] / image.shape[0], 1.0])


def parted(quads: Quads) -> Quads:
    """The boxes of upright lines, those that reach into their neighbour's end cut halfway: each would read the letter
    at the seam. Boxes are drawn generously, so that no ink is lost."""
    quads = quads.copy()
    lefts, rights = quads[:, (0, 3), 0].max(axis=1), quads[:, (1, 2), 0].min(axis=1)
    tops, bottoms = quads[:, :2, 1].mean(axis=1), quads[:, 2:, 1].mean(axis=1)
    for i in range(len(quads)):
        shared = np.minimum(bottoms, bottoms[i]) - np.maximum(tops, tops[i])
        beside = shared > SAME_LINE * np.minimum(bottoms - tops, bottoms[i] - tops[i])
        seam = rights[i] - lefts
        narrow = (seam > 0) & (seam < MOST_SEAM * np.minimum(rights - lefts, rights[i] - lefts[i]))
        for j in np.nonzero(beside & narrow & (lefts > lefts[i]) & (rights > rights[i]))[0]:
            middle = (rights[i] + lefts[j]) / 2
            quads[i, (1, 2), 0] = np.minimum(quads[i, (1, 2), 0], middle)
            quads[j, (0, 3), 0] = np.maximum(quads[j, (0, 3), 0], middle)
    return quads


def _is_sideways(quads: Quads) -> bool:
    """Whether most of the text, by length, runs up or down. Boxes nearly as tall as wide say nothing."""
    along = np.abs(quads[:, 1] - quads[:, 0])  # (line, 2)
    across = np.linalg.norm(quads[:, 3] - quads[:, 0], axis=1)
    long = along.max(axis=1) > 1.5 * across
    return bool(along[long, 1].sum() > along[long, 0].sum())


def _way_up(recognizer: Recognizer, view: _View) -> _View:
    """The view with its text the right way up. Where the lines lean to upside down, they are asked turned as well."""
    longest = _longest(view.quads)
    doubt = recognizer.upside_down(view.image, view.quads[longest])
    if doubt < DOUBT:
        return view
    # The same box from its opposite corner on is the same line the other way up.
    doubt_other = recognizer.upside_down(view.image, np.roll(view.quads[longest], 2, axis=1))
    return _turned(recognizer, view, degrees=180) if doubt - doubt_other >= MARGIN else view


def _longest(quads: Quads) -> list[int]:
    lengths = np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1)
    return [int(i) for i in np.argsort(-lengths, kind="stable")[:SAMPLE]]


def _turned(recognizer: Recognizer, view: _View, *, degrees: int) -> _View:
    """The view after a turn, looked at again: boxes of text that stands on its side or its head cut off some of it."""
    image, step = turn(view.image, degrees=degrees)
    return _View(image, step @ view.matrix, recognizer.find(image), (view.rotation + degrees) % 360)


def _straightened(recognizer: Recognizer, view: _View) -> _View:
    """The view without its skew, where that matters."""
    skew = common_angle(view.quads.tolist())
    if not len(view.quads) or abs(skew) > math.radians(MAX_SKEW_DEGREES):
        return view
    lengths = np.linalg.norm(view.quads[:, 1] - view.quads[:, 0], axis=1)
    heights = np.linalg.norm(view.quads[:, 3] - view.quads[:, 0], axis=1)
    if np.quantile(lengths, 0.9) * abs(math.sin(skew)) < MIN_CLIMB * np.median(heights):
        return view
    image, step = rotate(view.image, degrees=-math.degrees(skew))
    return _View(image, step @ view.matrix, recognizer.find(image), view.rotation, round(-math.degrees(skew), 1))


def _sheet(view: _View, readings: Sequence[Reading]) -> Sheet:
    keep = np.array(confident(readings), bool)
    if not keep.any():  # what looked like text was none, and says nothing about the page
        return Sheet(lines=())
    known = [reading for reading, good in zip(readings, keep, strict=True) if good]
    dashes = find_dashes(view.image, view.quads[keep])
    mean = fmean(reading.confidence for reading in known)  # of the lines beside them, for want of their own
    found = [*known, *(Reading(text="-", confidence=mean) for _ in dashes)]
    boxes = _map(np.concatenate([view.quads[keep], dashes]), np.linalg.inv(view.matrix)).tolist()
    lines = tuple(
        Line(text=r.text, box=tuple((round(x, 1), round(y, 1)) for x, y in box), confidence=round(r.confidence, 4))
        for r, box in zip(found, boxes, strict=True)
    )
    return Sheet(lines=lines, rotation=view.rotation, skew=view.skew)


def turn(image: RGB, *, degrees: int) -> tuple[RGB, Matrix]:
    """The picture turned clockwise by 90, 180 or 270 degrees, and the matrix of its pixels."""
    height, width = image.shape[:2]
    matrices: dict[int, list[list[float]]] = {
        90: [[0, -1, height], [1, 0, 0], [0, 0, 1]],
        180: [[-1, 0, width], [0, -1, height], [0, 0, 1]],
        270: [[0, 1, 0], [-1, 0, width], [0, 0, 1]],
    }
    return np.ascontiguousarray(np.rot90(image, -degrees // 90)), np.array(matrices[degrees], float)


def rotate(image: RGB, *, degrees: float) -> tuple[RGB, Matrix]:
    """The picture turned clockwise by a few degrees on a canvas that holds all of it, and the matrix of its pixels."""
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    full_width = math.ceil(width * abs(cos) + height * abs(sin))
    full_height = math.ceil(width * abs(sin) + height * abs(cos))
    x = full_width / 2 - (cos * width - sin * height) / 2
    y = full_height / 2 - (sin * width + cos * height) / 2
    matrix = np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]])
    turned = cv2.warpAffine(
        image, matrix[:2], (full_width, full_height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return cast("RGB", turned), matrix


def _map(quads: Quads, matrix: npt.NDArray[np.floating]) -> Quads:
    mapped: Quads = (quads @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.float32)
    return mapped
