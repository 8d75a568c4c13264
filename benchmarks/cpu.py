"""Two choices of the CPU engine, measured on this machine: packed linear layers, and recognition that does not spin.

python benchmarks/cpu.py linear    # SmolLM2's layers: `F.linear` and packed weights, microseconds, best of five
python benchmarks/cpu.py beside    # reading a page while eight answers are generated, both ways
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

if TYPE_CHECKING:
    from collections.abc import Callable

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


if __name__ == "__main__":
    {"linear": linear, "beside": beside}[sys.argv[1] if len(sys.argv) > 1 else "linear"]()
