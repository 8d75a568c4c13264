"""mode=text: the text layer alone, as the file has it; tables as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jiwer
import pymupdf
import pytest

from benchmarks.ocr_quality import folded, pages_of, transcribed
from domain.limits import Limits
from tasks import layout
from tasks.looking import read_page
from worker.readers.base import Open
from worker.readers.pdf import Documents

if TYPE_CHECKING:
    from tasks.looking import Seen

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dev"
NOBODY = cast("Any", None)
"""A layer that is not compared with the picture needs no engine."""


def seen(path: Path, number: int = 1, *, mode: str = "text") -> Seen:
    page = Documents().page(Open(path=path, limits=Limits()), number, target_pixels=2000, format="pdf")
    return read_page(NOBODY, page, mode=mode)


@pytest.fixture
def titled(tmp_path: Path) -> Path:
    """A ruled table whose title is written after its rows."""
    document = pymupdf.open()
    page = document.new_page()
    for n in range(4):
        page.draw_line((72, 100 + 20 * n), (312, 100 + 20 * n))
    for x in (72, 192, 312):
        page.draw_line((x, 100), (x, 160))
    for n, (owl, count) in enumerate([("tawny", "4"), ("barn", "11"), ("snowy", "0")]):
        page.insert_text((80, 114 + 20 * n), owl)
        page.insert_text((200, 114 + 20 * n), count)
    page.insert_text((72, 90), "Owls heard in May")
    document.save(tmp_path / "titled.pdf")
    return tmp_path / "titled.pdf"


def test_text_comes_in_the_order_of_the_file_and_a_table_is_one(titled: Path) -> None:
    found = seen(titled)

    assert found.text.split() == ["tawny", "4", "barn", "11", "snowy", "0", "Owls", "heard", "in", "May"]
    assert "| tawny | 4 |\n|---|---|\n| barn | 11 |" in layout.to_markdown(found.lines)
    assert found.data["tables"][0]["rows"] == [["tawny", "4"], ["barn", "11"], ["snowy", "0"]]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared test files are not at {SHARED}")
def test_every_born_digital_file_comes_out_as_its_layer_has_it() -> None:
    files = [path for path in transcribed(SHARED) if path.parent.name == "pdf_born_digital"]
    rates = {}
    for path in files:
        for number, truth in enumerate(pages_of(path), start=1):
            text = seen(path, number).text
            rates[path.name, number] = jiwer.cer(folded(truth, caseless=False), folded(text, caseless=False))

    assert len(rates) == 22
    assert max(rates.values()) < 0.01, rates
