"""Where a video is cut: pure functions over small frames and over times. Decoding is video.py's business.

A cut is a change of the picture that stands out from its neighbours (so that motion alone is none) and that stays (so
that a flash is none). Two measures must agree: the pixels differ, and so does the mixture of colours. A fade or a
dissolve is a stretch whose pictures are blends of its first and its last (so that a pan is none).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
BLEND_LENGTHS = (4, 6, 8, 12, 16, 24, 32)
"""Lengths, in frames, of the stretches that may be a fade or a dissolve."""
BLEND_OFF = 0.4
"""How far a blend may be from the straight line between its ends, as a share of their distance. A wipe has 0.5, a pan
more."""
BLEND_STEP = 0.5
"""The most of the way that one frame of a blend goes: a cut goes it all at once."""
SAME_SHAPES = 0.7
"""Pictures whose brightness is correlated so much show the same thing, in another light."""
BLEND_CLARITY = 0.22
"""Least clarity of a blend. On made films, true ones had 0.29 and more, swings of the camera and passers-by 0.17 and
less."""
BLEND_LEAST = 12.0
"""Least distance of a blend's ends, in steps of 255 per value."""
FLAT = 5.0
"""A picture whose brightness deviates less from its mean than this, of 255, shows nothing: black between two fades."""

_SIDE = (48, 27)
_SMALL = (24, 14)
_LUMA_BINS, _CHROMA_BINS = 24, 10


class Look:
    """What is compared of a frame: a tiny picture and its mixture of colours."""

    __slots__ = ("mixture", "pixels", "small")

    def __init__(self, image: RGB) -> None:
        small = cv2.resize(image, _SIDE, interpolation=cv2.INTER_AREA)
        self.pixels: RGB = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb), np.uint8)  # kept small: there are many
        pixels = self.pixels.astype(np.float32)
        self.mixture = _mixture(pixels)
        self.small: npt.NDArray[np.float32] = np.asarray(
            cv2.resize(pixels, _SMALL, interpolation=cv2.INTER_AREA), np.float32
        ).ravel()

    @property
    def brightness(self) -> npt.NDArray[np.float32]:
        return self.small[::3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """A fade or a dissolve, by the indexes of its frames; `middle` is the first that is more the new picture than the
    old. `clarity` is how much its ends differ and how well it lies between them, 0 to 1."""

    first: int
    last: int
    middle: int
    clarity: float


def change(one: Look, other: Look) -> float:
    """How different two frames are, 0 to 1: the geometric mean of the pixels' and the colours' difference."""
    difference = np.asarray(cv2.absdiff(one.pixels, other.pixels)).mean(axis=(0, 1))
    pixels = min(1.0, float(difference @ (0.5, 0.25, 0.25)) / 64)
    overlap = float(np.sqrt(one.mixture * other.mixture).sum())
    return math.sqrt(pixels * math.sqrt(max(0.0, 1.0 - overlap)))


def find_cuts(looks: Sequence[Look]) -> list[int]:
    """Indexes of the frames that begin a new scene; never the first."""
    scores = np.array([0.0, *(change(a, b) for a, b in pairwise(looks))])
    return [at for at in range(1, len(looks)) if _stands_out(scores, at) and _stays(looks, at)]


def find_blends(looks: Sequence[Look], *, cuts: Sequence[int] = ()) -> list[int]:
    """Indexes of the frames that begin a new scene after a fade or a dissolve, which are no `cuts`."""
    if not looks:
        return []
    pictures = np.stack([look.small for look in looks])
    found = [
        blend
        for length in BLEND_LENGTHS
        for first in range(len(looks) - length)
        if (blend := _blend(looks, pictures, first, first + length)) is not None
    ]
    free = [blend for blend in found if not any(blend.first < cut <= blend.last for cut in cuts)]
    return [blend.middle for blend in _without_dips(_clearest(free), looks)]


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


def _blend(looks: Sequence[Look], pictures: npt.NDArray[np.float32], first: int, last: int) -> Blend | None:
    """The stretch first..last as a blend, if it is one."""
    way = pictures[last] - pictures[first]
    length = float(way @ way)
    if length < way.size * BLEND_LEAST**2 or (difference := change(looks[first], looks[last])) < MIN_SCORE:
        return None
    gone = pictures[first : last + 1] - pictures[first]
    along = gone @ way / length
    off = float(np.sqrt(np.square(gone - along[:, None] * way).sum(axis=1).max() / length))
    if off > BLEND_OFF or np.diff(along).max() > BLEND_STEP or _same_shapes(looks[first], looks[last]):
        return None
    middle, clarity = first + int(np.argmax(along >= 0.5)), difference * (1 - off)
    return Blend(first=first, last=last, middle=middle, clarity=clarity) if clarity >= BLEND_CLARITY else None


def _same_shapes(one: Look, other: Look) -> bool:
    if is_flat(one) or is_flat(other):
        return False
    return bool(np.corrcoef(one.brightness, other.brightness)[0, 1] > SAME_SHAPES)


def is_flat(look: Look) -> bool:
    return float(look.brightness.std()) < FLAT


def _clearest(blends: Sequence[Blend]) -> list[Blend]:
    """In order of time, and none that overlaps a clearer one."""
    chosen: list[Blend] = []
    for blend in sorted(blends, key=lambda blend: -blend.clarity):
        if all(blend.last <= other.first or blend.first >= other.last for other in chosen):
            chosen.append(blend)
    return sorted(chosen, key=lambda blend: blend.first)


def _without_dips(blends: Sequence[Blend], looks: Sequence[Look]) -> list[Blend]:
    """A fade out is no scene of its own where a fade in follows, with nothing to see between them."""
    kept = [one for one, following in pairwise(blends) if not _is_dip(one, following, looks)]
    return [*kept, *blends[-1:]]


def _is_dip(one: Blend, following: Blend, looks: Sequence[Look]) -> bool:
    between = looks[one.last + 1 : following.first]
    around = looks[one.middle : following.middle + 1]
    return all(is_flat(look) for look in between) and any(is_flat(look) for look in around)


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
