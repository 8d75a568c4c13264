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
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from domain.errors import Code, SourceError
from worker.readers.base import Media, Open, Page, Probe
from worker.readers.child import is_memory
from worker.readers.ink import is_blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.base import RGB

_FAULTS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, RuntimeError, ArithmeticError),
    *(struct.error, zlib.error),
)
"""What Pillow and its decoders raise for damaged files."""
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
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes per pixel that Pillow keeps; 4 in every other mode, RGB too."""
_DECODERS = {"GIF": 1, "WEBP": 12, "JPEG2000": 16, "AVIF": 12}
"""Bytes per pixel that these decoders hold besides; the others go by rows."""
_BITS_PER_SAMPLE, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 258, 278, 322, 323
_BAND_PIXELS = 4_000_000
"""Of a band of rows that is converted at a time."""


class Images:
    """The image reader. Nothing is kept open: opening costs a header."""

    def probe(self, source: Open, *, format: str) -> Probe:
        with _opened(source, format) as image:
            width, height = _upright(image)
            frames = directories(source) if format == "tiff" else _frames(image)
            pages = frames if format == "tiff" else 1
        warnings = (f"the {format} is animated ({frames} frames); only the first is read",) if frames > pages else ()
        if format == "jpeg":
            warnings = ()  # a second picture in a JPEG is a preview or a stereo view, not an animation
        return Probe(media=Media.IMAGE, format=format, pages=pages, width=width, height=height, warnings=warnings)

    def page(self, source: Open, number: int, *, target_pixels: int, format: str) -> Page:
        with _opened(source, format) as image:
            frames = directories(source) if format == "tiff" and number > 1 else 1
            if not 1 <= number <= frames:
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
    pixels = _pixels(image, source, bound, orientation)
    return Page(
        number=number,
        image=pixels,
        width_points=float(native[0]),
        height_points=float(native[1]),
        scale=pixels.shape[1] / native[0],
        rotation=_TURNS.get(orientation, 0),
        blank=is_blank(pixels),
    )


def _pixels(image: Image.Image, source: Open, bound: float, orientation: int) -> RGB:
    full = image.size
    size = (max(1, int(image.width * bound)), max(1, int(image.height * bound)))
    if image.format == "JPEG":
        # The decoder itself halves: a quarter of the memory and of the time. Twice the size leaves the filter its work.
        image.draft(None, (size[0] * 2, size[1] * 2))
    source.limits.check_decoding(*full, needed=decoding_bytes(image, full), name=source.label)
    image.load()
    upright = _turned(_shrunk(image, size), orientation)
    return cast("RGB", np.ascontiguousarray(np.asarray(upright, dtype=np.uint8)))


def decoding_bytes(image: Image.Image, full: tuple[int, int]) -> int:
    """Memory that Pillow takes to decode a picture that was opened, at `full` size before any draft.

    Pillow keeps 1, 2 or 4 bytes per pixel, rows of whole words, and a pointer to each row. On top come the
    decoder's own copies.
    """
    row = -(-image.width * _STORED.get(image.mode, 4) // 4) * 4
    held = (row + 8) * image.height
    pixels = full[0] * full[1]
    if image.format == "JPEG" and image.info.get("progressive"):
        return held + 2 * len(image.getbands()) * pixels  # all coefficients, 16 bits each
    if image.format == "TIFF":
        return held + _strip_bytes(image)
    return held + _DECODERS.get(image.format or "", 0) * pixels


def _strip_bytes(image: Image.Image) -> int:
    """A strip or tile of a TIFF is unpacked as a whole; often it is the whole picture."""
    tags = getattr(image, "tag_v2", {})
    bits = int(sum(tags.get(_BITS_PER_SAMPLE, (8,))))
    width = min(int(tags.get(_TILE_WIDTH, image.width)), image.width)
    height = min(int(tags.get(_TILE_LENGTH, tags.get(_ROWS_PER_STRIP, image.height))), image.height)
    return -(-width * bits // 8) * height


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture on white at this size, RGB.

    Halved by whole numbers first, which needs no copy in floating point, and band by band: what is converted on the way
    is then a copy of a band, not of the whole picture.
    """
    factor = max(1, min(image.width // size[0], image.height // size[1]) // 2)
    step = max(1, _BAND_PIXELS // image.width // factor) * factor
    tops = range(0, image.height, step)
    levels = _levels(image, tops)
    sheet = Image.new(_flat_mode(image), (-(-image.width // factor), -(-image.height // factor)))
    for top in tops:
        band = _mixable(_eight_bits(_band(image, top, step), levels))
        band = band.reduce(factor) if factor > 1 else band
        sheet.paste(_on_white(band).convert(sheet.mode), (0, top // factor))
    sheet = sheet if sheet.size == size else sheet.resize(size, Image.Resampling.LANCZOS, reducing_gap=None)
    return sheet.convert("RGB")


def _band(image: Image.Image, top: int, rows: int) -> Image.Image:
    return image.crop((0, top, image.width, min(top + rows, image.height)))


def _flat_mode(image: Image.Image) -> str:
    return "L" if (image.mode in {"1", "L"} or _is_deep(image)) and not _has_alpha(image) else "RGB"


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _levels(image: Image.Image, tops: range) -> tuple[float, float]:
    """The values that are to be black and white in a picture of more than 8 bits."""
    if not _is_deep(image):
        return 0.0, 255.0
    bands = (_values(_band(image, top, tops.step)) for top in tops)
    extremes = [(float(band.min()), float(band.max())) for band in bands]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if image.mode.startswith("I;16"):
        # Scanners store 12 bits in 16 and leave the top empty.
        return 0.0, 65535.0 if high > 4095 else 4095.0
    if image.mode == "I" and low >= 0 and high <= 65535:
        return 0.0, 65535.0
    return low, high if high > low else low + 1.0


def _eight_bits(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    """16-bit and float greys scaled to 0..255; Pillow's own conversion clips them to white."""
    if not _is_deep(image):
        return image
    low, high = levels
    return Image.fromarray(((_values(image) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8))


def _values(image: Image.Image) -> npt.NDArray[np.float32]:
    return np.nan_to_num(np.asarray(image).astype(np.float32))


def _mixable(image: Image.Image) -> Image.Image:
    """In a mode whose neighbouring pixels may be averaged; a colour that stands for transparency becomes so."""
    if _has_alpha(image):
        return image.convert("RGBA")
    return image.convert({"1": "L", "P": "RGB"}[image.mode]) if image.mode in {"1", "P"} else image


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


def _on_white(image: Image.Image) -> Image.Image:
    if not _has_alpha(image):
        return image
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


def directories(source: Open) -> int:
    """Pages of a TIFF: the directories that are linked from one to the next, each counted once.

    Pillow looks at all of them too, and for each at all those before it: seconds for ten thousand.
    """
    with source.path.open("rb") as file:
        head = file.read(16)
        order, big = ("<" if head[:2] == b"II" else ">"), head[2:4] in {b"+\0", b"\0+"}
        count, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
        (at,) = struct.unpack_from(order + link, head.ljust(16, b"\0"), 8 if big else 4)
        seen: set[int] = set()
        while at and at not in seen:
            file.seek(at)
            fields = file.read(struct.calcsize(count))
            if len(fields) < struct.calcsize(count):
                break
            seen.add(at)
            file.seek(at + len(fields) + entry * struct.unpack(order + count, fields)[0])
            following = file.read(struct.calcsize(link)).ljust(struct.calcsize(link), b"\0")
            (at,) = struct.unpack(order + link, following)
    return max(1, len(seen))


def _place(source: Open, number: int, format: str) -> str:
    place = f"page {number} of {source.label}" if number > 1 else source.label
    return f"{place}: damaged or truncated {format.upper()}"


def _pillow_names(format: str) -> tuple[str, ...]:
    """Only the decoder for what the bytes are; Pillow would try them all."""
    return {"jp2": ("JPEG2000",)}.get(format, (format.upper(),))


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _damage(what: str, code: Code) -> Iterator[None]:
    """Pillow's many errors as ours. Those of memory stay memory errors."""
    try:
        yield
    except _FAULTS as error:
        if is_memory(error):
            raise MemoryError(str(error)) from error
        raise SourceError(f"{what} ({_text(error)})", code=code) from error
