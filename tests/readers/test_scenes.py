from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.readers.base import RGB, Segment, Segmenting
from worker.readers.scenes import Look, biggest_change, change, find_cuts, make_segments
from worker.readers.video import pick


def textured(seed: int, *, shift: int = 0) -> RGB:
    """A picture with a look of its own, and the same one moved sideways."""
    random = np.random.default_rng(seed)
    base, noise = random.integers(0, 256, 3), random.integers(-40, 40, (9, 16, 3))
    coarse = np.clip(base + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.roll(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), shift, axis=1))


def looks(*shots: tuple[int, int]) -> list[Look]:
    return [Look(textured(seed, shift=2 * frame)) for seed, frames in shots for frame in range(frames)]


def test_cuts_are_found_at_their_frame_and_motion_is_none() -> None:
    assert find_cuts(looks((1, 20), (2, 15), (3, 20))) == [20, 35]
    assert find_cuts(looks((1, 60))) == []


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_not_a_cut(length: int) -> None:
    film = looks((1, 40))
    white = Look(np.full((72, 128, 3), 255, np.uint8))
    film[20 : 20 + length] = [white] * length
    assert find_cuts(film) == []


def test_the_same_picture_does_not_change_and_opposites_do() -> None:
    black, white = (Look(np.full((72, 128, 3), shade, np.uint8)) for shade in (0, 255))
    assert change(black, black) == pytest.approx(0, abs=1e-3)
    assert change(black, white) > 0.8


def test_the_biggest_change_is_where_it_is() -> None:
    assert biggest_change(looks((1, 3), (2, 4))) == 3
    assert biggest_change(looks((1, 1))) == 0


def bounds(segments: tuple[Segment, ...]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def test_short_scenes_join_and_long_ones_are_cut_evenly() -> None:
    how = Segmenting(min_seconds=1, max_seconds=10)
    segments = make_segments([0.4, 5, 5.5, 29.5], duration=30, how=how, max_segments=100)
    assert bounds(segments)[0] == (0, 5)
    assert [round(end - start, 3) for start, end in bounds(segments)[1:]] == [8.333] * 3


def test_segments_of_equal_length_leave_no_crumb_at_the_end() -> None:
    how = Segmenting(mode="seconds", seconds=10, min_seconds=1)
    assert bounds(make_segments([3], duration=25, how=how, max_segments=100)) == [(0, 10), (10, 20), (20, 25)]
    assert bounds(make_segments([], duration=20.5, how=how, max_segments=100)) == [(0, 10), (10, 20.5)]


@settings(deadline=None)
@given(
    duration=st.floats(0.01, 30_000),
    cuts=st.lists(st.floats(0, 30_000), max_size=60),
    mode=st.sampled_from(["scene", "seconds"]),
    seconds=st.floats(0.1, 100),
    shortest=st.floats(0, 20),
    longest=st.floats(0.1, 300),
    most=st.integers(1, 50),
)
def test_segments_cover_everything_once(
    duration: float, cuts: list[float], mode: str, seconds: float, shortest: float, longest: float, most: int
) -> None:
    how = Segmenting(mode=mode, seconds=seconds, min_seconds=shortest, max_seconds=longest)
    segments = make_segments(cuts, duration=duration, how=how, max_segments=most)
    assert (segments[0].start, segments[-1].end) == (0, duration)
    assert all(one.end == other.start for one, other in pairwise(segments))
    assert all(segment.start < segment.end for segment in segments)
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    assert len(segments) <= most


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=80),
    start=st.floats(0, 50),
    length=st.floats(0.01, 60),
    count=st.integers(1, 20),
)
def test_picked_frames_are_distinct_in_order_and_the_segments_own(
    gaps: list[float], start: float, length: float, count: int
) -> None:
    starts = np.cumsum([0.0, *gaps])
    segment = Segment(number=1, start=start, end=start + length)
    picked = pick(starts, segment, count=count)
    assert 1 <= len(picked) <= count
    assert picked == sorted(set(picked))
    own = [index for index, at in enumerate(starts) if start <= at < start + length - 1e-6]
    assert not own or set(picked) <= set(own) | {index for index, at in enumerate(starts) if abs(at - start) < 1e-5}


def test_frames_are_picked_by_time_not_by_index() -> None:
    starts = [*(i / 30 for i in range(30)), *range(1, 10)]  # a second at 30 frames, then one frame a second
    assert [starts[i] for i in pick(starts, Segment(number=1, start=0, end=10), count=5)] == [1, 3, 5, 7, 9]
