"""Files that are two things at once, ask for something outside, or lead a decoder where nobody goes."""

from __future__ import annotations

import base64
import struct
import zlib

from PIL import Image

from tests.readers.hostile import case
from tests.readers.hostile.clips import clip
from tests.readers.hostile.containers import BOUNDED, SVG, archive, chapter, doctype, epub
from tests.readers.hostile.documents import BOX, pages, pdf, picture, sheet, stream
from tests.readers.hostile.pictures import GREY, RGB, chunk, deflated, jpeg, png, saved, whole_png

READ = "ok read_timeout read_memory page_damaged source_damaged"
GIGABYTE = 1_000_000_000
SMALL = jpeg(64, 64)


def packed(filling: bytes, size: int = GIGABYTE) -> bytes:
    """A zlib stream of that filling, some megabytes; its check sum is wrong."""
    return b"\x78\x9c" + deflated(filling, size) + bytes(4)


def drawn(content: bytes, *, resources: str = "", objects: dict[int, bytes | str] | None = None) -> bytes:
    return sheet(content, resources=resources, objects=objects or {})


# Two things at once.


@case("pdf_and_zip.pdf", "ok")
def _() -> bytes:
    return pages(1) + archive({"a.exe": b"MZ"})


@case("gif_and_script.gif", "ok")
def _() -> bytes:
    return whole_gif() + b"\n*/=1;alert(1)//<?php system('id'); ?>"


@case("gif_and_zip.cbz", "ok source_damaged")
def _() -> bytes:
    return whole_gif() + archive({"1.png": whole_png(9, 9, colour=GREY)})


@case("zip_and_pdf.pdf", "source_unsupported source_damaged")
def _() -> bytes:
    return archive({"%PDF-1.7": pages(1)}, packed=False)


@case("html_named_pdf.pdf", "source_unsupported")
def _() -> bytes:
    return b"<!DOCTYPE html><html><head><title>404</title></head><body>%PDF-1.4 not here</body></html>"


@case("icon_named_png.png", "source_unsupported")
def _() -> bytes:
    return b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 4_000_000_000, 22) + bytes(100)


@case("pixmap_of_60000x60000.ppm", "ok source_unsupported")
def _() -> bytes:
    return b"P6\n60000 60000\n255\n" + bytes(100)


@case("svgz_of_a_gigabyte.svgz", "source_unsupported")
def _() -> bytes:
    return b"\x1f\x8b\x08" + bytes(7) + deflated(b"<svg>", GIGABYTE)


@case("text_of_escapes.txt", "ok")
def _() -> bytes:
    return (
        b"\x1b]0;owned\x07".replace(b"\x07", b"")
        + b"\x1b[2J\x1b[31mred\x1b[0m and \x1b]8;;http://x.invalid\x1b\\link\n"
    )


@case("text_of_one_line_end.txt", "ok no_pages")
def _() -> bytes:
    return b"\n"


@case("text_of_a_mark_alone.txt", "ok no_pages source_unsupported")
def _() -> bytes:
    return b"\xff\xfe"


@case("text_of_9_megabytes_of_spaces.txt", f"{READ} too_many_pages no_pages", heavy=True)
def _() -> bytes:
    return b" " * 9_000_000


@case("text_of_9_megabytes_of_chinese.txt", f"{READ} too_many_pages", heavy=True)
def _() -> bytes:
    return "\u6f22".encode() * 3_000_000


@case("text_utf32.txt", "source_unsupported")
def _() -> bytes:
    return "Words in UTF-32.\n".encode("utf-32") * 5


@case("playlist_named_mp4.mp4", "source_unsupported")
def _() -> bytes:
    return b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


# PDF.


@case("pdf_hybrid_tables_in_a_circle.pdf", READ)
def _() -> bytes:
    made = pages(1)
    start = made.rindex(b"startxref")
    at = int(made[start:].split()[1])
    return made.replace(b"/Root 1 0 R", b"/Root 1 0 R /XRefStm %d /Prev %d" % (at, at))


