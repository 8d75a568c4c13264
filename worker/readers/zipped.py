"""Documents that are zip files (e-books, XPS, comics): what their table says is judged before anything is unpacked.

zipfile holds a table in memory whole, about a kilobyte a member, and MuPDF follows other fields of it than zipfile. So
the table is walked here first, and one that could be read in two ways is damaged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from domain.errors import Code, SourceError

if TYPE_CHECKING:
    from typing import BinaryIO

    from domain.limits import Limits
    from worker.readers.base import Open

_CENTRAL = Struct("<4s4xHH8xLLHHH12x")  # signature, flags, method, packed, size, name, extra, comment
_END = Struct("<4s4xHHLLH")  # signature, members here, members, table's size, its offset, comment
_LOCATOR = Struct("<4s4xQ4x")
_END64 = Struct("<4s20xQQQQ")  # signature, members here, members, table's size, its offset
_LONGEST_COMMENT = 65535
ENCRYPTED = 0x1
_MEDIA = re.compile(
    rb"\.(jpe?g|jpe|png|gif|bmp|tiff?|webp|avif|jp2|jpx|jxr|wdp|hdp|psd|jb2|jbig2|pnm|p[bgpa]m|pfm|"
    rb"mp3|m4a|m4b|aac|og[gav]|opus|wav|flac|mp4|m4v|mov|webm|mkv|avi|ttf|ttc|otf|woff2?|odttf|pfb|pdf|zip|bin)$",
    re.IGNORECASE,
)
"""Names of members that are not laid out as text."""


class TableError(Exception):
    """No zip file, one that is cut off, or one with a table that says two things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the table of a zip says of its members, all together; `longest` is the largest that is no picture, font or
    other media, with its name."""

    members: int
    packed: int
    unpacked: int
    encrypted: bool
    longest: tuple[int, str]


def read_table(source: Open) -> Table:
    """Raises SourceError where there are more members than the limit, TableError where the table makes no sense."""
    with source.path.open("rb") as file:
        start, size, members = _find(file)
        source.limits.check_members(members, table_bytes=size, name=source.label)
        file.seek(start)
        table = _walked(file.read(size))
    if table.members != members:
        raise TableError(f"its table has {table.members} members and says {members}")
    return table


def check_table(table: Table, *, file_bytes: int, limits: Limits, label: str) -> None:
    """For a document that is to be opened. Raises SourceError."""
    if table.encrypted:
        raise SourceError(
            f"{label}: password required: the members of this zip file are encrypted, which no reader opens; unpack it",
            code=Code.PASSWORD_REQUIRED,
        )
    if table.packed > file_bytes:
        raise SourceError(
            f"{label}: damaged zip file: its members lie over each other ({table.packed} bytes, the file {file_bytes})"
        )
    limits.check_unpacked(table.unpacked, packed=file_bytes, name=label)
    size, name = table.longest
    limits.check_text_bytes(size, name=f"{name} in {label}", format="text or markup")


def _find(file: BinaryIO) -> tuple[int, int, int]:
    """Where the table begins, its bytes and its members."""
    total = file.seek(0, 2)
    tail_start = max(total - _END.size - _LONGEST_COMMENT, 0)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise TableError("its table is missing")
    _, _, members, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if (wide := _find_64(file, end)) is not None:
        members, size, offset, end = wide
    if offset + size != end:
        raise TableError("its table is not where it says")
    return offset, size, members


def _find_64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Members, size, offset and end of a table of 64 bits."""
    place = end - _LOCATOR.size - _END64.size
    if place < 0:
        return None
    file.seek(place)
    record, locator = file.read(_END64.size), file.read(_LOCATOR.size)
    mark, where = _LOCATOR.unpack(locator)
    if mark != b"PK\6\7":
        return None
    mark, _, members, size, offset = _END64.unpack(record)
    if mark != b"PK\6\6" or where != place:
        raise TableError("the end of its table is not where it says")
    return members, size, offset, place


def _walked(table: bytes) -> Table:
    members = all_packed = all_sizes = at = 0
    encrypted, longest = False, (0, b"")
    while at < len(table):
        if len(table) - at < _CENTRAL.size:
            raise TableError("its table is cut off")
        mark, flags, _, packed, size, *lengths = _CENTRAL.unpack_from(table, at)
        if mark != b"PK\1\2":
            raise TableError("its table makes no sense")
        name = table[at + _CENTRAL.size : at + _CENTRAL.size + lengths[0]]
        at += _CENTRAL.size + sum(lengths)
        members, all_packed, all_sizes = members + 1, all_packed + packed, all_sizes + size
        encrypted = encrypted or bool(flags & ENCRYPTED)
        if size > longest[0] and not _MEDIA.search(name):
            longest = size, name
    return Table(
        members=members,
        packed=all_packed,
        unpacked=all_sizes,
        encrypted=encrypted,
        longest=(longest[0], longest[1].decode("utf-8", "replace")),
    )
