"""Pages drawn by hypothesis: typeset ones, whose every letter is known, drawings, and pictures of anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from tests.engines.typesetting import WORDS, Sheet, font
from worker.engines.columns import Box

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from worker.engines.base import RGB

MAX_SIDE = 1800
"""Pixels. Larger pages are slow to draw."""
INKS = [(255, 0), (235, 40), (20, 230), (250, 120)]
"""Grey levels of paper and of ink."""


@st.composite
def sheets(draw: DrawFn) -> Sheet:
    """One to three columns of text and headings, under a title that runs across or none; any size and shape.

    As people set text: lines do not touch each other, and columns are wide enough for some words.
    """
    size = draw(st.integers(12, 36))
    count = draw(st.integers(1, 3))
    gutter, margin = round(draw(st.floats(2.0, 4.0)) * size), draw(st.integers(0, 3 * size))
    # Narrow columns with short lines pass for a table.
    each = draw(st.integers(10 if count == 1 else 16, 45)) * size
    count = max(1, min(count, (MAX_SIDE - 2 * margin) // (each + gutter)))
    paper, shade = draw(st.sampled_from(INKS))
    leading, lines = draw(st.floats(1.25, 2.0)), draw(st.integers(1 if count == 1 else 12, 40))
    words, large = draw(st.lists(st.sampled_from(WORDS), max_size=8)), round(draw(st.floats(1.0, 2.5)) * size)
    top = margin + (2 * large if words else 0)
    bottom = min(MAX_SIDE, top + round(lines * leading * size) + size)
    width = 2 * margin + count * each + (count - 1) * gutter
    sheet = Sheet.blank(width, bottom + margin, paper=paper, shade=shade)
    sheet.heading(words, left=margin, right=width - margin, baseline=margin + 1.2 * large, size=large)
    for n in range(count):
        left = margin + n * (each + gutter)
        sheet.fill(
            Box(left, top, left + each, bottom),
            size=size,
            seed=draw(st.integers(0, 999)),
            leading=leading,
            ragged=draw(st.sampled_from([0.0, 0.2, 0.4])),
            headings=draw(st.sampled_from([0.0, 0.1])),
        )
    return sheet


@st.composite
def drawings(draw: DrawFn) -> tuple[RGB, RGB]:
    """Outlines, strokes, rules and words of any size and slant anywhere, text among them or none; and the same page
    before anything was drawn."""
    paper, shade = draw(st.sampled_from(INKS))
    width, height = draw(st.integers(200, 1200)), draw(st.integers(200, 1200))
    blank = Image.new("RGB", (width, height), (paper,) * 3)
    page = blank.copy()
    pen, ink = ImageDraw.Draw(page), (shade,) * 3
    for _ in range(draw(st.integers(0, 8))):
        x, y = draw(st.integers(0, width - 60)), draw(st.integers(0, height - 60))
        end = (draw(st.integers(x + 40, width)), draw(st.integers(y + 40, height)))
        stroke = draw(st.integers(1, 4))
        shape = draw(st.sampled_from(["rule", "frame", "oval", "slant", "words", "table"]))
        if shape == "rule":
            pen.line([(x, y), (end[0], y)], fill=ink, width=stroke)
        elif shape == "frame":
            pen.rectangle([(x, y), end], outline=ink, width=stroke)
        elif shape == "oval":
            pen.ellipse([(x, y), end], outline=ink, width=stroke)
        elif shape == "slant":
            pen.line([(x, y), end], fill=ink, width=stroke)
        elif shape == "words":
            words = " ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8)))
            pen.text((x, y), words, font=font(draw(st.integers(12, 60))), fill=ink)
        else:
            for step in range(0, 200, 40):
                pen.line([(x, y + step), (x + 400, y + step)], fill=ink, width=stroke)
                pen.line([(x + 2 * step, y), (x + 2 * step, y + 160)], fill=ink, width=stroke)
                pen.text((x + 6, y + step + 4), "the old bird 1,024.50", font=font(18), fill=ink)
    drawn, before = np.asarray(page), np.asarray(blank)
    # Where most of a place is covered, nobody can say what is paper and what is ink.
    assume(cv2.blur((drawn != before).max(axis=2).astype(np.float32), (21, 21)).max(initial=0) < 0.5)
    return drawn, before


@st.composite
def pictures(draw: DrawFn) -> RGB:
    """Noise, blots, stripes, gradients and flat pages, from one pixel to some millions, of any shape."""
    small = draw(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 60), st.just(3))))
    width, height = draw(st.sampled_from([(1, 1), (1, 900), (900, 1), (3, 2500), (700, 500), (2600, 2400), (5000, 40)]))
    way = draw(st.sampled_from([cv2.INTER_NEAREST, cv2.INTER_CUBIC, None]))
    if way is None:
        return np.ascontiguousarray(small)
    return np.ascontiguousarray(cv2.resize(small, (width, height), interpolation=way))
