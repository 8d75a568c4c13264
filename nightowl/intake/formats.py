"""What a member is, told from its first bytes with a small table. Planning looks closely; this is for the manifest,
and to know the archives."""

from __future__ import annotations

import re
import tarfile
from pathlib import PurePosixPath

HEAD_BYTES = 4096
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")
COMPRESSED = frozenset({"gzip", "bzip2", "xz", "zstd"})
ARCHIVES = COMPRESSED | {"zip", "tar"}
"""What is unpacked. Others (7z, rar) are told by name, and planning refuses them."""
ENDINGS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst"})
"""Of the names of archives."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF8", "gif"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (8, b"WEBP", "webp"),
    (8, b"AVI ", "avi"),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (0, b"OggS", "ogg"),
    (0, b"FLV\x01", "flv"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office"),
    (0, b"{\\rtf", "rtf"),
    (0, b"%!PS", "postscript"),
    (0, b"PAR1", "parquet"),
)
_DOCUMENTS = frozenset({"cbz", "docx", "xlsx", "pptx", "epub", "xps", "oxps", "odt", "ods", "odp"})
"""Zip files that are one document, by the ending of their names."""
_INSIDE = {
    "[Content_Types].xml": "office",
    "_rels/": "office",
    "docProps/": "office",
    "word/": "docx",
    "xl/": "xlsx",
    "ppt/": "pptx",
    "META-INF/container.xml": "epub",
}
"""Zip files that are one document, by the name of their first entry."""


def tell(head: bytes, name: str) -> str | None:
    """The short name of the format: one of ARCHIVES, another, or None where the table has none."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_or_document(head, name)
    for offset, magic, format in _SIGNATURES:
        if head.startswith(magic, offset):
            return format
    if _is_tar(head):
        return "tar"
    if b"%PDF-" in head[:1024]:
        return "pdf"
    return "txt" if head and _is_text(head) else None


def _zip_or_document(head: bytes, name: str) -> str:
    ending = PurePosixPath(name).suffix.lower().removeprefix(".")
    if ending in _DOCUMENTS:
        return ending
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
    if first == "mimetype":
        return "epub" if b"application/epub+zip" in head[:200] else "opendocument"
    return next((format for start, format in _INSIDE.items() if first.startswith(start)), "zip")


def _is_tar(head: bytes) -> bool:
    """By the check sum of its first header: old tars have no other mark."""
    if not head[148:155].strip(b" \0").isdigit():
        return False
    try:
        return bool(tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def _is_text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # the head may end inside a character
    return True
