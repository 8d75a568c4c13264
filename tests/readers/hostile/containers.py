"""Zip files that are books, comics, XPS, office files or nothing; and markup in itself."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from itertools import pairwise

from tests.readers.hostile import case
from tests.readers.hostile.pictures import RGB, deflated, png, whole_png

SVG = "http://www.w3.org/2000/svg"
GIGABYTE = 1_000_000_000


def archive(members: dict[str, bytes | str], *, packed: bool = True) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return made.getvalue()


def bomb(before: bytes, filling: bytes, after: bytes) -> tuple[bytes, int, int]:
    """Raw deflate data of a gigabyte of filling; with its size and a checksum that is wrong: nobody gets there."""
    packed = deflated(filling, GIGABYTE, before, after)
    return packed, len(before) + GIGABYTE + len(after), 0


def raw_zip(members: list[tuple[str, bytes, int, int]]) -> bytes:
    """A zip of (name, raw deflate data, said size, checksum)."""
    made, central = b"", b""
    for name, packed, size, check in members:
        fields = member(name, packed, size, check)
        central += b"PK\1\2\x14\0" + fields + bytes(10) + struct.pack("<I", len(made)) + name.encode()
        made += b"PK\3\4" + fields + name.encode() + packed
    return made + central + end(len(members), len(central), len(made))


def member(name: str, packed: bytes, size: int, check: int) -> bytes:
    """The fields that a member's two headers share: from the needed version to the length of what is extra."""
    return struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, check, len(packed), size, len(name), 0)


def end(count: int, size: int, start: int) -> bytes:
    return b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0)


def plain(name: str, content: bytes) -> tuple[str, bytes, int, int]:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return name, machine.compress(content) + machine.flush(), len(content), zlib.crc32(content)


CONTAINER = (
    b'<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    b'<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def package(chapters: int = 1, *, extra: str = "") -> bytes:
    items = "".join(f'<item id="a{n}" href="a{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(chapters))
    spine = "".join(f'<itemref idref="a{n}"/>' for n in range(chapters))
    return (
        '<package xmlns="http://www.idpf.org/2007/opf" version="2.0" unique-identifier="i"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>T</dc:title><dc:identifier id="i">x</dc:identifier>'
        f"</metadata><manifest>{items}{extra}</manifest><spine>{spine}</spine></package>"
    ).encode()


def epub(chapter: bytes, **more: bytes) -> bytes:
    members: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "c.opf": package(),
        "a0.xhtml": chapter,
    }
    return archive({**members, **more})


def chapter(body: str) -> bytes:
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'.encode()


BOUNDED = "read_memory read_timeout source_damaged page_damaged archive_limit source_too_large"


@case("epub_chapter_of_a_gigabyte.epub", f"{BOUNDED} ok")
def _() -> bytes:
    packed, size, check = bomb(b"<html><body><p>", b"many words ", b"</p></body></html>")
    return raw_zip(
        [
            plain("mimetype", b"application/epub+zip"),
            plain("META-INF/container.xml", CONTAINER),
            plain("c.opf", package()),
            ("a0.xhtml", packed, size, check),
        ]
    )


@case("epub_chapter_says_10_bytes.epub", f"{BOUNDED} ok")
def _() -> bytes:
    """The table of the zip lies about what a member unpacks to."""
    packed, _, check = bomb(b"<html><body><p>", b"many words ", b"</p></body></html>")
    return raw_zip(
        [
            plain("mimetype", b"application/epub+zip"),
            plain("META-INF/container.xml", CONTAINER),
            plain("c.opf", package()),
            ("a0.xhtml", packed, 10, check),
        ]
    )


@case("epub_of_20000_chapters.epub", f"{BOUNDED} ok too_many_pages", heavy=True)
def _() -> bytes:
    chapters = {f"a{n}.xhtml": chapter("<p>x</p>") for n in range(20_000)}
    return archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "c.opf": package(20_000),
            **chapters,
        }
    )


def many_names(count: int, *, says: int) -> bytes:
    """An e-book with a long table of empty members, all in one place; the end of the table says another number."""
    names = (f"{n:07d}".encode() for n in range(count))
    head = b"PK\1\2\x14\0" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0x21, 0, 0, 0, 7, 0) + bytes(14)
    first = b"PK\3\4" + member("0000000", b"", 0, 0) + b"0000000"
    table = b"".join(head + name for name in names)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, says, says, len(table), len(first))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(first) + len(table), 1)
    return first + table + wide + locator + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


