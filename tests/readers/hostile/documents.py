"""PDF files: bombs in streams and pictures, pages without measure, trees without end."""

from __future__ import annotations

import zlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.readers.hostile import case
from tests.readers.hostile.pictures import deflated, jpeg, zeros

if TYPE_CHECKING:
    from collections.abc import Mapping

BOX = "/MediaBox [0 0 300 300]"


def stream(content: bytes, entries: str = "") -> bytes:
    return f"<< /Length {len(content)} {entries} >>\nstream\n".encode() + content + b"\nendstream"


def pdf(objects: dict[int, bytes | str], *, trailer: str = "") -> bytes:
    """A PDF of these objects; number 1 is the catalog."""
    made, places = bytearray(b"%PDF-1.7\n"), {}
    for number, body in objects.items():
        places[number] = len(made)
        made += f"{number} 0 obj\n".encode() + (body.encode() if isinstance(body, str) else body) + b"\nendobj\n"
    start, size = len(made), max(objects) + 1
    made += f"xref\n0 {size}\n0000000000 65535 f \n".encode()
    for number in range(1, size):
        made += f"{places[number]:010} 00000 n \n".encode() if number in places else b"0000000000 65535 f \n"
    made += f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(made)


def sheet(
    content: bytes = b"",
    *,
    box: str = BOX,
    resources: str = "",
    entries: str = "",
    objects: Mapping[int, bytes | str] = MappingProxyType({}),
) -> bytes:
    """A PDF of one page; `objects` are numbered from 10."""
    return pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: f"<< /Type /Page /Parent 2 0 R {box} /Contents 4 0 R /Resources << {resources} >> >>",
            4: stream(content, entries),
            **objects,
        }
    )


def picture(width: int, height: int, *, space: str = "/DeviceRGB", bits: int = 8, more: str = "") -> str:
    return (
        f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace {space} "
        f"/BitsPerComponent {bits} {more}"
    )


def with_picture(width: int, height: int, data: bytes, *, filter: str = "/FlateDecode", **options: str) -> bytes:
    body = stream(data, picture(width, height, **options) + f" /Filter {filter}")  # type: ignore[arg-type]
    return sheet(b"q 300 0 0 300 0 0 cm /I Do Q", resources="/XObject << /I 10 0 R >>", objects={10: body})


@case("pdf_picture_100000x100000.pdf", "image_too_large")
def _() -> bytes:
    return with_picture(100_000, 100_000, zeros(10_000))


@case("pdf_picture_rgb_14000x14000.pdf", "image_too_large ok", heavy=True)
def _() -> bytes:
    return with_picture(14_000, 14_000, zeros(3 * 14_000 * 14_000))


@case("pdf_picture_cmyk_13000x13000.pdf", "image_too_large ok", heavy=True)
def _() -> bytes:
    return with_picture(13_000, 13_000, zeros(4 * 13_000 * 13_000), space="/DeviceCMYK")


@case("pdf_picture_16bit_9000x9000.pdf", "image_too_large ok", heavy=True)
def _() -> bytes:
    body = stream(zeros(6 * 9000 * 9000), picture(9000, 9000, bits=16) + " /Filter /FlateDecode")
    return sheet(b"q 300 0 0 300 0 0 cm /I Do Q", resources="/XObject << /I 10 0 R >>", objects={10: body})


@case("pdf_jpeg_claims_60000x60000.pdf", "image_too_large page_damaged ok")
def _() -> bytes:
    """The dictionary says 10 x 10, the JPEG in it another size."""
    return with_picture(10, 10, jpeg(60_000, 60_000), filter="/DCTDecode")


@case("pdf_jpx_claims_60000x60000.pdf", "image_too_large page_damaged read_memory ok", heavy=True)
def _() -> bytes:
    from tests.readers.hostile.pictures import _jp2

    return with_picture(10, 10, _jp2(60_000, 60_000), filter="/JPXDecode")


@case("pdf_40_pictures_of_100_megapixels.pdf", "image_too_large ok read_timeout read_memory", heavy=True)
def _() -> bytes:
    data = zeros(10_000 * 10_000)
    body = stream(data, picture(10_000, 10_000, space="/DeviceGray") + " /Filter /FlateDecode")
    names = " ".join(f"/I{n} {10 + n} 0 R" for n in range(40))
    draws = "".join(f"q 300 0 0 300 0 0 cm /I{n} Do Q " for n in range(40))
    return sheet(draws.encode(), resources=f"/XObject << {names} >>", objects={10 + n: body for n in range(40)})


