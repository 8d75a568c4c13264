"""What a machine can do at most, measured on it: how fast memory is read, and how fast matrices are multiplied."""

from __future__ import annotations

import os
import platform
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bytes read per second, and floating-point operations per second."""

    bandwidth: float
    flops: float

    def __str__(self) -> str:
        return f"reads {self.bandwidth / 1e9:.1f} GB/s, multiplies {self.flops / 1e12:.3f} TFLOP/s"


def measure(device: torch.device, dtype: torch.dtype) -> Bounds:
    """Reading is a matrix times a vector, over 1 GiB (8 GiB on a GPU); multiplying is a square product of 2048 (8192 on
    a GPU). The best of five each."""
    is_gpu = device.type == "cuda"
    width = 8192
    rows = (8 if is_gpu else 1) * 1024**3 // dtype.itemsize // width
    matrix = torch.randn(rows, width, device=device, dtype=dtype)
    vector = torch.randn(width, device=device, dtype=dtype)
    reading = best(lambda: matrix @ vector, device=device)
    size = 8192 if is_gpu else 2048
    square = matrix[:size, :size].contiguous()
    multiplying = best(lambda: square @ square, device=device)
    return Bounds(bandwidth=matrix.nbytes / reading, flops=2 * size**3 / multiplying)


def best(run: Callable[[], object], *, device: torch.device) -> float:
    """Seconds of the best of five, after one to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(slots=True)
class Peak:
    """Bytes that the process had in memory at most, beyond what it had before."""

    bytes: int = 0


@contextmanager
def peak_memory(*, every: float = 0.02) -> Iterator[Peak]:
    """Watches the resident set from a thread; what lives shorter than `every` seconds may be missed."""
    process, peak, over = psutil.Process(), Peak(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(every):
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{cpu}, {os.cpu_count()} cores; torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"transformers {transformers.__version__}, GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT')}; "
        f"load average {load}"
    )