@case("epub_of_2_million_names.epub", "archive_limit", heavy=True)
def _() -> bytes:
    return many_names(2_000_000, says=2_000_000)


@case("epub_of_2_million_names_says_3.epub", "archive_limit", heavy=True)
def _() -> bytes:
    return many_names(2_000_000, says=3)


@case("epub_of_300000_names_says_3.epub", "source_damaged")
def _() -> bytes:
    return many_names(300_000, says=3)


@case("epub_of_two_tables.epub", "source_damaged")
def _() -> bytes:
    """The end of the table leads to one table, its place to another: what is judged must be what is opened."""
    good, other = epub(chapter("<p>x</p>")), many_names(60_000, says=60_000)
    at = good.rindex(b"PK\5\6")
    count, size = struct.unpack_from("<HI", good, at + 10)
    return other + good[:at] + end(count, size, 30)


@case("epub_chapter_of_60_megabytes.epub", "source_too_large")
def _() -> bytes:
    return epub(chapter("<p>many words</p>" * 3_500_000))


@case("epub_encrypted.epub", "password_required")
def _() -> bytes:
    made = bytearray(epub(chapter("<p>x</p>")))
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := made.find(mark, at + 1)) >= 0:
            made[at + flags] |= 1
    return bytes(made)


@case("epub_of_nested_tables.epub", f"{BOUNDED} ok reader_crashed", heavy=True)
def _() -> bytes:
    return epub(chapter("<table><tr><td>" * 20_000 + "x"))


@case("epub_of_nested_boxes.epub", f"{BOUNDED} ok reader_crashed", heavy=True)
def _() -> bytes:
    return epub(chapter("<div>" * 200_000 + "x"))


@case("epub_of_a_long_style_sheet.epub", f"{BOUNDED} ok")
def _() -> bytes:
    rules = "".join(f".c{n} p em a span {{ color: red }}" for n in range(20_000))
    return epub(chapter(f"<style>{rules}</style>" + "<p><em>word</em></p>" * 2000))


@case("epub_entities.epub", f"{BOUNDED} ok")
def _() -> bytes:
    return epub(doctype("html") + chapter("<p>&z;</p>"))


@case("epub_picture_100000x100000.epub", f"{BOUNDED} ok image_too_large")
def _() -> bytes:
    return epub(chapter('<p>x</p><img src="i.png"/>'), **{"i.png": png(100_000, 100_000)})


@case("cbz_picture_100000x100000.cbz", f"{BOUNDED} ok image_too_large")
def _() -> bytes:
    return archive({"1.png": png(100_000, 100_000)})


@case("cbz_picture_12000x12000.cbz", f"{BOUNDED} ok image_too_large", heavy=True)
def _() -> bytes:
    return archive({"1.png": whole_png(12_000, 12_000, colour=RGB)})


@case("cbz_of_a_gigabyte_that_is_no_picture.cbz", f"{BOUNDED} ok image_too_large", heavy=True)
def _() -> bytes:
    packed, size, check = bomb(b"", b"\0", b"")
    return raw_zip([("1.png", packed, size, check)])


@case("cbz_of_one_bomb_under_1000_names.cbz", f"{BOUNDED} ok image_too_large")
def _() -> bytes:
    """Overlapping members, as in the zip bomb of David Fifield: every name leads to the same bytes."""
    content = png(30, 30, body=zlib.compress(bytes(31 * 30)))
    _, packed, size, check = plain("0000.png", content)
    fields = member("0000.png", packed, size, check)
    made = b"PK\3\4" + fields + b"0000.png" + packed
    central = b"".join(b"PK\1\2\x14\0" + fields + bytes(14) + b"%04d.png" % n for n in range(1000))
    return made + central + end(1000, len(central), len(made))


@case("cbz_of_60000_names.cbz", f"{BOUNDED} too_many_pages ok", heavy=True)
def _() -> bytes:
    return archive({f"{n}.png": b"" for n in range(60_000)}, packed=False)


