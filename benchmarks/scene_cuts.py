"""Precision and recall of the search for scene cuts, on films made here (benchmarks/films.py) with 20 known cuts each.

    python benchmarks/scene_cuts.py [--seeds 3] [--show] [--footage VIDEO…]

A found cut is right within one frame of a hard cut, or two of a fade or dissolve; each known cut is found once. With
--footage the films are shots of these videos (which have no cuts of their own), cut hard one after the other.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks import films
from benchmarks.films import Cut, Film
from domain.limits import Limits
from worker.readers.base import Open
from worker.readers.decoders import open_decoder
from worker.readers.video import find_cuts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.readers.base import RGB


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    found: int = 0
    wrong: int = 0
    missed: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(found=self.found + other.found, wrong=self.wrong + other.wrong, missed=self.missed + other.missed)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.wrong)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.found + self.missed)

    @property
    def f1(self) -> float:
        return 2 * self.found / max(1, 2 * self.found + self.wrong + self.missed)


def score(found: Sequence[int], truth: Sequence[Cut]) -> Score:
    """`found` are indexes of frames."""
    left = list(found)
    hits = 0
    for cut in truth:
        slack = 1 if cut.first == cut.last else 2
        match = next((at for at in left if cut.first - slack <= at <= cut.last + slack), None)
        if match is not None:
            left.remove(match)
            hits += 1
    return Score(found=hits, wrong=len(left), missed=len(truth) - hits)


def cuts_of(path: Path) -> list[int]:
    """What the reader finds, as indexes of frames."""
    decoder = open_decoder(Open(path=path, limits=Limits()), max_side=128)
    found = find_cuts(decoder, deadline=time.monotonic() + 60)
    return [int(np.searchsorted(decoder.starts, at - 1e-4)) for at in found]


def measure(film: Film, *, show: bool) -> Score:
    with tempfile.TemporaryDirectory() as folder:
        found = cuts_of(films.write(film, Path(folder) / "film.mp4"))
    if show:
        print("found", found)
        print("truth", [(cut.first, cut.last) for cut in film.cuts])
    return score(found, film.cuts)


def from_footage(videos: Sequence[Path], *, seed: int) -> Film:
    """21 shots of 30 to 50 frames, neighbours from different videos."""
    random = np.random.default_rng(seed)
    decoders = [open_decoder(Open(path=path, limits=Limits()), max_side=320) for path in videos]
    frames: list[RGB] = []
    cuts: list[Cut] = []
    order = [int(pick) for _ in range(21) for pick in random.permutation(len(decoders))]
    order = [pick for pick, before in zip(order, [-1, *order], strict=False) if pick != before][:21]
    for number, pick in enumerate(order):
        decoder, length = decoders[pick], int(random.integers(30, 50))
        first = int(random.integers(0, max(1, len(decoder.starts) - length)))
        if number:
            cuts.append(Cut(first=len(frames), last=len(frames)))
        for index in range(first, min(first + length, len(decoder.starts))):
            frames.append(np.asarray(cv2.resize(decoder.read(index), (films.WIDTH, films.HEIGHT)), np.uint8))
    return Film(frames=tuple(frames), cuts=tuple(cuts))


def main() -> int:
    parser = argparse.ArgumentParser(description="precision and recall of scene cuts")
    parser.add_argument("--seeds", type=int, default=3, help="films per style")
    parser.add_argument("--style", choices=films.STYLES, action="append")
    parser.add_argument("--show", action="store_true", help="the frames that were found and those that are true")
    parser.add_argument("--footage", type=Path, nargs="+", default=(), help="videos without cuts")
    args = parser.parse_args()
    print("| Style | Films | Cuts | Precision | Recall | F1 |")
    print("|---|--:|--:|--:|--:|--:|")
    worst = 1.0
    for style in ("footage",) if args.footage else args.style or films.STYLES:
        total = Score()
        for seed in range(args.seeds):
            film = from_footage(args.footage, seed=seed) if args.footage else films.make(style, seed=seed)
            total += measure(film, show=args.show)
        worst = min(worst, total.f1)
        cuts = total.found + total.missed
        print(f"| {style} | {args.seeds} | {cuts} | {total.precision:.3f} | {total.recall:.3f} | {total.f1:.3f} |")
    return 0 if worst >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