@case("pdf_mask_100000x100000.pdf", "image_too_large read_memory page_damaged ok")
def _() -> bytes:
    """The picture is small; its soft mask is not."""
    mask = stream(zeros(10_000), picture(100_000, 100_000, space="/DeviceGray") + " /Filter /FlateDecode")
    body = stream(zeros(300), picture(10, 10, more="/SMask 11 0 R") + " /Filter /FlateDecode")
    return sheet(b"q 300 0 0 300 0 0 cm /I Do Q", resources="/XObject << /I 10 0 R >>", objects={10: body, 11: mask})


@case("pdf_inline_picture_60000x60000.pdf", "ok page_damaged read_memory image_too_large")
def _() -> bytes:
    content = b"q 300 0 0 300 0 0 cm BI /W 60000 /H 60000 /CS /RGB /BPC 8 /F /Fl ID " + zeros(100_000) + b" EI Q"
    return sheet(content)


@case("pdf_inline_picture_13000x13000.pdf", "ok read_timeout page_damaged read_memory image_too_large", heavy=True)
def _() -> bytes:
    data = zeros(3 * 13_000 * 13_000)
    return sheet(b"q 300 0 0 300 0 0 cm BI /W 13000 /H 13000 /CS /RGB /BPC 8 /F /Fl ID " + data + b" EI Q")


@case("pdf_picture_in_a_form_in_a_pattern.pdf", "image_too_large read_memory page_damaged ok")
def _() -> bytes:
    """Not among the page's own pictures."""
    image = stream(zeros(10_000), picture(100_000, 100_000) + " /Filter /FlateDecode")
    tile = "/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 50 50] /XStep 50 /YStep 50 "
    pattern = stream(b"q 50 0 0 50 0 0 cm /I Do Q", tile + "/Resources << /XObject << /I 11 0 R >> >>")
    return sheet(
        b"/Pattern cs /P scn 0 0 300 300 re f", resources="/Pattern << /P 10 0 R >>", objects={10: pattern, 11: image}
    )


@case("pdf_pattern_of_tiny_steps.pdf", "ok page_damaged read_timeout", heavy=True)
def _() -> bytes:
    tile = "/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep 0.0001 /YStep 0.0001 "
    pattern = stream(b"0 0 1 1 re f", tile + "/Resources << >>")
    return sheet(b"/Pattern cs /P scn 0 0 300 300 re f", resources="/Pattern << /P 10 0 R >>", objects={10: pattern})


@case("pdf_content_bomb_1_gigabyte.pdf", "ok page_damaged read_memory read_timeout", heavy=True)
def _() -> bytes:
    """Nothing but spaces, deflated twice."""
    content = zlib.compress(zlib.compress(b" " * 50_000_000, 9) * 20, 9)
    return sheet(content, entries="/Filter [/FlateDecode /FlateDecode]")


@case("pdf_content_bomb_of_operators.pdf", "ok page_damaged read_memory read_timeout", heavy=True)
def _() -> bytes:
    """A path of 20 million points."""
    return sheet(zlib.compress(b"0 0 m " + b"9 9 l " * 20_000_000 + b"S", 9), entries="/Filter /FlateDecode")


@case("pdf_content_bomb_of_saves.pdf", "ok page_damaged read_memory read_timeout")
def _() -> bytes:
    return sheet(zlib.compress(b"q " * 5_000_000, 9), entries="/Filter /FlateDecode")


@case("pdf_content_of_filters_in_filters.pdf", "ok page_damaged read_memory read_timeout", heavy=True)
def _() -> bytes:
    content = b" " * 100_000_000
    for _ in range(4):
        content = zlib.compress(content, 9)
    return sheet(content, entries=f"/Filter [{'/FlateDecode ' * 4}]")


@case("pdf_of_a_thousand_filters.pdf", "ok page_damaged read_memory")
def _() -> bytes:
    return sheet(b"x", entries=f"/Filter [{'/ASCIIHexDecode ' * 5000}]")