@case("zip_of_zip_of_zip.zip", "source_unsupported")
def _() -> bytes:
    inner = archive({"a.txt": b"a" * 10_000_000})
    for level in range(5):
        inner = archive({f"{level}-{n}.zip": inner for n in range(16)})
    return inner


@case("zip_of_a_gigabyte.zip", "source_unsupported")
def _() -> bytes:
    packed, size, check = bomb(b"", b"\0", b"")
    return raw_zip([("a.txt", packed, size, check)])


@case("zip_says_it_is_a_book.epub", f"{BOUNDED} ok source_unsupported no_pages")
def _() -> bytes:
    """A member `mimetype` that is a bomb itself, and nothing else of a book."""
    packed, _, check = bomb(b"application/epub+zip", b" ", b"")
    return raw_zip([("mimetype", packed, 20, check)])


@case("zip_table_of_2_million_names.zip", "archive_limit", heavy=True)
def _() -> bytes:
    count = 2_000_000
    entry = b"PK\1\2" + struct.pack("<HHHHHHIIIHH", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + bytes(14) + b"a"
    central = entry * count
    head = b"PK\3\4" + bytes(26) + b"a"
    tail = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(central), len(head))
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(head) + len(central), 1)
    return head + central + tail + locator + end(65535, 0xFFFFFFFF, 0xFFFFFFFF)


@case("xps_page_of_a_gigabyte.xps", f"{BOUNDED} ok", heavy=True)
def _() -> bytes:
    fixed = b"http://schemas.microsoft.com/xps/2005/06"
    start = b'<FixedPage xmlns="' + fixed + b'" Width="400" Height="300" xml:lang="en">'
    packed, size, check = bomb(start, b'<Path Data="M 5,5 L 9,9 Z" Fill="#ff0000"/>', b"</FixedPage>")
    return _xps("1.fpage", packed, size, check)


@case("xps_page_of_nested_canvases.xps", f"{BOUNDED} ok reader_crashed")
def _() -> bytes:
    fixed = "http://schemas.microsoft.com/xps/2005/06"
    depth = 50_000
    body = "<Canvas>" * depth + '<Path Data="M 5,5 L 9,9 Z" Fill="#ff0000"/>' + "</Canvas>" * depth
    text = f'<FixedPage xmlns="{fixed}" Width="400" Height="300" xml:lang="en">{body}</FixedPage>'
    return _xps(*plain("1.fpage", text.encode()))


@case("xps_page_a_billion_wide.xps", f"{BOUNDED} ok")
def _() -> bytes:
    fixed = "http://schemas.microsoft.com/xps/2005/06"
    text = f'<FixedPage xmlns="{fixed}" Width="1000000000" Height="1000000000" xml:lang="en"/>'
    return _xps(*plain("1.fpage", text.encode()))


def _xps(name: str, packed: bytes, size: int, check: int) -> bytes:
    packages, office = "http://schemas.openxmlformats.org/package/2006", "application/vnd.openxmlformats-package"
    fixed, microsoft = "http://schemas.microsoft.com/xps/2005/06", "application/vnd.ms-package"
    kinds = {"rels": f"{office}.relationships", "fdseq": f"{microsoft}.xps-fixeddocumentsequence"}
    kinds |= {"fdoc": f"{microsoft}.xps-fixeddocument", "fpage": f"{microsoft}.xps-fixedpage"}
    types = "".join(f'<Default Extension="{end}" ContentType="{kind}+xml"/>' for end, kind in kinds.items())
    target = f'Type="{fixed}/fixedrepresentation" Target="/Seq.fdseq"'
    small = {
        "[Content_Types].xml": f'<Types xmlns="{packages}/content-types">{types}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{packages}/relationships"><Relationship Id="R0" {target}/>'
        "</Relationships>",
        "Seq.fdseq": f'<FixedDocumentSequence xmlns="{fixed}"><DocumentReference Source="/Doc.fdoc"/>'
        "</FixedDocumentSequence>",
        "Doc.fdoc": f'<FixedDocument xmlns="{fixed}"><PageContent Source="{name}"/></FixedDocument>',
    }
    return raw_zip([*(plain(key, text.encode()) for key, text in small.items()), (name, packed, size, check)])


def doctype(root: str) -> bytes:
    """Ten entities, each ten times the one before: a billion laughs."""
    names = "abcdefghijz"
    lines = [f'<!ENTITY {names[0]} "laugh ">']
    lines += [f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in pairwise(names)]
    return f"<!DOCTYPE {root} [{''.join(lines)}]>".encode()


