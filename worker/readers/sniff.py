"""What a file is, told from its bytes and never from its name.

The name serves only to say that it disagrees. Archives and office files are refused here, by name: an archive is a
batch, and expanding one is not a reader's work.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from domain.errors import Code, SourceError
from worker.readers.base import Media
from worker.readers.zipped import ENCRYPTED, TableError, check_table, read_table

if TYPE_CHECKING:
    from worker.readers.base import Open

_HEAD_BYTES = 64 * 1024
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|gif|bmp|tiff?|webp|jp2|jxr)$", re.IGNORECASE)
_COMIC_EXTRA = re.compile(r"(^__MACOSX/|ComicInfo\.xml$|Thumbs\.db$|\.DS_Store$|\.txt$|/$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A readable kind of file: who reads it, and the format's short name."""

    media: Media
    format: str


# Signatures at a fixed offset: (offset, bytes, format). The first that fits wins.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"II+\x00", "tiff"),
    (0, b"MM\x00+", "tiff"),
    (8, b"WEBP", "webp"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav audio"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x00\x00\x01\xb3", "mpeg"),
    (0, b"ID3", "mp3 audio"),
    (0, b"fLaC", "flac audio"),
    (60, b"BOOKMOBI", "mobi"),
    (60, b"TEXtREAd", "mobi"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "rar archive"),
    (257, b"ustar", "tar archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Microsoft Office (doc, xls, ppt)"),
    (0, b"{\\rtf", "rtf"),
    (0, b"%!PS", "PostScript"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ\x90\x00", "program"),
)
_DOCUMENTS = frozenset({"pdf", "xps", "epub", "mobi", "fb2", "cbz", "svg", "txt"})
_IMAGES = frozenset({"png", "jpeg", "tiff", "webp", "bmp", "gif", "jp2", "avif"})
_VIDEOS = frozenset({"mp4", "mov", "mkv", "webm", "avi", "flv", "asf", "ogg", "mpeg", "mpegts"})

# What a name's ending promises. An ending that is not listed promises nothing.
_PROMISES: dict[str, frozenset[str]] = {
    "pdf": frozenset({"pdf"}),
    "xps": frozenset({"xps"}),
    "oxps": frozenset({"xps"}),
    "epub": frozenset({"epub"}),
    "mobi": frozenset({"mobi"}),
    "fb2": frozenset({"fb2"}),
    "cbz": frozenset({"cbz"}),
    "svg": frozenset({"svg"}),
    "txt": frozenset({"txt"}),
    "png": frozenset({"png"}),
    "jpg": frozenset({"jpeg"}),
    "jpeg": frozenset({"jpeg"}),
    "tif": frozenset({"tiff"}),
    "tiff": frozenset({"tiff"}),
    "webp": frozenset({"webp"}),
    "bmp": frozenset({"bmp"}),
    "gif": frozenset({"gif"}),
    "jp2": frozenset({"jp2"}),
    "avif": frozenset({"avif"}),
    "mp4": frozenset({"mp4", "mov"}),
    "m4v": frozenset({"mp4", "mov"}),
    "3gp": frozenset({"mp4", "mov"}),
    "mov": frozenset({"mp4", "mov"}),
    "mkv": frozenset({"mkv", "webm"}),
    "webm": frozenset({"mkv", "webm"}),
    "avi": frozenset({"avi"}),
    "flv": frozenset({"flv"}),
    "wmv": frozenset({"asf"}),
    "asf": frozenset({"asf"}),
    "ogv": frozenset({"ogg"}),
    "mpg": frozenset({"mpeg", "mpegts"}),
    "mpeg": frozenset({"mpeg", "mpegts"}),
    "ts": frozenset({"mpegts"}),
    "mts": frozenset({"mpegts"}),
    "m2ts": frozenset({"mpegts"}),
}
_BEFORE_ROOT = ((b"<?xml", b"?>"), (b"<!--", b"-->"), (b"<!DOCTYPE", b">"))


