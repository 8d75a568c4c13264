"""Ten kinds of sheets on which nothing is written, at the size in which pages are read, and two that look like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.readers.base import RGB

HEIGHT, WIDTH = 2000, 1414
PROSE = "The keeper of the wood wrote down the hour at which each of the owls was heard, and where. "


def sheet(paper: float = 250.0) -> RGB:
    return np.full((HEIGHT, WIDTH, 3), paper, np.uint8)


def grained(image: RGB, sigma: float, *, seed: int = 1) -> RGB:
    noise = np.random.default_rng(seed).normal(0, sigma, (*image.shape[:2], 1))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def drawn(image: RGB, draw: Callable[[ImageDraw.ImageDraw], object]) -> RGB:
    picture = Image.fromarray(image)
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture)


def printed(shade: int = 20, *, lines: int = 40, size: int = 30) -> RGB:
    """A page of prose."""
    font = ImageFont.load_default(size)
    words = (PROSE * 60)[: lines * 70]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(lines):
            pen.text((150, 160 + 42 * n), words[70 * n : 70 * n + 70], fill=(shade,) * 3, font=font)

    return drawn(sheet(), draw)


def noise() -> RGB:
    """A grainy sheet with the dust of a scanner's glass."""
    places = np.random.default_rng(2).integers(20, 1390, (60, 2))

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for x, y in places:
            pen.rectangle((x, y, x + 1, y + 1), fill=(150, 150, 150))

    return grained(drawn(sheet(240), draw), 9)


def bleed_through() -> RGB:
    """The other side of a thin sheet: mirrored, faint, and blurred by the paper."""
    back = Image.fromarray(printed()[:, ::-1]).filter(ImageFilter.GaussianBlur(3))
    return grained((248 - (255 - np.asarray(back, float)) * 0.16).clip(0, 255).astype(np.uint8), 2)


def ruled() -> RGB:
    """Paper for writing on, with its margin."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(30):
            pen.line((0, 200 + 58 * n, WIDTH, 200 + 58 * n), fill=(120, 150, 210), width=2)
        pen.line((170, 0, 170, HEIGHT), fill=(220, 120, 120), width=2)

    return grained(drawn(sheet(), draw), 2)


def squared() -> RGB:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in range(0, HEIGHT, 40):
            pen.line((0, n, WIDTH, n), fill=(170, 190, 220), width=2)
            pen.line((n, 0, n, HEIGHT), fill=(170, 190, 220), width=2)

    return drawn(sheet(), draw)


def bordered() -> RGB:
    """The black around a sheet that was smaller than the scanner, and a shadow along its fold."""
    image = drawn(sheet(10), lambda pen: pen.polygon([(60, 40), (1370, 70), (1350, 1950), (30, 1960)], fill=(245,) * 3))
    shade = np.clip(1 - 0.25 * np.exp(-(((np.arange(WIDTH) - 110) / 60.0) ** 2)), 0, 1)
    return grained((image * shade[None, :, None]).astype(np.uint8), 3)


def punched() -> RGB:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for y in (600, 1400):
            pen.ellipse((60, y - 35, 130, y + 35), fill=(40, 40, 40))
        for y in (300, 1700):
            pen.ellipse((60, y - 35, 130, y + 35), fill=(200, 200, 200), outline=(120, 120, 120), width=3)

    return grained(drawn(sheet(), draw), 2)


def stapled() -> RGB:
    """A staple, its shadow, and the two holes of another one."""

    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.line((60, 120, 130, 60), fill=(90, 90, 90), width=7)
        pen.line((66, 126, 136, 66), fill=(190, 190, 190), width=5)
        for x, y in ((180, 60), (196, 104)):
            pen.ellipse((x, y, x + 7, y + 7), fill=(60, 60, 60))

    return grained(drawn(sheet(), draw), 2)


def gradient() -> RGB:
    """The light of one lamp."""
    light = np.linspace(250, 170, HEIGHT)[:, None] + np.linspace(0, -30, WIDTH)[None, :]
    return grained(np.repeat(light[:, :, None], 3, axis=2).astype(np.uint8), 2)


def coloured() -> RGB:
    """Yellow paper with fibres in it."""
    image = sheet()
    image[:] = (240, 214, 120)
    blotches = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 60, (HEIGHT, WIDTH)), (0, 0), 9)
    return grained(np.clip(image + blotches[:, :, None], 0, 255).astype(np.uint8), 4)


BLANKS: dict[str, Callable[[], RGB]] = {
    "white": lambda: sheet(255),
    "grey": lambda: grained(sheet(190), 1),
    "noise": noise,
    "bleed-through": bleed_through,
    "ruled": ruled,
    "squared": squared,
    "borders and shadows": bordered,
    "punch holes": punched,
    "staple": stapled,
    "gradient": gradient,
    "coloured paper": coloured,
}


def note(image: RGB, text: str = "7", *, at: tuple[int, int] = (700, 1900), size: int = 32, shade: int = 30) -> RGB:
    return drawn(image, lambda pen: pen.text(at, text, fill=(shade,) * 3, font=ImageFont.load_default(size)))