@case("pdf_object_streams_that_extend_each_other.pdf", READ)
def _() -> bytes:
    inner = b"20 0 21 3 << >> 30 0 R"
    head = "/Type /ObjStm /N 2 /First 10"
    objects: dict[int, bytes | str] = {10: stream(inner, f"{head} /Extends 11 0 R")}
    objects[11] = stream(inner, f"{head} /Extends 10 0 R")
    return drawn(b"0 0 9 9 re f", objects=objects)


@case("pdf_of_a_million_annotations.pdf", READ, heavy=True)
def _() -> bytes:
    note = "<< /Type /Annot /Subtype /Square /Rect [1 1 9 9] /C [1 0 0] >>"
    return pdf(
        {
            1: "<< /Type /Catalog /Pages 2 0 R >>",
            2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: f"<< /Type /Page /Parent 2 0 R {BOX} /Annots [{note * 1_000_000}] >>",
        }
    )


@case("pdf_note_that_draws_itself.pdf", READ)
def _() -> bytes:
    look = stream(b"/N Do", "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /N 10 0 R >> >>")
    made = drawn(b"", objects={10: look, 11: "<< /Subtype /Stamp /Rect [0 0 99 99] /AP << /N 10 0 R >> >>"})
    return made.replace(b"/Contents 4 0 R", b"/Annots [11 0 R]")


@case("pdf_form_of_xfa_alone.pdf", READ)
def _() -> bytes:
    xfa = stream(doctype("xdp") + b"<xdp>&z;</xdp>")
    made = drawn(b"BT /T 9 Tf (Please wait) Tj ET", objects={10: xfa})
    return made.replace(b"/Type /Catalog", b"/Type /Catalog /AcroForm << /XFA 10 0 R /Fields [] >>")


@case("pdf_of_attachments_alone.pdf", READ)
def _() -> bytes:
    bomb = packed(b"\0")
    objects: dict[int, bytes | str] = {
        10: "<< /Type /Filespec /F (../../etc/cron.d/x) /UF (../../etc/cron.d/x) /EF << /F 11 0 R >> >>",
        11: stream(bomb, "/Type /EmbeddedFile /Filter /FlateDecode"),
    }
    names = b"/Type /Catalog /Collection << /View /T >> /Names << /EmbeddedFiles << /Names [(x) 10 0 R] >> >>"
    return drawn(b"", objects=objects).replace(b"/Type /Catalog", names)


@case("pdf_actions_of_every_kind.pdf", "ok")
def _() -> bytes:
    actions = (
        "<< /S /Launch /F (/bin/sh) /Win << /F (cmd.exe) /P (/c calc) >> /Next [11 0 R] >>",
        "<< /S /SubmitForm /F (http://127.0.0.1:9/x) /Next [12 0 R] >>",
        "<< /S /ImportData /F (/etc/passwd) /Next [13 0 R] >>",
        "<< /S /GoToR /F (file:///etc/passwd) /D [0 /Fit] /Next [14 0 R] >>",
        "<< /S /JavaScript /JS (while (true) app.launchURL('http://127.0.0.1:9/');) /Next [10 0 R] >>",
    )
    made = drawn(b"0 0 9 9 re f", objects=dict(enumerate(actions, 10)))
    made = made.replace(b"/Type /Catalog", b"/Type /Catalog /OpenAction 10 0 R /AA << /WC 10 0 R /DP 10 0 R >>")
    return made.replace(b"/Type /Page ", b"/Type /Page /AA << /O 10 0 R /C 10 0 R >> ")


@case("pdf_locked_by_an_unknown_lock.pdf", "source_unsupported")
def _() -> bytes:
    made = pages(1)
    lock = b"/Encrypt << /Filter /Acme.Lock /SubFilter /acme.v9 /V 99 /R 99 /Length 4096 >> /ID [(a) (b)] /Root 1 0 R"
    return made.replace(b"/Root 1 0 R", lock)


