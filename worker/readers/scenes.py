"""Where a video is cut: pure functions over small frames and over times. Decoding is video.py's business.

A cut is a change of the picture that stands out from its neighbours (so that motion alone is none) and that stays (so
that a flash is none). Two measures must agree: the pixels differ, and so does the mixture of colours.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from worker.readers.base import RGB, Segment, Segmenting

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_SCORE = 0.15
"""Least change of a cut, on a scale from 0, the same picture, to 1."""
RATIO = 2.5
"""How many times a cut must exceed the mean change of the frames around it."""
PEAK = 1.4
"""How many times it must exceed the greatest change next to it: fast motion makes hills, a cut makes a needle."""
NEIGHBOURS = 6
"""Frames on each side that make up that mean."""
FLASH_FRAMES = 2
"""A change that is undone within so many frames is a flash, not a cut."""

_SIDE = (48, 27)
_LUMA_BINS, _CHROMA_BINS = 24, 10


class Look:
    """What is compared of a frame: a tiny picture and its mixture of colours."""

    __slots__ = ("mixture", "pixels")

    def __init__(self, image: RGB) -> None:
        small = cv2.resize(image, _SIDE, interpolation=cv2.INTER_AREA)
        self.pixels: npt.NDArray[np.float32] = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).astype(np.float32)
        self.mixture = _mixture(self.pixels)


def change(one: Look, other: Look) -> float:
    """How different two frames are, 0 to 1: the geometric mean of the pixels' and the colours' difference."""
    difference = np.abs(one.pixels - other.pixels).mean(axis=(0, 1))
    pixels = min(1.0, float(difference @ (0.5, 0.25, 0.25)) / 64)
    overlap = float(np.sqrt(one.mixture * other.mixture).sum())
    return math.sqrt(pixels * math.sqrt(max(0.0, 1.0 - overlap)))


def find_cuts(looks: Sequence[Look]) -> list[int]:
    """Indexes of the frames that begin a new scene; never the first."""
    scores = np.array([0.0, *(change(a, b) for a, b in pairwise(looks))])
    return [at for at in range(1, len(looks)) if _stands_out(scores, at) and _stays(looks, at)]


def biggest_change(looks: Sequence[Look]) -> int:
    """Index of the frame that differs most from the one before it."""
    scores = [change(a, b) for a, b in pairwise(looks)]
    return 1 + int(np.argmax(scores)) if scores else 0


def make_segments(cuts: Sequence[float], *, duration: float, how: Segmenting, max_segments: int) -> tuple[Segment, ...]:
    """Segments that cover [0, duration) without a gap, by the rules of `how`; longer where there would be too many.

    `cuts` are seconds, in any order; they count in the mode "scene" only.
    """
    shortest, longest = how.min_seconds, max(how.max_seconds, how.min_seconds)
    step = how.seconds
    while True:
        scenes = _join(_scenes(cuts, duration=duration), shortest) if how.mode == "scene" else []
        bounds = _split(scenes, longest) if how.mode == "scene" else _every(step, duration, shortest)
        if len(bounds) - 1 <= max_segments:
            return _number(bounds)
        shortest, longest, step = max(shortest, duration / max_segments / 50) * 1.5, longest * 1.5, step * 1.5


def _mixture(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    luma, _ = np.histogram(pixels[..., 0], bins=_LUMA_BINS, range=(0, 256))
    chroma, _, _ = np.histogram2d(
        pixels[..., 1].ravel(), pixels[..., 2].ravel(), bins=_CHROMA_BINS, range=((0, 256), (0, 256))
    )
    # A picture's grain moves pixels across the borders of bins; smoothing keeps that from looking like a change.
    smooth = np.convolve(luma, (0.25, 0.5, 0.25), mode="same")
    both = np.concatenate([smooth / max(smooth.sum(), 1), chroma.ravel() / max(chroma.sum(), 1)])
    half: npt.NDArray[np.float64] = both / 2
    return half


def _stands_out(scores: npt.NDArray[np.float64], at: int) -> bool:
    if scores[at] < MIN_SCORE:
        return False
    around = np.concatenate([scores[max(1, at - NEIGHBOURS) : at], scores[at + 1 : at + 1 + NEIGHBOURS]])
    beside = np.concatenate([scores[max(1, at - 2) : at], scores[at + 1 : at + 3]])
    return bool(
        around.size == 0 or (scores[at] >= RATIO * around.mean() and scores[at] >= PEAK * beside.max(initial=0.0))
    )


def _stays(looks: Sequence[Look], at: int) -> bool:
    """The old picture does not come back soon, and the new one was not there shortly before."""
    after = [change(looks[at - 1], look) for look in looks[at + 1 : at + 1 + FLASH_FRAMES]]
    before = [change(look, looks[at]) for look in looks[max(0, at - 1 - FLASH_FRAMES) : at - 1]]
    return all(value >= MIN_SCORE for value in after + before)


def _scenes(cuts: Sequence[float], *, duration: float) -> list[float]:
    return [0.0, *sorted({cut for cut in cuts if 0 < cut < duration}), duration]


def _join(bounds: list[float], shortest: float) -> list[float]:
    """Without the scenes that are too short: each joins the one before it, the first one the next."""
    kept = [bounds[0]]
    for bound in bounds[1:-1]:
        if bound - kept[-1] >= shortest:
            kept.append(bound)
    if len(kept) > 1 and bounds[-1] - kept[-1] < shortest:
        kept.pop()
    return [*kept, bounds[-1]]


def _split(bounds: list[float], longest: float) -> list[float]:
    result = [bounds[0]]
    for start, end in pairwise(bounds):
        pieces = max(1, math.ceil((end - start) / longest - 1e-9))
        result += [start + (end - start) * piece / pieces for piece in range(1, pieces)] + [end]
    return result


def _every(step: float, duration: float, shortest: float) -> list[float]:
    inner = [step * piece for piece in range(1, math.ceil(duration / step - 1e-9))]
    if inner and duration - inner[-1] < min(shortest, step):
        inner.pop()
    return [0.0, *inner, duration]


def _number(bounds: list[float]) -> tuple[Segment, ...]:
    pairs = pairwise(bounds)
    return tuple(Segment(number=number, start=start, end=end) for number, (start, end) in enumerate(pairs, start=1))