def sniff(source: Open) -> Kind:
    """The kind of the file, after the cheap checks: it is there, is a file, is not empty and not over the byte limit.

    Raises:
        SourceError: missing, a folder, empty, too large, a zip file that is damaged or unpacks to too much, or a kind
            that no reader opens (the message names it).
    """
    head = _read_head(source)
    name = _format(source, head)
    media = _media(name)
    if media is None:
        raise SourceError(_refusal(source.label, name), code=Code.SOURCE_UNSUPPORTED)
    _refuse_text_in_disguise(source.label, name)
    return Kind(media=media, format=name)


def name_warnings(label: str, kind: Kind) -> tuple[str, ...]:
    """A sentence if the name's ending promises something else than the content."""
    ending = _ending(label)
    if ending in _PROMISES and kind.format not in _PROMISES[ending]:
        return (f"the name says .{ending}, the content is {kind.format}",)
    return ()


def _read_head(source: Open) -> bytes:
    path, label = source.path, source.label
    if path.is_dir():
        raise SourceError(f"{label} is a folder, not a file", code=Code.SOURCE_UNSUPPORTED)
    if not path.is_file():
        # A device or a pipe may never end; it counts as missing because there is no file to read.
        raise SourceError(f"{label} does not exist or is not a regular file", code=Code.SOURCE_MISSING)
    try:
        source.limits.check_source_bytes(path.stat().st_size, name=label)
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"{label} cannot be read: {error.strerror}", code=Code.SOURCE_MISSING) from error


def _format(source: Open, head: bytes) -> str:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_format(source)
    for offset, magic, name in _SIGNATURES:
        if head.startswith(magic, offset):
            return name
    return _boxed(head) or _searched(head) or _textual(head)


def _media(name: str) -> Media | None:
    if name in _DOCUMENTS:
        return Media.DOCUMENT
    if name in _IMAGES:
        return Media.IMAGE
    return Media.VIDEO if name in _VIDEOS else None


def _refusal(label: str, name: str) -> str:
    if name == "binary":
        return f"{label}: unsupported file type (binary data of no known format)"
    if name.endswith(" archive"):
        return f"{label}: unsupported file type: it is a {name}; submit it with `nightowl batch`"
    return f"{label}: unsupported file type {name}"


def _refuse_text_in_disguise(label: str, name: str) -> None:
    """Text always "opens"; under a name that promises a picture it is an error page or a failed download."""
    ending = _ending(label)
    promised = _PROMISES.get(ending, frozenset())
    if name != "txt" or not promised or promised & {"txt", "svg", "fb2"}:
        return
    noun = {Media.IMAGE: "an image", Media.VIDEO: "a video"}.get(_media(min(promised)) or Media.DOCUMENT, f"a {ending}")
    raise SourceError(f"{label}: not {noun}: the content is text", code=Code.SOURCE_UNSUPPORTED)


def _ending(label: str) -> str:
    return PurePath(label).suffix.removeprefix(".").lower()


def _boxed(head: bytes) -> str | None:
    """Containers made of boxes: MP4 and its relatives, Matroska, MPEG-TS, BMP."""
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm" if b"webm" in head[:128] else "mkv"
    if head[4:8] == b"ftyp":
        return _brand(head[8:12])
    if head[4:8] in {b"moov", b"mdat", b"wide", b"pnot"}:
        return "mov"
    if head[4:8] in {b"styp", b"moof", b"sidx"}:
        return "mp4"
    if _is_transport_stream(head):
        return "mpegts"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in {12, 16, 40, 52, 56, 64, 108, 124}:
        return "bmp"
    return None


def _brand(brand: bytes) -> str:
    if brand == b"qt  ":
        return "mov"
    if brand in {b"avif", b"avis"}:
        return "avif"
    if brand in {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}:
        return "heic"
    return "mp4"


def _is_transport_stream(head: bytes) -> bool:
    """Packets of 188 bytes that begin with G; Blu-ray's have four bytes of time in front of each."""
    return any(
        len(head) > start + 2 * step and all(head[start + i * step] == 0x47 for i in range(3))
        for start, step in ((0, 188), (4, 192))
    )


