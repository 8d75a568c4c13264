"""Archives for tests, the ordinary and the hostile."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def zipped(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(
    members: Mapping[str, bytes | tarfile.TarInfo], *, mode: str = "w", format: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(name: str, type: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


def patched(archive: bytes, name: str, **values: Any) -> bytes:
    """The zip with flags, crc or size of an entry changed, in the directory and in its local header."""
    raw = bytearray(archive)
    fields = {"flags": ("<H", 6, 8), "crc": ("<L", 14, 16), "size": ("<L", 22, 24)}
    for mark, header in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 1)):
        at = raw.find(mark)
        while at >= 0:
            start = at + (30, 46)[header]
            if raw[start : start + len(name)] == name.encode():
                for field, value in values.items():
                    form, *places = fields[field]
                    struct.pack_into(form, raw, at + places[header], value)
            at = raw.find(mark, at + 4)
    return bytes(raw)


def overlapping(count: int, size: int) -> bytes:
    """Directory entries that all name the same data."""
    data = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = data.compress(b"\0" * size) + data.flush()
    crc = zlib.crc32(b"\0" * size)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(packed), size, 1, 0) + b"a" + packed
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(packed), size, 4, 0, 0, 0, 0, 0, 0)
        + f"{number:04d}".encode()
        for number in range(count)
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entries), len(local), 0)
    return local + entries + end
