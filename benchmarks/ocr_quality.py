"""Character and word error rates on scanned documents and pictures, against RapidOCR called directly.

    python benchmarks/ocr_quality.py DATA [--pixels 2000] [--only NAME]

DATA holds pdf_scanned/ and images/; each FILE with a FILE.gt.txt beside it is read. Form feeds part the pages of a
transcription. White space is folded; receipts, whose transcriptions are in capitals, are compared without case; and in
all three texts alike a word broken at the end of a line is put together. Both sides see the same pictures.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import jiwer
import numpy as np
import pymupdf
from PIL import Image, ImageOps
from rapidocr import RapidOCR

from tasks.layout import from_engine, to_text
from worker.engines.orientation import read_sheet
from worker.engines.recognizer import MAX_SIDE, Recognizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.engines.base import RGB

BROKEN = re.compile(r"(\w)-\s*\n\s*([a-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    name: str
    pages: int
    cer: float
    wer: float
    direct_cer: float
    direct_wer: float
    seconds: float
    direct_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description="error rates of the experts' OCR")
    parser.add_argument("data", type=Path, help="folder with pdf_scanned/ and images/")
    parser.add_argument("--pixels", type=int, default=MAX_SIDE, help="longer side of a page")
    parser.add_argument("--only", default="", help="files whose name contains this")
    args = parser.parse_args()
    files = [path for path in transcribed(args.data) if args.only in path.name]
    if not files:
        print(f"no transcribed files under {args.data}; the test documents are not shipped with the project")
        return 2
    recognizer = Recognizer()
    recognizer.warm()
    direct = RapidOCR(params={"Global.use_cls": False, "Global.log_level": "critical"})
    print("| File | Pages | CER ours | CER RapidOCR | WER ours | WER RapidOCR | s/page ours | s/page RapidOCR |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    scores = []
    for path in files:
        scores.append(score(path, recognizer=recognizer, direct=direct, pixels=args.pixels))
        show(scores[-1])
    show(mean(scores))
    return 0


def transcribed(data: Path) -> list[Path]:
    marks = [mark for folder in ("pdf_scanned", "images") for mark in sorted((data / folder).glob("*.gt.txt"))]
    return [mark.with_name(mark.name.removesuffix(".gt.txt")) for mark in marks]


def score(path: Path, *, recognizer: Recognizer, direct: Any, pixels: int) -> Score:
    truths = path.with_name(f"{path.name}.gt.txt").read_text(encoding="utf-8").split("\f")
    ours: list[str] = []
    theirs: list[str] = []
    seconds = [0.0, 0.0]
    for image in pictures(path, pixels=pixels):
        started = time.perf_counter()
        ours.append(to_text(from_engine(read_sheet(recognizer, image).lines)))
        between = time.perf_counter()
        found = direct(np.ascontiguousarray(image[:, :, ::-1]), use_cls=False)
        theirs.append("\n".join(found.txts or ()))
        seconds[0] += between - started
        seconds[1] += time.perf_counter() - between
    if len(truths) != len(ours):
        raise SystemExit(f"{path.name} has {len(ours)} pages and {len(truths)} transcriptions")
    caseless = "receipt" in path.name
    truths, ours, theirs = ([folded(text, caseless=caseless) for text in texts] for texts in (truths, ours, theirs))
    pages = len(truths)
    return Score(
        name=path.name,
        pages=pages,
        cer=rate(jiwer.cer, truths, ours),
        wer=rate(jiwer.wer, truths, ours),
        direct_cer=rate(jiwer.cer, truths, theirs),
        direct_wer=rate(jiwer.wer, truths, theirs),
        seconds=seconds[0] / pages,
        direct_seconds=seconds[1] / pages,
    )


def rate(measure: Any, truths: list[str], texts: list[str]) -> float:
    """The mean of the pages."""
    return fmean(float(measure(truth, text)) for truth, text in zip(truths, texts, strict=True))


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


def mean(scores: list[Score]) -> Score:
    fields = ("cer", "wer", "direct_cer", "direct_wer", "seconds", "direct_seconds")
    means = {field: fmean(getattr(score, field) for score in scores) for field in fields}
    return Score(name="mean of files", pages=sum(score.pages for score in scores), **means)


def show(score: Score) -> None:
    rates = (score.cer, score.direct_cer, score.wer, score.direct_wer)
    cells = " | ".join(f"{100 * value:.2f} %" for value in rates)
    print(f"| {score.name} | {score.pages} | {cells} | {score.seconds:.1f} | {score.direct_seconds:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