def _searched(head: bytes) -> str | None:
    # ISO 32000 readers accept junk before the header, within the first 1024 bytes.
    if re.search(rb"(?:^|[\r\n\x00-\x08\x80-\xff])\s*%PDF-\d", head[:1024]):
        return "pdf"
    return {"svg": "svg", "fictionbook": "fb2", "html": "html"}.get(_root(head[:4096]))


def _root(head: bytes) -> str:
    """The name of the first element of markup, in lower case and without its prefix; empty where there is none.

    One step after the other: a pattern for all of it would try every way to read what is made to be ambiguous.
    """
    rest = head.lstrip(b"\xef\xbb\xbf")
    while True:
        rest = rest.lstrip()
        opening, closing = next(((o, c) for o, c in _BEFORE_ROOT if rest.startswith(o)), (b"", b""))
        if not opening:
            break
        if opening == b"<!DOCTYPE" and b"[" in rest.partition(b">")[0]:
            closing = b"]"  # of the declarations inside; what is left of it up to > is skipped next
            rest = b"<!DOCTYPE" + rest.partition(closing)[2]
            continue
        rest = rest.partition(closing)[2]
    found = re.match(rb"<([\w:]+)", rest)
    return found.group(1).rpartition(b":")[2].decode().lower() if found else ""


def _textual(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "txt" if _is_printable(head[: len(head) & ~1].decode("utf-16", "replace")) else "binary"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end inside a character; a fault before that is no UTF-8.
        cut = error.start >= len(head) - 3 and len(head) == _HEAD_BYTES
        text = head.decode("utf-8", "ignore") if cut else _decode_western(head)
    return "txt" if text and _is_printable(text) else "binary"


def _decode_western(head: bytes) -> str:
    """Text of the single-byte days is mostly ASCII; random bytes are not."""
    ascii_share = sum(byte < 0x80 for byte in head) / len(head)
    return head.decode("cp1252", "replace") if ascii_share >= 0.7 else ""


def _is_printable(text: str) -> bool:
    body = text.removeprefix("\ufeff").rstrip("\x1a")  # DOS ended its texts with ^Z
    controls = sum(ch < " " and ch not in "\t\n\r\f\x1b" for ch in body)
    return controls == 0 and "\x7f" not in body and body.count("\ufffd") <= len(body) // 50


def _zip_format(source: Open) -> str:
    try:
        table = read_table(source)
        with zipfile.ZipFile(source.path) as archive:
            name = _zip_content(archive)
    except (TableError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise SourceError(f"{source.label}: damaged or truncated zip file ({error})"[:300]) from error
    if name in _DOCUMENTS:
        check_table(table, file_bytes=source.path.stat().st_size, limits=source.limits, label=source.label)
    return name


def _zip_content(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    declared = _declared_type(archive, names)
    if declared is not None:
        return declared
    for marker, name in (("word/", "docx"), ("xl/", "xlsx"), ("ppt/", "pptx")):
        if "[Content_Types].xml" in names and any(entry.startswith(marker) for entry in names):
            return name
    if any(entry.lower().endswith(".fdseq") for entry in names):
        return "xps"
    if "META-INF/container.xml" in names:
        return "epub"
    content = [entry for entry in names if not _COMIC_EXTRA.search(entry)]
    return "cbz" if content and all(_IMAGE_NAME.search(entry) for entry in content) else "zip archive"


def _declared_type(archive: zipfile.ZipFile, names: list[str]) -> str | None:
    """EPUB and OpenDocument carry their media type in a small member of this name."""
    if "mimetype" not in names:
        return None
    facts = archive.getinfo("mimetype")
    if facts.file_size > 200 or facts.flag_bits & ENCRYPTED:
        return None
    with archive.open("mimetype") as member:
        declared = member.read(200).decode("ascii", "replace").strip()
    if declared == "application/epub+zip":
        return "epub"
    for part, name in (("text", "odt"), ("spreadsheet", "ods"), ("presentation", "odp")):
        if declared.startswith(f"application/vnd.oasis.opendocument.{part}"):
            return name
    return None
