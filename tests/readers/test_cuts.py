"""Scene cuts on films whose cuts are known, and times that are true to a frame whatever the file does with time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from benchmarks import films, scene_cuts
from benchmarks.films import Cut
from benchmarks.scene_cuts import Score, score
from domain.limits import Limits
from tests.readers import mp4
from tests.readers.test_scenes import textured
from tests.readers.test_video import cut_up
from worker.readers.base import Open, Segment
from worker.readers.video import Videos

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("style", films.STYLES[1:])  # hard cuts are in "mixed" too
def test_twenty_known_cuts_are_found(style: str, tmp_path: Path) -> None:
    film = films.make(style, seed=1)
    assert len(film.cuts) == 20
    found = scene_cuts.cuts_of(films.write(film, tmp_path / "film.mp4"))
    assert score(found, film.cuts).f1 >= 0.95, (found, film.cuts)


def test_the_score_counts_hits_misses_and_inventions() -> None:
    truth = [Cut(first=10, last=10), Cut(first=50, last=60), Cut(first=90, last=90)]
    assert score([11, 49, 70], truth) == Score(found=2, wrong=1, missed=1)
    assert score([10, 10, 55, 90], truth) == Score(found=3, wrong=1, missed=0)
    assert score([], truth).f1 == 0
    assert score([10, 55, 90], truth).f1 == 1


def uneven(path: Path, *, shots: tuple[int, ...]) -> tuple[list[float], bytes]:
    """A film whose frames last 20 to 400 ms each; the true times of its frames, and the file."""
    frames = [textured(seed, shift=frame) for seed, length in enumerate(shots, start=1) for frame in range(length)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    data = path.read_bytes()
    random = np.random.default_rng(3)
    milliseconds = random.choice((20, 40, 100, 400), len(frames), p=(0.3, 0.4, 0.2, 0.1))
    ticks = [int(length) * mp4.timescale(data) // 1000 for length in milliseconds]
    starts = np.concatenate([[0], np.cumsum(milliseconds)[:-1]]) / 1000
    return starts.tolist(), mp4.with_times(data, ticks)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_times_are_true_to_a_frame_at_a_variable_rate_and_turned(degrees: int, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    starts, data = uneven(path, shots=(40, 33, 51))
    path.write_bytes(mp4.turned(data, degrees) if degrees else data)
    source = Open(path=path, limits=Limits())
    segments = cut_up(source)
    assert [segment.start for segment in segments] == pytest.approx([0, starts[40], starts[73]], abs=0.002)
    wanted = Segment(number=1, start=starts[60], end=starts[64])
    frames = Videos().frames(source, wanted, count=9, max_side=64)
    assert frames.times == pytest.approx(starts[60:64], abs=0.002), "each frame of the segment once, at its own time"
    height, width = frames.images[0].shape[:2]
    assert (height > width) == (degrees in (90, 270))
