"""Image files through Pillow: the header first, then pixels; upright, on white, RGB, never enlarged.

A TIFF has as many pages as images. Of an animation (GIF, WebP, PNG) the first frame is read, and the probe says so. A
damaged picture fails: half of a scan that looks whole is worse than a clear word.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from domain.errors import Code, SourceError
from worker.readers.base import Media, Open, Page, Probe
from worker.readers.ink import is_blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import RGB

_FAULTS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_EXIF_ORIENTATION = 0x0112
_TURNS = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}
"""Degrees clockwise that EXIF asks for; 4, 5 and 7 are mirrored besides."""
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Images:
    """The image reader. Nothing is kept open: opening costs a header."""

    def probe(self, source: Open, *, format: str) -> Probe:
        with _opened(source, format) as image:
            width, height = _upright(image)
            frames = _frames(image)
            pages = frames if format == "tiff" else 1
        warnings = (f"the {format} is animated ({frames} frames); only the first is read",) if frames > pages else ()
        if format == "jpeg":
            warnings = ()  # a second picture in a JPEG is a preview or a stereo view, not an animation
        return Probe(media=Media.IMAGE, format=format, pages=pages, width=width, height=height, warnings=warnings)

    def page(self, source: Open, number: int, *, target_pixels: int, format: str) -> Page:
        with _opened(source, format) as image:
            frames = _frames(image) if number > 1 else 1
            if not 1 <= number <= (frames if format == "tiff" else 1):
                raise SourceError(f"{source.label} has no page {number}", code=Code.PAGE_DAMAGED)
            with _damage(_place(source, number, format), Code.PAGE_DAMAGED if number > 1 else Code.SOURCE_DAMAGED):
                if format == "png":
                    _verify(source)
                image.seek(number - 1)
                source.limits.check_image_pixels(*image.size, name=source.label)
                return _page(image, source, number, target_pixels=target_pixels)


@contextmanager
def _opened(source: Open, format: str) -> Iterator[Image.Image]:
    # Our own limit is checked instead, before a pixel is decoded; Pillow's is lower and warns through a global.
    Image.MAX_IMAGE_PIXELS = None
    _refuse_zero_size(source, format)
    try:
        image = Image.open(source.path, formats=_pillow_names(format))
    except UnidentifiedImageError as error:
        raise SourceError(f"{_place(source, 1, format)} (its header cannot be read)") from error
    except _FAULTS as error:
        raise SourceError(f"{_place(source, 1, format)} ({_text(error)})") from error
    with image:
        source.limits.check_image_pixels(*image.size, name=source.label)
        yield image


def _refuse_zero_size(source: Open, format: str) -> None:
    """Pillow says only "cannot identify" of such a PNG."""
    if format != "png":
        return
    with source.path.open("rb") as file:
        head = file.read(24)
    if len(head) == 24 and head[12:16] == b"IHDR" and 0 in struct.unpack(">II", head[16:24]):
        width, height = struct.unpack(">II", head[16:24])
        source.limits.check_image_pixels(width, height, name=f"{source.label} (invalid PNG)")


def _verify(source: Open) -> None:
    """The checksums of a PNG, which Pillow does not compare while it decodes: a flipped bit would go unseen."""
    with Image.open(source.path, formats=("PNG",)) as image:
        image.verify()


def _page(image: Image.Image, source: Open, number: int, *, target_pixels: int) -> Page:
    orientation = _orientation(image)
    native = _upright(image)
    # A few bytes of slack under the limit of one page; an image is never made larger than it is.
    bound = min(target_pixels / max(native), (source.limits.max_page_pixels / (native[0] * native[1])) ** 0.5, 1.0)
    pixels = _pixels(image, bound, orientation)
    return Page(
        number=number,
        image=pixels,
        width_points=float(native[0]),
        height_points=float(native[1]),
        scale=pixels.shape[1] / native[0],
        rotation=_TURNS.get(orientation, 0),
        blank=is_blank(pixels),
    )


def _pixels(image: Image.Image, bound: float, orientation: int) -> RGB:
    size = (max(1, int(image.width * bound)), max(1, int(image.height * bound)))
    if image.format == "JPEG":
        # The decoder itself halves: a quarter of the memory and of the time. Twice the size leaves the filter its work.
        image.draft(None, (size[0] * 2, size[1] * 2))
    image.load()
    shrunk = _shrunk(_eight_bits(image), size)
    upright = _turned(_on_white(shrunk), orientation)
    return cast("RGB", np.ascontiguousarray(np.asarray(upright, dtype=np.uint8)))


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Halving by whole numbers first: it needs no copy in floating point."""
    factor = min(image.width // size[0], image.height // size[1]) // 2
    if image.mode in {"1", "P", "PA"} and size != image.size:
        image = image.convert("L" if image.mode == "1" else "RGBA" if _has_alpha(image) else "RGB")
    if factor >= 2:
        image = image.reduce(factor)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and float greys scaled to 0..255; Pillow's own conversion clips them to white."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        # Scanners store 12 bits in 16 and leave the top empty.
        top = 65535 if int(values.max(initial=0)) > 4095 else 4095
        return Image.fromarray((values.astype(np.float32) * (255 / top)).astype(np.uint8))
    low, high = float(values.min()), float(values.max())
    if image.mode == "I" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    span = high - low if high > low else 1.0
    return Image.fromarray(((values.astype(np.float32) - low) * (255 / span)).clip(0, 255).astype(np.uint8))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    if not _has_alpha(image):
        return image.convert("RGB")
    colours = image.convert("RGBA")
    sheet = Image.new("RGBA", colours.size, (255, 255, 255, 255))
    return Image.alpha_composite(sheet, colours).convert("RGB")


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TRANSPOSES[orientation]) if orientation in _TRANSPOSES else image


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation. Pillow would decode a whole PNG to look for EXIF behind the pixels; in front must do."""
    if image.format != "PNG":
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return int(exif.get(_EXIF_ORIENTATION, 1))


def _upright(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in {5, 6, 7, 8} else (width, height)


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except _FAULTS:
        return 1


def _place(source: Open, number: int, format: str) -> str:
    place = f"page {number} of {source.label}" if number > 1 else source.label
    return f"{place}: damaged or truncated {format.upper()}"


def _pillow_names(format: str) -> tuple[str, ...]:
    """Only the decoder for what the bytes are; Pillow would try them all. Stereo JPEGs have a name of their own."""
    return {"jpeg": ("JPEG", "MPO"), "jp2": ("JPEG2000",)}.get(format, (format.upper(),))


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _damage(what: str, code: Code) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise SourceError(f"{what} ({_text(error)})", code=code) from error
