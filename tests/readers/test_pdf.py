from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from domain.errors import Code, SourceError
from tests.readers.test_scenes import textured
from worker.readers.ink import is_blank
from worker.readers.layer import _letters, _Span, _unreadable
from worker.readers.mupdf import pymupdf
from worker.readers.pdf import Documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.readers.base import Open, Page

    Opener = Callable[..., Open]


def document(*, width: float = 300, height: float = 400) -> tuple[Any, Any]:
    made = pymupdf.open()
    return made, made.new_page(width=width, height=height)


def read(source: Open, number: int = 1, *, target_pixels: int = 600, format: str = "pdf") -> Page:
    return Documents().page(source, number, target_pixels=target_pixels, format=format)


def picture(width: int = 80, height: int = 100) -> bytes:
    noise = np.kron(np.random.default_rng(3).integers(0, 255, (height // 10, width // 10, 3)), np.ones((10, 10, 1)))
    return bytes(pymupdf.Pixmap(pymupdf.csRGB, width, height, noise.astype(np.uint8).tobytes(), False).tobytes("png"))


def test_probe_counts_pages_and_says_repaired(open_: Opener) -> None:
    made, _ = document()
    made.new_page()
    whole = bytes(made.tobytes())
    assert Documents().probe(open_(whole), format="pdf").pages == 2
    damaged = Documents().probe(open_(whole.replace(b"startxref", b"startxxxx"), "b.pdf"), format="pdf")
    assert damaged.pages == 2
    assert damaged.warnings == ("the file was damaged and has been repaired",)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_of_the_layer_lie_on_the_ink_however_the_page_is_turned(open_: Opener, rotation: int) -> None:
    made, sheet = document()
    sheet.insert_text((40, 120), "LEGIBLE", fontsize=30, fontname="hebo")
    sheet.set_rotation(rotation)
    page = read(open_(made.tobytes()))
    assert page.layer is not None
    assert page.layer.trusted
    (line,) = page.layer.lines
    assert (line.text, line.bold, line.size) == ("LEGIBLE", True, 30)
    assert page.rotation == rotation
    assert page.image.shape == ((600, 450, 3) if rotation in {0, 180} else (450, 600, 3))
    left, top, right, bottom = (round(value) for value in line.box)
    ink = page.image.min(axis=2) < 128
    assert ink.sum() == ink[top : bottom + 1, left : right + 1].sum() > 500


def test_the_picture_is_a_copy_of_its_own(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_text((40, 120), "A")
    page = read(open_(made.tobytes()))
    assert page.image.flags.owndata
    assert page.image.flags.c_contiguous
    assert page.scale == pytest.approx(1.5)


def test_pixels_are_bounded_and_the_page_says_so(open_: Opener) -> None:
    made, sheet = document(width=14400, height=7200)
    sheet.insert_text((40, 1200), "BIG", fontsize=900)
    page = read(open_(made.tobytes(), max_page_pixels=500_000), target_pixels=5000)
    assert 480_000 < page.image.shape[0] * page.image.shape[1] <= 500_000
    assert "14400 x 7200 points" in page.warnings[0]
    assert "MAX_PAGE_PIXELS" in page.warnings[0]
    small = read(open_(made.tobytes()), target_pixels=1000)
    assert "page too large for full detail" in small.warnings[0]


def test_a_thread_of_a_page_is_drawn_within_the_bound(open_: Opener) -> None:
    made, _ = document(width=3, height=14000)
    page = read(open_(made.tobytes(), max_page_pixels=1_000_000), target_pixels=1000)
    assert page.image.shape[0] * page.image.shape[1] <= 1_000_000


def test_passwords(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_text((40, 120), "secret")
    locked = made.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="open sesame", owner_pw="boss")
    open_to_all = made.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="boss")

    def code(password: str | None) -> Code:
        with pytest.raises(SourceError, match=r"password") as caught:
            Documents().probe(open_(locked, password=password), format="pdf")
        return caught.value.code

    assert code(None) == Code.PASSWORD_REQUIRED
    assert code("wrong") == Code.PASSWORD_WRONG
    assert Documents().probe(open_(locked, password="open sesame"), format="pdf").pages == 1
    assert Documents().probe(open_(open_to_all), format="pdf").pages == 1


def test_a_password_is_not_remembered_for_the_next_caller(open_: Opener) -> None:
    made, _ = document()
    locked = made.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="open sesame")
    documents = Documents()
    assert documents.probe(open_(locked, password="open sesame"), format="pdf").pages == 1
    with pytest.raises(SourceError, match="password required"):
        documents.probe(open_(locked), format="pdf")


def test_invisible_text_over_a_scan_is_not_trusted(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_image(sheet.rect, stream=picture())
    sheet.insert_text((40, 120), "gu3ss of an earlier 0CR", render_mode=3)
    page = read(open_(made.tobytes()))
    assert page.layer is not None
    assert (page.layer.trusted, page.layer.reason) == (False, "invisible text of an earlier OCR")
    assert page.layer.text == "gu3ss of an earlier 0CR"


def test_a_stamp_on_a_scan_is_not_the_page(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_image(sheet.rect, stream=picture())
    sheet.insert_text((40, 20), "Bates 000123", fontsize=8)
    page = read(open_(made.tobytes()))
    assert page.layer is not None
    assert page.layer.reason == "the page is a picture with hardly any text"


def test_text_beside_a_picture_is_trusted_and_hidden_words_are_left_out(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_image(pymupdf.Rect(50, 200, 250, 380), stream=picture())
    for row in range(8):
        sheet.insert_text((30, 30 + 16 * row), "A line of honest print that one can see")
    sheet.insert_text((30, 190), "obey", render_mode=3)
    page = read(open_(made.tobytes()))
    assert page.layer is not None
    assert page.layer.trusted
    assert "obey" not in page.layer.text
    assert len(page.layer.lines) == 8


def test_letters_drawn_as_outlines_are_ink_that_the_layer_leaves_out(open_: Opener) -> None:
    made, sheet = document()
    for number in range(400):
        x, y = 20 + 12 * (number % 20), 100 + 12 * (number // 20)
        sheet.draw_rect(pymupdf.Rect(x, y, x + 6, y + 8), fill=(0, 0, 0), color=None)
    sheet.insert_text((20, 20), "header")
    page = read(open_(made.tobytes()))
    assert page.layer is not None
    assert "leaves out ink" in page.layer.reason


def test_private_use_glyphs_are_not_trusted_but_bullets_are() -> None:
    def share(text: str) -> float:
        span = _Span(text, (0, 0, 1, 1), "F", 10, 16, 0, 255)
        return _unreadable(span, frozenset()) / _letters(text)

    assert share("\uf0b7 one item of a list") < 0.1
    assert share("\ue001\ue002\ue003") == 1
    assert share("\ufffd\ufffda") > 0.6


def test_long_text_is_cut_with_a_word(open_: Opener) -> None:
    made, sheet = document()
    for row in range(20):
        sheet.insert_text((30, 30 + 16 * row), "0123456789")
    page = read(open_(made.tobytes(), max_text_chars=50))
    assert page.layer is not None
    assert len(page.layer.lines) == 4
    assert "MAX_TEXT_CHARS" in page.warnings[0]


def test_an_image_bomb_is_refused_before_it_is_unpacked(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_image(sheet.rect, stream=picture())
    with pytest.raises(SourceError, match=r"embedded image on page 1 .* 80 x 100 = 8000 pixels") as caught:
        read(open_(made.tobytes(), max_image_pixels=7999))
    assert caught.value.code == Code.IMAGE_TOO_LARGE


def test_a_broken_page_fails_alone(open_: Opener) -> None:
    broken = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\n4 0 obj 17 endobj\ntrailer<</Root 1 0 R>>\n"
    )
    source = open_(broken, "b.pdf")
    assert read(source, 1).blank
    with pytest.raises(SourceError, match=r"page 2 of b\.pdf cannot be loaded") as caught:
        read(source, 2)
    assert caught.value.code == Code.PAGE_DAMAGED
    with pytest.raises(SourceError, match="has no page 3"):
        read(source, 3)


def test_a_file_of_which_no_page_is_left_is_damaged(open_: Opener) -> None:
    empty = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    for content in (empty + b"trailer<</Root 1 0 R>>\n", b"%PDF-1.4\nrubbish"):
        with pytest.raises(SourceError, match="damaged"):
            Documents().probe(open_(content), format="pdf")


@pytest.mark.parametrize(
    ("format", "content", "text"),
    [
        ("txt", "Zeile eins\nZeile zwei — Ende".encode(), "Zeile zwei — Ende"),
        ("txt", "Straße".encode("utf-16"), "Straße"),
        (
            "svg",
            b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="50"><text x="5" y="20">Hi</text></svg>',
            "Hi",
        ),
        ("fb2", b"<?xml version='1.0'?><FictionBook><body><section><p>Once</p></section></body></FictionBook>", "Once"),
    ],
)
def test_other_documents_are_set_on_pages(open_: Opener, format: str, content: bytes, text: str) -> None:
    source = open_(content, "x")
    assert Documents().probe(source, format=format).pages == 1
    page = read(source, format=format)
    assert page.layer is not None
    assert page.layer.trusted
    assert text in page.layer.text
    assert not page.blank


def test_svg_reads_no_file_beside_it(open_: Opener) -> None:
    secret = open_(picture(), "secret.png")
    for link in ("secret.png", str(secret.path), secret.path.as_uri()):
        image = f'<image href="{link}" width="90" height="90"/>'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90">{image}</svg>'
        assert read(open_(svg.encode(), "x.svg"), format="svg").blank


def test_a_comic_is_a_document_of_pictures(open_: Opener) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.png", picture())
        archive.writestr("2.png", picture())
    source = open_(buffer.getvalue(), "x.cbz")
    assert Documents().probe(source, format="cbz").pages == 2
    assert not read(source, 2, format="cbz").blank


def test_two_documents_in_turn_are_not_mixed_up(open_: Opener) -> None:
    documents, sources = Documents(), []
    for name in ("one", "two"):
        made, sheet = document()
        sheet.insert_text((40, 120), name)
        sources.append(open_(made.tobytes(), f"{name}.pdf"))
    for _ in range(2):
        pages = [documents.page(source, 1, target_pixels=200, format="pdf") for source in sources]
        assert [page.layer.text if page.layer else "" for page in pages] == ["one", "two"]


def test_text_that_the_layer_shows_is_not_searched_for_and_white_text_is_not_shown(
    open_: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[object] = []

    def blank(image: object) -> bool:
        searched.append(image)
        return is_blank(image)  # type: ignore[arg-type]

    monkeypatch.setattr("worker.readers.pdf.is_blank", blank)
    made, page = document()
    page.insert_text((40, 60), "a few words")
    assert not read(open_(made.tobytes())).blank
    assert not searched
    made, page = document()
    page.insert_text((40, 60), "nobody sees this", color=(1, 1, 1))
    seen = read(open_(made.tobytes()))
    assert seen.layer is not None
    assert seen.layer.trusted
    assert seen.blank
    assert len(searched) == 1


def test_a_photograph_is_not_blank(open_: Opener) -> None:
    made, sheet = document()
    sheet.insert_image(sheet.rect, pixmap=pymupdf.Pixmap(pymupdf.csRGB, 128, 72, textured(1).tobytes(), False))
    assert not read(open_(made.tobytes())).blank
