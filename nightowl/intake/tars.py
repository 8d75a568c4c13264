"""Tar archives, read forwards. The header's form is left to tarfile; what it says is bounded here.

tarfile's own reader keeps every member, reads names of any length and maps of sparse files into memory, and takes a
damaged header for the end.
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from domain.errors import Code
from nightowl.intake.bounds import DamagedError
from nightowl.intake.entries import Entry, Refused
from nightowl.intake.streams import CHUNK_BYTES, drain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightowl.intake.bounds import Readable

BLOCK = tarfile.BLOCKSIZE
EXTENSION_BYTES = 1024**2
"""Longest extended header: a name, or the records of pax."""
SPARSE_BLOCKS = 4096
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_REFUSALS = {
    tarfile.LNKTYPE: "it is a link",
    tarfile.SYMTYPE: "it is a link",
    tarfile.CHRTYPE: "it is a device",
    tarfile.BLKTYPE: "it is a device",
    tarfile.FIFOTYPE: "it is a pipe",
}


def read_tar(source: Readable) -> Iterator[Entry | Refused]:
    """The entries in their order; folders are left out.

    Raises:
        DamagedError: at the place where the archive is cut off or makes no sense.
    """
    records: dict[str, str] = {}
    while (header := _header(source)) is not None:
        info = _parsed(header)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records |= _pax_records(_extension(source, info.size))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            records["path"] = _decoded(_extension(source, info.size).rstrip(b"\0"))
        elif info.type in (tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE):
            _extension(source, info.size)
        else:
            yield from _entry(source, info, header, records)
            records = {}


def _header(source: Readable) -> bytes | None:
    """The next header; None at the mark of the end. An archive without that mark is cut off."""
    header = read_exactly(source, BLOCK)
    if len(header) < BLOCK:
        raise DamagedError("the archive is cut off")
    return header if header.strip(b"\0") else None


def _parsed(header: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedError(f"the archive is damaged ({error})") from error
    if info.size < 0:
        raise DamagedError("the archive is damaged (a negative size)")
    return info


def _extension(source: Readable, size: int) -> bytes:
    if size > EXTENSION_BYTES:
        raise DamagedError(f"an extended header of {size} bytes; {EXTENSION_BYTES} are the most")
    padded = read_exactly(source, -(-size // BLOCK) * BLOCK)
    if len(padded) < size:
        raise DamagedError("the archive is cut off")
    return padded[:size]


def _pax_records(data: bytes) -> dict[str, str]:
    """Records of the form "length key=value\\n", where the length counts itself."""
    records = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data):
            raise DamagedError("the archive is damaged (an extended header)")
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        records[_decoded(key)], data = _decoded(value), data[int(length) :]
    return records


def _entry(
    source: Readable, info: tarfile.TarInfo, header: bytes, records: dict[str, str]
) -> Iterator[Entry | Refused]:
    is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in records)
    if info.type == tarfile.GNUTYPE_SPARSE:
        _skip_sparse_map(source, header)
    name = records.get("path") or _decoded(info.name.encode("utf-8", "surrogateescape"))
    size = 0 if info.type in _WITHOUT_DATA else _size(info, records)
    content = _Content(source, size)
    if is_sparse:
        yield Refused(name=name, code=Code.SOURCE_UNSUPPORTED, why="it is a sparse file", size=size)
    elif info.type in _REFUSALS:
        yield Refused(name=name, code=Code.LINK_REFUSED, why=_REFUSALS[info.type])
    elif info.type in _REGULAR:
        yield Entry(name=name, content=content, size=size)
    content.close()


def _size(info: tarfile.TarInfo, records: dict[str, str]) -> int:
    text = records.get("size", str(info.size))
    if not text.isdecimal():
        raise DamagedError("the archive is damaged (a size that is no number)")
    return int(text)


def _skip_sparse_map(source: Readable, header: bytes) -> None:
    more, blocks = header[482], 0
    while more:
        block, blocks = read_exactly(source, BLOCK), blocks + 1
        if len(block) < BLOCK or blocks > SPARSE_BLOCKS:
            raise DamagedError("the archive is damaged (the map of a sparse file)")
        more = block[504]


def _decoded(raw: bytes) -> str:
    """Tar knows no code page: UTF-8 in practice, else what old systems of the West wrote."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


class _Content:
    """So many bytes of the archive, and the padding behind them."""

    def __init__(self, source: Readable, size: int) -> None:
        self._source = source
        self._left = size
        self._padding = -size % BLOCK

    def read(self, size: int, /) -> bytes:
        if not self._left:
            return b""
        data = self._source.read(min(size, self._left, CHUNK_BYTES))
        if not data:
            raise DamagedError("the archive is cut off")
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Go on to the next header, whatever was read of this."""
        drain(self)
        read_exactly(self._source, self._padding)
        self._padding = 0