@case("pdf_object_stream_bomb.pdf", "source_damaged ok read_memory no_pages read_timeout")
def _() -> bytes:
    """The catalog lies in an object stream that unpacks to a gigabyte."""
    head = b"1 0 2 40 3 90 "
    body = b"<< /Type /Catalog /Pages 2 0 R >>       << /Type /Pages /Kids [3 0 R] /Count 1 >>         "
    body += b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] >>"
    content = b"\x78\xda" + deflated(b" ", 1_000_000_000, head + body) + bytes(4)
    made = b"%PDF-1.7\n10 0 obj\n"
    made += stream(content, f"/Type /ObjStm /N 3 /First {len(head)} /Filter /FlateDecode") + b"\nendobj\n"
    start = len(made)
    table = b"".join(
        [b"\0\0\0\0\0\0\xff", *(b"\2\0\0\0\x0a\0" + bytes([n]) for n in range(3))]
        + [b"\0\0\0\0\0\0\0"] * 6
        + [b"\1\0\0\0\x09\0\0", b"\1" + start.to_bytes(4, "big") + b"\0\0"]
    )
    entries = "/Type /XRef /Size 12 /W [1 4 2] /Root 1 0 R"
    made += b"11 0 obj\n" + stream(table, entries) + b"\nendobj\n"
    return made + f"startxref\n{start}\n%%EOF\n".encode()


@case("pdf_table_of_2_billion_objects.pdf", "ok source_damaged no_pages")
def _() -> bytes:
    made = sheet(b"")
    return made.replace(b"/Size 5", b"/Size 2147483647").replace(b"xref\n0 5\n", b"xref\n0 2147483647\n", 1)


@case("pdf_table_leads_to_itself.pdf", "ok source_damaged no_pages")
def _() -> bytes:
    made = sheet(b"")
    start = made.rindex(b"xref\n0 ")
    return made.replace(b"/Root 1 0 R", f"/Root 1 0 R /Prev {start}".encode())


@case("pdf_page_14400_points.pdf", "ok")
def _() -> bytes:
    return sheet(b"0 0 14400 14400 re f", box="/MediaBox [0 0 14400 14400]")


@case("pdf_page_of_a_billion_points.pdf", "ok page_damaged")
def _() -> bytes:
    return sheet(b"0 0 100 100 re f", box="/MediaBox [0 0 1000000000 1000000000]")


@case("pdf_page_of_1e38_points.pdf", "ok page_damaged")
def _() -> bytes:
    return sheet(b"0 0 100 100 re f", box=f"/MediaBox [0 0 {'9' * 38} {'9' * 38}]")


@case("pdf_page_user_unit_a_million.pdf", "ok page_damaged")
def _() -> bytes:
    return sheet(b"0 0 100 100 re f", box=f"{BOX} /UserUnit 1000000")


@case("pdf_page_a_hair_wide.pdf", "ok page_damaged")
def _() -> bytes:
    return sheet(b"0 0 100 100 re f", box="/MediaBox [0 0 0.001 14400]")


@case("pdf_page_box_of_nonsense.pdf", "ok page_damaged")
def _() -> bytes:
    return sheet(b"0 0 100 100 re f", box="/MediaBox [(a) /b null << >>]")


def pages(count: int, *, said: int | None = None) -> bytes:
    """Blank pages that share one object each in a flat tree."""
    kids = " ".join(f"{10 + n} 0 R" for n in range(count))
    tree = f"<< /Type /Pages /Kids [{kids}] /Count {count if said is None else said} >>"
    leaf = f"<< /Type /Page /Parent 2 0 R {BOX} >>"
    return pdf({1: "<< /Type /Catalog /Pages 2 0 R >>", 2: tree, **{10 + n: leaf for n in range(count)}})


@case("pdf_of_5001_pages.pdf", "too_many_pages")
def _() -> bytes:
    return pages(5001)


@case("pdf_of_150000_pages.pdf", "too_many_pages", heavy=True)
def _() -> bytes:
    return pages(150_000)


@case("pdf_says_a_billion_pages.pdf", "source_damaged")
def _() -> bytes:
    return pages(1, said=10**9)


@case("pdf_says_4999_pages_has_one.pdf", "page_damaged ok source_damaged")
def _() -> bytes:
    return pages(1, said=4999)


@case("pdf_says_minus_one_page.pdf", "ok source_damaged no_pages")
def _() -> bytes:
    return pages(1, said=-1)


@case("pdf_one_page_a_million_times.pdf", "too_many_pages source_damaged", heavy=True)
def _() -> bytes:
    """Kids that all name the same page: the file is small for what it says."""
    tree = f"<< /Type /Pages /Kids [{'3 0 R ' * 1_000_000}] /Count 1000000 >>"
    return pdf({1: "<< /Type /Catalog /Pages 2 0 R >>", 2: tree, 3: f"<< /Type /Page /Parent 2 0 R {BOX} >>"})


def node(level: int) -> str:
    return f"<< /Type /Pages /Parent {9 + level if level else 2} 0 R"


