"""How much in-flight batching gains: the same requests one at a time, in padded batches, and through the engine.

    python benchmarks/generate.py                  # both models, 32 requests, 16 slots, 3 rounds: about 20 minutes
    python benchmarks/generate.py --model smollm   # SmolLM2's real weights, words only
    python benchmarks/generate.py --model owl      # mPLUG-Owl: full-size ViT-L/14 and abstractor, a small LLaMA
    python benchmarks/generate.py --quick          # 8 requests, 4 slots, 1 round: a few minutes

All run in fp32 and ignore the end token, so that each answer has the length it was asked for and the work is the same.
The ways take turns within a round, and each ratio is the median of the ratios of the rounds. `equal` counts the answers
that are, token for token, those of the first way.

The bound is the time that the same work would take if nothing but memory and multipliers were in the way: for each
decode step the weights and the rows' caches at the measured bandwidth, or the products at the measured rate, whichever
takes longer, and for prompts and pictures their products.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch loads: OpenMP's default spinning makes two threads many times slower on a machine that has other work,
# and this much of it costs nothing on a quiet one.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import platformdirs
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bounds
from mplug_owl import testing
from mplug_owl.linear import Linear
from worker.engines import smollm
from worker.engines.generation import GenerationRequest, Statistics
from worker.engines.generator import Generator
from worker.engines.owl_loading import CPU_BATCH_IMAGES, slot_bytes
from worker.engines.packed import pack
from worker.engines.seeing import SeeingGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONTEXT = 512
WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its about "
    "into than them can only other new some could time these two may then do first any my now such like our over man "
    "me even most made after also did many before must through years where much your way well down should because each "
    "just those people how too little state good very make world still own see men work long get here between both life"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A prompt of ids, with the placeholders of its pictures (3, S, S), and how many tokens to answer."""

    prompt: list[int]
    new_tokens: int
    pictures: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and the requests for it. `text` is the language model; `packed` the same model, as the engine runs it."""

    name: str
    model: Any
    packed: Any
    works: list[Work]

    @property
    def text(self) -> Any:
        return getattr(self.model, "language_model", self.model)

    @property
    def images(self) -> int:
        return sum(len(work.pictures) for work in self.works)


@dataclass(slots=True)
class Watch:
    """Seconds that models spent looking at pictures, since the last `reset`."""

    seconds: float = 0.0

    def over(self, look: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def timed(pixels: torch.Tensor) -> torch.Tensor:
            began = time.perf_counter()
            features = look(pixels)
            self.seconds += time.perf_counter() - began
            return features

        return timed

    def reset(self) -> None:
        self.seconds = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    seconds: float
    cpu_seconds: float
    eye_seconds: float
    peak_bytes: int
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

    @property
    def language_rate(self) -> float:
        """New tokens per second of what is not looking at pictures."""
        return self.tokens / (self.seconds - self.eye_seconds)


# The subjects


def make_smollm(arguments: argparse.Namespace) -> Subject:
    """Mixed requests: prompts of 60 to 190 tokens, answers of 16 to 128, both uniform."""
    model, tokenizer = smollm.load(arguments.cache_dir)
    packed, _ = smollm.load(arguments.cache_dir)
    source, words = random.Random(arguments.seed), WORDS.split()
    works = [
        Work(
            prompt=tokenizer(" ".join(source.choices(words, k=200)))["input_ids"][: source.randint(60, 190)],
            new_tokens=source.randint(16, 128),
        )
        for _ in range(arguments.requests)
    ]
    return Subject(name="SmolLM2-135M, real weights", model=model, packed=packed, works=works)


def make_owl(arguments: argparse.Namespace) -> Subject:
    """Mixed requests: a quarter each with one picture and with two, the others words only; prompts of 30 to 120 tokens
    beside the pictures, answers of 16 to 128."""
    model, packed = (testing.random_model(testing.full_size(layers=4, width=2048), seed=1) for _ in range(2))
    source = random.Random(arguments.seed)
    config = model.config
    side, vocabulary = config.vision_config.image_size, config.text_config.vocab_size
    place = [-1] * (config.num_query_tokens + 1)
    works = []
    for _ in range(arguments.requests):
        pictures = source.choice((0, 0, 1, 2))
        words = [source.randrange(3, vocabulary) for _ in range(source.randint(30, 120))]
        works.append(
            Work(
                prompt=[1, *(place * pictures), *words],
                new_tokens=source.randint(16, 128),
                pictures=[torch.randn(3, side, side) for _ in range(pictures)],
            )
        )
    return Subject(name="mPLUG-Owl, ViT-L/14 and 4 LLaMA layers of 2048", model=model, packed=packed, works=works)


# The ways


def run_padded(model: Any, works: Sequence[Work], *, size: int) -> list[list[int]]:
    """transformers' generate on batches of `size`, padded on the left, each until its longest answer is done."""
    groups = [works[first : first + size] for first in range(0, len(works), size)]
    return [output for group in groups for output in _generate(model, group)]


