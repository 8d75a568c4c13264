"""A PDF of the source's pages with the text that was read in them, invisible, where it stands: to search and to copy.

The pages of a PDF stay as they are; other documents are converted, pictures are put on pages. It must run in a child
process alone, as pdf.py, whose documents it opens; the file is never written, only handed back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from domain.errors import Code, SourceError
from worker.readers.base import Media
from worker.readers.image import Images
from worker.readers.mupdf import pymupdf
from worker.readers.pdf import open_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.readers.base import RGB, Open, PlacedText, ReadPage

Point: TypeAlias = Any
"""pymupdf.Point."""

_LATIN, _OTHER = (1.075, 0.299), (0.8, 0.2)
"""How far the boxes of letters reach above and below the base line, in font sizes: MuPDF's Helvetica; our own font."""
_PICTURE_DPI = 150
_MAX_POINTS = 14_400
"""The largest side of a page that PDF readers are bound to take."""
_JPEG_QUALITY = 85
_FEW_SHADES = 16
"""A picture with so few grey levels is line art: smaller, and sharp, as a PNG."""
_UNICODE = "nightowl-unicode"
_TO_UNICODE = b"""/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <FFFF>
endcodespacerange
1 beginbfrange
<0000> <FFFF> <0000>
endbfrange
endcmap
CMapName currentdict /CMap defineresource pop
end
end"""


@dataclass(slots=True)
class _Fonts:
    """Two fonts of which no letter is ever drawn: Helvetica, whose widths put Latin words in their places, and one for
    all other characters, whose codes are Unicode and whose letters are half as wide as high."""

    document: Any
    descendant: int = 0
    mapping: int = 0

    def name(self, page: Any, text: str) -> str:
        if _is_latin(text):
            page.insert_font(fontname="helv")
            return "helv"
        # MuPDF names the font among the page's resources, wherever the page has those from; its object is then ours.
        xref = page.insert_font(fontname="china-s")
        self._make_unicode(xref)
        return "china-s"

    def _make_unicode(self, xref: int) -> None:
        document = self.document
        if self.descendant == 0:
            self.mapping, descriptor, self.descendant = (document.get_new_xref() for _ in range(3))
            document.update_object(self.mapping, "<<>>")
            document.update_stream(self.mapping, _TO_UNICODE)
            document.update_object(
                descriptor,
                f"<</Type/FontDescriptor/FontName/{_UNICODE}/Flags 4/FontBBox[0 -200 500 800]/ItalicAngle 0/Ascent 800"
                "/Descent -200/CapHeight 800/StemV 80>>",
            )
            document.update_object(
                self.descendant,
                f"<</Type/Font/Subtype/CIDFontType2/BaseFont/{_UNICODE}/CIDSystemInfo<</Registry(Adobe)"
                f"/Ordering(Identity)/Supplement 0>>/FontDescriptor {descriptor} 0 R/DW 500/CIDToGIDMap/Identity>>",
            )
        document.update_object(
            xref,
            f"<</Type/Font/Subtype/Type0/BaseFont/{_UNICODE}/Encoding/Identity-H"
            f"/DescendantFonts[{self.descendant} 0 R]/ToUnicode {self.mapping} 0 R>>",
        )


def make_searchable(source: Open, *, media: Media, format: str, pages: Sequence[ReadPage]) -> npt.NDArray[np.uint8]:
    """The bytes of the PDF. It has the pages that `pages` name, in their order.

    Raises:
        SourceError: it would be larger than the limit, or a page is missing.
    """
    document = _pictures(source, format, pages) if media is Media.IMAGE else _document(source, format, pages)
    try:
        fonts = _Fonts(document)
        for number, page in enumerate(pages):
            _write(document.load_page(number), page, fonts)
        content = document.tobytes(garbage=3, deflate=True, encryption=pymupdf.PDF_ENCRYPT_KEEP)
    finally:
        document.close()
    limit = source.limits.max_pdf_bytes
    if len(content) > limit:
        raise SourceError(
            f"the searchable PDF of {source.label} has {len(content)} bytes; the limit is {limit} "
            "(setting NIGHTOWL_LIMITS__MAX_PDF_BYTES)",
            code=Code.SOURCE_TOO_LARGE,
        )
    return np.frombuffer(content, np.uint8)