@case("pdf_tree_of_exponential_kids.pdf", "too_many_pages source_damaged page_damaged ok read_timeout")
def _() -> bytes:
    """30 levels, each of which names the next one twice: a billion pages in two kilobytes."""
    tree = {10 + n: f"{node(n)} /Kids [{11 + n} 0 R {11 + n} 0 R] /Count {2 ** (30 - n)} >>" for n in range(30)}
    return pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R >>",
            2: f"<< /Type /Pages /Kids [10 0 R] /Count {2**30} >>",
            **tree,
            40: f"<< /Type /Page /Parent 39 0 R {BOX} >>",
        }
    )


@case("pdf_tree_100000_deep.pdf", "ok read_timeout source_damaged no_pages page_damaged reader_crashed", heavy=True)
def _() -> bytes:
    depth = 100_000
    tree = {10 + n: f"{node(n)} /Kids [{11 + n} 0 R] /Count 1 >>" for n in range(depth)}
    leaf = f"<< /Type /Page /Parent {9 + depth} 0 R {BOX} >>"
    root = "<< /Type /Pages /Kids [10 0 R] /Count 1 >>"
    return pdf({1: "<< /Type /Catalog /Pages 2 0 R >>", 2: root, **tree, 10 + depth: leaf})


@case("pdf_tree_is_a_circle.pdf", "ok source_damaged no_pages page_damaged")
def _() -> bytes:
    return pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 2 >>",
            3: "<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 2 >>",
        }
    )


@case("pdf_arrays_a_million_deep.pdf", "ok source_damaged page_damaged reader_crashed")
def _() -> bytes:
    return sheet(b"", objects={10: "[" * 1_000_000 + "]" * 1_000_000}, resources="/Deep 10 0 R")


@case("pdf_content_arrays_a_million_deep.pdf", "ok page_damaged reader_crashed")
def _() -> bytes:
    return sheet(b"[" * 1_000_000 + b"]" * 1_000_000 + b" TJ")


@case("pdf_dictionaries_deep.pdf", "ok source_damaged page_damaged reader_crashed")
def _() -> bytes:
    return sheet(b"", objects={10: "<< /A " * 500_000 + "1" + " >>" * 500_000}, resources="/Deep 10 0 R")


@case("pdf_forms_5000_deep.pdf", "ok page_damaged reader_crashed")
def _() -> bytes:
    depth = 5000
    forms: dict[int, bytes | str] = {
        10 + n: stream(
            b"/F Do",
            f"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F {11 + n} 0 R >> >>",
        )
        for n in range(depth)
    }
    forms[10 + depth] = stream(b"0 0 9 9 re f", "/Type /XObject /Subtype /Form /BBox [0 0 9 9]")
    return sheet(b"/F Do", resources="/XObject << /F 10 0 R >>", objects=forms)


@case("pdf_forms_exponential.pdf", "read_timeout", heavy=True)
def _() -> bytes:
    forms: dict[int, bytes | str] = {
        10 + n: stream(
            b"/F Do " * 8,
            f"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F {11 + n} 0 R >> >>",
        )
        for n in range(16)
    }
    forms[26] = stream(b"0 0 9 9 re f", "/Type /XObject /Subtype /Form /BBox [0 0 9 9]")
    return sheet(b"/F Do", resources="/XObject << /F 10 0 R >>", objects=forms)


@case("pdf_outline_is_a_circle.pdf", "ok")
def _() -> bytes:
    return pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R /Outlines 10 0 R /PageMode /UseOutlines >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: f"<< /Type /Page /Parent 2 0 R {BOX} >>",
            10: "<< /Type /Outlines /First 11 0 R /Last 12 0 R /Count 2 >>",
            11: "<< /Title (a) /Parent 10 0 R /Next 12 0 R /First 11 0 R >>",
            12: "<< /Title (b) /Parent 10 0 R /Next 11 0 R /Prev 11 0 R >>",
        }
    )


