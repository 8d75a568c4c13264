"""The searchable PDF: words are found where they stand, and the pages look as before."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from domain.errors import Code, SourceError
from worker.readers.base import Media, PlacedText, ReadPage
from worker.readers.mupdf import pymupdf
from worker.readers.pdf import Documents
from worker.readers.searchable import make_searchable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.readers.base import Open

    Opener = Callable[..., Open]
    Quad = tuple[float, ...]

WIDTH, HEIGHT = 600, 800


def box(left: float, top: float, right: float, bottom: float) -> Quad:
    return left, top, right, top, right, bottom, left, bottom


def scan(*, rotation: int = 0, pages: int = 1, text: str = "", mode: int = 3) -> Any:
    """Pages of 300 x 400 points that are pictures, under a content that turns what comes after it."""
    document = pymupdf.open()
    for _ in range(pages):
        page = document.new_page(width=300, height=400)
        noise = np.random.default_rng(3).integers(0, 255, (40, 30, 3)).astype(np.uint8)
        page.insert_image(page.rect, pixmap=pymupdf.Pixmap(pymupdf.csRGB, 30, 40, noise.tobytes(), False))
        if text:
            page.insert_text((30, 50), text, fontsize=12, render_mode=mode)
        pymupdf.TOOLS._insert_contents(page, b"0.5 0 0 0.5 77 33 cm", True)
        page.set_rotation(rotation)
    return document


def made(source: Open, lines: Sequence[tuple[str, Quad]], *, media: Media = Media.DOCUMENT, **page: Any) -> Any:
    values = {"number": 1, "width": WIDTH, "height": HEIGHT, **page}
    placed = tuple(PlacedText(text=text, quad=quad) for text, quad in lines)
    content = make_searchable(
        source,
        media=media,
        format="pdf" if media is Media.DOCUMENT else "png",
        pages=[ReadPage(lines=placed, **values)],
    )
    return pymupdf.open("pdf", content.tobytes())


def places(document: Any, word: str, number: int = 0) -> list[tuple[float, float, float, float]]:
    """Where a word is found, as people see the page, in pixels of its picture."""
    page = document[number]
    found = [rect * page.rotation_matrix for rect in page.search_for(word)]
    return [tuple(2 * value for value in rect) for rect in found]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_words_are_found_in_their_places_however_the_page_is_turned(open_: Opener, rotation: int) -> None:
    source = open_(scan(rotation=rotation).tobytes())
    across, down = (WIDTH, HEIGHT) if rotation % 180 == 0 else (HEIGHT, WIDTH)
    document = made(source, [("Owls read 4711", box(100, 200, 380, 240))], width=across, height=down)
    ((left, top, right, bottom),) = places(document, "read")
    assert 180 < left < 210
    assert 250 < right < 290
    assert 190 < top < 215
    assert 225 < bottom < 250
    assert document[0].get_text().split() == ["Owls", "read", "4711"]


def test_the_pages_look_as_before(open_: Opener) -> None:
    source = open_(scan(rotation=90).tobytes())
    before = Documents().page(source, 1, target_pixels=400, format="pdf").image
    document = made(source, [("Owls", box(100, 200, 380, 240))], width=HEIGHT, height=WIDTH)
    after = Documents().page(open_(document.tobytes(), "after.pdf"), 1, target_pixels=400, format="pdf").image
    assert (before == after).all()


def test_a_turned_line_lies_along_its_picture(open_: Opener) -> None:
    upwards: Quad = (100, 500, 100, 300, 140, 300, 140, 500)
    document = made(open_(scan().tobytes()), [("Owls read", upwards)])
    (line,) = [line for block in document[0].get_text("dict")["blocks"] for line in block.get("lines", ())]
    assert line["dir"] == pytest.approx((0, -1), abs=0.01)
    assert tuple(2 * value for value in line["bbox"]) == pytest.approx((100, 300, 140, 500), abs=8)


@pytest.mark.parametrize("text", ["łódź Żółć", "κουκουβάγια", "猫頭鷹在夜裡", "フクロウ", "Сова читает", "“quoted” €"])
def test_words_of_other_scripts_are_found(open_: Opener, text: str) -> None:
    document = made(open_(scan().tobytes()), [("Latin first", box(50, 50, 300, 80)), (text, box(100, 200, 380, 240))])
    ((left, _, right, _),) = places(document, text)
    assert (left, right) == pytest.approx((100, 380), abs=4)


def test_an_older_invisible_layer_makes_room(open_: Opener) -> None:
    source = open_(scan(text="0wls rcad").tobytes())
    lines = [("Owls read", box(100, 200, 380, 240))]
    assert made(source, lines, replaces=True)[0].get_text().split() == ["Owls", "read"]
    stamped = open_(scan(text="STAMP", mode=0).tobytes(), "stamped.pdf")
    assert "STAMP" in made(stamped, lines, replaces=True)[0].get_text()


def test_only_the_pages_that_were_read_in_their_order(open_: Opener) -> None:
    source = open_(scan(pages=4).tobytes())
    line = (PlacedText(text="Owls", quad=box(100, 200, 380, 240)),)
    wanted = [ReadPage(number=2), ReadPage(number=4, width=WIDTH, height=HEIGHT, lines=line)]
    content = make_searchable(source, media=Media.DOCUMENT, format="pdf", pages=wanted)
    document = pymupdf.open("pdf", content.tobytes())
    assert [page.get_text().strip() for page in document] == ["", "Owls"]
    with pytest.raises(SourceError, match="has no page 5"):
        make_searchable(source, media=Media.DOCUMENT, format="pdf", pages=[ReadPage(number=5)])


def test_a_locked_document_stays_locked(open_: Opener) -> None:
    locked = scan().tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="sesame")
    document = made(open_(locked, password="sesame"), [("Owls", box(100, 200, 380, 240))])
    assert document.needs_pass
    assert document.authenticate("sesame")
    assert document[0].get_text().strip() == "Owls"


def test_a_picture_becomes_a_page(open_: Opener) -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(image).text((100, 200), "Owls", fill="black", font_size=40)
    file = io.BytesIO()
    image.save(file, "PNG")
    document = made(open_(file.getvalue(), "owls.png"), [("Owls", box(100, 200, 190, 240))], media=Media.IMAGE)
    page = document[0]
    assert (page.rect.width, page.rect.height) == pytest.approx((288, 384))
    (rect,) = page.search_for("Owls")
    pixels = np.frombuffer(page.get_pixmap(dpi=150).samples, np.uint8).reshape(HEIGHT, WIDTH, 3)
    ink = pixels.min(axis=2) < 128
    left, top, right, bottom = (round(value * 150 / 72) for value in rect)
    assert ink.sum() > 200
    assert ink[top - 8 : bottom + 16, left - 2 : right + 2].sum() == ink.sum()


def test_other_documents_are_converted_and_sizes_bounded(open_: Opener) -> None:
    source = open_(b"Owls read at night.", "notes.txt")
    content = make_searchable(source, media=Media.DOCUMENT, format="txt", pages=[ReadPage(number=1)])
    assert "Owls read at night." in pymupdf.open("pdf", content.tobytes())[0].get_text()
    small = open_(b"Owls read at night.", "small.txt", max_pdf_bytes=100)
    with pytest.raises(SourceError, match="MAX_PDF_BYTES") as raised:
        make_searchable(small, media=Media.DOCUMENT, format="txt", pages=[ReadPage(number=1)])
    assert raised.value.code == Code.SOURCE_TOO_LARGE
