"""Kinds of sheets on which nothing is written, and what may be little and is to be read.

A sheet is drawn at the size in which pages are read, scanned at another (`side`), and gets the grain of the scanner
then. `seed` moves, turns and shades what is on it; 0 is the plain case.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.readers.base import RGB

HEIGHT, WIDTH = 2000, 1414
PROSE = "The keeper of the wood wrote down the hour at which each of the owls was heard, and where. "

Drawn: TypeAlias = "tuple[RGB, float]"
"""A sheet, and the standard deviation of its grain in grey levels."""


class Chance:
    """Numbers around those of the plain case, which is seed 0."""

    def __init__(self, seed: int) -> None:
        self.plain = seed == 0
        self._random = np.random.default_rng(seed)

    def near(self, value: float, by: float) -> float:
        return value if self.plain else float(self._random.uniform(value - by, value + by))

    def places(self, count: int) -> list[tuple[int, int]]:
        return [(int(x), int(y)) for x, y in self._random.uniform((20, 20), (WIDTH - 20, HEIGHT - 20), (count, 2))]

    def normal(self, sigma: float) -> np.ndarray:
        return self._random.normal(0, sigma, (HEIGHT, WIDTH))


def sheet(paper: float = 250.0) -> RGB:
    return np.full((HEIGHT, WIDTH, 3), paper, np.uint8)


def grained(image: RGB, sigma: float, *, seed: int = 1) -> RGB:
    if not sigma:
        return image
    noise = np.random.default_rng(seed).normal(0, sigma, (*image.shape[:2], 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def drawn(image: RGB, draw: Callable[[ImageDraw.ImageDraw], object]) -> RGB:
    picture = Image.fromarray(image)
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture)


def scanned(image: RGB, side: int) -> RGB:
    """The picture with another longer side."""
    scale = side / max(image.shape[:2])
    if scale == 1:
        return image
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), dtype=np.uint8
    )


def printed(shade: int = 20, *, lines: int = 40, size: int = 30) -> RGB:
    """A page of prose."""
    font = ImageFont.load_default(size)
    words = (PROSE * 60)[: lines * 70]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(lines):
            pen.text((150, 160 + 42 * n), words[70 * n : 70 * n + 70], fill=(shade,) * 3, font=font)

    return drawn(sheet(), draw)


def white(chance: Chance) -> Drawn:
    return sheet(chance.near(253, 2)), 0.0


def grey(chance: Chance) -> Drawn:
    return sheet(chance.near(190, 40)), 1.0


def noise(chance: Chance) -> Drawn:
    """A grainy sheet with the dust of a scanner's glass."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for x, y in chance.places(60):
            pen.rectangle((x, y, x + 1, y + 1), fill=(150, 150, 150))

    return drawn(sheet(240), draw), chance.near(9, 3)


def bleed_through(chance: Chance) -> Drawn:
    """The other side of a thin sheet: mirrored, faint, and blurred by the paper."""
    back = printed(lines=round(chance.near(32, 8)), size=round(chance.near(30, 6)))[:, ::-1]
    soft = np.asarray(Image.fromarray(back).filter(ImageFilter.GaussianBlur(chance.near(3, 0.8))), float)
    return (248 - (255 - soft) * chance.near(0.14, 0.04)).clip(0, 255).astype(np.uint8), 2.0


def ruled(chance: Chance) -> Drawn:
    """Paper for writing on, with its margin."""
    pitch, margin, askew = chance.near(58, 14), chance.near(170, 60), chance.near(0, 12)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(int(1750 / pitch)):
            pen.line((0, 200 + pitch * n, WIDTH, 200 + pitch * n + askew), fill=(120, 150, 210), width=2)
        pen.line((margin + askew, 0, margin, HEIGHT), fill=(220, 120, 120), width=2)

    return drawn(sheet(), draw), 2.0


def squared(chance: Chance) -> Drawn:
    pitch = round(chance.near(40, 8))

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(0, HEIGHT, pitch):
            pen.line((0, n, WIDTH, n), fill=(170, 190, 220), width=2)
            pen.line((n, 0, n, HEIGHT), fill=(170, 190, 220), width=2)

    return drawn(sheet(), draw), 0.0


def few_lines(chance: Chance) -> Drawn:
    """The rules of an empty form: a frame, a line to sign on."""
    x, y = chance.near(200, 60), chance.near(600, 200)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.rectangle((x, y, x + 900, y + 420), outline=(60, 60, 60), width=3)
        pen.line((x, y + 210, x + 900, y + 210), fill=(60, 60, 60), width=2)
        pen.line((x + 40, y + 900, x + 600, y + 900), fill=(30, 30, 30), width=3)

    return drawn(sheet(), draw), 2.0


def bordered(chance: Chance) -> Drawn:
    """The black around a sheet that was smaller than the scanner, and a shadow along its fold."""
    places = [(60, 40), (1370, 70), (1350, 1950), (30, 1960)]
    corners = [(chance.near(x, 20), chance.near(y, 20)) for x, y in places]
    image = drawn(sheet(10), lambda pen: pen.polygon(corners, fill=(245,) * 3))
    fold = np.exp(-(((np.arange(WIDTH) - chance.near(110, 30)) / chance.near(60, 15)) ** 2))
    shade = np.clip(1 - chance.near(0.25, 0.05) * fold, 0, 1)
    return (image * shade[None, :, None]).astype(np.uint8), 3.0


