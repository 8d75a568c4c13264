"""The engine on a GPU with the full 7B shape, from one request at a time to 256: one call of under ten minutes.

    python benchmarks/gpu.py                 # LLaMA-7B, ViT-L/14 and abstractor, random weights in bf16, on cuda:0
    python benchmarks/gpu.py --tiny          # the same paths with a tiny model on the CPU, to see that they work

Each request is a tile: one picture, a prompt of 60 tokens beside it, an answer of 200 tokens; there are twice as many
requests as slots, but for 128 and more. A page is counted as 600 tokens of answer (six tiles of a hundred).

The bound of a row of the table is what its work would take if nothing but memory and multipliers were in the way: for
every decode step the weights and caches at the measured bandwidth or the products at the measured rate, whichever takes
longer, and for prompts and pictures their products. `paged` is transformers' own continuous batching (paged cache, CUDA
graphs) over the same language model; it takes no pictures, so its prompts are words of the same length.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks import bounds
from mplug_owl import testing
from worker.engines.generation import GenerationRequest, Statistics
from worker.engines.owl_loading import GPU_BATCH_IMAGES, GPU_PREFILL_TOKENS, slot_bytes
from worker.engines.seeing import SeeingGenerator

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = (1, 4, 16, 64, 128, 256)
WORDS, ANSWER = 60, 200
PAGE_TOKENS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    slots: int
    seconds: float
    tokens: int
    images: int
    statistics: Statistics
    eye_seconds: float
    bound_seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        step = self.statistics.decode_seconds / max(self.statistics.steps, 1) * 1000
        rate = self.tokens / self.seconds
        return (
            f"{self.slots:>6} {self.seconds:>8.1f} {rate:>9.0f} {rate / PAGE_TOKENS:>8.2f} "
            f"{self.images / self.seconds:>9.1f} {step:>8.1f} {self.statistics.mean_occupancy:>10.2f} "
            f"{self.bound_seconds / self.seconds:>7.0%} {self.memory_bytes / 1024**3:>7.1f}"
        )


HEADER = (
    f"{'slots':>6} {'seconds':>8} {'tokens/s':>9} {'pages/s':>8} {'images/s':>9} {'step ms':>8} {'occupancy':>10} "
    f"{'bound':>7} {'GiB':>7}"
)


def run(model: Any, *, slots: int, answer: int, limit: bounds.Bounds) -> Row:
    config = model.config
    device = model.device
    count = slots * (2 if slots < 128 else 1)
    source = random.Random(slots)
    place = [-1] * (config.num_query_tokens + 1)
    side = config.vision_config.image_size
    prompts = [
        [1, *place, *(source.randrange(3, config.text_config.vocab_size) for _ in range(WORDS))] for _ in range(count)
    ]
    length = len(prompts[0])
    picture = torch.randn(3, side, side)
    _empty(device)
    began = time.perf_counter()
    with SeeingGenerator(
        model,
        eos_ids=frozenset(),
        slots=slots,
        context_tokens=-(-(length + answer) // 16) * 16,
        batch_images=GPU_BATCH_IMAGES,
        decode=lambda _: "",
        prefill_tokens=GPU_PREFILL_TOKENS,
    ) as seeing:
        futures = [
            seeing.submit(GenerationRequest(prompt=prompt, max_new_tokens=answer, guard_repetition=False), [picture])
            for prompt in prompts
        ]
        tokens = sum(future.result().new_tokens for future in futures)
        seconds = time.perf_counter() - began
        totals, eyes = seeing.statistics, seeing.eye_statistics
    return Row(
        slots=slots,
        seconds=seconds,
        tokens=tokens,
        images=eyes.images,
        statistics=totals,
        eye_seconds=eyes.seconds,
        bound_seconds=bound(model, totals, length=length, answer=answer, images=eyes.images, limit=limit),
        memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
    )


def bound(model: Any, totals: Statistics, *, length: int, answer: int, images: int, limit: bounds.Bounds) -> float:
    """Seconds. Products are counted as two per weight and position, without attention's own."""
    text = model.language_model
    weights = sum(parameter.numel() for name, parameter in text.named_parameters() if "embed" not in name)
    row_bytes = slot_bytes(text.config, context_tokens=1, dtype=model.dtype) * (length + answer / 2)
    reading = (totals.steps * weights * model.dtype.itemsize + totals.row_steps * row_bytes) / limit.bandwidth
    decode = max(reading, 2 * totals.row_steps * weights / limit.flops)
    eyes = sum(parameter.numel() for parameter in model.vision_model.parameters())
    tokens = model.config.vision_config.tokens
    return float(decode + 2 * (totals.prompt_tokens * weights + images * tokens * eyes) / limit.flops)


