"""What is printed on a page: its ink, its words, and how tall its lower-case letters are. Pure functions.

Nothing is read here. A page is measured so that it can be cut into pieces that a small eye can read
(worker/engines/tiles.py). It should stand upright: text that lies on its side is measured too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from worker.engines.base import RGB

Grey: TypeAlias = npt.NDArray[np.uint8]
"""(height, width)."""
Mask: TypeAlias = npt.NDArray[np.uint8]
"""(height, width), 1 where there is something."""
Ints: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

MAX_PIXELS = 5_000_000
"""A4 at 230 dpi, where a full stop of 8-point type is still 3 pixels. Measuring takes about 60 ms per million."""
# Grey levels between ink and the paper around it. Faint pencil on a clean scan is about 15 (worker/readers/ink.py).
MIN_CONTRAST = 12
NOISE_SIGMAS = 6
MAX_NOISE = 60
# Print reaches this share of the page's contrast: without the grey halo that joins neighbouring letters.
BOLD_SHARE = 0.35
MAX_DUST = 5
"""Pixels: 0.6 mm at 200 dpi. What is larger is ink, however large the letters of the page are taken to be."""
MIN_SPOT = 3
"""Pixels of a spot of ink; smaller ones are noise."""
PAPER_SIDE, PAPER_WINDOW = 500, 21
"""The paper is the median colour of this window on the page at this longer side: 4 % of it, wider than most strokes."""

# Of a letter, or of letters that touch, in its own height or width.
MAX_LETTER_WIDTH, MAX_LETTER_TALLNESS = 12, 8
MIN_LETTER_HEIGHT = 3
BAR_FILL, BAR_WIDTH = 0.7, 2
"""A dash or a piece of a rule fills its box and is wider than tall; an l or a 1 is taller than wide."""

# In typical heights of the page's letters.
MAX_WORD_LETTER = 4
LETTER_GAP = 0.35

MIN_WORD_WIDTH = 1.5
"""In heights of the word."""
CORE = 0.45
"""Share of the ink of a word's fullest row that a row has between the x-line and the baseline, and not above or below:
the stems of ascenders are about 15 %. Measured on type of known sizes, where 0.35 to 0.55 give the same heights."""
MIN_CORE = 0.35
"""Share of a word's height. Latin x-heights are 0.45 to 0.55 of it; Arabic has most ink in one stroke on the baseline,
which would pass for the whole letter."""
MAX_LETTERS = 15.0
MIN_LETTERS = 3.0
"""Fewer letters than this on a page say nothing about its size."""
SMALL_PRINT = 4.0
"""Pixels of x-height: print that is smaller cannot be told from dashes and grain, and counts only if there is no
other."""

# In x-heights.
LONG, THIN = 6.0, 0.6
STROKE = 3.0
"""A straight piece that is longer is of a rule, not of a letter that touches it."""
FRAME_FILL = 0.15
MAX_BOLD = 20.0
DUST, FAR = 0.5, 2.0
LETTER_HEIGHTS = (0.4, 4.0)

MAX_WIDE, MAX_TALL = 3.0, 6.0
"""A large letter, in its own height and width."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """What looks like words: `boxes` (n, 4) as left, top, right, bottom; the x-height of each in pixels; and about how
    many letters each has, which is its weight."""

    boxes: Ints
    x_heights: Floats
    letters: Floats

    def typical(self, left: int, top: int, right: int, bottom: int) -> float | None:
        """The median x-height of the letters whose words have their middle in this box; None if they are too few."""
        x, y = self.boxes[:, [0, 2]].mean(axis=1), self.boxes[:, [1, 3]].mean(axis=1)
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        for chosen in (inside & (self.x_heights >= SMALL_PRINT), inside):
            if float(self.letters[chosen].sum()) >= MIN_LETTERS:
                return _weighted_median(self.x_heights[chosen], self.letters[chosen])
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lettering:
    """What was measured on a page that was shrunk `scale` times; all of it is in the shrunk page's pixels.

    `ink` is what must be seen: all print, and fainter marks of a letter's size; no dust. `print_` is what should not
    be cut through: no rules, frames or pictures, which are cut wherever it is. `x_height` is None without text.
    """

    scale: int
    ink: Mask
    print_: Mask
    words: Words
    x_height: float | None


def text_height(image: RGB) -> float | None:
    """The x-height (the height of an x) of the page's typical text in pixels: half of its letters are as small or
    smaller. None if no text is found. Chinese characters, capitals and figures count with their whole height."""
    page = survey(image)
    return None if page.x_height is None else page.x_height * page.scale


def survey(image: RGB) -> Lettering:
    """Measure a page. A plain area is paper, whatever its colour."""
    shrunk, scale = _shrunk(image)
    contrast = _contrast(shrunk)
    noise = _noise(contrast)
    bold = _spots(contrast > _bold_threshold(contrast, noise=noise))
    words = _words(bold)
    x_height = words.typical(0, 0, shrunk.shape[1], shrunk.shape[0])
    unit = x_height or 0.0
    kept = _without_dust(bold, unit=unit)
    ink = kept[bold.labels] | _faint(_spots(contrast > noise), unit=unit)
    is_passable = _is_passable(bold, unit=unit)
    print_ = (kept & bold.is_ink & ~is_passable)[bold.labels] | _on_rules(bold, is_passable, unit=unit)
    return Lettering(scale=scale, ink=ink.view(np.uint8), print_=print_.view(np.uint8), words=words, x_height=x_height)


def pooled(mask: Mask, *, cell: int) -> Mask:
    """The mask in squares of `cell` pixels: a square has something if any of its pixels has."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % cell), (0, -width % cell)))
    rows = padded.reshape(-1, cell, padded.shape[1]).max(axis=1)
    return cast("Mask", rows.reshape(rows.shape[0], -1, cell).max(axis=2))


