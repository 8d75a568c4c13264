"""Values that every database can store."""

from __future__ import annotations

import math
from typing import Any


def clean(value: Any) -> Any:
    """The value without what PostgreSQL refuses in text or JSON: NUL, lone surrogates, NaN and infinities (None)."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "ignore").decode()
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def one_line(text: str) -> str:
    """The text as a line that a terminal or a log can show: control characters are written out, as \\n and \\x1b are.

    A file's name may hold them, to colour a terminal or to look like a second line.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape", "replace").decode() for sign in text)
