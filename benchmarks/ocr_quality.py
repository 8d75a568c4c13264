"""Character and word error rates and reading order on documents with a known text, beside Tesseract and RapidOCR.

    python benchmarks/ocr_quality.py DATA [--pixels 2000] [--mode auto] [--only NAME] [--cache FOLDER]

DATA holds pdf_born_digital/, pdf_scanned/ and images/; a FILE is read if it has a FILE.gt.txt (form feeds part the
pages) or, in pdf_born_digital/, a FILE.txt ("=== page N ===" before each page), or, where that is known to have
mistakes (`MARKDOWN`), a FILE.gt.md. A page with a good text layer is read
by it, as the kind `ocr` does; the two others always get the picture, the same as ours. White space is folded; receipts,
whose transcriptions are in capitals, are compared without case; and in all texts alike a word broken at the end of a
line is put together. Tesseract (apt-get install tesseract-ocr, with the language packs of `LANGUAGES`) is told the
language and to find the orientation (--psm 1); without it, its columns are empty. `--cache` keeps what the two others
read, so that a change of ours costs only ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pymupdf
from PIL import Image, ImageOps
from rapidocr import RapidOCR

from domain.limits import Limits
from nightowl.evaluation import metrics
from nightowl.evaluation.texts import without_markdown
from tasks import layout
from worker.engines.orientation import read_sheet
from worker.engines.recognizer import MAX_SIDE, Recognizer
from worker.readers.base import Open
from worker.readers.pdf import Documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.engines.base import RGB

BROKEN = re.compile(r"(\w)-\s*\n\s*([a-z])")
PAGE = re.compile(r"^=== page \d+ ===\n", re.MULTILINE)
LANGUAGES = {
    "typewriter_2400dpi.pdf": "nld",
    "french_signs.jpg": "fra",
    "chinese_promo.jpg": "chi_sim",
    "debian_refcard_zh_cn.pdf": "chi_sim+eng",
    "arabic_rtl.pdf": "ara",
}
MARKDOWN = ("arabic_rtl.pdf",)
"""Of one page. The letters of the .txt stand as PyMuPDF gives them, alef before lam."""
CLASSES = {
    "born digital": (
        *("arabic_rtl.pdf", "code_and_formula.pdf", "fbi_background_checks_table.pdf", "google_doc_table.pdf"),
        *("latex_4pages.pdf", "multi_page_history.pdf", "paper_table_page.pdf", "scotus_transcript.pdf"),
        *("wikipedia_edgar.pdf", "debian_refcard_zh_cn.pdf", "two_column_latex.pdf"),
    ),
    "clean scan": ("linn_brochure.pdf", "lorem_flat.pdf", "phototest.tif", "bank_statement.png"),
    "noisy scan": (
        *("lincoln_letter.pdf", "receipts_4p.pdf", "sugar_foundation_memo.pdf", "typewriter_2400dpi.pdf"),
        "meditations.jpg",
    ),
    "rotated": (
        *("linn_brochure_4_rotations.pdf", "linn_brochure_rotated_skew.pdf", "ocr_test_rotated_90.pdf"),
        *("phototest_rotated_right.png", "exif_upside_down.jpg"),
    ),
    "photo, poster": ("chinese_promo.jpg", "french_signs.jpg", "who_poster.png"),
    "multi-column": (
        *("linn_brochure.pdf", "linn_brochure_4_rotations.pdf", "linn_brochure_rotated_skew.pdf"),
        *("two_column_latex.pdf", "debian_refcard_zh_cn.pdf"),
    ),
}
SYSTEMS = ("ours", "Tesseract", "RapidOCR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one system on one file, or the mean of several: rates are shares, the time is CPU seconds per page."""

    cer: float
    wer: float
    order: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A file and the scores of each system; None for one that is not installed."""

    name: str
    pages: int
    scores: tuple[Score | None, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description="error rates of the experts' OCR")
    parser.add_argument("data", type=Path, help="folder with pdf_born_digital/, pdf_scanned/ and images/")
    parser.add_argument("--pixels", type=int, default=MAX_SIDE, help="longer side of a page")
    parser.add_argument("--mode", choices=("auto", "text"), default="auto", help="as the param of the kind ocr")
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--cache", type=Path, help="folder that keeps what the others read")
    args = parser.parse_args()
    files = [path for path in transcribed(args.data) if args.only in path.name]
    if not files:
        print(f"no transcribed files under {args.data}; the test documents are not shipped with the project")
        return 2
    bench = Bench(pixels=args.pixels, as_filed=args.mode == "text", cache=args.cache)
    head("File")
    lines = [bench.line(path) for path in files]
    show(mean("**mean of files**", lines))
    print()
    head("Class")
    for name, members in CLASSES.items():
        if of_class := [line for line in lines if line.name in members]:
            show(mean(name, of_class))
    return 0


def transcribed(data: Path) -> list[Path]:
    born = sorted((data / "pdf_born_digital").glob("*.pdf"))
    marks = [mark for folder in ("pdf_scanned", "images") for mark in sorted((data / folder).glob("*.gt.txt"))]
    scans = [mark.with_name(mark.name.removesuffix(".gt.txt")) for mark in marks]
    return [path for path in born if path.with_name(f"{path.name}.txt").exists()] + scans


class Bench:
    """The three systems, each made once."""

    def __init__(self, *, pixels: int, as_filed: bool, cache: Path | None) -> None:
        self._pixels, self._as_filed, self._cache = pixels, as_filed, cache
        self._documents = Documents()
        self._recognizer = Recognizer()
        self._recognizer.warm()
        self._direct = RapidOCR(params={"Global.use_cls": False, "Global.log_level": "critical"})
        self._tesseract = shutil.which("tesseract")

    def line(self, path: Path) -> Line:
        """The scores of a file, printed as they come."""
        truths = pages_of(path)
        images = list(pictures(path, pixels=self._pixels))
        if len(images) != len(truths):
            raise SystemExit(f"{path.name} has {len(images)} pages and {len(truths)} transcriptions")
        ours = [self._timed(partial(self._read, path, image, number)) for number, image in enumerate(images, start=1)]
        tesseract = [self._kept("tesseract", path, image, self._read_tesseract) for image in images]
        direct = [self._kept("rapidocr", path, image, self._read_direct) for image in images]
        systems = (ours, tesseract if self._tesseract else None, direct)
        scores = tuple(None if read is None else scored(path, truths, read) for read in systems)
        line = Line(name=path.name, pages=len(truths), scores=scores)
        show(line)
        return line

    def _read(self, path: Path, image: RGB, number: int) -> str:
        """As the kind `ocr` reads: by the text layer where it is good, else by the picture."""
        if path.suffix == ".pdf":
            page = self._documents.page(
                Open(path=path, limits=Limits()), number, target_pixels=self._pixels, format="pdf"
            )
            if page.layer is not None and page.layer.trusted:
                tables = () if self._as_filed else page.layer.tables
                return layout.to_text(layout.from_layer(page.layer.lines, tables, as_filed=self._as_filed))
        return layout.to_text(layout.from_engine(read_sheet(self._recognizer, image).lines))

    def _read_direct(self, path: Path, image: RGB) -> str:
        found: Any = self._direct(np.ascontiguousarray(image[:, :, ::-1]), use_cls=False)
        return "\n".join(found.txts or ())

    def _read_tesseract(self, path: Path, image: RGB) -> str:
        if self._tesseract is None:
            return ""
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            Image.fromarray(image).save(file.name)
            language = LANGUAGES.get(path.name, "eng")
            command = [self._tesseract, file.name, "-", "-l", language, "--psm", "1"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def _kept(self, system: str, path: Path, image: RGB, read: Callable[[Path, RGB], str]) -> tuple[str, float]:
        """What another system reads, out of the cache if it read this picture before."""
        if self._cache is None:
            return self._timed(partial(read, path, image))
        name = self._cache / f"{system}-{hashlib.sha256(image.tobytes()).hexdigest()[:16]}.json"
        if not name.exists():
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_text(json.dumps(self._timed(partial(read, path, image))), encoding="utf-8")
        text, seconds = json.loads(name.read_text(encoding="utf-8"))
        return text, seconds

    @staticmethod
    def _timed(read: Callable[[], str]) -> tuple[str, float]:
        started = cpu_seconds()
        return read(), cpu_seconds() - started


def cpu_seconds() -> float:
    """Of this process and of the children that it waited for: other work on the machine does not change it much."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def pages_of(path: Path) -> list[str]:
    truth = path.with_name(f"{path.name}.gt.txt")
    if truth.exists():
        return truth.read_text(encoding="utf-8").split("\f")
    if path.name in MARKDOWN:
        return [without_markdown(path.with_name(f"{path.name}.gt.md").read_text(encoding="utf-8"))]
    return PAGE.split(path.with_name(f"{path.name}.txt").read_text(encoding="utf-8"))[1:]


