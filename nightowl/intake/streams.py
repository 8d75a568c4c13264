"""Streams under streams: looking ahead, unpacking, and never more in memory than was asked for."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

from backports.zstd import ZstdDecompressor, ZstdError

from nightowl.intake.bounds import DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightowl.intake.bounds import Budget, Readable

FAULTS: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, ZstdError, OSError, ValueError, EOFError)
"""What the decompressors raise of data that is broken."""
CHUNK_BYTES = 256 * 1024
XZ_MEMORY_BYTES = 256 * 1024**2
"""Enough for what `xz -9` writes (65 MiB); a file may ask for 4 GiB."""


class Peeked:
    """A stream whose first bytes can be looked at without being taken."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = b""

    def peek(self, size: int) -> bytes:
        while len(self._head) < size and (more := self._source.read(size - len(self._head))):
            self._head += more
        return self._head[:size]

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._source.read(size)
        taken, self._head = self._head[:size], self._head[size:]
        return taken


class Counted:
    """A stream whose bytes count against the budget."""

    def __init__(self, source: Readable, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.count_bytes(len(data))
        return data


class Packed:
    """The bytes of an archive that comes from a pipe: they widen the bound on its ratio as they come."""

    def __init__(self, source: Readable, budget: Budget) -> None:
        self._source = source
        self._budget = budget

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.grow_archive(len(data))
        return data


class Decompressor(Protocol):
    """What bz2, lzma and zstd offer alike."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Inflate:
    """zlib in the same form."""

    def __init__(self, window_bits: int) -> None:
        self._object = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


class Unpacked:
    """What a compressed stream unpacks to. `several` compressed streams may follow each other, as gzip and xz allow."""

    def __init__(self, source: Readable, make: Callable[[], Decompressor], *, several: bool) -> None:
        self._source = source
        self._make = make
        self._several = several
        self._decompressor = make()
        self._over = False
        self.left_over = b""
        """What was read behind the end of the compressed stream."""

    def read(self, size: int, /) -> bytes:
        """Raises DamagedError where the stream is cut off or broken."""
        while not self._over:
            if self._decompressor.eof and not self._begin_next():
                break
            if out := self._step(size):
                return out
        return b""

    def _step(self, size: int) -> bytes:
        data = self._source.read(CHUNK_BYTES) if self._decompressor.needs_input else b""
        ended = self._decompressor.needs_input and not data
        out = self._feed(data, size)
        if ended and not out and not self._decompressor.eof:
            raise DamagedError("the compressed data is cut off")
        return out

    def _feed(self, data: bytes, size: int) -> bytes:
        try:
            return self._decompressor.decompress(data, size)
        except FAULTS as error:
            raise DamagedError(f"the compressed data is damaged ({error})") from error

    def _begin_next(self) -> bool:
        """Whether another compressed stream follows; what is no such stream is padding, and ends it."""
        rest = self._decompressor.unused_data
        if self._several:
            rest = rest.lstrip(b"\0") or self._source.read(CHUNK_BYTES).lstrip(b"\0")
        if not self._several or not rest:
            self.left_over, self._over = rest, True
            return False
        self._decompressor = self._make()
        self._source = _Before(rest, self._source)
        return True


class _Before:
    """Bytes, and then what follows them."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        if self._first:
            taken, self._first = self._first[:size], self._first[size:]
            return taken
        return self._rest.read(size)


def unpacked(source: Readable, format: str) -> Unpacked:
    """The content of a gzip, bzip2, xz or zstd stream."""
    makers: dict[str, Callable[[], Decompressor]] = {
        "gzip": lambda: Inflate(31),
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES),
        "zstd": zstd_decompressor,
    }
    return Unpacked(source, makers[format], several=True)


def zstd_decompressor() -> Decompressor:
    """zstd bounds its window to 128 MiB by itself."""
    return ZstdDecompressor()


def read_exactly(source: Readable, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    pieces = []
    while size > 0 and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def drain(source: Readable) -> None:
    while source.read(CHUNK_BYTES):
        pass
