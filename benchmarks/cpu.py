"""Parts of the CPU engines, measured on this machine: packed linear layers, recognition that does not spin, and tiles.

python benchmarks/cpu.py linear    # SmolLM2's layers: `F.linear` and packed weights, microseconds, best of five
python benchmarks/cpu.py beside    # reading a page while eight answers are generated, both ways
python benchmarks/cpu.py tiles     # cutting A4 pages of 200 dpi for an eye of 224 pixels, milliseconds of CPU time
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # before torch loads, as the worker does

import cv2
import numpy as np
import platformdirs
import torch
from onnxruntime import InferenceSession
from torch import nn

from worker.engines.base import Turn
from worker.engines.chat import ChatModel, load_smollm
from worker.engines.packed import PackedLinear
from worker.engines.recognizer import Recognizer
from worker.engines.tiles import cut, view
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.engines.base import RGB

SHAPES = ((576, 576), (576, 1536), (1536, 576), (576, 49152))
ROWS = (1, 4, 8, 16)
PAGE = Path(__file__).parent.parent / "samples" / "scan.png"


def linear() -> None:
    print(f"{torch.get_num_threads()} threads; weights, rows: F.linear us, packed us, ratio")
    for width, height in SHAPES:
        layer = nn.Linear(width, height, bias=False)
        packed = PackedLinear(layer)
        for rows in ROWS:
            states = torch.randn(rows, width)
            plain, fast = _best(partial(layer, states)), _best(partial(packed, states))
            print(f"{width} x {height}, {rows:>3}: {plain:>8.0f} {fast:>8.0f} {plain / fast:>6.2f}")


def _best(run: Callable[[], Any], *, repeats: int = 30) -> float:
    """Microseconds of one run: the best of five means."""
    means = []
    with torch.inference_mode():
        run()
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(repeats):
                run()
            means.append((time.perf_counter() - began) / repeats)
    return min(means) * 1e6


def beside() -> None:
    picture: Any = cv2.imread(str(PAGE))
    image = np.ascontiguousarray(picture[:, :, ::-1])
    chat = load_smollm(Path(platformdirs.user_cache_dir("nightowl")), slots=8, context_tokens=1024)
    try:
        for way in ("spinning", "not spinning") * 2:
            recognizer = Recognizer()
            if way == "spinning":
                _let_spin(recognizer)
            _compare(way, recognizer, chat, image)
    finally:
        chat.close()


def _let_spin(recognizer: Recognizer) -> None:
    """onnxruntime's own default."""
    for stage in (recognizer._ocr.text_det, recognizer._ocr.text_rec):
        stage.session.session = InferenceSession(stage.session.session._model_path, providers=["CPUExecutionProvider"])


def _compare(way: str, recognizer: Recognizer, chat: ChatModel, image: Any) -> None:
    _read(recognizer, image, times=1)
    alone = _read(recognizer, image, times=3), _tokens_per_second(chat)
    together: list[float] = []
    reader = threading.Thread(target=lambda: together.append(_read(recognizer, image, times=4)))
    reader.start()
    rate = _tokens_per_second(chat)
    reader.join()
    print(
        f"{way:<13} alone: {alone[0]:.2f} s a page, {alone[1]:.0f} tokens/s; "
        f"together: {together[0]:.2f} s a page, {rate:.0f} tokens/s",
        flush=True,
    )


def _read(recognizer: Recognizer, image: Any, *, times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        recognizer.read(image, recognizer.find(image))
    return (time.perf_counter() - began) / times


def _tokens_per_second(chat: ChatModel) -> float:
    began = time.perf_counter()
    turns = [(Turn(role="user", text=f"Write a story about owl number {number}."),) for number in range(8)]
    futures = [chat.submit(turn, max_new_tokens=64) for turn in turns]
    return sum(future.result().new_tokens for future in futures) / (time.perf_counter() - began)


def tiles() -> None:
    for name, image in _pages():
        cutting = [_cpu_ms(partial(cut, image)) for _ in range(15)]
        tiling = cut(image)
        viewing = [sum(_cpu_ms(partial(view, image, tile)) for tile in tiling.tiles) for _ in range(15)]
        print(
            f"{name}: {image.shape[1]} x {image.shape[0]} pixels, x-height {tiling.x_height:.0f}, {len(tiling.tiles)} "
            f"tiles; cut {np.median(cutting):.0f} ({min(cutting):.0f} to {max(cutting):.0f}) ms, "
            f"their views {np.median(viewing):.0f} ms"
        )


def _pages() -> Iterator[tuple[str, RGB]]:
    """A4 at 200 dpi from a PDF, and a scan."""
    with pymupdf.open(PAGE.parent / "report.pdf") as document:
        for number in range(2):
            pixmap = document[number].get_pixmap(dpi=200, alpha=False, colorspace=pymupdf.csRGB)
            pixels = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3)
            yield f"report.pdf, page {number + 1}", pixels.copy()
    picture: Any = cv2.imread(str(PAGE))
    yield PAGE.name, np.ascontiguousarray(picture[:, :, ::-1])


def _cpu_ms(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return (time.thread_time() - began) * 1000


if __name__ == "__main__":
    {"linear": linear, "beside": beside, "tiles": tiles}[sys.argv[1] if len(sys.argv) > 1 else "linear"]()
