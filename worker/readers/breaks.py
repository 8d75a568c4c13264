"""Places at which the long words of a plain text may be broken.

MuPDF breaks lines at spaces, and anywhere among Chinese and Japanese letters. A word that is longer than the sheet is
wide runs over its edge and is lost, and a line of a megabyte without a space takes minutes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.readers.base import TextLayer

_MARK = "\u200b"
"""The zero-width space: no ink, no letter, and a line may end there."""
_LONG = re.compile(r"([!-\u2e7f]{80})(?=[!-\u2e7f])")
"""Eighty letters of any alphabet, and no end to them. About as many fit into a line."""
_LONG_BYTES = re.compile(rb"([!-\xff]{80})(?=[!-\xff])")


def breakable(content: bytes) -> bytes:
    """The text, in its own encoding, with a mark after each eighty letters of a word."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _marked(content.decode("utf-16", "replace")).encode("utf-16")
    try:
        return _marked(content.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        return _LONG_BYTES.sub(rb"\1\n", content)  # an encoding that has no such mark


def without_marks(layer: TextLayer) -> TextLayer:
    """The layer as the file's own letters make it."""
    return replace(layer, lines=tuple(replace(line, text=line.text.replace(_MARK, "")) for line in layer.lines))


def _marked(text: str) -> str:
    return _LONG.sub(rf"\1{_MARK}", text)
