"""The text of pages with the places of its lines and words, as hOCR: HTML that tools of digital libraries read.

What was recognized are lines; where the words of a line stand is worked out from the widths that letters have in print.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
<title>{title}</title>
<meta http-equiv="Content-Type" content="text/html; charset=utf-8"/>
<meta name="ocr-system" content="nightowl"/>
<meta name="ocr-capabilities" content="ocr_page ocr_line ocrx_word"/>
</head>
<body>
"""
FOOT = "</body>\n</html>\n"
# The widths of letters in print, roughly; a Chinese character is as wide as high.
NARROW, WIDE, SQUARE = 0.5, 1.5, 2.0
NARROW_LETTERS = frozenset("iljftrI.,;:'|!()[]-’‘ ")
WIDE_LETTERS = frozenset("mwMWQOG@%&—")
FIRST_SQUARE = "\u2e80"
LEVEL_DEGREES = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HocrPage:
    """A page of a result: its number in the source, the size of its picture in pixels, and its lines as `data.lines`
    of a part has them."""

    number: int
    width: int
    height: int
    lines: tuple[Mapping[str, Any], ...]


def to_hocr(pages: Iterable[HocrPage], *, title: str) -> str:
    return HEAD.format(title=escape(title)) + "".join(_page(page) for page in pages) + FOOT


def _page(page: HocrPage) -> str:
    place = f"bbox 0 0 {page.width} {page.height}; ppageno {page.number - 1}"
    name = f"page_{page.number}"
    lines = "".join(_line(line, name=f"{name}_{n}") for n, line in enumerate(page.lines, start=1))
    return f'<div class="ocr_page" id="{name}" title="{place}">\n{lines}</div>\n'


def _line(line: Mapping[str, Any], *, name: str) -> str:
    place = f"bbox {_box(line['box'])}{_angle(line)}"
    sure = line.get("confidence")
    known = f"; x_wconf {round(100 * sure)}" if sure is not None else ""
    words = " ".join(
        f'<span class="ocrx_word" id="word_{name}_{n}" title="bbox {_box(box)}{known}">{escape(word)}</span>'
        for n, (word, box) in enumerate(_words(line), start=1)
    )
    return f'<span class="ocr_line" id="line_{name}" title="{place}">{words}</span><br/>\n'


def _angle(line: Mapping[str, Any]) -> str:
    """hOCR counts the degrees of a turned line against the clock."""
    quad = line.get("quad")
    if not quad:
        return ""
    degrees = -math.degrees(math.atan2(quad[3] - quad[1], quad[2] - quad[0]))
    return f"; textangle {degrees:.1f}" if abs(degrees) >= LEVEL_DEGREES else ""


def _words(line: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """The words of a line and their boxes, each a piece of the line along its direction."""
    text = " ".join("".join(letter for letter in str(line["text"]) if letter.isprintable()).split())
    whole = sum(map(_width, text)) or 1.0
    at = 0.0
    for word in text.split(" "):
        ends = at + sum(map(_width, word))
        yield word, _piece(line, start=at / whole, end=ends / whole)
        at = ends + _width(" ")


def _width(letter: str) -> float:
    if letter in NARROW_LETTERS:
        return NARROW
    if letter >= FIRST_SQUARE:
        return SQUARE
    return WIDE if letter in WIDE_LETTERS else 1.0


def _piece(line: Mapping[str, Any], *, start: float, end: float) -> tuple[float, float, float, float]:
    x0, y0, x1, y1, x2, y2, x3, y3 = quad_of(line)
    xs = [a + (b - a) * share for a, b in ((x0, x1), (x3, x2)) for share in (start, end)]
    ys = [a + (b - a) * share for a, b in ((y0, y1), (y3, y2)) for share in (start, end)]
    return min(xs), min(ys), max(xs), max(ys)


def quad_of(line: Mapping[str, Any]) -> tuple[float, ...]:
    """The corners of a line, clockwise from its text's own top left: as found, or those of its box."""
    left, top, right, bottom = line["box"]
    return tuple(line.get("quad") or (left, top, right, top, right, bottom, left, bottom))


def _box(box: Iterable[float]) -> str:
    left, top, right, bottom = box
    return f"{math.floor(left)} {math.floor(top)} {math.ceil(right)} {math.ceil(bottom)}"
