"""Byte-level mutation of good files through each reader: `python -m tests.readers.fuzz --mutants 2000 --seed 1`.

A mutant is a good file some bytes of which were changed, cut out, doubled or moved. Which ones depends on the seed, the
format and the mutant's number alone, so that one of them can be read again:

    python -m tests.readers.fuzz --format pdf --seed 1 --mutant 1234 [--keep FILE]

A mutant may be read, refused, or crash its child. It must not show a defect (`internal`), take longer than a read may,
hold more memory than the cap, or end this process. The table counts what came of them; the exit status is 1 where
one did what it must not.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from domain.errors import Code
from domain.limits import Limits
from tests.readers.peaks import MAPPED_MIB, cost
from tests.readers.seeds import READERS, SEEDS
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

READ_SECONDS = 10.0
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutant(seed: int, format: str, number: int) -> bytes:
    """The mutant of that number: of one of the format's good files, with one to eight changes."""
    chance = random.Random(f"{seed} {format} {number}")
    content = bytearray(chance.choice(good_files(format)))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        chance.choice(CHANGES)(content, chance)
    return with_checksums(bytes(content)) if format == "png" and chance.random() < 0.8 else bytes(content)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the right checksums again: else hardly a mutant would get past them."""
    made, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + size]
        made += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(made + content[at:])


def good_files(format: str) -> tuple[bytes, ...]:
    if format not in _GOOD:
        _GOOD[format] = tuple(make() for make in SEEDS[format])
    return _GOOD[format]


_GOOD: dict[str, tuple[bytes, ...]] = {}


def _flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    content[at : at + chance.randint(1, 16)] = chance.randbytes(chance.randint(1, 16))


def _plant(content: bytearray, chance: random.Random) -> None:
    """A number at the border of something, in either byte order."""
    at, value = chance.randrange(len(content)), chance.choice(INTERESTING)
    form = chance.choice(("<I", ">I") if value > 0xFFFF else ("<H", ">H", "<I", ">I"))
    piece = struct.pack(form, value)
    content[at : at + len(piece)] = piece


def _digits(content: bytearray, chance: random.Random) -> None:
    """Another number where one is written out, as in PDF and markup."""
    places = [at for at in range(len(content)) if 0x30 <= content[at] <= 0x39]
    if places:
        at = chance.choice(places)
        content[at : at + 1] = chance.choice((b"0", b"-1", b"99999", b"2147483648", b"1e9", b"9" * 40))


def _cut(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    if chance.random() < 0.3:
        del content[max(1, at) :]
    else:
        del content[at : at + chance.randint(1, 64)]
    content.extend(b"\0" if not content else b"")


def _double(content: bytearray, chance: random.Random) -> None:
    at, size = chance.randrange(len(content)), chance.choice((4, 16, 64, 512))
    content[at:at] = content[at : at + size] * chance.choice((1, 2, 50))


def _move(content: bytearray, chance: random.Random) -> None:
    start, at = chance.randrange(len(content)), chance.randrange(len(content))
    piece = content[start : start + chance.choice((4, 16, 64, 512))]
    content[at : at + len(piece)] = piece


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _flip, _overwrite, _plant, _plant, _digits),
    *(_cut, _double, _move),
)


@dataclass(slots=True)
class Tally:
    """What came of the mutants of one format."""

    format: str
    ends: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    peak_mib: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        read, crashed = self.ends["ok"], self.ends[Code.READER_CRASHED]
        timed_out, memory = self.ends[Code.READ_TIMEOUT], self.ends[Code.READ_MEMORY]
        refused = self.ends.total() - read - crashed - timed_out - memory
        return (
            f"| {self.format} | {self.ends.total()} | {read} | {refused} | {crashed} | {timed_out} | {memory} "
            f"| {self.slowest:.1f} | {self.peak_mib:.0f} |"
        )


HEAD = (
    "| format | mutants | read | refused | child crashed | out of time | out of memory | slowest, s | peak, MiB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def run(readers: Readers, format: str, numbers: Sequence[int], *, seed: int, limits: Limits, folder: Path) -> Tally:
    tally = Tally(format)
    cap = limits.read_memory_mb + MAPPED_MIB
    path = folder / f"mutant.{format}"
    for number in numbers:
        path.write_bytes(mutant(seed, format, number))
        spent = cost(readers, path, limits=limits, pages=2)
        tally.ends[spent.ends[0]] += 1
        tally.slowest = max(tally.slowest, spent.seconds)
        tally.peak_mib = max(tally.peak_mib, spent.peak_mib)
        allowed = frozenset(spent.ends) - {Code.INTERNAL}
        problem = spent.wrong(allowed, cap_mib=cap)
        if not problem and spent.seconds > 4 * limits.read_seconds:
            problem = f"took {spent.seconds:.0f} s"
        if problem:
            tally.wrong.append(f"{format}, seed {seed}, mutant {number}: {problem}: {spent.message}")
    return tally


def main() -> int:
    arguments = _arguments()
    limits = Limits(read_seconds=arguments.seconds)
    if arguments.keep:
        arguments.keep.write_bytes(mutant(arguments.seed, arguments.format[0], arguments.mutant))
    wrong: list[str] = []
    began = time.monotonic()
    _say(HEAD)
    with tempfile.TemporaryDirectory() as folder, Readers(limits=limits, children=1) as readers:
        for format, numbers in _chosen(arguments):
            tally = run(readers, format, numbers, seed=arguments.seed, limits=limits, folder=Path(folder))
            _say(tally.row)
            wrong += tally.wrong
    for line in wrong:
        _say(line)
    _say(f"seed {arguments.seed}: {len(wrong)} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _chosen(arguments: argparse.Namespace) -> Iterator[tuple[str, Sequence[int]]]:
    """Formats and numbers: each reader's mutants are shared out among its formats."""
    for formats in READERS.values():
        for format in formats:
            if arguments.format and format not in arguments.format:
                continue
            share = range(-(-arguments.mutants // len(formats)))
            yield format, share if arguments.mutant is None else [arguments.mutant]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Mutants of good files through each reader.")
    parser.add_argument("--mutants", type=int, default=2000, help="mutants of each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", action="append", choices=list(SEEDS), help="only this format; repeat for more")
    parser.add_argument("--mutant", type=int, help="only the mutant of this number")
    parser.add_argument("--keep", type=Path, help="write that mutant to this file")
    parser.add_argument("--seconds", type=float, default=READ_SECONDS, help="time of one read")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
