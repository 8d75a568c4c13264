"""The jobs of a run: small sources of every form that is cheap to read, some bad, and some that do harm on purpose.

Each good page holds words or colours that no other has, so that a text that went astray is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from domain.errors import Code
from nightowl import Ask, Copywrite, Ocr, Summarize
from tests.chaos import engine
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from domain.params import Params

LINES_OF_A_PAGE = 60
"""MuPDF breaks plain text into pages of 54 lines or so; what a page holds is for the oracle to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job: what is asked, of what. `harm` names the parts that must fail, with the code that they must fail with.

    `upload` hands the bytes over instead of the path.
    """

    name: str
    params: Params
    source: Path | None = None
    upload: bool = False
    harm: Mapping[int, Code] = field(default_factory=dict)


def make(folder: Path, count: int) -> list[Case]:
    """`count` cases, always the same ones: of twenty, five are text, five pictures, four PDFs, six something else."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_FORMS[number % len(_FORMS)](folder, number) for number in range(count)]


def make_wild(folder: Path, how: str) -> Case:
    """The case of a fault: a file of four pages whose third does harm."""
    path, page = folder / f"wild-{how}-3.tif", 3
    heights = {"dies": engine.DIES, "hangs": engine.HANGS}
    _write_frames(path, number=900, heights=[heights.get(how, 32) if number == page else 32 for number in range(1, 5)])
    return Case(name=path.name, params=Ocr(), source=path, harm={page: HARM[how]})


HARM = {
    "segfault": Code.READER_CRASHED,
    "spin": Code.READ_TIMEOUT,
    "gorge": Code.READ_MEMORY,
    "dies": Code.WORKER_LOST,
    "hangs": Code.DEADLINE,
}


def _text(folder: Path, number: int) -> Case:
    """A text file of one to three pages."""
    path = folder / f"{number:04}.txt"
    lines = LINES_OF_A_PAGE * (number % 3) + 5
    path.write_text("\n".join(f"Owl {number} says line {line}." for line in range(lines)))
    return Case(name=path.name, params=Ocr(output="text"), source=path, upload=number % 2 == 0)


def _pictures(folder: Path, number: int) -> Case:
    """A TIFF of one to five pictures; every one is read by the engine."""
    path = folder / f"{number:04}.tif"
    _write_frames(path, number=number, heights=[32] * (number % 5 + 1))
    return Case(name=path.name, params=Ocr(), source=path)


def _write_frames(path: Path, *, number: int, heights: list[int]) -> None:
    frames = [Image.fromarray(_picture(number, page, height)) for page, height in enumerate(heights, start=1)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _picture(number: int, page: int, height: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Two stripes: one colour alone would count as a blank page. The mean colour is this page's own."""
    picture = np.full((height, 64, 3), 250, np.uint8)
    picture[: height // 2] = (2 * page, 2 * (number % 100), 2 * (number // 100))
    return picture


def _document(folder: Path, number: int) -> Case:
    """A PDF of two to six pages with a text layer; some are summarized, some asked about."""
    path = folder / f"{number:04}.pdf"
    _write_pdf(
        path, [f"Report {number} page {page}: {number * page} owls were ringed." for page in range(number % 5 + 2)]
    )
    by_turns: tuple[Params, ...] = (
        Ocr(),
        Summarize(length="short"),
        Ask(question=f"How many owls in report {number}?"),
    )
    return Case(name=path.name, params=by_turns[number % 3], source=path)


def _write_pdf(path: Path, pages: list[str]) -> None:
    """A page whose text is empty gets a picture instead."""
    document = pymupdf.open()
    for text in pages:
        page = document.new_page(width=220, height=120)
        if text:
            page.insert_text((8, 40), text, fontsize=7)
        else:
            page.draw_rect(pymupdf.Rect(20, 20, 150, 100), fill=(0.2, 0.4, 0.1))
    document.save(path)
    document.close()


def _half_text(folder: Path, number: int) -> Case:
    """A PDF of which only the text layers are wanted, with one page that has none: the job is partial."""
    path = folder / f"{number:04}-half.pdf"
    _write_pdf(path, [f"The first page of {number}.", "", f"The third page of {number}."])
    return Case(name=path.name, params=Ocr(mode="text"), source=path)


def _no_text(folder: Path, number: int) -> Case:
    """A TIFF of which the text layer is wanted: every part fails."""
    path = folder / f"{number:04}-pictures.tif"
    _write_frames(path, number=number, heights=[32, 32])
    return Case(name=path.name, params=Ocr(mode="text"), source=path)


def _brief(folder: Path, number: int) -> Case:
    """No source and no parts: all the work is in the end of the job."""
    del folder
    return Case(name=f"{number:04}-brief", params=Copywrite(brief=f"a lamp for owl number {number}", variants=2))


def _missing(folder: Path, number: int) -> Case:
    return Case(name=f"{number:04}-missing", params=Ocr(), source=folder / f"{number:04}-missing.pdf")


def _empty(folder: Path, number: int) -> Case:
    path = folder / f"{number:04}-empty.pdf"
    path.touch()
    return Case(name=path.name, params=Ocr(), source=path)


def _rubbish(folder: Path, number: int) -> Case:
    """A file that says that it is a PDF and is none."""
    path = folder / f"{number:04}-rubbish.pdf"
    path.write_bytes(b"%PDF-1.7\n" + bytes((number * 7 + step * 31) % 256 for step in range(2000)))
    return Case(name=path.name, params=Ocr(), source=path)


_FORMS: tuple[Callable[[Path, int], Case], ...] = (
    *(_text, _pictures, _document, _brief, _text, _pictures, _half_text, _text, _pictures, _document),
    *(_missing, _text, _pictures, _document, _brief, _rubbish, _text, _pictures, _document, _no_text),
)