def run_paged(model: Any, *, slots: int, answer: int) -> str:
    """Tokens per second of transformers' continuous batching."""
    text = model.language_model
    length = WORDS + model.config.num_query_tokens + 2
    source = random.Random(slots)
    prompts = [[source.randrange(3, text.config.vocab_size) for _ in range(length)] for _ in range(slots)]
    config: Any = GenerationConfig  # its constructor is not annotated
    config = config(max_new_tokens=answer, do_sample=False, eos_token_id=-1, pad_token_id=0)
    is_gpu = model.device.type == "cuda"
    paged = (
        ContinuousBatchingConfig(use_cuda_graph=True)
        if is_gpu
        else ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=256, page_size=32, auto_switch_to_flash=False)
    )
    _empty(model.device)
    began = time.perf_counter()
    made = text.generate_batch(prompts, generation_config=config, continuous_batching_config=paged)
    seconds = time.perf_counter() - began
    tokens = sum(len(one.generated_tokens) for one in made.values())
    return f"{slots:>6} {seconds:>8.1f} {tokens / seconds:>9.0f} {tokens / seconds / PAGE_TOKENS:>8.2f}"


def line(slots: int, run: Callable[[], object]) -> str:
    """A row of a table; where it did not run, for lack of memory or of a kernel, why: the others still count."""
    try:
        return str(run())
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        return f"{slots:>6} did not run: {type(error).__name__}: {reason[:200]}"


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--slots", type=int, nargs="+", help="rows of the table")
    parser.add_argument("--answer", type=int, default=0, help="tokens of an answer; 0: 200, or 8 with --tiny")
    parser.add_argument("--seconds", type=float, default=540, help="start no further row after so long")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU: run it on a machine with one, or with --tiny on the CPU")
    began = time.perf_counter()
    if arguments.tiny:
        device, dtype = torch.device("cpu"), torch.float32
        model = testing.random_model(testing.tiny_config(), dtype=dtype, device=device)
    else:
        device, dtype = torch.device("cuda:0"), torch.bfloat16
        model = testing.random_model(testing.full_size(), dtype=dtype, device=device)
    answer = arguments.answer or (8 if arguments.tiny else ANSWER)
    limit = bounds.measure(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(bounds.machine())
    print(f"{name}: {limit}; {model.num_parameters() / 1e9:.2f} billion parameters in {dtype}")
    print(f"built in {time.perf_counter() - began:.0f} s; answers of {answer} tokens\n\nthe engine\n{HEADER}")
    slots = arguments.slots or ((1, 4) if arguments.tiny else SLOTS)
    run(model, slots=min(slots), answer=4, limit=limit)  # warm up
    for count in slots:
        if time.perf_counter() - began < arguments.seconds:
            print(line(count, partial(run, model, slots=count, answer=answer, limit=limit)), flush=True)
    print(f"\npaged\n{'slots':>6} {'seconds':>8} {'tokens/s':>9} {'pages/s':>8}")
    for count in slots:
        if time.perf_counter() - began < arguments.seconds:
            print(line(count, partial(run_paged, model, slots=count, answer=answer)), flush=True)


if __name__ == "__main__":
    main()
