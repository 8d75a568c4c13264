"""The files of `ocr`: Markdown, text, hOCR and a searchable PDF, as artifacts of the job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from PIL import Image, ImageDraw, ImageFont

from domain.errors import Code
from domain.limits import Limits
from domain.params import Ocr
from domain.states import JobState
from tasks.hocr import HocrPage, to_hocr
from tests.tasks.conftest import WatchedEngine
from worker.engines.base import Completion, FinishReason, Line
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker

    MakePdf = Callable[..., Path]

XHTML = "{http://www.w3.org/1999/xhtml}"
SENTENCE = "Owls read & write <quietly> at night"
LETTERS = ImageFont.load_default(40)


def elements(hocr: str, kind: str) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """The text of each element of a class, and its properties."""
    for element in ElementTree.fromstring(hocr).iter():
        if element.get("class") == kind:
            pieces = (piece.split() for piece in (element.get("title") or "").split(";"))
            yield "".join(element.itertext()), {name: [float(value) for value in values] for name, *values in pieces}


def test_hocr_names_pages_lines_and_words_with_their_boxes() -> None:
    font = ImageFont.load_default(40)
    right = 50 + font.getlength(SENTENCE)
    line = {"text": SENTENCE, "box": [50, 100, right, 150], "confidence": 0.93}
    hocr = to_hocr([HocrPage(number=3, width=900, height=400, lines=(line,))], title="a < b & c")
    ((_, page),) = elements(hocr, "ocr_page")
    assert (page["bbox"], page["ppageno"]) == ([0, 0, 900, 400], [2])
    ((text, place),) = elements(hocr, "ocr_line")
    assert text == SENTENCE
    assert place["bbox"] == [50, 100, pytest.approx(right, abs=1), 150]
    for word, found in elements(hocr, "ocrx_word"):
        starts = 50 + font.getlength(SENTENCE[: SENTENCE.index(word)])
        assert found["bbox"][0] == pytest.approx(starts, abs=20)
        assert found["bbox"][2] == pytest.approx(starts + font.getlength(word), abs=20)
        assert (found["bbox"][1], found["bbox"][3], found["x_wconf"]) == (100, 150, [93])


def test_words_of_a_turned_line_stand_above_each_other() -> None:
    upwards = [100, 500, 100, 300, 140, 300, 140, 500]
    line = {"text": "one two", "box": [100, 300, 140, 500], "confidence": None, "quad": upwards}
    hocr = to_hocr([HocrPage(number=1, width=300, height=600, lines=(line,))], title="x")
    ((_, place),) = elements(hocr, "ocr_line")
    assert place["textangle"] == [90]
    first, second = (found["bbox"] for _, found in elements(hocr, "ocrx_word"))
    assert first[1] > second[3]
    assert (first[0], first[2]) == (100, 140)


def lines_of(*texts: str) -> tuple[Line, ...]:
    """Where `painted` puts them."""
    boxes = [(50.0, 100.0 * n, 50 + LETTERS.getlength(text), 100.0 * n + 46) for n, text in enumerate(texts, start=1)]
    return tuple(
        Line(text=text, box=((x0, y0), (x1, y0), (x1, y1), (x0, y1)), confidence=0.9)
        for text, (x0, y0, x1, y1) in zip(texts, boxes, strict=True)
    )


def painted(path: Path, *texts: str) -> Path:
    image = Image.new("RGB", (1000, 500), "white")
    for n, text in enumerate(texts, start=1):
        ImageDraw.Draw(image).text((50, 100 * n), text, fill="black", font=LETTERS)
    image.save(path)
    return path


def reader(*texts: str) -> WatchedEngine:
    """An engine that finds the lines from the bottom up."""
    return WatchedEngine(
        reply=lambda _: Completion(text="", finish_reason=FinishReason.STOP, lines=(lines_of(*texts)[::-1],))
    )


def test_all_the_files_of_a_picture(make_worker: MakeWorker, tmp_path: Path) -> None:
    texts = (SENTENCE, "and they sleep by day.")
    worker = make_worker(engine=reader(*texts))
    job = worker.do(Ocr(outputs=("text", "hocr", "pdf", "pdf")), painted(tmp_path / "owls.png", *texts))
    assert job.state is JobState.SUCCEEDED
    files = worker.files(job.id)
    assert sorted(files) == ["searchable.pdf", "text.hocr", "text.md", "text.txt"]
    assert files["text.txt"].decode() == "\n\n".join(texts)
    hocr = files["text.hocr"].decode()
    assert [text for text, _ in elements(hocr, "ocr_line")] == list(texts)
    page = pymupdf.open("pdf", files["searchable.pdf"])[0]
    (rect,) = page.search_for("sleep")
    start = 50 + LETTERS.getlength("and they ")
    assert rect.x0 * 1000 / page.rect.width == pytest.approx(start, abs=15)
    assert rect.x1 * 1000 / page.rect.width == pytest.approx(start + LETTERS.getlength("sleep"), abs=15)
    assert 195 < rect.y0 * 1000 / page.rect.width < rect.y1 * 1000 / page.rect.width < 255


def test_a_document_keeps_its_own_layer_and_gets_one_where_it_has_none(
    make_worker: MakeWorker, pdf: MakePdf, tmp_path: Path
) -> None:
    document = pymupdf.open(pdf("A page with a layer."))
    page = document.new_page(width=500, height=250)
    page.insert_image(page.rect, filename=str(painted(tmp_path / "scan.png", "A page without one.")))
    document.save(source := tmp_path / "both.pdf")
    engine = reader("A page without one.")
    engine.page_pixels = 1000
    worker = make_worker(engine=engine)
    job = worker.do(Ocr(output="text", outputs=("markdown", "pdf")), source)
    files = worker.files(job.id)
    made = pymupdf.open("pdf", files["searchable.pdf"])
    assert [page.get_text().strip() for page in made] == ["A page with a layer.", "A page without one."]
    assert sorted(files) == ["searchable.pdf", "text.md", "text.txt"]
    (rect,) = made[1].search_for("without")
    assert re.search("without", files["text.md"].decode())
    assert rect.y0 == pytest.approx(50, abs=4)


def test_a_file_that_cannot_be_made_is_a_warning(make_worker: MakeWorker, pdf: MakePdf) -> None:
    worker = make_worker(limits=Limits(max_pdf_bytes=100))
    job = worker.do(Ocr(outputs=("pdf",)), pdf("A page."))
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    (warning,) = job.result.data["warnings"]
    assert warning.startswith("outputs=pdf: ")
    assert "NIGHTOWL_LIMITS__MAX_PDF_BYTES" in warning
    assert list(worker.files(job.id)) == ["text.md"]


def test_a_video_has_no_pages_to_search_in(make_worker: MakeWorker, clip: Path) -> None:
    params: dict[str, Any] = {"outputs": ["pdf", "hocr"]}
    job = make_worker().do(Ocr.model_validate(params), clip)
    assert job.error is not None
    assert job.error.code == Code.PARAMS_INVALID
    assert "outputs=hocr,pdf is for documents and images" in job.error.message
