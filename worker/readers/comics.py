"""How large the picture is that a page of a comic (CBZ) shows, by its header alone."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_PICTURE = re.compile(
    r"\.(bmp|gif|hdp|j2k|jb2|jbig2|jp2|jpeg|jpg|jpx|jxr|p[abgpn]m|png|tiff?|wdp|webp)$", re.IGNORECASE
)
_DIGITS = re.compile(r"[0-9]+|.", re.DOTALL)
_HEAD_BYTES = 1024 * 1024
"""Of a picture, in which its header is looked for."""
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM")
_FAULTS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, RuntimeError, ArithmeticError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def picture_size(path: Path, number: int, *, pages: int) -> tuple[int, int] | None:
    """Width and height of the picture of page `number`; None where that cannot be told, which drawing will say."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(filter(_PICTURE.search, archive.namelist()), key=_order)
            if len(names) != pages:  # MuPDF counts others as pages
                return None
            with archive.open(names[number - 1]) as member:
                head = member.read(_HEAD_BYTES)
        Image.MAX_IMAGE_PIXELS = None  # ours is checked instead
        with Image.open(io.BytesIO(head), formats=_FORMATS) as image:
            return image.size
    except _FAULTS:
        return None


def _order(name: str) -> list[int]:
    """MuPDF's order of pages: numbers by their value, letters whatever their case."""
    return [int(piece) if piece.isdecimal() else ord(piece.upper()[0]) for piece in _DIGITS.findall(name)]
