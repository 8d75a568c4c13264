"""Zip archives, by their directory; by their local headers where the directory is missing because the file is cut off.

zipfile keeps the whole directory in memory, about a kilobyte for each entry, and gives nothing of a file that was cut
off. Here the directory is read a piece at a time.
"""

from __future__ import annotations

import bz2
import stat
import zlib
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from domain.errors import Code
from nightowl.intake.bounds import DamagedError, LimitError
from nightowl.intake.entries import Entry, Refused
from nightowl.intake.names import decoded
from nightowl.intake.streams import CHUNK_BYTES, Inflate, Unpacked, drain, read_exactly, zstd_decompressor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nightowl.intake.bounds import Readable
    from nightowl.intake.streams import Decompressor

LOCAL = Struct("<4s2x2H4xL2L2H")  # signature, flags, method, crc, packed, size, name, extra
CENTRAL = Struct(
    "<4s4x2H4xL2L3H4xLL"
)  # signature, flags, method, crc, packed, size, name, extra, comment, attributes, offset
END = Struct("<4s4x2H2LH")  # signature, entries here, entries, directory's size, its offset, comment
LOCATOR = Struct("<4s4xQ4x")
END64 = Struct("<4s20x2Q2Q")  # signature, entries here, entries, directory's size, its offset
LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
LONGEST_COMMENT = 65535
FULL = 0xFFFFFFFF
ENCRYPTED, DESCRIBED_LATER, UTF8 = 0x1, 0x8, 0x800
STORED, DEFLATED, BZIP2, ZSTD = 0, 8, 12, 93
METHODS: dict[int, Callable[[], Decompressor]] = {
    DEFLATED: lambda: Inflate(-15),
    BZIP2: bz2.BZ2Decompressor,
    ZSTD: zstd_decompressor,
}


class Seekable(Protocol):
    """A file of which any place can be read."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """An entry as the directory or its local header describes it. `packed` is None where that comes behind the data."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int | None
    size: int | None
    offset: int
    mode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directory:
    """Where the directory lies. `shift` is what stands before the archive in its file."""

    start: int
    size: int
    shift: int


def read_zip(file: Seekable) -> Iterator[Entry | Refused]:
    """The entries; folders are left out.

    Raises:
        DamagedError: at the end, or at the place, where the archive is cut off or makes no sense.
        LimitError: its entries lie over each other.
    """
    total = file.seek(0, 2)
    directory = _find_directory(file, total)
    if directory is None:
        yield from _by_local_headers(file)
        raise DamagedError("the archive is cut off: its directory is missing")
    packed = 0
    for header in _headers(file, directory):
        packed += header.packed or 0
        if packed > total:
            raise LimitError("its entries lie over each other: together they are larger than the archive")
        yield from _entry(file, header, header.offset + directory.shift)


# The directory.


def _find_directory(file: Seekable, total: int) -> _Directory | None:
    tail_start = max(total - END.size - LONGEST_COMMENT, 0)
    file.seek(tail_start)
    tail = read_exactly(file, total - tail_start)
    at = tail.rfind(END_MARK)
    if at < 0 or len(tail) - at < END.size:
        return None
    _, _, count, size, offset, _ = END.unpack_from(tail, at)
    end = tail_start + at
    if FULL in (size, offset) or count == 0xFFFF:
        size, offset, end = _in_64_bits(file, end) or (size, offset, end)
    start = end - size
    if start < 0 or offset > start:
        raise DamagedError("the archive is damaged: its directory lies outside of it")
    return _Directory(start=start, size=size, shift=start - offset)


