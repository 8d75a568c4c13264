"""The text that a document's page carries itself, where it stands in the picture, and whether it can be trusted.

A text layer is not always what one sees: fonts without a Unicode map give rubbish, scans carry the guesses of an
earlier OCR, and some files draw their letters as outlines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from worker.readers.base import LayerLine, TextLayer
from worker.readers.mupdf import pymupdf
from worker.readers.righttoleft import is_right_to_left, put_in_order
from worker.readers.tables import Word, read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

_Box: TypeAlias = tuple[float, float, float, float]

_FLAGS = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_PRESERVE_LIGATURES | pymupdf.TEXT_MEDIABOX_CLIP
_FLAGS |= pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE
# MuPDF's char_flags of a span (fz_stext_char.flags).
_BOLD, _FILLED, _STROKED, _IS_CID, _IS_GID = 8, 16, 32, 128, 256
_FONT_BOLD = 16

_MAX_UNMAPPED = 0.10
"""Share of letters without Unicode; bullets and logos from symbol fonts are common and harmless."""
_MAX_INVISIBLE = 0.10
_SCAN_COVER, _SCAN_TEXT = 0.5, 0.05
"""A picture over half of the page and text on less than a twentieth: a scan with a stamp or a page number."""
_OUTLINES = 300
"""So many filled shapes of a letter's size outside all text: letters drawn as outlines."""


@dataclass(frozen=True, slots=True)
class _Span:
    text: str
    box: _Box
    font: str
    size: float
    flags: int
    font_flags: int
    alpha: int

    @property
    def visible(self) -> bool:
        return self.alpha > 0 and bool(self.flags & (_FILLED | _STROKED))


def read_layer(page: Any, *, scale: float, max_chars: int) -> tuple[TextLayer | None, tuple[str, ...]]:
    """The page's text layer and warnings; None where the page has no text at all."""
    blocks = _blocks(page)
    lines = [(number, list(_spans(line))) for number, block in enumerate(blocks) for line in block.get("lines", ())]
    spans = [span for _, line in lines for span in line]
    if not any(span.text.strip() for span in spans):
        return None, ()
    reason = _distrust(page, spans)
    keep_all = bool(reason)  # an untrusted layer is kept as it is; in a trusted one, what nobody sees is left out
    matrix = page.rotation_matrix * pymupdf.Matrix(scale, scale)
    found = [_line(line, block=number, matrix=matrix, keep_all=keep_all) for number, line in lines]
    kept, warnings = _bounded([line for line in found if line is not None], max_chars=max_chars)
    words = [] if reason or warnings else [word for span in spans if (word := _word(span, matrix)) is not None]
    tables = read_tables(page, words, matrix=matrix, scale=scale)
    return TextLayer(lines=kept, tables=tables, cut=bool(warnings), trusted=not reason, reason=reason), warnings


def _blocks(page: Any) -> list[dict[str, Any]]:
    """MuPDF's blocks of lines of spans. Only pages with lines from right to left are looked at letter by letter."""
    blocks: list[dict[str, Any]] = page.get_text("dict", flags=_FLAGS)["blocks"]
    texts = (span["text"] for block in blocks for line in block.get("lines", ()) for span in line["spans"])
    if any(map(is_right_to_left, texts)):
        blocks = page.get_text("rawdict", flags=_FLAGS)["blocks"]
        put_in_order(blocks)
    return blocks


def _word(span: _Span, matrix: Any) -> Word | None:
    if not span.visible or not span.text.strip():
        return None
    box = pymupdf.Rect(span.box) * matrix
    return Word(span.text, (float(box.x0), float(box.y0), float(box.x1), float(box.y1)))


def _spans(line: dict[str, Any]) -> Iterator[_Span]:
    for span in line["spans"]:
        yield _Span(
            text=span["text"],
            box=cast("_Box", tuple(span["bbox"])),
            font=span["font"],
            size=float(span["size"]),
            flags=int(span.get("char_flags", _FILLED)),
            font_flags=int(span["flags"]),
            alpha=int(span.get("alpha", 255)),
        )


def _line(spans: list[_Span], *, block: int, matrix: Any, keep_all: bool) -> LayerLine | None:
    shown = [span for span in spans if keep_all or span.visible or not span.text.strip()]
    text = "".join(span.text for span in shown).strip()
    inked = [span for span in shown if span.text.strip()]
    if not text or not inked:
        return None
    box = pymupdf.Rect(_union([span.box for span in inked])) * matrix
    longest = max(inked, key=lambda span: len(span.text))
    return LayerLine(
        text=text,
        box=(float(box.x0), float(box.y0), float(box.x1), float(box.y1)),
        block=block,
        size=round(longest.size, 2),
        bold=bool(longest.font_flags & _FONT_BOLD or longest.flags & _BOLD),
    )