def _pictured(content: bytes, entries: str) -> bytes:
    image = stream(content, entries)
    return drawn(b"q 99 0 0 99 0 0 cm /I Do Q", resources="/XObject << /I 10 0 R >>", objects={10: image})


@case("pdf_jbig2_claims_60000x60000.pdf", f"{READ} image_too_large")
def _() -> bytes:
    page = struct.pack(">IBBI", 0, 48, 1, 19) + struct.pack(">IIIIBH", 60_000, 60_000, 0, 0, 0, 0)
    return _pictured(page, picture(3000, 3000, space="/DeviceGray", bits=1, more="/Filter /JBIG2Decode"))


@case("pdf_fax_of_100000_columns.pdf", f"{READ} image_too_large")
def _() -> bytes:
    parts = "/Filter /CCITTFaxDecode /DecodeParms << /K -1 /Columns 100000 /Rows 2147483647 >>"
    return _pictured(b"\xff" * 100_000, picture(1900, 100_000, space="/DeviceGray", bits=1, more=parts))


@case("pdf_predictor_of_2_billion_columns.pdf", f"{READ} image_too_large")
def _() -> bytes:
    parts = "/Filter /FlateDecode /DecodeParms << /Predictor 15 /Colors 32 /BitsPerComponent 16 /Columns 2147483647 >>"
    return _pictured(zlib.compress(bytes(10_000)), picture(100, 100, more=parts))


@case("pdf_profile_of_a_gigabyte.pdf", READ, heavy=True)
def _() -> bytes:
    profile = stream(packed(b"\0"), "/N 3 /Alternate /DeviceRGB /Filter /FlateDecode")
    return drawn(
        b"/C cs 1 0 0 sc 0 0 99 99 re f", resources="/ColorSpace << /C [/ICCBased 10 0 R] >>", objects={10: profile}
    )


@case("pdf_font_of_a_gigabyte.pdf", READ, heavy=True)
def _() -> bytes:
    objects: dict[int, bytes | str] = {
        10: "<< /Type /Font /Subtype /TrueType /BaseFont /A /FontDescriptor 11 0 R >>",
        11: "<< /Type /FontDescriptor /FontName /A /Flags 4 /FontBBox [0 0 9 9] /FontFile2 12 0 R >>",
        12: stream(packed(b"\0\1\0\0"), "/Filter /FlateDecode"),
    }
    return drawn(b"BT /T 9 Tf (AAA) Tj ET", resources="/Font << /T 10 0 R >>", objects=objects)


@case("pdf_font_encodings_in_a_circle.pdf", READ)
def _() -> bytes:
    objects: dict[int, bytes | str] = {
        10: "<< /Type /Font /Subtype /Type0 /Encoding 11 0 R /DescendantFonts [10 0 R] /ToUnicode 11 0 R >>",
        11: stream(b"/A usecmap begincmap endcmap", "/Type /CMap /CMapName /A /UseCMap 11 0 R"),
    }
    return drawn(b"BT /T 9 Tf (AAA) Tj ET", resources="/Font << /T 10 0 R >>", objects=objects)


@case("pdf_dashes_of_a_millionth.pdf", READ, heavy=True)
def _() -> bytes:
    return drawn(b"[0.000001] 0 d 1 w 0 0 m 300 300 l S " * 50)


@case("pdf_groups_in_groups.pdf", READ, heavy=True)
def _() -> bytes:
    """Each level asks for a canvas of its own."""
    depth = 300
    head = "/Type /XObject /Subtype /Form /BBox [0 0 300 300] /Group << /S /Transparency /I true /K true >>"
    objects: dict[int, bytes | str] = {10 + depth: stream(b"0 0 99 99 re f", head)}
    for level in range(depth):
        state = "/ExtGState << /S << /ca 0.5 /BM /Luminosity >> >>"
        inner = f"{head} /Resources << /XObject << /G {11 + level} 0 R >> {state} >>"
        objects[10 + level] = stream(b"/S gs /G Do", inner)
    return drawn(b"/G Do", resources="/XObject << /G 10 0 R >>", objects=objects)