@case("svg_a_billion_laughs.svg", f"{BOUNDED} ok")
def _() -> bytes:
    return doctype("svg") + f'<svg xmlns="{SVG}" width="300" height="100"><text y="20">&z;</text></svg>'.encode()


@case("svg_of_uses_of_uses.svg", f"{BOUNDED} ok", heavy=True)
def _() -> bytes:
    uses = "".join(f'<g id="g{n}">{f"""<use href="#g{n - 1}"/>""" * 10}</g>' for n in range(1, 12))
    body = f'<defs><g id="g0"><rect width="5" height="5"/></g>{uses}</defs><use href="#g11"/>'
    return f'<svg xmlns="{SVG}" width="300" height="100">{body}</svg>'.encode()


@case("svg_use_of_itself.svg", f"{BOUNDED} ok reader_crashed")
def _() -> bytes:
    return f'<svg xmlns="{SVG}" width="300" height="100"><g id="g"><use href="#g"/></g></svg>'.encode()


@case("svg_groups_300000_deep.svg", f"{BOUNDED} ok reader_crashed")
def _() -> bytes:
    depth = 300_000
    body = "<g>" * depth + '<rect width="5" height="5"/>' + "</g>" * depth
    return f'<svg xmlns="{SVG}" width="300" height="100">{body}</svg>'.encode()


@case("svg_a_billion_wide.svg", f"{BOUNDED} ok")
def _() -> bytes:
    body = '<rect width="5" height="5"/>'
    return f'<svg xmlns="{SVG}" width="1000000000" height="1000000000">{body}</svg>'.encode()


@case("svg_of_1e300.svg", f"{BOUNDED} ok")
def _() -> bytes:
    body = '<rect width="1e300" height="1e300" transform="scale(1e300)"/>'
    return f'<svg xmlns="{SVG}" width="1e300" height="1e-300" viewBox="0 0 nan inf">{body}</svg>'.encode()


@case("svg_picture_100000x100000.svg", f"{BOUNDED} ok image_too_large")
def _() -> bytes:
    import base64

    data = base64.b64encode(png(100_000, 100_000)).decode()
    body = f'<image width="300" height="100" href="data:image/png;base64,{data}"/>'
    return f'<svg xmlns="{SVG}" width="300" height="100">{body}</svg>'.encode()


@case("svg_path_of_60_megabytes.svg", f"{BOUNDED} ok", heavy=True)
def _() -> bytes:
    body = f'<path d="M0 0{"L9 9L0 9" * 8_000_000}"/>'
    return f'<svg xmlns="{SVG}" width="300" height="100">{body}</svg>'.encode()


@case("svg_doctype_of_comments.svg", f"{BOUNDED} ok source_unsupported")
def _() -> bytes:
    """Many ways to read the beginning; telling what it is must not try them all."""
    return b"<!---->" * 500 + b"<!-- <svg"


@case("fb2_sections_deep.fb2", f"{BOUNDED} ok reader_crashed")
def _() -> bytes:
    depth = 100_000
    body = "<section>" * depth + "<p>x</p>" + "</section>" * depth
    start = '<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0"><description/>'
    return f"{start}<body>{body}</body></FictionBook>".encode()


@case("fb2_a_billion_laughs.fb2", f"{BOUNDED} ok")
def _() -> bytes:
    start = b'<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0"><description/>'
    return doctype("FictionBook") + start + b"<body><section><p>&z;</p></section></body></FictionBook>"


@case("mobi_says_65535_records.mobi", f"{BOUNDED} ok no_pages")
def _() -> bytes:
    made = bytearray(b"T".ljust(32, b"\0") + bytes(28) + b"BOOKMOBI" + struct.pack(">IIH", 0, 0, 65_535))
    return bytes(made + struct.pack(">II", 0xFFFFFFF0, 0) * 100)


@case("docx_of_a_gigabyte.docx", "source_unsupported")
def _() -> bytes:
    packed, size, check = bomb(b"<w:document>", b"<w:t>x</w:t>", b"</w:document>")
    return raw_zip([plain("[Content_Types].xml", b"<Types/>"), ("word/document.xml", packed, size, check)])
