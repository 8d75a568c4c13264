"""Makes clip.mp4, a day at the observatory in five scenes with captions, and clip.cuts.json, the times of its cuts.

Every scene moves and every change of scene is a hard cut. The video is MPEG-4 (part 2) in MP4, written with OpenCV,
whose wheel has no H.264 encoder. There is no sound.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymupdf as half_typed
from PIL import Image, ImageDraw, ImageFont

pymupdf: Any = half_typed

WIDTH, HEIGHT, SCALE, FPS = 640, 360, 2, 12

Colour = tuple[int, int, int]
Draw = Callable[[ImageDraw.ImageDraw, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    seconds: float
    caption: str
    draw: Draw
    """Draws the picture at a share of the scene from 0 to 1."""


def make(folder: Path) -> list[Path]:
    clip, cuts = folder / "clip.mp4", folder / "clip.cuts.json"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for scene in SCENES:
        for frame in range(round(scene.seconds * FPS)):
            picture = render(scene, at=frame / (scene.seconds * FPS))
            writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
    writer.release()
    cuts.write_text(json.dumps(_cuts(), indent=2) + "\n", encoding="utf-8")
    return [clip, cuts]


def render(scene: Scene, *, at: float) -> Image.Image:
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
    draw = ImageDraw.Draw(image)
    scene.draw(draw, at)
    draw.rectangle(_box(0, HEIGHT - 56, WIDTH, HEIGHT), fill=(16, 24, 32))
    draw.text(_point(WIDTH / 2, HEIGHT - 28), scene.caption, font=_font(26), fill=(255, 255, 255), anchor="mm")
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _cuts() -> dict[str, object]:
    starts = [math.fsum(scene.seconds for scene in SCENES[:index]) for index in range(len(SCENES))]
    scenes = [
        {"start": start, "end": start + scene.seconds, "text": scene.caption}
        for start, scene in zip(starts, SCENES, strict=True)
    ]
    return {"fps": FPS, "cuts": starts[1:], "scenes": scenes}


def _dawn(draw: ImageDraw.ImageDraw, at: float) -> None:
    _sky(draw, (242, 160, 108), (250, 222, 170), until=222)
    _disc(draw, 320, 215 - 120 * at, 44, (255, 238, 180))
    _sea(draw, at, top=210, colour=(38, 92, 120))
    _hut(draw)


def _nets(draw: ImageDraw.ImageDraw, at: float) -> None:
    _sky(draw, (150, 200, 226), (222, 238, 240), until=252)
    draw.rectangle(_box(0, 240, WIDTH, HEIGHT), fill=(96, 140, 84))
    for x in (180, 460):
        draw.line(_box(x, 110, x, 262), fill=(70, 54, 40), width=6 * SCALE)
    for y in range(120, 221, 10):
        draw.line(_box(180, y, 460, y), fill=(84, 96, 100), width=SCALE)
    for x in range(190, 460, 10):
        draw.line(_box(x, 120, x, 220), fill=(84, 96, 100), width=SCALE)
    for index in range(3):
        _bird(
            draw,
            -60 + 760 * at - 90 * index,
            70 + 24 * index + 12 * math.sin(9 * at + index),
            flap=math.sin(40 * at + index),
        )


def _ringing(draw: ImageDraw.ImageDraw, at: float) -> None:
    draw.rectangle(_box(0, 0, WIDTH, HEIGHT), fill=(226, 208, 176))
    draw.rectangle(_box(0, 230, WIDTH, HEIGHT), fill=(140, 98, 62))
    draw.rounded_rectangle(_box(70, 40, 330, 250), radius=8 * SCALE, fill=(252, 250, 242))
    for y in range(82, 240, 24):
        draw.line(_box(90, y, 310, y), fill=(150, 176, 196), width=SCALE)
    draw.text(_point(200, 66), "Birds today", font=_font(22), fill=(30, 50, 70), anchor="mm")
    draw.text(_point(200, 160), str(round(214 * at**0.6)), font=_font(84), fill=(150, 44, 36), anchor="mm")
    draw.line(_box(330 - 90 * (at % 0.25), 250, 384, 130 + 60 * (at % 0.25)), fill=(40, 60, 110), width=9 * SCALE)
    _robin(draw, 490, 200 - 8 * abs(math.sin(14 * at)))


def _rain(draw: ImageDraw.ImageDraw, at: float) -> None:
    _sky(draw, (92, 104, 118), (140, 150, 158), until=240)
    _sea(draw, 2 * at, top=225, colour=(62, 80, 92))
    for x, y, size in ((120, 62, 46), (180, 52, 60), (250, 66, 48), (400, 48, 52), (470, 60, 64), (545, 54, 46)):
        _disc(draw, x + 60 * at, y, size, (70, 80, 92))
    random = np.random.default_rng(5)
    for x, y in random.uniform((0, 0), (WIDTH + 80, HEIGHT), (130, 2)):
        fall = (y + 900 * at) % HEIGHT
        draw.line(_box(x - fall / 5, fall, x - fall / 5 - 5, fall + 24), fill=(196, 210, 220), width=SCALE)


def _lighthouse(draw: ImageDraw.ImageDraw, at: float) -> None:
    _sky(draw, (8, 14, 34), (24, 36, 66), until=264)
    random = np.random.default_rng(9)
    for x, y in random.uniform((0, 0), (WIDTH, 200), (60, 2)):
        _disc(draw, x, y, 1.2, (230, 230, 210))
    turn = math.radians(-150 + 200 * at)
    far = [(440 + 700 * math.cos(turn + side), 120 + 700 * math.sin(turn + side)) for side in (-0.10, 0.10)]
    draw.polygon([_point(440, 120), *(_point(x, y) for x, y in far)], fill=(120, 116, 96))
    _sea(draw, at, top=250, colour=(12, 26, 48))
    draw.polygon([_point(412, 300), _point(424, 134), _point(456, 134), _point(468, 300)], fill=(232, 228, 220))
    draw.polygon([_point(418, 215), _point(421, 175), _point(459, 175), _point(462, 215)], fill=(190, 48, 40))
    draw.rectangle(_box(420, 106, 460, 134), fill=(255, 236, 160))
    draw.polygon([_point(414, 106), _point(440, 84), _point(466, 106)], fill=(60, 60, 70))


def _sky(draw: ImageDraw.ImageDraw, top: Colour, bottom: Colour, *, until: int) -> None:
    for y in range(0, until, 6):
        share = y / until
        colour = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        draw.rectangle(_box(0, y, WIDTH, y + 6), fill=colour)


def _sea(draw: ImageDraw.ImageDraw, at: float, *, top: int, colour: Colour) -> None:
    crest = [(x, top + 5 * math.sin(x / 26 + 10 * at)) for x in range(0, WIDTH + 1, 8)]
    draw.polygon([_point(0, HEIGHT), *(_point(x, y) for x, y in crest), _point(WIDTH, HEIGHT)], fill=colour)


def _hut(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon([_point(400, HEIGHT), _point(480, 215), _point(WIDTH, 190), _point(WIDTH, HEIGHT)], fill=(46, 58, 52))
    draw.rectangle(_box(510, 160, 580, 205), fill=(70, 44, 36))
    draw.polygon([_point(500, 162), _point(545, 130), _point(590, 162)], fill=(38, 28, 28))
    draw.rectangle(_box(536, 174, 554, 192), fill=(255, 220, 130))


def _bird(draw: ImageDraw.ImageDraw, x: float, y: float, *, flap: float) -> None:
    draw.ellipse(_box(x - 16, y - 6, x + 16, y + 6), fill=(40, 44, 52))
    draw.polygon([_point(x - 14, y), _point(x - 28, y - 6), _point(x - 28, y + 6)], fill=(40, 44, 52))
    draw.polygon([_point(x - 8, y - 2), _point(x + 8, y - 2), _point(x - 6, y - 26 * flap)], fill=(70, 76, 86))


def _robin(draw: ImageDraw.ImageDraw, x: float, y: float) -> None:
    draw.line(_box(x - 10, y + 30, x - 10, y + 62), fill=(60, 40, 30), width=3 * SCALE)
    draw.line(_box(x + 12, y + 30, x + 12, y + 62), fill=(60, 40, 30), width=3 * SCALE)
    draw.polygon([_point(x + 36, y + 6), _point(x + 92, y + 30), _point(x + 34, y + 28)], fill=(96, 78, 58))
    draw.ellipse(_box(x - 50, y - 40, x + 50, y + 44), fill=(120, 98, 72))
    draw.ellipse(_box(x - 50, y - 42, x + 12, y + 36), fill=(214, 104, 46))
    draw.polygon([_point(x - 46, y - 14), _point(x - 66, y - 8), _point(x - 46, y - 2)], fill=(50, 44, 40))
    _disc(draw, x - 24, y - 18, 5, (20, 18, 18))


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse(_box(x - radius, y - radius, x + radius, y + radius), fill=colour)


def _point(x: float, y: float) -> tuple[float, float]:
    return x * SCALE, y * SCALE


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    return x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(BytesIO(pymupdf.Font("hebo").buffer), size * SCALE)


SCENES = (
    Scene(seconds=3.0, caption="Dawn at Skerry Point", draw=_dawn),
    Scene(seconds=2.5, caption="05:40  The nets are open", draw=_nets),
    Scene(seconds=3.5, caption="09:15  Ringing in the hut", draw=_ringing),
    Scene(seconds=2.5, caption="13:00  Rain: nets closed", draw=_rain),
    Scene(seconds=3.0, caption="Good night from the island", draw=_lighthouse),
)

if __name__ == "__main__":
    for made in make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(made)
