"""Changes what an MP4 says of itself: how long each frame is shown, and how it is turned. Good for files whose `moov`
box comes last, as OpenCV writes them: no offset in the file changes then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PARENTS = ("moov", "trak", "mdia", "minf", "stbl")
TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
ONE = 0x10000
"""1 as a fixed point number of a matrix."""


def timescale(data: bytes) -> int:
    """Ticks per second of the video track."""
    at, _ = box(data, "moov", "trak", "mdia", "mdhd")
    return int.from_bytes(data[at + 20 : at + 24], "big")


def with_times(data: bytes, ticks: Sequence[int]) -> bytes:
    """Frame i is shown for ticks[i] ticks: a variable frame rate."""
    at, size = box(data, "moov", "trak", "mdia", "minf", "stbl", "stts")
    entries = b"".join(_word(1) + _word(count) for count in ticks)
    table = _word(16 + len(entries)) + b"stts" + _word(0) + _word(len(ticks)) + entries
    changed = bytearray(data)
    for depth in range(1, len(PARENTS) + 1):
        parent, old = box(data, *PARENTS[:depth])
        changed[parent : parent + 4] = _word(old + len(table) - size)
    seconds = sum(ticks) / timescale(data)
    for path, offset, scale in _lengths(data):
        start, _ = box(data, *path)
        changed[start + offset : start + offset + 4] = _word(round(seconds * scale))
    changed[at : at + size] = table
    return bytes(changed)


def turned(data: bytes, degrees: int) -> bytes:
    """To be shown turned clockwise by 90, 180 or 270 degrees."""
    at, _ = box(data, "moov", "trak", "tkhd")
    a, b, c, d = (value * ONE & 0xFFFFFFFF for value in TURNS[degrees])
    matrix = b"".join(_word(value) for value in (a, b, 0, c, d, 0, 0, 0, 0x40000000))
    return data[: at + 48] + matrix + data[at + 84 :]


def box(data: bytes, *path: str) -> tuple[int, int]:
    """Where the box lies and how long it is, its head included."""
    start, end = 0, len(data)
    for name in path:
        at, size = next((at, size) for at, size, found in _boxes(data, start, end) if found == name)
        start, end = at + 8, at + size
    return at, size


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        yield start, size, data[start + 4 : start + 8].decode("latin-1")
        start += size


def _lengths(data: bytes) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Where the length is written again: the box, the place in it, its ticks per second."""
    at, _ = box(data, "moov", "mvhd")
    film = int.from_bytes(data[at + 20 : at + 24], "big")
    yield ("moov", "mvhd"), 24, film
    yield ("moov", "trak", "tkhd"), 28, film
    yield ("moov", "trak", "edts", "elst"), 16, film
    yield ("moov", "trak", "mdia", "mdhd"), 24, timescale(data)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "big")
