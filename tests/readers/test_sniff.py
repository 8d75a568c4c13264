from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import Code, SourceError
from domain.limits import Limits
from worker.readers.base import Media, Open
from worker.readers.sniff import Kind, name_warnings, sniff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Opener = Callable[..., Open]


def zipped(*names: str, **contents: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, contents.get(name, "x"))
    return buffer.getvalue()


READABLE = [
    (b"%PDF-1.7\n", "pdf"),
    (b"\x00\x01junk\r\n%PDF-1.4\n", "pdf"),
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "png"),
    (b"\xff\xd8\xff\xe0" + bytes(20), "jpeg"),
    (b"II*\x00" + bytes(20), "tiff"),
    (b"MM\x00*" + bytes(20), "tiff"),
    (b"RIFF\x10\0\0\0WEBPVP8 ", "webp"),
    (b"BM" + bytes(12) + b"\x28\0\0\0", "bmp"),
    (b"GIF89a" + bytes(20), "gif"),
    (b"\0\0\0\x18ftypisom" + bytes(20), "mp4"),
    (b"\0\0\0\x14ftypqt  " + bytes(20), "mov"),
    (b"\0\0\0\x08wide\0\0\0\0mdat", "mov"),
    (b"\0\0\0\x18ftypavif" + bytes(20), "avif"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", "webm"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "mkv"),
    (b"RIFF\x10\0\0\0AVI LIST", "avi"),
    (b"FLV\x01\x05" + bytes(20), "flv"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(20), "asf"),
    (b"OggS" + bytes(20), "ogg"),
    ((b"\x47" + bytes(187)) * 3, "mpegts"),
    ((bytes(4) + b"\x47" + bytes(187)) * 3, "mpegts"),
    (b"\0\0\x01\xba" + bytes(20), "mpeg"),
    (bytes(60) + b"BOOKMOBI", "mobi"),
    (b'<?xml version="1.0"?>\n<FictionBook xmlns="x">', "fb2"),
    (b'<?xml version="1.0"?><!-- a --><!DOCTYPE svg PUBLIC "a" "b">\n<svg width="1">', "svg"),
    (b"\xef\xbb\xbf<svg:svg xmlns:svg='x'>", "svg"),
    (b"plain words\r\n\tand more\n", "txt"),
    ("Grüße, 你好, здравствуйте".encode(), "txt"),
    ("Grüße".encode("utf-16"), "txt"),
    ("Die Straße führt über die Brücke".encode("latin-1"), "txt"),
    (b"what %PDF-1.4 means", "txt"),
    (zipped("mimetype", "OPS/a.xhtml", mimetype="application/epub+zip"), "epub"),
    (zipped("META-INF/container.xml", "a.xhtml"), "epub"),
    (zipped("[Content_Types].xml", "FixedDocumentSequence.fdseq", "_rels/.rels"), "xps"),
    (zipped("ComicInfo.xml", "p/01.jpg", "p/02.PNG"), "cbz"),
]
REFUSED = [
    (zipped("[Content_Types].xml", "word/document.xml"), "docx"),
    (zipped("[Content_Types].xml", "xl/workbook.xml"), "xlsx"),
    (zipped("[Content_Types].xml", "ppt/presentation.xml"), "pptx"),
    (zipped("mimetype", "content.xml", mimetype="application/vnd.oasis.opendocument.text"), "odt"),
    (zipped("a.pdf", "b.jpg"), "zip archive"),
    (zipped(), "zip archive"),
    (b"\x1f\x8b\x08" + bytes(20), "gzip archive"),
    (b"BZh91AY&SY", "bzip2 archive"),
    (b"\xfd7zXZ\x00" + bytes(20), "xz archive"),
    (b"\x28\xb5\x2f\xfd" + bytes(20), "zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z archive"),
    (b"Rar!\x1a\x07\x01\x00", "rar archive"),
    (bytes(257) + b"ustar\x0000", "tar archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(20), "Microsoft Office"),
    (b"<!DOCTYPE html>\n<html><body>", "html"),
    (b"{\\rtf1", "rtf"),
    (b"RIFF\x10\0\0\0WAVEfmt ", "wav audio"),
    (b"ID3\x04" + bytes(20), "mp3 audio"),
    (b"\0\0\0\x18ftypheic" + bytes(20), "heic"),
    (b"\x7fELF" + bytes(20), "program"),
    (b"text with a \0 in it", "binary"),
    (b"\x9f\x8e\xfe\x01\x02\x03" * 20, "binary"),
]


@pytest.mark.parametrize(("content", "format"), READABLE, ids=[format for _, format in READABLE])
def test_the_bytes_say_what_it_is(open_: Opener, content: bytes, format: str) -> None:
    assert sniff(open_(content, "no_ending")).format == format


@pytest.mark.parametrize(("content", "word"), REFUSED, ids=[word for _, word in REFUSED])
def test_what_no_reader_opens_is_refused_by_name(open_: Opener, content: bytes, word: str) -> None:
    with pytest.raises(SourceError, match=word) as caught:
        sniff(open_(content, "thing"))
    assert caught.value.code == Code.SOURCE_UNSUPPORTED
    assert caught.value.message.startswith("thing: unsupported file type")


@pytest.mark.parametrize("content", [b"PK\x03\x04 and then nothing of the kind", zipped("META-INF/container.xml")[:-9]])
def test_half_a_zip_file_is_damaged(open_: Opener, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"^book\.epub: damaged or truncated zip file") as caught:
        sniff(open_(content, "book.epub"))
    assert caught.value.code == Code.SOURCE_DAMAGED


@pytest.mark.parametrize(
    ("name", "word"),
    [("a.mp4", "not a video"), ("a.pdf", "not a pdf"), ("a.jpg", "not an image"), ("a.epub", "not a epub")],
)
def test_text_under_another_name_fails(open_: Opener, name: str, word: str) -> None:
    with pytest.raises(SourceError, match=f"{word}: the content is text"):
        sniff(open_(b"404 not found\n", name))


def test_missing_empty_large_and_folder(open_: Opener, tmp_path: Path) -> None:
    def code(source: Open) -> Code:
        with pytest.raises(SourceError) as caught:
            sniff(source)
        return caught.value.code

    assert code(Open(path=tmp_path / "none.pdf", limits=Limits())) == Code.SOURCE_MISSING
    assert code(Open(path=tmp_path, limits=Limits())) == Code.SOURCE_UNSUPPORTED
    assert code(open_(b"", "empty.pdf")) == Code.SOURCE_EMPTY
    assert code(open_(b"123456", "big.txt", max_source_bytes=5)) == Code.SOURCE_TOO_LARGE


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        sniff(Open(path=tmp_path / "pipe", limits=Limits()))


def test_messages_use_the_users_name(tmp_path: Path) -> None:
    (tmp_path / "3f2a").write_bytes(b"")
    with pytest.raises(SourceError, match=r"^invoice\.pdf is an empty file"):
        sniff(Open(path=tmp_path / "3f2a", limits=Limits(), name="invoice.pdf"))


def test_a_name_is_compared_with_the_content() -> None:
    png = Kind(media=Media.IMAGE, format="png")
    assert name_warnings("a.pdf", png) == ("the name says .pdf, the content is png",)
    assert name_warnings("a.PNG", png) == name_warnings("a", png) == name_warnings("a.scan", png) == ()
    assert name_warnings("a.mp4", Kind(media=Media.VIDEO, format="mov")) == ()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefix=st.sampled_from([b"", b"PK\x03\x04", b"\x1a\x45\xdf\xa3", b"<?xml ", b"<!--", b"BM", b"\xff\xfe", b"%PDF"]),
    content=st.binary(min_size=1, max_size=400),
)
def test_any_bytes_have_a_kind_or_a_clear_refusal(tmp_path: Path, prefix: bytes, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(prefix + content)
    try:
        assert sniff(Open(path=path, limits=Limits())).format
    except SourceError as error:
        assert error.code in {Code.SOURCE_UNSUPPORTED, Code.SOURCE_DAMAGED}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200))
def test_any_printable_text_is_text_or_markup(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any"
    path.write_bytes(b"A " + text.encode())
    assert sniff(Open(path=path, limits=Limits())).format == "txt"