@case("pdf_contents_a_million_times.pdf", READ, heavy=True)
def _() -> bytes:
    made = drawn(b"0 0 9 9 re f " * 100)
    return made.replace(b"/Contents 4 0 R", b"/Contents [" + b"4 0 R " * 1_000_000 + b"]")


@case("pdf_parent_is_itself.pdf", READ)
def _() -> bytes:
    return pages(1).replace(b"/Type /Page /Parent 2 0 R", b"/Type /Page /Parent 3 0 R").replace(BOX.encode(), b"")


@case("pdf_text_as_large_as_the_sun.pdf", READ)
def _() -> bytes:
    font = "/Font << /T << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
    body = b"BT /T 1e30 Tf 1e20 Tz 1e38 0 0 1e38 0 0 Tm (Sun) Tj 0 0 0 0 0 0 Tm (Nothing) Tj ET"
    return drawn(body, resources=font)


@case("pdf_names_tree_in_a_circle.pdf", READ)
def _() -> bytes:
    made = drawn(b"0 0 9 9 re f", objects={10: "<< /Kids [10 0 R 10 0 R] /Limits [(a) (z)] >>"})
    tree = b"/Type /Catalog /Names << /Dests 10 0 R >> /PageLabels 10 0 R /OpenAction (a)"
    return made.replace(b"/Type /Catalog", tree)


@case("pdf_layers_in_a_circle.pdf", READ)
def _() -> bytes:
    layer = "<< /Type /OCMD /OCGs [10 0 R] /VE [/And 11 0 R] >>"
    objects: dict[int, bytes | str] = {10: layer, 11: "[/Not 11 0 R]"}
    return drawn(b"/OC /L BDC 0 0 9 9 re f EMC", resources="/Properties << /L 10 0 R >>", objects=objects)


@case("pdf_colour_spaces_in_colour_spaces.pdf", READ)
def _() -> bytes:
    objects: dict[int, bytes | str] = {10: "[/Indexed 11 0 R 255 <00>]", 11: "[/Separation /A 10 0 R 12 0 R]"}
    objects[12] = "<< /FunctionType 3 /Domain [0 1] /Functions [12 0 R 12 0 R] /Bounds [0.5] /Encode [0 1 0 1] >>"
    return drawn(b"/C cs 0.5 sc 0 0 99 99 re f", resources="/ColorSpace << /C 10 0 R >>", objects=objects)


@case("pdf_runs_of_runs.pdf", READ, heavy=True)
def _() -> bytes:
    """Run lengths of run lengths of deflate: three filters that each make more of it."""
    run = b"\x81 " * 2_000_000
    return sheet(zlib.compress(run), entries="/Filter [/FlateDecode /RunLengthDecode /RunLengthDecode]")


# Pictures.


def whole_gif() -> bytes:
    return saved(Image.new("P", (20, 20)), "GIF")


@case("png_profile_of_a_gigabyte.png", f"{READ} image_too_large")
def _() -> bytes:
    return png(20, 20, extra=chunk(b"iCCP", b"a\0\0" + packed(b"\0")), body=zlib.compress(bytes(21 * 20)))


@case("png_of_2_megabytes_of_small_chunks.png", "ok source_damaged")
def _() -> bytes:
    texts = chunk(b"tEXt", b"a\0b") * 150_000
    return png(20, 20, extra=texts, body=zlib.compress(bytes(21 * 20)))


