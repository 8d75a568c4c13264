"""Lone dashes beside lines, and bars that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from worker.engines.dashes import find_dashes

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.engines.base import RGB
    from worker.engines.recognizer import Quads

FONT = ImageFont.load_default(24)
ROWS = 4


def page(*, ground: int = 255, ink: int = 0) -> tuple[Image.Image, Quads]:
    """Rows with an amount, and the boxes of the amounts: 34 pixels high."""
    image = Image.new("RGB", (600, 300), (ground,) * 3)
    pen = ImageDraw.Draw(image)
    boxes = []
    for n in range(ROWS):
        top = 20 + 60 * n
        pen.text((100, top + 2), f"99,{n}78.08", fill=(ink,) * 3, font=FONT)
        boxes.append([(96, top), (220, top), (220, top + 34), (96, top + 34)])
    return image, np.array(boxes, np.float32)


def found(draw: Callable[[ImageDraw.ImageDraw], object], **colours: int) -> list[list[float]]:
    """Left and top of the dashes that are found when this is drawn beside the rows."""
    image, quads = page(**colours)
    draw(ImageDraw.Draw(image))
    return [quad[0] for quad in find_dashes(np.asarray(image), quads).tolist()]


@pytest.mark.parametrize(("ground", "ink"), [(255, 0), (200, 60)])
def test_dashes_in_a_row_are_found_in_the_rows_height(ground: int, ink: int) -> None:
    def draw(pen: ImageDraw.ImageDraw) -> None:
        for n in (0, 2):
            pen.rectangle((240, 36 + 60 * n, 250, 38 + 60 * n), fill=(ink,) * 3)

    assert found(draw, ground=ground, ink=ink) == [[240, 20], [240, 140]]


def bars(pen: ImageDraw.ImageDraw) -> None:
    for x in range(240, 560, 14):
        pen.rectangle((x, 36, x + 8, 38), fill="black")


def drawing(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((240, 36, 250, 38), fill="black")
    pen.ellipse((256, 28, 270, 46), outline="black", width=3)


def nothing(pen: ImageDraw.ImageDraw) -> None:
    """A page of amounts alone."""


NONE: dict[str, Callable[[ImageDraw.ImageDraw], object]] = {
    "nothing": nothing,
    "an underscore": lambda pen: pen.rectangle((240, 50, 250, 52), fill="black"),
    "a dashed ruling": bars,
    "a ruling": lambda pen: pen.rectangle((240, 36, 560, 38), fill="black"),
    "a speck": lambda pen: pen.rectangle((240, 36, 242, 38), fill="black"),
    "a faint mark": lambda pen: pen.rectangle((240, 36, 250, 38), fill=(200, 200, 200)),
    "a bar far off": lambda pen: pen.rectangle((500, 36, 510, 38), fill="black"),
    "a bar between the rows": lambda pen: pen.rectangle((240, 66, 250, 68), fill="black"),
    "a block": lambda pen: pen.rectangle((240, 30, 250, 44), fill="black"),
    "part of a drawing": drawing,
}


@pytest.mark.parametrize("name", NONE)
def test_other_marks_are_none(name: str) -> None:
    assert found(NONE[name]) == []


def test_a_page_without_lines_has_none() -> None:
    blank: RGB = np.full((100, 100, 3), 255, np.uint8)
    assert find_dashes(blank, np.zeros((0, 4, 2), np.float32)).shape == (0, 4, 2)