def _weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values, kind="stable")
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])


def _shrunk(image: RGB) -> tuple[RGB, int]:
    """The page at no more than MAX_PIXELS, and how many of its pixels make one; the last may reach over its edge."""
    height, width = image.shape[:2]
    scale = math.ceil(math.sqrt(height * width / MAX_PIXELS))
    if scale == 1:
        return image, 1
    whole = cv2.copyMakeBorder(image, 0, -height % scale, 0, -width % scale, cv2.BORDER_REPLICATE)
    size = (whole.shape[1] // scale, whole.shape[0] // scale)
    return cast("RGB", cv2.resize(whole, size, interpolation=cv2.INTER_AREA)), scale


def _contrast(image: RGB) -> Grey:
    """How far each pixel is from the paper around it, in the colour where that is most.

    The pixels of the window are picked, not averaged: their median is then paper itself, though much of it is covered.
    """
    height, width = image.shape[:2]
    step = max(1, min(max(height, width) // PAPER_SIDE, min(height, width)))
    small = np.ascontiguousarray(image[step // 2 :: step, step // 2 :: step])
    window = min(PAPER_WINDOW, (min(small.shape[:2]) - 1) // 2 * 2 + 1)
    paper = _blurred(small, window=window) if window >= 3 else small
    apart = cv2.absdiff(image, cv2.resize(paper, (width, height), interpolation=cv2.INTER_LINEAR))
    red, green, blue = cv2.split(apart)
    return cast("Grey", cv2.max(cv2.max(red, green), blue))


def _blurred(image: RGB, *, window: int) -> RGB:
    """Beyond its edges the page is mirrored: a rule along an edge, repeated, would be the most of the window there."""
    half = window // 2
    wide = cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
    return cast("RGB", cv2.medianBlur(wide, window)[half:-half, half:-half])


def _noise(contrast: Grey) -> float:
    """The contrast that ink must exceed: above the noise of this page, whose median pixel is paper."""
    sigma = 1.4826 * float(np.median(contrast[::3, ::3]))
    return max(float(MIN_CONTRAST), min(NOISE_SIGMAS * sigma, MAX_NOISE))


def _bold_threshold(contrast: Grey, *, noise: float) -> float:
    sample = contrast[::2, ::2]
    inked = sample[sample > noise]
    return max(noise, BOLD_SHARE * float(np.quantile(inked, 0.9))) if inked.size else noise


@dataclass(frozen=True, slots=True, eq=False)
class _Spots:
    """Connected spots: `labels` (height, width) says whose each pixel is, 0 being paper; the rest is one value each."""

    labels: Ints
    left: Ints
    top: Ints
    width: Ints
    height: Ints
    area: Ints

    @property
    def is_ink(self) -> Flags:
        """All but the paper and noise."""
        is_ink = self.area >= MIN_SPOT
        is_ink[0] = False
        return is_ink


def _spots(mask: Flags) -> _Spots:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return _Spots(cast("Ints", labels), *cast("Ints", stats).T)


def _without_dust(spots: _Spots, *, unit: float) -> Flags:
    """(spot,): those that are not both small and far from all larger ones: a full stop stands near its letters."""
    large = spots.is_ink & (np.maximum(spots.width, spots.height) >= min(DUST * unit, MAX_DUST))
    cell = max(1, round(unit / 2))
    reach = 2 * round(FAR * unit / cell) + 1
    near = cv2.dilate(pooled(large[spots.labels].view(np.uint8), cell=cell), np.ones((reach, reach), np.uint8))
    # Where a small spot is says its corner; that of a large one may be far from its own ink.
    kept = large | (near[spots.top // cell, spots.left // cell] > 0)
    kept[0] = False
    return kept


def _faint(spots: _Spots, *, unit: float) -> Flags:
    """(height, width): pencil, but not the lines, folds and shadows of the paper: what has the size of letters. Where
    no text was found, anything."""
    if not unit:
        return spots.is_ink[spots.labels]
    low, high = (share * unit for share in LETTER_HEIGHTS)
    return (_is_letter(spots) & (spots.height >= low) & (spots.height <= high))[spots.labels]


def _words(spots: _Spots) -> Words:
    is_letter = _is_letter(spots)
    if not is_letter.any():
        return Words(boxes=np.zeros((0, 4), np.int32), x_heights=np.zeros(0), letters=np.zeros(0))
    typical = _weighted_median(spots.height[is_letter].astype(float), spots.width[is_letter].astype(float))
    letters = (is_letter & (spots.height <= MAX_WORD_LETTER * typical))[spots.labels]
    gap = np.ones((1, 1 + max(1, round(LETTER_GAP * typical))), np.uint8)
    return _measured(letters, _spots(cv2.morphologyEx(letters.view(np.uint8), cv2.MORPH_CLOSE, gap) > 0))


def _is_letter(spots: _Spots) -> Flags:
    """By its shape alone: neither dust, nor a rule, nor a dash. Pictures have such spots too, but few in a row."""
    width, height = spots.width, spots.height
    bar = (spots.area > BAR_FILL * width * height) & (width > BAR_WIDTH * height)
    fits = (width <= MAX_LETTER_WIDTH * height) & (height <= MAX_LETTER_TALLNESS * width)
    return spots.is_ink & (height >= MIN_LETTER_HEIGHT) & fits & ~bar


def _measured(letters: Flags, groups: _Spots) -> Words:
    """The x-height of each group of letters, from the ink in its rows."""
    is_word = groups.is_ink & (groups.width >= MIN_WORD_WIDTH * groups.height)
    tallest = int(groups.height[is_word].max(initial=1))
    y, x = np.nonzero(letters)
    group = groups.labels[y, x]
    y, group = y[is_word[group]], group[is_word[group]]
    rows = group.astype(np.int64) * tallest + (y - groups.top[group])
    profile = np.bincount(rows, minlength=len(is_word) * tallest).reshape(-1, tallest)[is_word]  # (word, row)
    left, top = groups.left[is_word], groups.top[is_word]
    width, height = groups.width[is_word], groups.height[is_word]
    return Words(
        boxes=np.stack([left, top, left + width, top + height], axis=1),
        x_heights=np.maximum(_cores(profile), MIN_CORE * height),
        letters=np.minimum(width / height, MAX_LETTERS),
    )


def _cores(profile: npt.NDArray[np.intp]) -> Floats:
    """From the first row that has much of the ink of the fullest to the last: (word, row) to (word,)."""
    core = profile >= CORE * profile.max(axis=1, keepdims=True, initial=1)
    first, last = core.argmax(axis=1), core.shape[1] - 1 - core[:, ::-1].argmax(axis=1)
    return cast("Floats", (last - first + 1).astype(float))


def _is_passable(spots: _Spots, *, unit: float) -> Flags:
    """(spot,): rules, frames, smears and pictures. Large initials and the letters of headings are none."""
    width, height = spots.width, spots.height
    if not unit:
        return np.zeros(len(width), np.bool_)
    rule = (width > LONG * unit) & (height < THIN * unit)
    solid = spots.area >= FRAME_FILL * width * height
    letter = (height <= MAX_BOLD * unit) & (width <= MAX_WIDE * height) & (height <= MAX_TALL * width) & solid
    return rule | ((height > LONG * unit) & ~letter)


def _on_rules(spots: _Spots, is_passable: Flags, *, unit: float) -> Flags:
    """(height, width): letters that touch a rule or a frame, without it."""
    is_hollow = spots.area < FRAME_FILL * spots.width * spots.height
    framed = (is_passable & is_hollow)[spots.labels].view(np.uint8)
    if not framed.any():
        return framed.view(np.bool_)
    length = max(2, round(STROKE * unit))
    for shape in ((1, length), (length, 1)):
        framed[cv2.morphologyEx(framed, cv2.MORPH_OPEN, np.ones(shape, np.uint8)) > 0] = 0
    letters = _spots(framed.view(np.bool_))
    low, high = (share * unit for share in LETTER_HEIGHTS)
    return (_is_letter(letters) & (letters.height >= low) & (letters.height <= high))[letters.labels]