def _in_64_bits(file: Seekable, end: int) -> tuple[int, int, int] | None:
    """Size, offset and end of the directory of an archive that is too large for 32 bits."""
    if end < LOCATOR.size:
        return None
    file.seek(end - LOCATOR.size)
    mark, where = LOCATOR.unpack(read_exactly(file, LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    for place in (where, end - LOCATOR.size - END64.size):  # the second where something stands before the archive
        file.seek(max(place, 0))
        data = read_exactly(file, END64.size)
        if len(data) == END64.size and data.startswith(b"PK\x06\x06"):
            _, _, _, size, offset = END64.unpack(data)
            return size, offset, max(place, 0)
    raise DamagedError("the archive is damaged: the end of its directory is not where it says")


def _headers(file: Seekable, directory: _Directory) -> Iterator[_Header]:
    """The directory's entries, of which only a piece is in memory."""
    position, left, buffer = directory.start, directory.size, b""
    while left + len(buffer) >= CENTRAL.size:
        if len(buffer) < CENTRAL.size + 3 * 65535 and left:
            file.seek(position)
            piece = read_exactly(file, min(left, CHUNK_BYTES))
            position, left, buffer = position + len(piece), left - len(piece) if piece else 0, buffer + piece
        used = 0
        while (parsed := _central(buffer, used, is_last=not left)) is not None:
            header, used = parsed
            yield header
        if not used:
            raise DamagedError("the archive is damaged: its directory makes no sense")
        buffer = buffer[used:]


def _central(buffer: bytes, at: int, *, is_last: bool) -> tuple[_Header, int] | None:
    """The header at that place and where the next begins; None where more must be read first, or nothing follows."""
    if len(buffer) - at < CENTRAL.size or (not is_last and len(buffer) - at < CENTRAL.size + 3 * 65535):
        return None
    mark, flags, method, crc, packed, size, name, extra, comment, attributes, offset = CENTRAL.unpack_from(buffer, at)
    start = at + CENTRAL.size
    end = start + name + extra + comment
    if mark != CENTRAL_MARK or end > len(buffer):
        return None
    raw = buffer[start : start + name]
    size, packed, offset = _wide(buffer[start + name : start + name + extra], (size, packed, offset))
    header = _Header(
        name=decoded(raw, is_utf8=bool(flags & UTF8)),
        flags=flags,
        method=method,
        crc=crc,
        packed=packed,
        size=size,
        offset=offset,
        mode=attributes >> 16,
    )
    return header, end


def _wide(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """The values, those that are full replaced by their 64 bits in the extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == 1:
            words = iter(range(at + 4, at + 4 + length - 7, 8))
            return tuple(
                int.from_bytes(extra[word : word + 8], "little")
                if value == FULL and (word := next(words, -1)) >= 0
                else value
                for value in values
            )
        at += 4 + length
    return values


# One entry.


def _entry(file: Seekable, header: _Header, place: int) -> Iterator[Entry | Refused]:
    kind = stat.S_IFMT(header.mode)
    if header.name.endswith(("/", "\\")) or kind == stat.S_IFDIR:
        return
    if kind not in (0, stat.S_IFREG):
        why = "it is a link" if kind == stat.S_IFLNK else "it is a device or a pipe"
        yield Refused(name=header.name, code=Code.LINK_REFUSED, why=why)
        return
    if refused := _unreadable(header):
        yield refused
        return
    start = _data_start(file, place)
    if start is None:
        why = "its data is not where the directory says"
        yield Refused(name=header.name, code=Code.ARCHIVE_DAMAGED, why=why, size=header.size)
        return
    yield Entry(name=header.name, content=_Checked(_content(file, header, start), header), size=header.size)


def _unreadable(header: _Header) -> Refused | None:
    if header.flags & ENCRYPTED:
        return Refused(name=header.name, code=Code.PASSWORD_REQUIRED, why="it is encrypted", size=header.size)
    if header.method != STORED and header.method not in METHODS:
        why = f"its compression (method {header.method}) is not supported"
        return Refused(name=header.name, code=Code.SOURCE_UNSUPPORTED, why=why, size=header.size)
    return None


def _data_start(file: Seekable, place: int) -> int | None:
    file.seek(place)
    local = read_exactly(file, LOCAL.size)
    if len(local) < LOCAL.size or not local.startswith(LOCAL_MARK):
        return None
    *_, name, extra = LOCAL.unpack(local)
    return place + LOCAL.size + int(name) + int(extra)


def _content(file: Seekable, header: _Header, start: int) -> Readable:
    packed = _Span(file, start, header.packed)
    return packed if header.method == STORED else Unpacked(packed, METHODS[header.method], several=False)


class _Span:
    """So many bytes of the file from a place on; to the file's end where the length is not known."""

    def __init__(self, file: Seekable, start: int, length: int | None) -> None:
        self._file = file
        self.position = start
        self._end = None if length is None else start + length

    def read(self, size: int, /) -> bytes:
        size = min(size, CHUNK_BYTES)
        if self._end is not None:
            size = min(size, self._end - self.position)
        if size <= 0:
            return b""
        self._file.seek(self.position)
        data = self._file.read(size)
        self.position += len(data)
        return data


class _Checked:
    """An entry's content, whose length and check sum must be what its header says."""

    def __init__(self, content: Readable, header: _Header) -> None:
        self._content = content
        self._header = header
        self._crc = 0
        self._size = 0

    def read(self, size: int, /) -> bytes:
        data = self._content.read(size)
        self._crc, self._size = zlib.crc32(data, self._crc), self._size + len(data)
        if self._header.size is not None and self._size > self._header.size:
            raise DamagedError(f"it holds more than the {self._header.size} bytes that it says")
        if not data and self._header.packed is not None:
            self._check()
        return data

    def _check(self) -> None:
        if self._size != self._header.size:
            raise DamagedError(f"it holds {self._size} bytes, and says {self._header.size}")
        if self._crc != self._header.crc:
            raise DamagedError("its check sum is wrong")


# Without a directory.


def _by_local_headers(file: Seekable) -> Iterator[Entry | Refused]:
    """What a file that was cut off still holds, from its beginning. A local header does not tell links from files."""
    place = 0
    while (header := _local(file, place)) is not None:
        start = place + LOCAL.size + header.offset
        length = header.packed
        if length is None and (header.method not in METHODS or header.flags & ENCRYPTED):
            return  # nobody knows where it ends
        place = start + (length or 0)
        if refused := _unreadable(header):
            yield refused
        elif not header.name.endswith("/"):
            content = _content(file, header, start)
            yield Entry(name=header.name, content=_Checked(content, header), size=header.size)
            place = _behind(file, content, start) if length is None else place
        place = _next_mark(file, place)


def _local(file: Seekable, place: int) -> _Header | None:
    """`offset` is the length of name and extra field here."""
    file.seek(place)
    data = read_exactly(file, LOCAL.size)
    if len(data) < LOCAL.size or not data.startswith(LOCAL_MARK):
        return None
    _, flags, method, crc, packed, size, name, extra = LOCAL.unpack(data)
    rest = read_exactly(file, name + extra)
    size, packed = _wide(rest[name:], (size, packed))
    later = bool(flags & DESCRIBED_LATER) and not packed
    return _Header(
        name=decoded(rest[:name], is_utf8=bool(flags & UTF8)),
        flags=flags,
        method=method,
        crc=crc,
        packed=None if later else packed,
        size=None if later else size,
        offset=name + extra,
    )


def _behind(file: Seekable, content: Readable, start: int) -> int:
    """Where the compressed data ends: known once it is unpacked."""
    if not isinstance(content, Unpacked):
        return start
    drain(content)
    return file.tell() - len(content.left_over)


def _next_mark(file: Seekable, place: int) -> int:
    """Past the description of sizes that may stand behind the data."""
    file.seek(place)
    data = read_exactly(file, 32)
    found = [at for mark in (LOCAL_MARK, CENTRAL_MARK) if (at := data.find(mark)) >= 0]
    return place + min(found, default=0)
