"""Names of members: which are taken, and which refused. A name is an identity, and becomes a path again."""

from __future__ import annotations

import re
import unicodedata

from domain.errors import Code, SourceError

LONGEST_PATH = 1000
LONGEST_NAME = 255
"""Bytes of one component that common file systems take."""
_DRIVE = re.compile(r"[A-Za-z]:")
_LITTER = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$|\._[^/]*$)", re.IGNORECASE)


class RefusedNameError(SourceError):
    """A name that is not taken."""

    default_code = Code.NAME_REFUSED


def checked(name: str) -> str:
    """The name with `/` between its components and without `.` among them.

    Raises:
        RefusedNameError: it is empty, absolute, too long, leads out of its folder, or holds what cannot be shown.
    """
    path = name.replace("\\", "/")
    if path.startswith("/") or _DRIVE.match(path):
        raise RefusedNameError("its name is absolute")
    pieces = [piece for piece in path.split("/") if piece not in ("", ".")]
    if ".." in pieces:
        raise RefusedNameError("its name leads out of the archive (..)")
    if not pieces:
        raise RefusedNameError("it has no name")
    if not path.isprintable() and not all(map(_is_shown, path)):
        raise RefusedNameError("its name holds control characters")
    if len(path) > LONGEST_PATH or any(len(piece.encode()) > LONGEST_NAME for piece in pieces):
        raise RefusedNameError(
            f"its name is too long (over {LONGEST_PATH} characters, or {LONGEST_NAME} bytes of one component)"
        )
    return "/".join(pieces)


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def shown(name: str) -> str:
    """Any name as rows and terminals can hold it: what cannot be shown is escaped."""
    pieces = (
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name[:LONGEST_PATH]
    )
    return "".join(pieces)[:LONGEST_PATH] or "(no name)"


def decoded(raw: bytes, *, is_utf8: bool) -> str:
    """A name out of an archive: UTF-8 where it says so or where it is, else the code page of DOS, as zip has it."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace") if is_utf8 else raw.decode("cp437")


def is_litter(path: str) -> bool:
    """What operating systems leave in folders and archives, and nobody means."""
    return _LITTER.search(path) is not None