def _generate(model: Any, works: Sequence[Work]) -> list[list[int]]:
    longest = max(len(work.prompt) for work in works)
    ids = torch.tensor([[0] * (longest - len(work.prompt)) + work.prompt for work in works])
    mask = torch.tensor([[0] * (longest - len(work.prompt)) + [1] * len(work.prompt) for work in works])
    steps = max(work.new_tokens for work in works)
    pictures = [picture for work in works for picture in work.pictures]
    options: dict[str, Any] = {"pixel_values": torch.stack(pictures)} if pictures else {}
    output = model.generate(
        ids, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, **options
    )
    # transformers' models give the prompt back, ours does not.
    return [row[len(row) - steps :][: work.new_tokens].tolist() for row, work in zip(output, works, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    outputs: list[list[int]]
    statistics: Statistics


def run_engine(model: Any, works: Sequence[Work], *, slots: int) -> EngineRun:
    """As the engines run it: words through the generator, pictures through the eyes before it."""
    options: dict[str, Any] = {
        "eos_ids": frozenset(),
        "slots": slots,
        "context_tokens": CONTEXT,
        "decode": lambda _: "",
    }
    requests = [
        GenerationRequest(prompt=work.prompt, max_new_tokens=work.new_tokens, guard_repetition=False) for work in works
    ]
    if not hasattr(model, "encode_images"):
        with Generator(model, **options) as generator:
            futures = [generator.submit(request) for request in requests]
            return EngineRun(
                outputs=[list(future.result().token_ids) for future in futures], statistics=generator.statistics
            )
    with SeeingGenerator(model, batch_images=CPU_BATCH_IMAGES, **options) as seeing:
        futures = [seeing.submit(request, work.pictures) for request, work in zip(requests, works, strict=True)]
        return EngineRun(
            outputs=[list(future.result().token_ids) for future in futures],
            statistics=seeing.statistics,
        )


def measure(way: str, run: Callable[[], list[list[int]]], *, images: int, watch: Watch) -> Measurement:
    watch.reset()
    began, cpu_began = time.perf_counter(), time.process_time()
    with bounds.peak_memory() as peak:
        outputs = run()
    measured = Measurement(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
        eye_seconds=watch.seconds,
        peak_bytes=peak.bytes,
        outputs=outputs,
    )
    print(
        f"  {way:<10} {measured.seconds:>7.1f} s {measured.cpu_seconds:>7.1f} cpu s {measured.tokens:>6} tokens "
        f"{measured.rate:>7.1f} tok/s {images / measured.seconds:>6.2f} images/s, eyes {measured.eye_seconds:>5.1f} s, "
        f"{measured.peak_bytes / 1024**2:>6.0f} MiB more   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return measured


# What is printed


def compare(subject: Subject, arguments: argparse.Namespace) -> None:
    works, slots, watch = subject.works, arguments.slots, Watch()
    for model in (subject.model, subject.packed):
        model.generation_config.eos_token_id = None
        model.requires_grad_(False)  # else torch's counter of operations asks for gradients
    alone = works[: arguments.single or None]
    print(f"\n{subject.name}: {len(works)} requests, {sum(work.new_tokens for work in works)} new tokens, "
          f"{subject.images} pictures, {slots} slots, seed {arguments.seed}, fp32\n")  # fmt: skip
    work_flops = _flops(subject)
    pack(subject.packed, also=(Linear,))
    if subject.images:
        for model in (subject.model, subject.packed):
            model.encode_images = watch.over(model.encode_images)
    run_padded(subject.model, works[:2], size=2)  # warm up
    runs: list[EngineRun] = []

    def engine(model: Any) -> list[list[int]]:
        runs.append(run_engine(model, works, slots=slots))
        return runs[-1].outputs

    ways: dict[str, Callable[[], list[list[int]]]] = {
        "padded": lambda: run_padded(subject.model, works, size=slots),
        "in flight": lambda: engine(subject.model),
        "engine": lambda: engine(subject.packed),
    }
    # Once for all rounds: it takes longest, and scattered by less than 1 % (194.5 and 193.3 s on a quiet machine).
    images_alone = sum(len(work.pictures) for work in alone)
    single = measure("single", lambda: run_padded(subject.model, alone, size=1), images=images_alone, watch=watch)
    rounds = [
        {"single": single}
        | {
            way: measure(way, run, images=subject.images, watch=watch)
            for way, run in ways.items()
            if way != "in flight" or not arguments.short
        }
        for _ in range(arguments.rounds)
    ]
    print_table(rounds)
    print_engine(subject, runs[-1], rounds[-1]["engine"], flops=work_flops)


def print_table(rounds: Sequence[dict[str, Measurement]]) -> None:
    """Each ratio within its round, then the median: the ways of one round saw the same neighbours on the machine."""
    print(f"\n{'':<10} {'':>7} {'all, x':^15} {'cpu time, x':^15} {'language, x':^15}")
    print(f"{'medians':<10} {'tok/s':>7}" + f" {'single':>7} {'padded':>7}" * 3 + f" {'equal':>7}")
    for way in rounds[0]:
        rate = statistics.median(measured[way].rate for measured in rounds)
        ratios = [
            statistics.median(of(measured[way]) / of(measured[other]) for measured in rounds)
            for of in (attrgetter("rate"), attrgetter("cpu_rate"), attrgetter("language_rate"))
            for other in ("single", "padded")
        ]
        mine, alone = rounds[0][way].outputs, rounds[0]["single"].outputs
        equal = sum(a == b for a, b in zip(mine, alone, strict=False))
        print(
            f"{way:<10} {rate:>7.1f} " + " ".join(f"{value:>7.2f}" for value in ratios) + f" {equal:>3}/{len(alone):<3}"
        )


def print_engine(subject: Subject, run: EngineRun, measured: Measurement, *, flops: Flops) -> None:
    totals = run.statistics
    language = totals.prefill_seconds + totals.decode_seconds
    print(
        f"engine, last round: {totals.steps} steps, occupancy {totals.mean_occupancy:.3f}; of {measured.seconds:.1f} s "
        f"the language model ran {language / measured.seconds:.0%} (prompts {totals.prefill_seconds:.1f} s, answers "
        f"{totals.decode_seconds:.1f} s) and the eyes {measured.eye_seconds:.1f} s"
    )
    limit = bounds.measure(torch.device("cpu"), torch.float32)
    decode = decode_bound(subject, totals, limit)
    rest = (flops.prompts + flops.pictures) / limit.flops
    print(
        f"bound: this machine {limit}; answers {decode:.1f} s, prompts and pictures {rest:.1f} s: the engine reaches "
        f"{(decode + rest) / measured.seconds:.0%} of it (answers {decode / max(totals.decode_seconds, 1e-9):.0%})"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of all prompts and of all pictures, as torch counts them."""

    prompts: float
    pictures: float


def _flops(subject: Subject) -> Flops:
    """Of a prompt of mean length, times their number; of a picture, times theirs."""
    length = round(statistics.mean(len(work.prompt) for work in subject.works))
    with FlopCounterMode(display=False) as counter:
        subject.text.base_model(input_ids=torch.ones(1, length, dtype=torch.long))
    prompts = counter.get_total_flops() * len(subject.works)
    pictures = 0
    if subject.images:
        side = subject.model.config.vision_config.image_size
        # Gradients are asked for so that the layers go by operators that the counter knows.
        with FlopCounterMode(display=False) as counter:
            subject.model.encode_images(torch.zeros(1, 3, side, side, requires_grad=True))
        pictures = counter.get_total_flops() * subject.images
    return Flops(prompts=prompts, pictures=pictures)


def decode_bound(subject: Subject, totals: Statistics, limit: bounds.Bounds) -> float:
    """Seconds. A step reads every weight but the word table once, and each row its cache so far."""
    text = subject.text
    config = text.config
    head = config.vocab_size * config.hidden_size
    weights = sum(parameter.numel() for name, parameter in text.named_parameters() if "embed" not in name)
    if config.tie_word_embeddings:
        weights += head
    mean_length = statistics.mean(len(work.prompt) + work.new_tokens / 2 for work in subject.works)
    row_bytes = slot_bytes(config, context_tokens=1, dtype=torch.float32) * mean_length
    reading = (totals.steps * weights * 4 + totals.row_steps * row_bytes) / limit.bandwidth
    return float(max(reading, totals.row_steps * weights * 2 / limit.flops))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("smollm", "owl", "both"), default="both")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--slots", type=int, default=16, help="also the size of the padded batches")
    parser.add_argument("--single", type=int, default=0, help="run only so many one at a time, the slow way; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    parser.add_argument("--short", action="store_true", help="without the engine over unpacked layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache-dir", type=Path, default=Path(platformdirs.user_cache_dir("nightowl")))
    parser.add_argument("--quick", action="store_true", help="8 requests, 4 slots, 1 round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.slots, arguments.rounds = 8, 4, 1
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(bounds.machine())
    if arguments.model in ("smollm", "both"):
        compare(make_smollm(arguments), arguments)
    if arguments.model in ("owl", "both"):
        compare(make_owl(arguments), arguments)
    print(bounds.machine())


if __name__ == "__main__":
    main()