@case("jpeg_exif_in_a_circle.jpg", "ok source_damaged")
def _() -> bytes:
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return SMALL[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + SMALL[2:]


@case("jpeg_of_10000_profiles.jpg", "ok source_damaged")
def _() -> bytes:
    piece = b"ICC_PROFILE\0\1\xff" + bytes(60_000)
    return SMALL[:2] + (b"\xff\xe2" + struct.pack(">H", len(piece) + 2) + piece) * 300 + SMALL[2:]


@case("webp_of_half_a_frame.webp", "source_damaged")
def _() -> bytes:
    made = saved(Image.new("RGB", (200, 200), "red"), "WEBP", lossless=True)
    return made[: len(made) // 2]


@case("gif_of_100000_frames.gif", "ok read_timeout")
def _() -> bytes:
    made = whole_gif()
    frame = made[made.index(b",", 13 + 3) : -1]
    return made[:-1] + frame * 100_000 + b";"


@case("tiff_with_a_jpeg_of_60000x60000.tif", "source_damaged image_too_large ok")
def _() -> bytes:
    made = bytearray(saved(Image.new("RGB", (64, 64)), "TIFF", compression="jpeg"))
    at = made.index(b"\xff\xc0")
    made[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(made)


# Markup.


def drawing(body: str, before: bytes = b"") -> bytes:
    return before + f'<svg xmlns="{SVG}" width="300" height="300">{body}</svg>'.encode()


@case("svg_dashes_of_a_millionth.svg", READ, heavy=True)
def _() -> bytes:
    return drawing('<path d="M0 0L300 300" stroke="black" stroke-dasharray="0.000001"/>' * 50)


@case("svg_asks_for_a_file.svg", READ)
def _() -> bytes:
    before = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    return drawing('<text y="20">&x;</text><image href="file:///etc/passwd" width="9" height="9"/>', before)


@case("svg_of_svg_of_svg.svg", READ)
def _() -> bytes:
    body = '<rect width="9" height="9"/>'
    for _level in range(6):
        inner = base64.b64encode(drawing(body)).decode()
        body = f'<image width="300" height="300" href="data:image/svg+xml;base64,{inner}"/>' * 2
    return drawing(body)


@case("svg_pattern_of_itself.svg", READ)
def _() -> bytes:
    pattern = '<pattern id="p" width="1e-9" height="1e-9"><rect width="9" height="9" fill="url(#p)"/></pattern>'
    return drawing(f'<defs>{pattern}</defs><rect width="300" height="300" fill="url(#p)"/>')


@case("fb2_picture_of_60000x60000.fb2", f"{READ} image_too_large")
def _() -> bytes:
    data = base64.b64encode(png(60_000, 60_000, colour=RGB)).decode()
    picture = f'<binary id="i" content-type="image/png">{data}</binary>'
    start = '<FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0" xmlns:l="http://www.w3.org/1999/xlink">'
    return f'{start}<description/><body><section><image l:href="#i"/></section></body>{picture}</FictionBook>'.encode()


@case("epub_of_a_word_of_9_megabytes.epub", f"{BOUNDED} ok", heavy=True)
def _() -> bytes:
    return epub(chapter(f"<p>{'a' * 9_000_000}</p>"))


@case("epub_chapter_is_its_package.epub", f"{BOUNDED} ok no_pages")
def _() -> bytes:
    return epub(chapter("<p>x</p>")).replace(b'href="a0.xhtml"', b'href="c.opf"   ')


@case("epub_font_of_a_gigabyte.epub", f"{BOUNDED} ok")
def _() -> bytes:
    style = "<style>@font-face { font-family: x; src: url(f.ttf) } p { font-family: x }</style><p>words</p>"
    return epub(chapter(style), **{"f.ttf": b"\0\1\0\0" * 15_000_000})


@case("epub_members_under_names_that_lead_out.epub", "ok")
def _() -> bytes:
    return epub(chapter('<p>x</p><img src="../../../etc/passwd"/>'), **{"../../../tmp/evil": b"x", "/tmp/evil": b"x"})


# Videos.


@case("avi_of_frames_of_many_sizes.avi", "ok frame_damaged no_frames source_damaged segment_damaged")
def _() -> bytes:
    """Each frame of a motion JPEG has a header of its own."""
    made = bytearray(clip("a.avi", frames=20, codec="MJPG"))
    at, side = 0, 8
    while (at := made.find(b"\xff\xc0", at + 1)) >= 0:
        made[at + 5 : at + 9] = struct.pack(">HH", side, side * 3)
        side = side * 3 % 4001 + 1
    return bytes(made)


@case("avi_of_subtitles_that_ask.avi", "no_video_stream source_damaged no_frames")
def _() -> bytes:
    """A playlist as subtitles inside an AVI, which made players fetch what it names."""
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    words = b"GAB2\0\2\0\0\0\0\0\4\0" + struct.pack("<I", len(playlist)) + playlist
    head = b"strl" + _riff(b"strh", b"txts" + bytes(52)) + _riff(b"strf", b"")
    lists = _riff(b"LIST", b"hdrl" + _riff(b"avih", bytes(56)) + _riff(b"LIST", head))
    return _riff(b"RIFF", b"AVI " + lists + _riff(b"LIST", b"movi" + _riff(b"00tx", words)))


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


@case("mov_header_unpacks_to_4_gigabytes.mov", "source_damaged no_video_stream no_frames read_memory")
def _() -> bytes:
    inner = struct.pack(">I", 0xFFFFFFF0) + packed(b"\0", 10_000_000)
    content = _box(b"dcom", b"zlib") + _box(b"cmvd", inner)
    return _box(b"ftyp", b"qt  " + bytes(8)) + _box(b"moov", _box(b"cmov", content))


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content


@case("mp4_data_lies_in_another_file.mp4", "ok no_frames source_damaged frame_damaged segment_damaged")
def _() -> bytes:
    made = bytearray(clip())
    at = made.index(b"url ")
    made[at + 4 : at + 8] = bytes(4)  # not in this file
    return bytes(made)


@case("mkv_of_subtitles_alone.mkv", "no_video_stream source_damaged no_frames")
def _() -> bytes:
    track = _ebml("AE", _ebml("D7", b"\1") + _ebml("73C5", b"\1") + _ebml("83", b"\x11") + _ebml("86", b"S_TEXT/UTF8"))
    info = _ebml("1549A966", _ebml("2AD7B1", b"\x0f\x42\x40"))
    cluster = _ebml("1F43B675", _ebml("E7", b"\0") + _ebml("A3", b"\x81\0\0\x80Hello"))
    return _matroska(info + _ebml("1654AE6B", track) + cluster)


@case("mkv_index_leads_to_itself.mkv", "no_video_stream source_damaged no_frames")
def _() -> bytes:
    entry = _ebml("4DBB", _ebml("53AB", b"\x11\x4d\x9b\x74") + _ebml("53AC", b"\0"))
    return _matroska(_ebml("114D9B74", entry * 1000) * 100)


@case("mkv_elements_in_elements.mkv", "no_video_stream source_damaged no_frames")
def _() -> bytes:
    inner = b""
    for _level in range(300):
        inner = _ebml("B6", inner)  # chapters in chapters
    return _matroska(_ebml("1043A770", _ebml("45B9", inner)))


def _matroska(content: bytes) -> bytes:
    return _ebml("1A45DFA3", _ebml("4282", b"matroska")) + _ebml("18538067", content)


def _ebml(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + b"\x01" + struct.pack(">Q", len(content))[1:] + content


@case("webm_says_65535x65535.webm", "ok source_damaged no_frames frame_damaged image_too_large segment_damaged")
def _() -> bytes:
    made = bytearray(clip("a.webm", frames=12, codec="VP80"))
    at = made.index(b"\x9d\x01\x2a")
    made[at + 3 : at + 7] = struct.pack("<HH", 16_383, 16_383)
    return bytes(made)


@case("avif_of_no_picture.avif", "source_damaged")
def _() -> bytes:
    made = saved(Image.new("RGB", (64, 64)), "AVIF")
    at = made.index(b"mdat") + 4
    return made[:at] + bytes(len(made) - at)
