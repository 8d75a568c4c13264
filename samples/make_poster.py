"""Makes poster.png: a poster for a coffee mug, with a name, a claim, three facts and a price.

Drawn at twice its size and scaled down. The fonts are those that come with PyMuPDF.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf as half_typed
from PIL import Image, ImageDraw, ImageFilter, ImageFont

pymupdf: Any = half_typed

WIDTH, HEIGHT, SCALE = 900, 1200, 2
CREAM, AMBER, NIGHT = (247, 240, 226), (240, 178, 74), (18, 34, 52)
TEXTS = (
    "NIGHTJAR",
    "The mug that stays up with you",
    "Holds 350 ml",
    "Warm for four hours",
    "Stoneware, dishwasher-safe",
    "€ 24.50",
)

# the mug in poster pixels: left, right, rim, foot, and half the height of the rim's ellipse
LEFT, RIGHT, RIM, FOOT, TILT = 255, 575, 470, 850, 46


def make(folder: Path) -> list[Path]:
    poster = _background()
    for layer in (_shadow(), _handle(), _body(), _mouth(), _owl(), _steam()):
        poster.alpha_composite(layer)
    _write(poster)
    small = poster.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    path = folder / "poster.png"
    small.save(path, optimize=True)
    return [path]


def _background() -> Image.Image:
    """Night above a table, with a warm glow behind the mug."""
    y, x = np.mgrid[0 : HEIGHT * SCALE, 0 : WIDTH * SCALE].astype(np.float32) / SCALE
    glow = np.exp(-(((x - 430) / 330) ** 2 + ((y - 610) / 320) ** 2))[..., None]
    wall = np.array(NIGHT) + glow * np.array((92, 78, 52))
    table = np.array((74, 48, 34)) + glow * np.array((88, 60, 36)) - ((y - 800) / 22)[..., None]
    colour = np.where((y < 800)[..., None], wall, table)
    return Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8)).convert("RGBA")


def _layer() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    layer = Image.new("RGBA", (WIDTH * SCALE, HEIGHT * SCALE))
    return layer, ImageDraw.Draw(layer)


def _scaled(*numbers: float) -> list[float]:
    return [number * SCALE for number in numbers]


def _shadow() -> Image.Image:
    layer, draw = _layer()
    draw.ellipse(_scaled(LEFT - 60, FOOT - 30, RIGHT + 130, FOOT + 52), fill=(12, 8, 6, 170))
    return layer.filter(ImageFilter.GaussianBlur(18 * SCALE))


def _handle() -> Image.Image:
    layer, draw = _layer()
    for inset, colour in ((0, (166, 152, 128, 255)), (6, (226, 214, 192, 255)), (26, (178, 163, 138, 255))):
        box = _scaled(RIGHT - 105 + inset, RIM + 78 + inset, RIGHT + 118 - inset, RIM + 300 - inset)
        draw.ellipse(box, outline=colour, width=(46 - 2 * min(inset, 18)) * SCALE)
    return layer.filter(ImageFilter.GaussianBlur(1.2 * SCALE))


def _body() -> Image.Image:
    """A cylinder: the mask of a rounded tub, shaded from side to side."""
    mask = Image.new("L", (WIDTH * SCALE, HEIGHT * SCALE))
    draw = ImageDraw.Draw(mask)
    draw.rectangle(_scaled(LEFT, RIM, RIGHT, FOOT - 40), fill=255)
    draw.ellipse(_scaled(LEFT, RIM - TILT, RIGHT, RIM + TILT), fill=255)
    draw.rounded_rectangle(_scaled(LEFT, FOOT - 160, RIGHT, FOOT + 30), radius=70 * SCALE, fill=255)
    across = (np.arange(WIDTH * SCALE) / SCALE - LEFT) / (RIGHT - LEFT)
    light = 0.50 + 0.50 * np.exp(-(((across - 0.30) / 0.36) ** 2)) + 0.10 * np.exp(-(((across - 0.96) / 0.05) ** 2))
    down = 1 - 0.16 * np.clip((np.arange(HEIGHT * SCALE) / SCALE - RIM) / (FOOT - RIM), 0, 1) ** 2
    shade = np.clip(light[None, :, None] * down[:, None, None] * np.array(CREAM), 0, 255).astype(np.uint8)
    body = Image.fromarray(shade).convert("RGBA")
    body.putalpha(mask)
    return body


def _mouth() -> Image.Image:
    layer, draw = _layer()
    draw.ellipse(_scaled(LEFT, RIM - TILT, RIGHT, RIM + TILT), fill=(250, 244, 232, 255))
    draw.ellipse(_scaled(LEFT + 13, RIM - TILT + 8, RIGHT - 13, RIM + TILT - 6), fill=(176, 160, 136, 255))
    draw.ellipse(_scaled(LEFT + 20, RIM - TILT + 22, RIGHT - 20, RIM + TILT - 8), fill=(58, 32, 18, 255))
    draw.ellipse(_scaled(LEFT + 52, RIM - 12, LEFT + 190, RIM + 24), fill=(98, 58, 34, 255))
    draw.ellipse(_scaled(LEFT + 66, RIM - 6, LEFT + 180, RIM + 20), fill=(66, 37, 21, 255))
    return layer


def _owl() -> Image.Image:
    """The mark on the mug: two eyes and a beak."""
    layer, draw = _layer()
    for x in (358, 442):
        draw.ellipse(_scaled(x - 40, 620, x + 40, 700), fill=(*NIGHT, 235))
        draw.ellipse(_scaled(x - 27, 633, x + 27, 687), fill=(*AMBER, 255))
        draw.ellipse(_scaled(x - 12, 648, x + 12, 672), fill=(*NIGHT, 255))
    draw.polygon(_scaled(386, 690, 414, 690, 400, 726), fill=(*NIGHT, 235))
    return layer


def _steam() -> Image.Image:
    layer, draw = _layer()
    for start, lean in ((345, 0.0), (410, 1.4), (475, 2.6)):
        wave = [(start + 20 * np.sin(y / 30 + lean), RIM - 52 - y) for y in range(0, 130, 4)]
        draw.line([(x * SCALE, y * SCALE) for x, y in wave], fill=(255, 250, 240, 120), width=13 * SCALE, joint="curve")
    return layer.filter(ImageFilter.GaussianBlur(9 * SCALE))


def _write(poster: Image.Image) -> None:
    name, claim, *facts, price = TEXTS
    _text(poster, (WIDTH / 2, 130), name, font="hebo", size=112, fill=CREAM)
    _text(poster, (WIDTH / 2, 232), claim, font="heit", size=40, fill=AMBER)
    for index, fact in enumerate(facts):
        _text(poster, (70, 985 + 52 * index), fact, font="helv", size=34, fill=CREAM, anchor="lm")
    ImageDraw.Draw(poster).rounded_rectangle(_scaled(600, 972, 840, 1102), radius=24 * SCALE, fill=AMBER)
    _text(poster, (720, 1038), price, font="hebo", size=58, fill=NIGHT)


def _text(
    poster: Image.Image,
    at: tuple[float, float],
    text: str,
    *,
    font: str,
    size: int,
    fill: tuple[int, int, int],
    anchor: str = "mm",
) -> None:
    face = ImageFont.truetype(BytesIO(pymupdf.Font(font).buffer), size * SCALE)
    ImageDraw.Draw(poster).text((at[0] * SCALE, at[1] * SCALE), text, font=face, fill=fill, anchor=anchor)


if __name__ == "__main__":
    for made in make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(made)