def scored(path: Path, truths: Sequence[str], read: Sequence[tuple[str, float]]) -> Score:
    """The mean of the pages."""
    caseless = "receipt" in path.name
    pairs = [
        (folded(truth, caseless=caseless), folded(text, caseless=caseless))
        for truth, (text, _) in zip(truths, read, strict=True)
    ]
    orders = [order for truth, text in pairs if (order := metrics.order(truth, text)) is not None]
    return Score(
        cer=fmean(float(jiwer.cer(truth, text)) for truth, text in pairs),
        wer=fmean(float(jiwer.wer(truth, text)) for truth, text in pairs),
        order=fmean(orders) if orders else None,
        seconds=fmean(seconds for _, seconds in read),
    )


def folded(text: str, *, caseless: bool) -> str:
    whole = " ".join(BROKEN.sub(r"\1\2", text).split())
    return whole.lower() if caseless else whole


def pictures(path: Path, *, pixels: int) -> Iterator[RGB]:
    """The pages, upright as the file says."""
    if path.suffix == ".pdf":
        yield from rendered(path, pixels=pixels)
        return
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    paper.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    yield np.asarray(paper.convert("RGB"))


def rendered(path: Path, *, pixels: int) -> Iterator[RGB]:
    with pymupdf.open(path) as document:
        for page in document:
            zoom = pixels / max(page.rect.width, page.rect.height)
            pixmap = page.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom), colorspace=pymupdf.csRGB, alpha=False)
            yield np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()


