"""Pages of which every letter's place is known, and a reader that reads what a tile shows without a mistake."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worker.engines.columns import Box

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.engines.base import RGB
    from worker.engines.tiles import Tile

WORDS = [
    "a",
    "as",
    "at",
    "it",
    "on",
    "to",
    "and",
    "but",
    "for",
    "the",
    "was",
    "old",
    "red",
    "sun",
    "two",
    "with",
    "page",
    "line",
    "ring",
    "bird",
    "song",
    "near",
    "down",
    "field",
    "river",
    "winter",
    "morning",
    "feather",
    "counted",
    "through",
    "station",
    "between",
    "gathered",
    "notebook",
    "evenings",
    "migrating",
    "photograph",
    "observation",
]

SPACE = 0.3
"""Between words, in type sizes. Pillow's typeface has less than others."""


def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with Pillow: the same on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def x_height(size: int) -> float:
    _, top, _, bottom = font(size).getbbox("x")
    return bottom - top


@dataclass(frozen=True, slots=True)
class Letter:
    char: str
    x: float
    y: float

    def is_in(self, box: Box) -> bool:
        return box.left <= self.x < box.right and box.top <= self.y < box.bottom


@dataclass(slots=True)
class Sheet:
    """A page that is being written. `lines` are in reading order: words of letters, each with the middle of its ink."""

    picture: Image.Image
    paper: int = 255
    shade: int = 0
    lines: list[list[list[Letter]]] = field(default_factory=list)

    @classmethod
    def blank(cls, width: int, height: int, *, paper: int = 255, shade: int = 0) -> Sheet:
        return cls(Image.new("RGB", (width, height), (paper,) * 3), paper, shade)

    @property
    def image(self) -> RGB:
        return np.asarray(self.picture)

    @property
    def text(self) -> str:
        return "\n".join(" ".join("".join(letter.char for letter in word) for word in line) for line in self.lines)

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.picture)

    @property
    def ink(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """(height, width): what was drawn, without the grey edges of the letters."""
        contrast = np.abs(self.image[:, :, 0].astype(int) - self.paper)
        strong: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = contrast > 0.5 * abs(self.shade - self.paper)
        return strong

    def write(self, words: Iterable[str], *, left: float, baseline: float, size: int, shade: int | None = None) -> None:
        """One line."""
        face, x, line = font(size), float(left), []
        grey = self.shade if shade is None else shade
        for word in words:
            self.pen.text((x, baseline), word, font=face, fill=(grey,) * 3, anchor="ls")
            line.append([_letter(word, n, x, baseline, face) for n in range(len(word))])
            x += face.getlength(word) + SPACE * size
        self.lines.append(line)

    def heading(self, words: Sequence[str], *, left: float, right: float, baseline: float, size: int) -> None:
        """One line of as many of the words as have room."""
        ends = np.cumsum([font(size).getlength(word) + SPACE * size for word in words])
        fit = words[: int(np.searchsorted(ends, right - left))]
        if fit:
            self.write(fit, left=left, baseline=baseline, size=size)

    def fill(
        self, box: Box, *, size: int, seed: int, leading: float = 1.35, ragged: float = 0.2, headings: float = 0.0
    ) -> None:
        """Lines of chance words from the top of the box to its bottom; shares of them are short, and larger."""
        rng, baseline = random.Random(seed), float(box.top)
        while True:
            large = round(1.5 * size) if rng.random() < headings else size
            baseline += leading * large if baseline > box.top else large
            if baseline + 0.3 * large > box.bottom:
                return
            width = box.width * (rng.uniform(0.3, 0.9) if rng.random() < ragged else 1)
            self.write(_words(rng, width, size=large), left=box.left, baseline=baseline, size=large)

    def read(self, tile: Tile) -> str:
        """What a reader that makes no mistakes says to the tile."""
        lines = (" ".join(filter(None, (_seen(word, tile) for word in line))) for line in self.lines)
        return "\n".join(filter(None, lines))


def columns(
    count: int, *, width: int, height: int, size: int, seed: int = 0, title: str = "", margin: int = 40
) -> Sheet:
    """A page of so many columns, under a title if there is one."""
    sheet, gutter = Sheet.blank(width, height), round(2.5 * size)
    top = margin
    if title:
        sheet.write(title.split(), left=margin, baseline=margin + 2 * size, size=2 * size)
        top += 4 * size
    each = (width - 2 * margin - (count - 1) * gutter) // count
    for n in range(count):
        left = margin + n * (each + gutter)
        sheet.fill(Box(left, top, left + each, height - margin), size=size, seed=seed * 10 + n)
    return sheet


def _letter(word: str, number: int, x: float, baseline: float, face: ImageFont.FreeTypeFont) -> Letter:
    left, top, right, bottom = face.getbbox(word[number], anchor="ls")
    return Letter(word[number], x + face.getlength(word[:number]) + (left + right) / 2, baseline + (top + bottom) / 2)


def _words(rng: random.Random, width: float, *, size: int) -> list[str]:
    face, words = font(size), [rng.choice(WORDS)]
    used = float(face.getlength(words[0]))
    while (used := used + SPACE * size + face.getlength(following := rng.choice(WORDS))) <= width:
        words.append(following)
    return words


def _seen(word: Sequence[Letter], tile: Tile) -> str:
    return "".join(
        letter.char
        for letter in word
        if letter.is_in(tile.box) and not any(letter.is_in(blank) for blank in tile.blanks)
    )