def _document(source: Open, format: str, pages: Sequence[ReadPage]) -> Any:
    document = open_document(source, format=format)
    if not document.is_pdf:
        with document:
            document = pymupdf.open("pdf", document.convert_to_pdf())
    wanted = [page.number - 1 for page in pages]
    if max(wanted) >= document.page_count:
        raise SourceError(f"{source.label} has no page {max(wanted) + 1}", code=Code.PAGE_DAMAGED)
    if wanted != list(range(document.page_count)):
        document.select(wanted)
    return document


def _pictures(source: Open, format: str, pages: Sequence[ReadPage]) -> Any:
    """The pictures as pages, as large as they were read at most, so that one child's memory holds them."""
    document = pymupdf.open()
    for page in pages:
        image = Images().page(source, page.number, target_pixels=_MAX_POINTS, format=format).image
        height, width = image.shape[:2]
        scale = min(72 / _PICTURE_DPI, _MAX_POINTS / max(height, width))
        made = document.new_page(width=width * scale, height=height * scale)
        made.insert_image(made.rect, stream=_encoded(image))
    return document


def _encoded(image: RGB) -> bytes:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    is_grey = bool((image == image[:, :, :1]).all())
    shown = grey if is_grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if is_grey and len(np.unique(grey)) <= _FEW_SHADES:
        return bytes(cv2.imencode(".png", shown)[1])
    return bytes(cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def _write(page: Any, read: ReadPage, fonts: _Fonts) -> None:
    """Put the lines of one page under its picture. An invisible layer that was not good enough makes room for them."""
    if not read.lines:
        return
    if read.replaces:
        page.add_redact_annot(page.rect)
        page.apply_redactions(
            images=pymupdf.PDF_REDACT_IMAGE_NONE,
            graphics=pymupdf.PDF_REDACT_LINE_ART_NONE,
            text=pymupdf.PDF_REDACT_TEXT_REMOVE_INVISIBLE,
        )
    page.wrap_contents()  # what the page's own content leaves turned or scaled must not move ours
    operators = "\n".join(_operators(page, read, fonts))
    pymupdf.TOOLS._insert_contents(page, f"q BT 3 Tr\n{operators}\nET Q".encode("ascii"), True)


def _operators(page: Any, read: ReadPage, fonts: _Fonts) -> Iterator[str]:
    to_page = pymupdf.Matrix(page.rect.width / read.width, page.rect.height / read.height)
    matrix = to_page * page.derotation_matrix * ~page.transformation_matrix
    for line in read.lines:
        text = "".join(character for character in line.text if " " <= character <= "\uffff").strip()
        if text:
            yield _operator(text, _corners(line, matrix), fonts.name(page, text))


def _corners(line: PlacedText, matrix: Any) -> tuple[Point, Point, Point]:
    """Top left, top right and bottom left of the text's own box, in the page's PDF coordinates."""
    x = [*line.quad]
    top_left, top_right, bottom_left = (pymupdf.Point(x[n], x[n + 1]) for n in (0, 2, 6))
    return top_left * matrix, top_right * matrix, bottom_left * matrix


def _operator(text: str, corners: tuple[Point, Point, Point], font: str) -> str:
    """A text matrix that stretches the line over its box, and the line: size 1, so the matrix says it all."""
    top_left, top_right, bottom_left = corners
    latin = font == "helv"
    width = pymupdf.get_text_length(text, fontname="helv", fontsize=1) if latin else 0.5 * len(text)
    above, below = _LATIN if latin else _OTHER
    along, up = (top_right - top_left) / max(width, 0.1), (top_left - bottom_left) / (above + below)
    base = bottom_left + up * below
    numbers = " ".join(f"{value:.4f}" for value in (along.x, along.y, up.x, up.y, base.x, base.y))
    code = text.encode("latin-1").hex() if latin else text.encode("utf-16-be").hex()
    return f"/{font} 1 Tf {numbers} Tm <{code}> Tj"


def _is_latin(text: str) -> bool:
    return all(" " <= character <= "~" or "\xa1" <= character <= "\xff" for character in text)
