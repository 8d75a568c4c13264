"""Reading rendered pages, whichever way they lie. The pages are made here, with PyMuPDF's own fonts."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import pymupdf
import pytest

from worker.engines.orientation import read_sheet, rotate, turn
from worker.engines.reading_order import reading_rows, upright
from worker.engines.recognizer import Recognizer

pytestmark = pytest.mark.weights

TEXT = (
    "The owl reads at night",
    "and sleeps through the day.",
    "Every page is read once,",
    "and none of them is lost.",
)


@lru_cache(maxsize=1)
def recognizer() -> Recognizer:
    return Recognizer(threads=2)


@lru_cache(maxsize=1)
def page() -> Any:
    with pymupdf.open() as document:
        sheet = document.new_page(width=300, height=220)
        for n, line in enumerate(TEXT):
            sheet.insert_text((20, 50 + 40 * n), line, fontsize=18)
        pixmap = sheet.get_pixmap(dpi=144, alpha=False)
        return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()


def read(image: Any) -> list[str]:
    lines = read_sheet(recognizer(), image).lines
    return [" ".join(lines[i].text for i in row) for row in reading_rows(upright([line.box for line in lines]))]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_page_reads_in_order_and_says_how_it_lay(degrees: int) -> None:
    image, matrix = turn(page(), degrees=degrees)
    sheet = read_sheet(recognizer(), image)
    assert read(image) == list(TEXT)
    assert sheet.rotation == (360 - degrees) % 360
    first = next(line for line in sheet.lines if line.text == TEXT[0])
    x, y, _ = np.linalg.inv(matrix) @ (*first.box[0], 1)
    assert (x, y) == pytest.approx((40, 65), abs=15), "the text's own top left, in pixels of the given image"


def test_an_upright_page_is_not_turned() -> None:
    sheet = read_sheet(recognizer(), page())
    assert (sheet.rotation, sheet.skew) == (0, 0.0)
    assert read(page()) == list(TEXT)


def test_a_skewed_page_is_straightened_and_its_boxes_stay_in_the_given_image() -> None:
    image, matrix = rotate(page(), degrees=6)
    sheet = read_sheet(recognizer(), image)
    assert read(image) == list(TEXT)
    assert sheet.skew == pytest.approx(-6, abs=1)
    first = next(line for line in sheet.lines if line.text == TEXT[0])
    x, y, _ = np.linalg.inv(matrix) @ (*first.box[0], 1)
    assert (x, y) == pytest.approx((40, 65), abs=18)


@pytest.mark.parametrize("shape", [(80, 120), (1, 1), (8, 400), (400, 8)])
def test_a_picture_without_text_says_nothing(shape: tuple[int, int]) -> None:
    sheet = read_sheet(recognizer(), np.full((*shape, 3), 230, np.uint8))
    assert (sheet.lines, sheet.rotation, sheet.skew) == ((), 0, 0.0)


def test_a_strip_of_one_line_is_read() -> None:
    assert read(page()[60:110]) == [TEXT[0]]


def test_threads_read_the_same() -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(read(page()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(TEXT)] * 3


def test_check_may_give_a_page_up() -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        read_sheet(recognizer(), page(), check=check)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    Recognizer(threads=1).find(np.zeros((64, 64, 3), np.uint8))
    assert capfd.readouterr() == ("", "")
