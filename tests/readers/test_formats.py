"""One small file of each format that MuPDF reads beside PDF, made by hand, through a reader child."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw

from domain.errors import Code, SourceError
from domain.limits import Limits
from tests.readers.hostile.containers import chapter
from tests.readers.hostile.containers import epub as book
from tests.readers.hostile.pictures import png
from worker.readers.base import Media, Open
from worker.readers.breaks import breakable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from worker.readers.children import Readers

WORDS = "Some words of a book."


def archive(members: dict[str, str | bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return made.getvalue()


def epub() -> bytes:
    rootfile = '<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/>'
    return archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container version="1.0" '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            f"<rootfiles>{rootfile}</rootfiles></container>",
            "c.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="i">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>T</dc:title>'
            '<dc:identifier id="i">x</dc:identifier></metadata>'
            '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/></spine></package>',
            "a.xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{WORDS}</p></body></html>',
        }
    )


def fb2() -> bytes:
    body = f"<body><section><p>{WORDS}</p></section></body>"
    return (
        f'<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0"><description/>{body}</FictionBook>'.encode()
    )


def svg() -> bytes:
    text = f'<text x="10" y="50" font-size="20">{WORDS}</text>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="300" height="100">{text}</svg>'.encode()


def mobi() -> bytes:
    """PalmDOC records without compression: https://wiki.mobileread.com/wiki/MOBI"""
    text = f"<html><body><p>{WORDS}</p></body></html>".encode()
    palmdoc = struct.pack(">HHIHHI", 1, 0, len(text), 1, 4096, 0)
    header = b"MOBI" + struct.pack(">IIIII", 232, 2, 65001, 1, 6) + b"\xff" * 40
    header += struct.pack(">IIIIIIII", 2, 248, 1, 9, 0, 0, 6, 2)
    records = [palmdoc + header.ljust(232, b"\0") + b"T\0", text]
    made = b"T".ljust(32, b"\0") + struct.pack(">HHIIIIII", 0, 0, 0, 0, 0, 0, 0, 0) + b"BOOKMOBI"
    made += struct.pack(">IIH", 0, 0, len(records))
    offset = len(made) + 8 * len(records) + 2
    for number, record in enumerate(records):
        made += struct.pack(">II", offset, number)
        offset += len(record)
    return made + b"\0\0" + b"".join(records)


def txt() -> bytes:
    return WORDS.encode()


def square() -> bytes:
    image = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(image).rectangle((50, 50, 200, 200), fill="red")
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()


def cbz() -> bytes:
    return archive({"1.png": square(), "2.png": square()})


def xps() -> bytes:
    packages, office = "http://schemas.openxmlformats.org/package/2006", "application/vnd.openxmlformats-package"
    fixed, microsoft = "http://schemas.microsoft.com/xps/2005/06", "application/vnd.ms-package"
    types = "".join(
        f'<Default Extension="{extension}" ContentType="{kind}+xml"/>'
        for extension, kind in (
            ("rels", f"{office}.relationships"),
            ("fdseq", f"{microsoft}.xps-fixeddocumentsequence"),
            ("fdoc", f"{microsoft}.xps-fixeddocument"),
            ("fpage", f"{microsoft}.xps-fixedpage"),
        )
    )
    target = f'Type="{fixed}/fixedrepresentation" Target="/Seq.fdseq"'
    path = '<Path Data="M 50,50 L 200,50 200,200 50,200 Z" Fill="#ff0000"/>'
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{packages}/content-types">{types}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{packages}/relationships">'
            f'<Relationship Id="R0" {target}/></Relationships>',
            "Seq.fdseq": f'<FixedDocumentSequence xmlns="{fixed}"><DocumentReference Source="/Doc.fdoc"/>'
            "</FixedDocumentSequence>",
            "Doc.fdoc": f'<FixedDocument xmlns="{fixed}"><PageContent Source="1.fpage"/></FixedDocument>',
            "1.fpage": f'<FixedPage xmlns="{fixed}" Width="400" Height="300" xml:lang="en">{path}</FixedPage>',
        }
    )


def opened(folder: Path, content: bytes) -> Open:
    """The name says nothing: the kind comes from the bytes."""
    path = folder / "file"
    path.write_bytes(content)
    return Open(path=path, limits=Limits())


@pytest.mark.parametrize("make", [epub, fb2, svg, mobi, txt])
def test_a_format_with_text_gives_its_text(readers: Readers, tmp_path: Path, make: Callable[[], bytes]) -> None:
    source = opened(tmp_path, make())
    probe = readers.probe(source)
    assert (probe.media, probe.format, probe.pages) == (Media.DOCUMENT, make.__name__, 1)
    page = readers.page(source, 1, target_pixels=500)
    assert page.layer is not None and WORDS in " ".join(page.layer.text.split())
    assert not page.blank


@pytest.mark.parametrize(("make", "pages"), [(cbz, 2), (xps, 1)])
def test_a_format_with_pictures_shows_them(
    readers: Readers, tmp_path: Path, make: Callable[[], bytes], pages: int
) -> None:
    source = opened(tmp_path, make())
    probe = readers.probe(source)
    assert (probe.media, probe.format, probe.pages) == (Media.DOCUMENT, make.__name__, pages)
    page = readers.page(source, pages, target_pixels=400)
    height, width = page.image.shape[:2]
    assert tuple(page.image[height * 4 // 10, width * 3 // 10]) == (255, 0, 0)
    assert tuple(page.image[height - 5, width - 5]) == (255, 255, 255)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16", "cp1252"])
def test_a_word_that_is_wider_than_the_sheet_is_read_to_its_end(
    readers: Readers, tmp_path: Path, encoding: str
) -> None:
    letters = "".join(chr(ord("a") + n % 26) for n in range(1000)) + "." + "i" * 500
    text = f"Before it {letters if encoding == 'ascii' else letters.replace('z', 'ü')} and behind."
    page = readers.page(opened(tmp_path, text.encode(encoding)), 1, target_pixels=1000)
    assert page.layer is not None
    assert page.layer.text.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_long_lines_with_spaces_and_chinese_are_left_as_they_are() -> None:
    text = "Words and words. " * 50 + "\u6f22\u5b57" * 200
    assert breakable(text.encode()) == text.encode()


def test_a_picture_of_a_comic_that_is_too_large_costs_its_page(readers: Readers, tmp_path: Path) -> None:
    source = opened(tmp_path, archive({"2.png": square(), "10.png": png(100_000, 100_000), "1.PNG": square()}))
    assert readers.probe(source).pages == 3
    for number in (1, 2):
        assert readers.page(source, number, target_pixels=400).width_points > 100
    with pytest.raises(SourceError, match=r"page 3 of file is too large: 100000 x 100000") as caught:
        readers.page(source, 3, target_pixels=400)
    assert caught.value.code == Code.IMAGE_TOO_LARGE


def test_a_picture_of_a_book_that_is_too_large_costs_its_page(readers: Readers, tmp_path: Path) -> None:
    text = '<p>x</p><img src="i.png"/>'
    source = opened(tmp_path, book(chapter(text), **{"i.png": png(20_000, 20_000)}))
    with pytest.raises(SourceError, match=r"an embedded image on page \d of file is too large: 20000 x 20000"):
        readers.page(source, readers.probe(source).pages, target_pixels=400)


def test_a_picture_that_a_book_is_read_without_is_told(readers: Readers, tmp_path: Path) -> None:
    source = opened(tmp_path, book(chapter('<p>x</p><img src="i.png"/>'), **{"i.png": png(100_000, 100_000)}))
    assert any("cannot load image" in warning for warning in readers.probe(source).warnings)
