"""How much in-flight batching gains: the same requests one at a time, in padded batches, and through the generator.

    python benchmarks/generate.py            # 32 requests, 16 slots, 3 rounds: about 7 minutes on two cores
    python benchmarks/generate.py --quick    # 8 requests, 4 slots, 3 rounds: about a minute

All three run SmolLM2 in fp32 and ignore its end token, so that each answer has the length it was asked for and the
work is the same. The ways take turns within a round, and each ratio is the median of the ratios of the rounds. `equal`
counts the answers that are, token for token, those of the first way.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch loads: OpenMP's default spinning makes two threads many times slower on a machine that has other work,
# and this much of it costs nothing on a quiet one.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import platformdirs
import torch
import transformers

from worker.engines import smollm
from worker.engines.generation import GenerationRequest, Statistics
from worker.engines.generator import Generator
from worker.engines.packed import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its about "
    "into than them can only other new some could time these two may then do first any my now such like our over man "
    "me even most made after also did many before must through years where much your way well down should because each "
    "just those people how too little state good very make world still own see men work long get here between both life"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    prompt: list[int]
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    seconds: float
    cpu_seconds: float
    outputs: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(len(output) for output in self.outputs)

    @property
    def rate(self) -> float:
        """New tokens per second."""
        return self.tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        """New tokens per second of processor time, which other work on the machine disturbs less."""
        return self.tokens / self.cpu_seconds


def make_work(tokenizer: Any, *, count: int, seed: int) -> list[Work]:
    """Mixed requests: prompts of 60 to 190 tokens, answers of 16 to 128, both uniform."""
    source, words = random.Random(seed), WORDS.split()
    return [
        Work(
            prompt=tokenizer(" ".join(source.choices(words, k=200)))["input_ids"][: source.randint(60, 190)],
            new_tokens=source.randint(16, 128),
        )
        for _ in range(count)
    ]


def run_single(model: Any, works: Sequence[Work]) -> list[list[int]]:
    return [_generate(model, [work])[0] for work in works]


def run_padded(model: Any, works: Sequence[Work], *, size: int) -> list[list[int]]:
    groups = [works[first : first + size] for first in range(0, len(works), size)]
    return [output for group in groups for output in _generate(model, group)]


def run_generator(model: Any, works: Sequence[Work], *, slots: int) -> tuple[list[list[int]], Statistics]:
    with Generator(model, eos_ids=frozenset(), slots=slots, context_tokens=512, decode=lambda tokens: "") as generator:
        futures = [
            generator.submit(
                GenerationRequest(prompt=work.prompt, max_new_tokens=work.new_tokens, guard_repetition=False)
            )
            for work in works
        ]
        return [list(future.result().token_ids) for future in futures], generator.statistics


def _generate(model: Any, works: Sequence[Work]) -> list[list[int]]:
    """transformers' generate on one batch, padded on the left, until the longest answer is done."""
    longest = max(len(work.prompt) for work in works)
    ids = torch.tensor([[0] * (longest - len(work.prompt)) + work.prompt for work in works])
    mask = torch.tensor([[0] * (longest - len(work.prompt)) + [1] * len(work.prompt) for work in works])
    steps = max(work.new_tokens for work in works)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)
    return [row[longest : longest + work.new_tokens].tolist() for row, work in zip(output, works, strict=True)]


def measure(way: str, run: Callable[[], list[list[int]]]) -> Measurement:
    began, cpu_began = time.perf_counter(), time.process_time()
    outputs = run()
    measured = Measurement(
        seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu_began, outputs=outputs
    )
    print(
        f"  {way:<10} {measured.seconds:>7.1f} s {measured.cpu_seconds:>7.1f} cpu s {measured.tokens:>6} tokens "
        f"{measured.rate:>7.1f} tok/s   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return measured


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor()
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{cpu}, {os.cpu_count()} cores; torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"transformers {transformers.__version__}, GOMP_SPINCOUNT={os.environ['GOMP_SPINCOUNT']}; load average {load}"
    )


def print_table(rounds: Sequence[dict[str, Measurement]]) -> None:
    print(f"\n{'median of rounds':<17} {'tok/s':>7} {'x single':>9} {'x padded':>9} {'cpu x single':>13} {'equal':>7}")
    for way in rounds[0]:
        rate = statistics.median(measured[way].rate for measured in rounds)
        mine, alone = rounds[0][way].outputs, rounds[0]["single"].outputs
        equal = sum(a == b for a, b in zip(mine, alone, strict=False))
        print(
            f"{way:<17} {rate:>7.1f} {ratio(rounds, way, 'single'):>9.2f} {ratio(rounds, way, 'padded'):>9.2f} "
            f"{ratio(rounds, way, 'single', cpu=True):>13.2f} {equal:>3}/{len(alone):<3}"
        )


def ratio(rounds: Sequence[dict[str, Measurement]], way: str, other: str, *, cpu: bool = False) -> float:
    """The ratio within each round, then the median: the ways of one round saw the same neighbours on the machine."""
    return statistics.median(
        each[way].cpu_rate / each[other].cpu_rate if cpu else each[way].rate / each[other].rate for each in rounds
    )


def print_statistics(totals: Statistics) -> None:
    print(
        f"generator: {totals.steps} steps, occupancy {totals.mean_occupancy:.3f}, "
        f"prefill {totals.prefill_seconds:.1f} s, decode {totals.decode_seconds:.1f} s"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--slots", type=int, default=16, help="also the size of the padded batches")
    parser.add_argument("--single", type=int, default=0, help="run only so many one at a time, the slow way; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path, default=Path(platformdirs.user_cache_dir("nightowl")))
    parser.add_argument("--quick", action="store_true", help="8 requests and 4 slots")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.slots = 8, 4
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, tokenizer = smollm.load(arguments.cache_dir)
    model.generation_config.eos_token_id = None
    packed_model, _ = smollm.load(arguments.cache_dir)
    pack(packed_model)
    works = make_work(tokenizer, count=arguments.requests, seed=arguments.seed)
    tokens = sum(work.new_tokens for work in works)
    print(machine())
    print(f"{len(works)} requests, {tokens} new tokens, {arguments.slots} slots, seed {arguments.seed}, fp32\n")
    run_padded(model, works[:2], size=2)  # warm up
    totals = Statistics(slots=arguments.slots)

    def through_generator() -> list[list[int]]:
        nonlocal totals
        outputs, totals = run_generator(packed_model, works, slots=arguments.slots)
        return outputs

    ways: dict[str, Callable[[], list[list[int]]]] = {
        "padded": lambda: run_padded(model, works, size=arguments.slots),
        "generator": lambda: run_generator(model, works, slots=arguments.slots)[0],
        "packed": through_generator,
    }
    # Once for all rounds: it takes longest, and scattered by less than 1 % (194.5 and 193.3 s on a quiet machine).
    alone = {"single": measure("single", lambda: run_single(model, works[: arguments.single or None]))}
    rounds = [alone | {way: measure(way, run) for way, run in ways.items()} for _ in range(arguments.rounds)]
    print_table(rounds)
    print_statistics(totals)
    print(machine())


if __name__ == "__main__":
    main()
