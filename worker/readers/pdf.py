"""Documents: PDF, XPS, EPUB, MOBI, FB2, CBZ, SVG and plain text, through PyMuPDF.

It must run in a child process alone (children.py): PyMuPDF is not thread-safe, and some pages never end. Nothing that a
document asks for is run or fetched.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from domain.errors import Code, SourceError
from worker.readers.base import Media, Open, Page, Probe
from worker.readers.breaks import breakable, without_marks
from worker.readers.comics import picture_size
from worker.readers.ink import is_blank, shows_text
from worker.readers.layer import read_layer
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import RGB

_FAULTS = (RuntimeError, ValueError, IndexError, KeyError, TypeError, pymupdf.mupdf.FzErrorBase)
_STREAMED = frozenset({"svg", "fb2", "txt"})
"""Opened from memory: given a path, MuPDF would look for pictures that they name beside the file."""
_REFLOW = (595, 842, 11)
"""E-books and plain text have no pages: they are set on A4 in 11 points."""
_MIN_DPI = 40
"""Below this, text of a normal size cannot be read in the picture; the page says so."""


@dataclass(slots=True)
class _Opened:
    key: tuple[object, ...]
    document: Any


@dataclass(slots=True)
class Documents:
    """The document reader. It keeps the last document open, because opening a long e-book takes seconds."""

    _opened: _Opened | None = field(default=None)

    def probe(self, source: Open, *, format: str) -> Probe:
        pymupdf.TOOLS.reset_mupdf_warnings()
        document = self._open(source, format=format)
        pages = _count(document, source.label, format)
        warnings = ["the file was damaged and has been repaired"] if document.is_repaired else []
        if document.is_reflowable:  # pictures of a book are left out here, and not when a page is drawn
            warnings += [line for line in _mupdf_warnings() if "image" in line]
        return Probe(media=Media.DOCUMENT, format=format, pages=pages, warnings=tuple(warnings))

    def page(self, source: Open, number: int, *, target_pixels: int, format: str) -> Page:
        document = self._open(source, format=format)
        count = _count(document, source.label, format)
        if not 1 <= number <= count:
            raise SourceError(f"{source.label} has no page {number}; it has {count} pages", code=Code.PAGE_DAMAGED)
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            with _damage(f"page {number} of {source.label} cannot be loaded or drawn", Code.PAGE_DAMAGED):
                if format == "cbz":
                    _check_comic(source, number, pages=count)
                page = document.load_page(number - 1)
                _check_object(page, source, number)
                _check_images(page, source, number, format=format)
                drawn = _render(page, source, number, target_pixels=target_pixels)
        finally:
            pymupdf.TOOLS.store_shrink(100)  # MuPDF keeps decoded images of pages that are not asked for again
        return replace(drawn, layer=without_marks(drawn.layer)) if format == "txt" and drawn.layer else drawn

    def _open(self, source: Open, *, format: str) -> Any:
        stat = source.path.stat()
        key = (source.path, stat.st_mtime_ns, stat.st_size, source.password, format)
        if self._opened is None or self._opened.key != key:
            self._close()
            self._opened = _Opened(key, open_document(source, format=format))
        return self._opened.document

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.document.close()
            self._opened = None


def open_document(source: Open, *, format: str) -> Any:
    """The document, unlocked and set on pages. Raises SourceError."""
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    if format in _STREAMED:
        source.limits.check_text_bytes(source.path.stat().st_size, name=source.label, format=format)
    with _damage(f"{source.label}: damaged {format}", Code.SOURCE_DAMAGED):
        if format in _STREAMED:
            document = pymupdf.open(stream=_content(source, format), filetype=format)
        else:
            document = pymupdf.open(source.path, filetype=format)
        _unlock(document, source)
        if document.is_reflowable:
            document.layout(width=_REFLOW[0], height=_REFLOW[1], fontsize=_REFLOW[2])
        return document


def _content(source: Open, format: str) -> bytes:
    content = source.path.read_bytes()
    return breakable(content) if format == "txt" else content


def _unlock(document: Any, source: Open) -> None:
    if not document.needs_pass:
        return
    if source.password is None:
        raise SourceError(
            f"{source.label}: password required (the document is encrypted and needs a password)",
            code=Code.PASSWORD_REQUIRED,
        )
    if not document.authenticate(source.password):
        raise SourceError(f"{source.label}: wrong password", code=Code.PASSWORD_WRONG)


def _count(document: Any, label: str, format: str) -> int:
    what = "damaged page tree (the page count is not credible)" if format == "pdf" else f"damaged {format}"
    with _damage(f"{label}: {what}", Code.SOURCE_DAMAGED):
        count = int(document.page_count)
    if count > 0:
        return count
    if document.is_repaired:
        raise SourceError(f"{label}: damaged or truncated {format}: no pages are left after repair")
    raise SourceError(f"{label}: the {format} has no pages", code=Code.NO_PAGES)


def _check_object(page: Any, source: Open, number: int) -> None:
    """MuPDF draws an empty sheet for a page that is no page; that would pass for a blank one."""
    document = page.parent
    if document.is_pdf and not document.xref_object(page.xref).lstrip().startswith("<<"):
        raise SourceError(
            f"page {number} of {source.label} cannot be loaded (its object is not a page)", code=Code.PAGE_DAMAGED
        )


def _check_images(page: Any, source: Open, number: int, *, format: str) -> None:
    """Refuses a page that would unpack a picture over the limit; the file itself may be a few kilobytes."""
    name = f"an embedded image on page {number} of {source.label}"
    for width, height in _embedded(page, format):
        if width > 0 and height > 0:
            source.limits.check_image_pixels(width, height, name=name)


def _embedded(page: Any, format: str) -> list[tuple[int, int]]:
    """Pixels of the pictures on the page, as they say themselves."""
    if format == "pdf":
        return [(width, height) for _, _, width, height, *_ in page.get_images()]
    if format in {"cbz", "txt"}:  # looked at before, and none
        return []
    return [(info["width"], info["height"]) for info in page.get_image_info()]


def _check_comic(source: Open, number: int, *, pages: int) -> None:
    """A page of a comic is a picture. Of one that is far too large MuPDF only says that it cannot be loaded."""
    if (size := picture_size(source.path, number, pages=pages)) is not None:
        source.limits.check_image_pixels(*size, name=f"page {number} of {source.label}")


def _render(page: Any, source: Open, number: int, *, target_pixels: int) -> Page:
    width, height = float(page.rect.width), float(page.rect.height)
    if not (width > 0 and height > 0 and math.isfinite(width * height)):
        raise SourceError(f"page {number} of {source.label} has an invalid page box", code=Code.PAGE_DAMAGED)
    scale, warnings = _scale(width, height, target_pixels=target_pixels, max_pixels=source.limits.max_page_pixels)
    image = _draw(page, scale)
    layer, layer_warnings = read_layer(page, scale=scale, max_chars=source.limits.max_text_chars)
    return Page(
        number=number,
        image=image,
        width_points=width,
        height_points=height,
        scale=scale,
        rotation=int(page.rotation),
        blank=not shows_text(image, layer) and is_blank(image),
        layer=layer,
        warnings=(*warnings, *layer_warnings, *_mupdf_warnings()),
    )


def _scale(width: float, height: float, *, target_pixels: int, max_pixels: int) -> tuple[float, tuple[str, ...]]:
    """Pixels per point, computed from the page box before anything is drawn, and what had to be given up."""
    wanted = target_pixels / max(width, height)
    # One pixel of slack on each side: MuPDF rounds the picture outwards.
    allowed = math.sqrt(max_pixels / (width * height)) * (1 - 1 / math.sqrt(max_pixels))
    scale = (
        max(min(wanted, allowed), 1 / min(width, height)) if min(width, height) * wanted < 1 else min(wanted, allowed)
    )
    drawn = f"drawn at {max(1, round(width * scale))} x {max(1, round(height * scale))} pixels"
    size = f"the page is {width:.0f} x {height:.0f} points"
    if wanted > allowed:
        return scale, (f"{size}; {drawn} (setting NIGHTOWL_LIMITS__MAX_PAGE_PIXELS)",)
    if scale * 72 < _MIN_DPI and max(width, height) > 4000:
        return scale, (
            f"{size} ({width / 72:.0f} x {height / 72:.0f} inches): page too large for full detail, {drawn}",
        )
    return scale, ()


def _draw(page: Any, scale: float) -> RGB:
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csRGB, alpha=False)
    # A view of samples does not keep the pixmap alive: once that is freed, the array silently shows other data.
    flat = np.frombuffer(pixmap.samples_mv, dtype=np.uint8)
    return cast(
        "RGB", flat.reshape(pixmap.height, pixmap.stride)[:, : pixmap.width * 3].reshape(pixmap.height, -1, 3).copy()
    )


def _mupdf_warnings() -> tuple[str, ...]:
    lines = (line.strip() for line in pymupdf.TOOLS.mupdf_warnings().splitlines())
    unique = list(dict.fromkeys(line for line in lines if line and not line.startswith("...") and "link" not in line))
    return tuple(f"MuPDF: {line}"[:200] for line in unique[:5])


@contextmanager
def _damage(what: str, code: Code) -> Iterator[None]:
    """MuPDF's many errors as ours. Those of memory stay memory errors, wherever they come up."""
    try:
        yield
    except _FAULTS as error:
        # PyMuPDF says of a file that it failed to open it, and where we keep it; why, says MuPDF.
        complaint = " ".join(str(error.__cause__ or error).split())[:200]
        if ("alloc" in complaint and "fail" in complaint) or "out of memory" in complaint.lower():
            raise MemoryError(complaint) from error
        if "unknown encryption" in complaint:
            what, code = (
                f"{what.removesuffix(' damaged pdf')} it is encrypted in a way that no reader opens",
                Code.SOURCE_UNSUPPORTED,
            )
        raise SourceError(f"{what} ({complaint})", code=code) from error