def mean(name: str, lines: Sequence[Line]) -> Line:
    """Each file counts once."""
    systems = zip(*(line.scores for line in lines), strict=True)
    return Line(name=name, pages=sum(line.pages for line in lines), scores=tuple(_mean(scores) for scores in systems))


def _mean(scores: Sequence[Score | None]) -> Score | None:
    known = [score for score in scores if score is not None]
    if not known:
        return None
    orders = [score.order for score in known if score.order is not None]
    return Score(
        cer=fmean(score.cer for score in known),
        wer=fmean(score.wer for score in known),
        order=fmean(orders) if orders else None,
        seconds=fmean(score.seconds for score in known),
    )


def head(name: str) -> None:
    fields = [f"{measure} {system}" for measure in ("CER", "WER", "Order", "CPU s") for system in SYSTEMS]
    print(f"| {name} | Pages | {' | '.join(fields)} |")
    print(f"|---|--:|{'--:|' * len(fields)}")


def show(line: Line) -> None:
    cells = [
        *(percent(None if score is None else score.cer) for score in line.scores),
        *(percent(None if score is None else score.wer) for score in line.scores),
        *(("-" if score is None or score.order is None else f"{score.order:.2f}") for score in line.scores),
        *(("-" if score is None else f"{score.seconds:.1f}") for score in line.scores),
    ]
    print(f"| {line.name} | {line.pages} | {' | '.join(cells)} |", flush=True)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


if __name__ == "__main__":
    sys.exit(main())