def punched(chance: Chance) -> Drawn:
    x, radius, move = chance.near(95, 20), chance.near(33, 5), chance.near(0, 60)

    def hole(pen: ImageDraw.ImageDraw, y: float, **colours: object) -> None:
        pen.ellipse((x - radius, y + move - radius, x + radius, y + move + radius), **colours)  # type: ignore[arg-type]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for y in (600, 1400):
            hole(pen, y, fill=(40, 40, 40))
        for y in (300, 1700):
            hole(pen, y, fill=(200, 200, 200), outline=(120, 120, 120), width=3)

    return drawn(sheet(), draw), 2.0


def stapled(chance: Chance) -> Drawn:
    """A staple, its shadow, and the two holes of another one."""
    x, y, angle = chance.near(60, 20), chance.near(90, 25), chance.near(-0.7, 0.6)
    across, down = 92 * np.cos(angle), 92 * np.sin(angle)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.line((x + 6, y + 36, x + 6 + across, y + 36 + down), fill=(190, 190, 190), width=5)
        pen.line((x, y + 30, x + across, y + 30 + down), fill=(90, 90, 90), width=7)
        for left, top in ((x + 120, y - 30), (x + 136, y + 14)):
            pen.ellipse((left, top, left + 7, top + 7), fill=(60, 60, 60))

    return drawn(sheet(), draw), 2.0


def gradient(chance: Chance) -> Drawn:
    """The light of one lamp."""
    light = np.linspace(250, chance.near(175, 15), HEIGHT)[:, None] + np.linspace(0, chance.near(-30, 10), WIDTH)[None]
    return np.repeat(light[:, :, None], 3, axis=2).astype(np.uint8), 2.0


def coloured(chance: Chance) -> Drawn:
    """Paper with a colour and fibres in it."""
    image = sheet()
    image[:] = [int(chance.near(level, 14)) for level in (240, 214, 120)]
    blotches = cv2.GaussianBlur(chance.normal(60), (0, 0), 9)
    return np.clip(image + blotches[:, :, None], 0, 255).astype(np.uint8), 4.0


KINDS: dict[str, Callable[[Chance], Drawn]] = {
    "white": white,
    "grey": grey,
    "noise": noise,
    "bleed-through": bleed_through,
    "ruled": ruled,
    "squared": squared,
    "few lines": few_lines,
    "borders and shadows": bordered,
    "punch holes": punched,
    "staple": stapled,
    "gradient": gradient,
    "coloured paper": coloured,
}


def blank(kind: str, *, side: int = HEIGHT, seed: int = 0) -> RGB:
    """An empty sheet of a kind, `side` pixels high."""
    image, sigma = KINDS[kind](Chance(seed))
    return grained(scanned(image, side), sigma, seed=seed + 1)


BLANKS: dict[str, Callable[..., RGB]] = {kind: partial(blank, kind) for kind in KINDS}


def inked(image: RGB, draw: Callable[[ImageDraw.ImageDraw], object], *, shade: tuple[int, int, int]) -> RGB:
    """What is drawn in white, in ink that has this shade on white paper, and darkens other paper as much."""
    mask = Image.new("L", (image.shape[1], image.shape[0]), 0)
    draw(ImageDraw.Draw(mask))
    share = np.asarray(mask, float)[:, :, None] / 255
    return np.asarray(image * (1 - share * (1 - np.asarray(shade) / 255)), dtype=np.uint8)


def note(image: RGB, text: str = "7", *, at: tuple[int, int] = (700, 1900), size: int = 32, shade: int = 30) -> RGB:
    font = ImageFont.load_default(size)
    return inked(image, lambda pen: pen.text(at, text, fill=255, font=font), shade=(shade,) * 3)


def stamped(image: RGB, *, at: tuple[int, int] = (800, 1500), shade: tuple[int, int, int] = (200, 130, 140)) -> RGB:
    """A round stamp in faint red ink, askew."""
    stamp = Image.new("L", (320, 320), 0)
    pen = ImageDraw.Draw(stamp)
    pen.ellipse((10, 10, 310, 310), outline=255, width=6)
    pen.text((50, 130), "RECEIVED", fill=255, font=ImageFont.load_default(42))
    pen.text((85, 185), "4 MAY 1987", fill=255, font=ImageFont.load_default(26))
    turned = stamp.rotate(17, resample=Image.Resampling.BICUBIC)
    return inked(image, lambda pen: pen.bitmap(at, turned, fill=255), shade=shade)


LITTLE: dict[str, Callable[[RGB], RGB]] = {
    "a page number": note,
    "faint pencil": lambda image: note(image, "a few words", at=(300, 700), size=44, shade=200),
    "one line": lambda image: note(image, "This page was left blank on purpose.", at=(420, 960), size=32, shade=60),
    "a stamp": stamped,
}
"""What may stand alone on a sheet, at the size in which pages are read."""


def little(kind: str, *, paper: str = "grey", side: int = HEIGHT, seed: int = 0) -> RGB:
    """A sheet with little on it."""
    image, sigma = KINDS[paper](Chance(seed))
    return grained(scanned(LITTLE[kind](image), side), sigma, seed=seed + 1)
