"""The sample files are what samples/README.md says, and their programs make them again."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pymupdf as half_typed
import pytest
from numpy.typing import NDArray
from PIL import Image

pymupdf: Any = half_typed
Document = Any
Frames = NDArray[np.int16]

SAMPLES = Path(__file__).parents[1] / "samples"
PROGRAMS = {
    "make_report": ["report.pdf"],
    "make_scan": ["scan.png", "scan.gt.txt"],
    "make_poster": ["poster.png"],
    "make_clip": ["clip.mp4", "clip.cuts.json"],
}
FILES = [name for names in PROGRAMS.values() for name in names]


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for program, names in PROGRAMS.items():
        assert [path.name for path in _program(program)["make"](folder)] == names
    return folder


@pytest.fixture(scope="module")
def clip() -> Frames:
    return _frames(SAMPLES / "clip.mp4")


@pytest.fixture
def report() -> Document:
    return pymupdf.open(SAMPLES / "report.pdf")


def test_the_folder_is_small() -> None:
    sizes = {name: (SAMPLES / name).stat().st_size for name in FILES}
    assert sum(sizes.values()) < 3_000_000
    assert sizes["scan.png"] < 700_000
    assert sizes["clip.mp4"] < 1_500_000


def test_each_file_is_described() -> None:
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in [*FILES, *(f"{program}.py" for program in PROGRAMS)] if f"`{name}`" not in readme] == []


def test_report_has_five_numbered_pages_with_text(report: Document) -> None:
    texts = [page.get_text() for page in report]
    assert [f"{number} / 5" in text for number, text in enumerate(texts, start=1)] == [True] * 5
    assert min(len(text) for text in texts) > 700
    assert not report.needs_pass


def test_report_table_agrees_with_its_total_and_the_summary(report: Document) -> None:
    words = [line.split() for line in _rows(report[1])]
    table = [[int(cell.replace(",", "")) for cell in row[-4:]] for row in words if row and row[0] in _months()]
    assert len(table) == 9
    total = next(row for row in words if row[:2] == ["Whole", "year"])
    assert [f"{sum(column):,}" for column in zip(*table, strict=True)] == total[2:]
    assert f"we ringed {total[4]} birds on {total[2]} days" in " ".join(report[0].get_text().split())


def test_report_has_a_page_of_two_columns(report: Document) -> None:
    middle = report[2].rect.width / 2
    blocks = [block for block in report[2].get_text("blocks") if 110 < block[1] < 780]
    left = [block for block in blocks if block[2] < middle]
    right = [block for block in blocks if block[0] > middle]
    assert len(left) + len(right) == len(blocks)
    assert "8 March" in left[0][4]
    assert "30 August" in right[0][4]
    assert abs(left[0][1] - right[0][1]) < 2


def test_scan_is_a_grey_picture_that_is_turned_and_noisy() -> None:
    with Image.open(SAMPLES / "scan.png") as scan:
        assert (scan.size, scan.mode) == ((1240, 1625), "L")
        pixels = np.asarray(scan, dtype=float)
    assert len(np.unique(pixels)) == 16
    paper = pixels[1480:1620, 40:400]
    assert 1 < paper.std() < 20
    # The rule under the letterhead climbs towards the right, as the page is turned against the clock.
    rule = [int(pixels[235:275, column].argmin()) for column in (400, 1000)]
    assert np.degrees(np.arctan2(rule[0] - rule[1], 600)) == pytest.approx(1.3, abs=0.2)


def test_ground_truth_is_an_invoice_that_adds_up_to_the_line_in_the_report(report: Document) -> None:
    lines = (SAMPLES / "scan.gt.txt").read_text(encoding="utf-8").splitlines()
    items = [line.split()[-3:] for line in lines if line.count(".") == 2 and line[-3] == "."]
    assert len(items) == 5
    assert all(int(pieces) * float(price) == pytest.approx(float(amount)) for pieces, price, amount in items)
    total = sum(float(amount) for _, _, amount in items)
    assert f"Total in pounds {total:.2f}" in lines
    assert f"Binding of the ledgers {total:.0f}" in _rows(report[4])


def test_poster_has_its_size_and_many_colours() -> None:
    with Image.open(SAMPLES / "poster.png") as poster:
        assert (poster.size, poster.mode) == ((900, 1200), "RGB")
        assert len(poster.getcolors(poster.width * poster.height) or []) > 1000


def test_clip_cuts_where_its_file_says(clip: Frames) -> None:
    cuts = json.loads((SAMPLES / "clip.cuts.json").read_text(encoding="utf-8"))
    assert len(clip) == 174
    change = np.abs(np.diff(clip, axis=0)).mean(axis=(1, 2, 3))
    found = sorted(int(index) + 1 for index in np.argsort(change)[-4:])
    assert found == [round(cut * cuts["fps"]) for cut in cuts["cuts"]]
    assert np.delete(change, [index - 1 for index in found]).max() < change[[index - 1 for index in found]].min() / 3
    assert [scene["start"] for scene in cuts["scenes"]] == [0, *cuts["cuts"]]


def test_each_scene_of_the_clip_moves(clip: Frames) -> None:
    for start, end in ((0, 36), (36, 66), (66, 108), (108, 138), (138, 174)):
        assert np.abs(clip[start + 2] - clip[end - 2]).mean() > 0.5


def test_remade_report_has_the_same_text_and_the_same_look(remade: Path, report: Document) -> None:
    again = pymupdf.open(remade / "report.pdf")
    assert [page.get_text() for page in again] == [page.get_text() for page in report]
    for before, after in zip(report, again, strict=True):
        assert before.get_pixmap(dpi=40).samples == after.get_pixmap(dpi=40).samples


@pytest.mark.parametrize("name", ["scan.png", "poster.png"])
def test_remade_picture_is_the_same(remade: Path, name: str) -> None:
    with Image.open(SAMPLES / name) as before, Image.open(remade / name) as after:
        assert before.size == after.size
        apart = np.abs(np.asarray(before, dtype=np.int16) - np.asarray(after, dtype=np.int16))
    assert apart.mean() < 0.5


@pytest.mark.parametrize("name", ["scan.gt.txt", "clip.cuts.json"])
def test_remade_text_is_the_same(remade: Path, name: str) -> None:
    assert (remade / name).read_bytes() == (SAMPLES / name).read_bytes()


def test_remade_clip_shows_the_same(remade: Path, clip: Frames) -> None:
    again = _frames(remade / "clip.mp4")
    assert again.shape == clip.shape
    assert np.abs(again - clip).mean() < 1.0


def _program(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SAMPLES / f"{name}.py"), run_name=name)


def _months() -> set[str]:
    return {"March", "April", "May", "June", "July", "August", "September", "October", "November"}


def _rows(page: Any) -> list[str]:
    """The words of a page, those on one height joined from left to right."""
    rows: dict[int, list[tuple[float, str]]] = {}
    for x0, _, _, y1, word, *_ in page.get_text("words"):
        rows.setdefault(round(y1), []).append((x0, word))
    return [" ".join(word for _, word in sorted(rows[y])) for y in sorted(rows)]


def _frames(path: Path) -> Frames:
    """Every frame, with every fourth pixel of it."""
    reader = decord.VideoReader(str(path), num_threads=1)
    assert reader[0].shape == (360, 640, 3)
    frames: Frames = reader.get_batch(range(len(reader))).asnumpy()[:, ::4, ::4].astype(np.int16)
    return frames
