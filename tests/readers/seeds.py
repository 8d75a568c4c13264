"""Good files, one or more of each format: what tests/readers/fuzz.py makes mutants of. All small, all made here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pymupdf
from PIL import Image, ImageDraw

from tests.readers import test_formats
from tests.readers.hostile.clips import clip
from tests.readers.hostile.documents import sheet, stream

if TYPE_CHECKING:
    from collections.abc import Callable


def drawing(mode: str = "RGB") -> Image.Image:
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).text((5, 5), "owl", fill="black")
    ImageDraw.Draw(image).ellipse((30, 20, 80, 60), fill="red")
    return image.convert(mode)


def picture(format: str, mode: str = "RGB", **options: object) -> Callable[[], bytes]:
    def make() -> bytes:
        made = io.BytesIO()
        drawing(mode).save(made, format, **options)
        return made.getvalue()

    return make


def document(*, packed: bool) -> Callable[[], bytes]:
    """Two pages with text, a picture, a link, a form field and a bookmark."""

    def make() -> bytes:
        document = pymupdf.open()
        for number in (1, 2):
            page = document.new_page(width=300, height=300)
            page.insert_text((20, 40), f"Page {number} of a good document.", fontsize=12)
            page.insert_image((20, 60, 200, 180), stream=picture("PNG")())
            page.draw_circle((200, 200), 40, fill=(0, 0, 1))
            page.insert_link(
                {"kind": pymupdf.LINK_URI, "from": pymupdf.Rect(20, 20, 90, 50), "uri": "http://x.invalid/"}
            )
        widget = pymupdf.Widget()
        widget.field_name, widget.field_type, widget.rect = (
            "name",
            pymupdf.PDF_WIDGET_TYPE_TEXT,
            pymupdf.Rect(20, 200, 90, 220),
        )
        document[0].add_widget(widget)
        document.set_toc([[1, "One", 1], [2, "Two", 2]])
        return bytes(document.tobytes(deflate=packed, garbage=3, use_objstms=int(packed), no_new_id=True))

    return make


def handmade() -> bytes:
    """A pattern, a form and a shading, in plain bytes that a mutation can reach."""
    form = stream(b"0 0 9 9 re f", "/Type /XObject /Subtype /Form /BBox [0 0 9 9]")
    tile = stream(
        b"0 0 4 4 re f",
        "/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] /XStep 9 /YStep 9 /Resources << >>",
    )
    shading = "<< /ShadingType 2 /ColorSpace /DeviceRGB /Coords [0 0 99 99] /Function 13 0 R >>"
    function = "<< /FunctionType 2 /Domain [0 1] /C0 [1 0 0] /C1 [0 0 1] /N 1 >>"
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    resources = "/XObject << /F 10 0 R >> /Pattern << /P 11 0 R >> /Shading << /S 12 0 R >> /Font << /T 14 0 R >>"
    content = b"BT /T 12 Tf 20 200 Td (Some words) Tj ET /F Do /Pattern cs /P scn 50 50 99 99 re f /S sh"
    return sheet(content, resources=resources, objects={10: form, 11: tile, 12: shading, 13: function, 14: font})


def tiff_pages() -> bytes:
    made = io.BytesIO()
    drawing().save(made, "TIFF", save_all=True, append_images=[drawing("L"), drawing("1")])
    return made.getvalue()


def frames(format: str) -> Callable[[], bytes]:
    def make() -> bytes:
        made = io.BytesIO()
        drawing().save(made, format, save_all=True, append_images=[drawing().rotate(90), drawing().rotate(180)])
        return made.getvalue()

    return make


def utf16() -> bytes:
    return "Some words of a book, \u6f22\u5b57 and an owl.\n".encode("utf-16") * 20


READERS: dict[str, tuple[str, ...]] = {
    "pdf": ("pdf",),
    "documents": ("xps", "epub", "cbz", "mobi", "fb2", "svg", "txt"),
    "images": ("png", "jpeg", "gif", "tiff", "webp", "bmp", "jp2", "avif"),
    "videos": ("mp4", "mkv", "avi", "webm"),
}
"""The formats by what reads them."""

SEEDS: dict[str, tuple[Callable[[], bytes], ...]] = {
    "pdf": (document(packed=False), document(packed=True), handmade, handmade),
    "xps": (test_formats.xps,),
    "epub": (test_formats.epub,),
    "cbz": (test_formats.cbz,),
    "mobi": (test_formats.mobi,),
    "fb2": (test_formats.fb2,),
    "svg": (test_formats.svg,),
    "txt": (test_formats.txt, utf16),
    "png": (picture("PNG"), picture("PNG", "P"), picture("PNG", "RGBA"), picture("PNG", "I;16")),
    "jpeg": (picture("JPEG"), picture("JPEG", progressive=True), picture("JPEG", "CMYK")),
    "gif": (picture("GIF", "P"), frames("GIF")),
    "tiff": (tiff_pages, picture("TIFF", compression="tiff_lzw"), picture("TIFF", "1", compression="group4")),
    "webp": (picture("WEBP"), picture("WEBP", lossless=True), frames("WEBP")),
    "bmp": (picture("BMP"), picture("BMP", "P")),
    "jp2": (picture("JPEG2000"),),
    "avif": (picture("AVIF"),),
    "mp4": (lambda: clip(frames=12),),
    "mkv": (lambda: clip("a.mkv", frames=12),),
    "avi": (lambda: clip("a.avi", frames=12, codec="MJPG"), lambda: clip("b.avi", frames=12, codec="XVID")),
    "webm": (lambda: clip("a.webm", frames=12, codec="VP80"),),
}
"""By format: every one that worker/readers/sniff.py knows to read and that can be written here."""
