"""Plain text: far too much of it, in one line or in none, with bytes that are no text, and files under wrong names."""

from __future__ import annotations

from tests.readers.hostile import case
from tests.readers.hostile.documents import pages
from tests.readers.hostile.pictures import GREY, whole_png

LINE = b"A line of plain text that somebody exported from somewhere, and there are many.\n"


@case("txt_of_116_megabytes.txt", "source_too_large too_many_pages", heavy=True)
def _() -> bytes:
    return LINE * (116_000_000 // len(LINE))


@case("txt_of_9_megabytes.txt", "ok source_too_large too_many_pages", heavy=True)
def _() -> bytes:
    return LINE * (9_000_000 // len(LINE))


@case("txt_one_line_of_50_megabytes.txt", "source_too_large too_many_pages read_timeout", heavy=True)
def _() -> bytes:
    return b"a" * 50_000_000


@case("txt_one_line_of_9_megabytes.txt", "source_too_large too_many_pages read_timeout ok", heavy=True)
def _() -> bytes:
    return b"a" * 9_000_000


@case("txt_20_million_empty_lines.txt", "source_too_large too_many_pages read_timeout", heavy=True)
def _() -> bytes:
    return b"a\n" + b"\n" * 20_000_000


@case("txt_zeros_after_a_while.txt", "read_timeout ok source_unsupported source_damaged", heavy=True)
def _() -> bytes:
    return LINE * 1000 + bytes(100_000) + LINE


@case("txt_of_zeros.txt", "source_unsupported")
def _() -> bytes:
    return bytes(1_000_000)


@case("txt_utf16_cut_in_a_character.txt", "ok")
def _() -> bytes:
    return "Words in UTF-16.\n".encode("utf-16") * 10 + b"\xd8"


@case("txt_of_marks_upon_marks.txt", "ok read_timeout", heavy=True)
def _() -> bytes:
    return ("Z" + "\u0301" * 200_000 + "\n").encode()


@case("txt_of_page_breaks.txt", "ok too_many_pages", heavy=True)
def _() -> bytes:
    return b"a\f" * 200_000


@case("txt_right_to_left.txt", "ok")
def _() -> bytes:
    return ("\u202e" + "abc \u2066" * 50_000 + "\n").encode()


@case("pdf_named_mp4.mp4", "ok")
def _() -> bytes:
    return pages(1)


@case("png_named_epub.epub", "ok")
def _() -> bytes:
    return whole_png(20, 20, colour=GREY)


@case("noise_named_pdf.pdf", "source_unsupported")
def _() -> bytes:
    return bytes((n * 197 + n // 7 * 31 + 3) % 256 for n in range(50_000))


@case("one_byte.tif", "source_unsupported source_damaged ok")
def _() -> bytes:
    return b"I"
