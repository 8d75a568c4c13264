"""What the experts saw, said in sentences that claim no more than they saw. Pure functions on plain values.

A language model of 135 million parameters asked to do this invents: docs/quality.md has what it said. So the sentences
are made here, and the model is left to answer questions about them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.engines.base import RGB, Label, Line

SURE, LIKELY = 0.5, 0.2
MIN_TEXT_CONFIDENCE = 0.8
MAX_TEXT_WORDS = 60
MANY_LINES = 3
# What the tagger takes any lettering for.
PAPERS = frozenset({"website", "envelope", "menu", "crossword", "dust jacket", "comic book", "ring binder"})

THUMBNAIL = 32
PLAIN_DEVIATION = 6.0
GREY_CHROMA = 18.0
STILL_DIFFERENCE = 2.0
MAIN_SHARE = 0.25

PALETTE = {
    "black": (0, 0, 0),
    "dark grey": (75, 75, 75),
    "grey": (128, 128, 128),
    "light grey": (192, 192, 192),
    "white": (255, 255, 255),
    "dark red": (120, 10, 20),
    "red": (215, 30, 35),
    "pink": (245, 150, 185),
    "orange": (245, 140, 30),
    "brown": (120, 75, 40),
    "beige": (225, 205, 170),
    "yellow": (245, 225, 50),
    "dark green": (20, 85, 40),
    "green": (60, 170, 70),
    "light green": (165, 220, 150),
    "turquoise": (60, 195, 195),
    "dark blue": (15, 25, 110),
    "blue": (35, 80, 215),
    "light blue": (150, 195, 240),
    "purple": (125, 50, 160),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """`main` are the names of the colours that fill most of the picture; `plain` and `grey` hold for all of it."""

    main: tuple[str, ...]
    plain: bool
    grey: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was seen in one picture, or in several of one scene."""

    pictures: int = 1
    colours: Colours | None = None
    labels: tuple[Label, ...] = ()
    texts: tuple[str, ...] = ()
    still: bool = False


def thumbnail(image: RGB) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def is_same(one: RGB, other: RGB) -> bool:
    """Whether nothing to speak of differs between two frames."""
    return one.shape == other.shape and float(np.abs(thumbnail(one) - thumbnail(other)).mean()) < STILL_DIFFERENCE


def colours_of(images: Sequence[RGB]) -> Colours:
    pixels = np.concatenate([thumbnail(image).reshape(-1, 3) for image in images])  # (pixel, 3)
    names = list(PALETTE)
    distances = np.linalg.norm(pixels[:, None] - np.array(list(PALETTE.values()), np.float32), axis=2)
    counts = Counter(names[int(i)] for i in distances.argmin(axis=1))
    main = tuple(name for name, n in counts.most_common(3) if n >= MAIN_SHARE * len(pixels))
    chroma = pixels.max(axis=1) - pixels.min(axis=1)
    return Colours(
        main=main or (counts.most_common(1)[0][0],),
        plain=bool(pixels.std(axis=0).max() < PLAIN_DEVIATION),
        grey=bool(np.quantile(chroma, 0.98) < GREY_CHROMA),
    )


def texts_of(pictures: Iterable[Sequence[Line]]) -> tuple[str, ...]:
    """The texts that were read with confidence, each once."""
    found = (
        line.text
        for lines in pictures
        for line in lines
        if line.confidence >= MIN_TEXT_CONFIDENCE and sum(map(str.isalnum, line.text)) >= 2
    )
    return tuple(dict.fromkeys(found))


def sentences(seen: Evidence, *, quote: bool = True) -> str:
    """One to three sentences: the thing or the colours, that nothing moves, and, with `quote`, the text."""
    said = [_thing(seen)]
    if seen.still and seen.pictures > 1:
        said.append("Nothing moves.")
    if seen.texts and quote:
        said.append(f"Text in it: {_quoted(seen.texts)}.")
    return " ".join(said)


def _thing(seen: Evidence) -> str:
    noun = "picture" if seen.pictures == 1 else "scene"
    if seen.colours is not None and seen.colours.plain and not seen.texts:
        return f"A plain {seen.colours.main[0]} picture."
    labels = [label for label in seen.labels if len(seen.texts) < MANY_LINES or label.name not in PAPERS]
    if labels and labels[0].confidence >= SURE:
        return f"The {noun} shows {_named(labels[0].name)}."
    if labels and labels[0].confidence >= LIKELY:
        close = [label.name for label in labels[:2] if label.confidence >= labels[0].confidence / 2]
        return f"The {noun} may show {' or '.join(map(_named, close))}."
    return _look(seen.colours, noun=noun)


def _look(colours: Colours | None, *, noun: str) -> str:
    if colours is None:
        return f"A {noun}."
    if colours.grey:
        return f"A black-and-white {noun}."
    return f"A {noun}, mostly {' and '.join(colours.main)}."


def _named(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _quoted(texts: Sequence[str]) -> str:
    kept: list[str] = []
    words = 0
    for text in texts:
        words += len(text.split())
        if kept and words > MAX_TEXT_WORDS:
            return ", ".join(kept) + ", and more"
        kept.append(f"“{text}”")
    return ", ".join(kept)