def _bounded(lines: list[LayerLine], *, max_chars: int) -> tuple[tuple[LayerLine, ...], tuple[str, ...]]:
    total = 0
    for number, line in enumerate(lines):
        total += len(line.text) + 1
        if total > max_chars:
            warning = f"the text layer is cut after {max_chars} characters (setting NIGHTOWL_LIMITS__MAX_TEXT_CHARS)"
            return tuple(lines[:number]), (warning,)
    return tuple(lines), ()


def _distrust(page: Any, spans: list[_Span]) -> str:
    """Why the layer must not be used instead of the picture; empty if it may."""
    letters = sum(_letters(span.text) for span in spans)
    if _share(spans, letters, lambda span: not span.visible) > _MAX_INVISIBLE:
        return "invisible text of an earlier OCR"
    unmapped = _unmapped_fonts(page)
    if sum(_unreadable(span, unmapped) for span in spans) > _MAX_UNMAPPED * letters:
        return "glyphs without a Unicode map"
    if _is_scan(page, spans):
        return "the page is a picture with hardly any text"
    if _outlined(page, spans) > max(_OUTLINES, letters):
        return "the text layer leaves out ink (letters drawn as outlines)"
    return ""


def _letters(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _share(spans: list[_Span], letters: int, test: Any) -> float:
    return sum(_letters(span.text) for span in spans if test(span)) / max(letters, 1)


def _unreadable(span: _Span, unmapped: frozenset[str]) -> int:
    """Letters of the span that do not say which character they are."""
    if span.flags & (_IS_CID | _IS_GID) or span.font in unmapped:
        return _letters(span.text)
    return sum(
        character == "\ufffd" or "\ue000" <= character <= "\uf8ff" or (character < " " and character not in "\t\n\r")
        for character in span.text
    )


def _unmapped_fonts(page: Any) -> frozenset[str]:
    """Fonts of a PDF page whose codes mean nothing outside the file: embedded, no ToUnicode, no usable encoding."""
    document = page.parent
    if not document.is_pdf:
        return frozenset()
    names = set()
    for xref, ending, kind, name, *_ in page.get_fonts():
        if xref > 0 and ending != "n/a" and _is_unmapped(document, xref, kind):
            names.add(re.sub(r"^[A-Z]{6}\+", "", name))
    return frozenset(names)


def _is_unmapped(document: Any, xref: int, kind: str) -> bool:
    if document.xref_get_key(xref, "ToUnicode")[0] != "null":
        return False
    encoding = document.xref_get_key(xref, "Encoding")
    if kind == "TrueType":
        return bool(encoding[0] == "null")
    if kind == "Type0":  # Identity codes are glyph numbers, unless a named character collection explains them
        descendant = document.xref_get_key(xref, "DescendantFonts")[1]
        explained = re.search(r"Adobe-?|/Ordering\s*\((?!Identity)", _resolved(document, descendant))
        return encoding[1] in {"/Identity-H", "/Identity-V"} and explained is None
    return False


def _resolved(document: Any, text: str) -> str:
    """The text of a descendant font with the one level of references that matters, its CIDSystemInfo."""
    for _ in range(3):
        reference = re.search(r"(?:\[\s*|CIDSystemInfo\s+)(\d+) 0 R", text)
        if reference is None:
            break
        body = document.xref_object(int(reference.group(1)))
        text = body if text.lstrip().startswith("[") else text.replace(reference.group(0), body)
    info = re.search(r"/Ordering\s*\([^)]*\)", text)
    return info.group(0) if info else ""


def _is_scan(page: Any, spans: list[_Span]) -> bool:
    frame = page.rect * page.derotation_matrix
    whole = abs(frame.get_area()) or 1.0
    covers = [(pymupdf.Rect(info["bbox"]) & frame).get_area() for info in page.get_image_info()]
    text = sum(_area(span.box) for span in spans if span.text.strip())
    return bool(max(covers, default=0.0) / whole >= _SCAN_COVER and text / whole < _SCAN_TEXT)


def _outlined(page: Any, spans: list[_Span]) -> int:
    """Filled shapes of the size of a letter that stand outside the text. Counted from the log of what is drawn."""
    shapes = [box for kind, box in page.get_bboxlog() if kind == "fill-path"]
    small = [box for box in shapes if 2 <= box[3] - box[1] <= 24 and 1 <= box[2] - box[0] <= 24]
    if len(small) <= _OUTLINES:
        return 0
    around = _union([span.box for span in spans if span.text.strip()])
    return sum(not _touches(around, box) for box in small)


def _area(box: _Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _union(boxes: list[_Box]) -> _Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _touches(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