@case("pdf_300000_words_on_a_page.pdf", "ok read_timeout read_memory", heavy=True)
def _() -> bytes:
    words = b"".join(b"1 0 0 1 %d %d Tm (a) Tj " % (n % 297, n // 297 % 297) for n in range(300_000))
    font = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    return sheet(zlib.compress(b"BT /F 1 Tf " + words + b"ET"), entries="/Filter /FlateDecode", resources=font)


@case("pdf_text_bomb.pdf", "ok read_timeout read_memory", heavy=True)
def _() -> bytes:
    """30 million letters in one line, over and over."""
    font = "/Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    text = b"BT /F 1 Tf 1 0 0 1 5 5 Tm " + b"(" + b"abcdefghij" * 100_000 + b") Tj ET "
    return sheet(zlib.compress(text * 30, 9), entries="/Filter /FlateDecode", resources=font)


@case("pdf_font_map_of_all_characters.pdf", "ok page_damaged read_timeout read_memory")
def _() -> bytes:
    ranges = b"".join(b"<%08x> <ffffffff> <0041>\n" % n for n in range(0, 100))
    cmap = b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00000000> <ffffffff> "
    cmap += b"endcodespacerange 100 beginbfrange\n" + ranges + b"endbfrange endcmap end"
    font = "<< /Type /Font /Subtype /Type0 /BaseFont /A /Encoding /Identity-H /ToUnicode 11 0 R /DescendantFonts "
    font += "[<< /Type /Font /Subtype /CIDFontType2 /BaseFont /A /CIDSystemInfo << /Registry (Adobe) "
    font += "/Ordering (Identity) /Supplement 0 >> >>] >>"
    return sheet(
        b"BT /F 12 Tf 50 50 Td <0041> Tj ET", resources="/Font << /F 10 0 R >>", objects={10: font, 11: stream(cmap)}
    )


@case("pdf_of_a_glyph_that_calls_itself.pdf", "ok page_damaged reader_crashed")
def _() -> bytes:
    font = "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [1 0 0 1 0 0] /FirstChar 65 /LastChar 65 "
    font += "/Widths [9] /Encoding << /Differences [65 /a] >> /CharProcs << /a 11 0 R >> "
    font += "/Resources << /Font << /F 10 0 R >> >> >>"
    glyph = stream(b"9 0 d0 BT /F 1 Tf (AAAAAAAA) Tj ET")
    return sheet(b"BT /F 12 Tf 50 50 Td (A) Tj ET", resources="/Font << /F 10 0 R >>", objects={10: font, 11: glyph})


@case("pdf_shading_of_a_function_of_a_million_steps.pdf", "ok page_damaged read_timeout read_memory", heavy=True)
def _() -> bytes:
    shading = "<< /ShadingType 1 /ColorSpace /DeviceRGB /Domain [0 1 0 1] /Matrix [300 0 0 300 0 0] /Function 11 0 R >>"
    code = b"{ " + b"dup mul " * 100_000 + b" dup dup }"
    function = stream(code, "/FunctionType 4 /Domain [0 1 0 1] /Range [0 1 0 1 0 1]")
    return sheet(b"/S sh", resources="/Shading << /S 10 0 R >>", objects={10: shading, 11: function})


@case("pdf_sampled_function_of_32_dimensions.pdf", "ok page_damaged read_memory read_timeout")
def _() -> bytes:
    many = 16
    entries = f"/FunctionType 0 /Domain [{'0 1 ' * many}] /Range [0 1 0 1 0 1] /Size [{'100 ' * many}] /BitsPerSample 8"
    space = f"[/DeviceN [{' '.join(f'/C{n}' for n in range(many))}] /DeviceRGB 11 0 R]"
    content = f"/S cs {'0.5 ' * many} scn 0 0 300 300 re f".encode()
    return sheet(content, resources=f"/ColorSpace << /S {space} >>", objects={11: stream(b"x" * 1000, entries)})


@case("pdf_of_100000_links.pdf", "ok", heavy=True)
def _() -> bytes:
    link = "<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /A << /S /URI /URI (http://127.0.0.1:9/) >> >>"
    leaf = f"<< /Type /Page /Parent 2 0 R {BOX} /Annots [{link * 100_000}] >>"
    tree = "<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    return pdf({1: "<< /Type /Catalog /Pages 2 0 R >>", 2: tree, 3: leaf})


@case("pdf_encrypted_with_nonsense.pdf", "source_damaged password_required page_damaged ok no_pages")
def _() -> bytes:
    made = sheet(b"")
    broken = b"/Encrypt << /Filter /Standard /V 5 /R 6 /Length 2147483647 /O (a) /U (b) /P -1 >> /ID [(a) (a)]"
    return made.replace(b"/Root 1 0 R", b"/Root 1 0 R " + broken)


@case("pdf_of_a_header_and_zeros.pdf", "source_damaged no_pages")
def _() -> bytes:
    return b"%PDF-1.7\n" + bytes(1_000_000)


@case("pdf_of_broken_objects.pdf", "source_damaged no_pages page_damaged ok read_timeout", heavy=True)
def _() -> bytes:
    """Repairing it means looking at 2 million beginnings of objects."""
    return b"%PDF-1.7\n" + b"".join(b"%d 0 obj <<\n" % n for n in range(1, 2_000_000))
