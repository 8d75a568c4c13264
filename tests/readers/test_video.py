from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from domain.errors import Code, SourceError
from tests.readers.test_scenes import textured
from worker.readers.base import Media, Open, Segment, Segmenting
from worker.readers.decoders import FrameError, _OpenCV, open_decoder
from worker.readers.video import Videos, _stretch, find_cuts

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.readers.base import RGB

    Clip = Callable[..., Open]


def film(*shots: tuple[int, int]) -> list[RGB]:
    return [textured(seed, shift=frame) for seed, frames in shots for frame in range(frames)]


def shades(count: int, *, height: int = 48, width: int = 64) -> list[RGB]:
    """Frame i is of the grey 2 i: what was decoded tells its index."""
    return [np.full((height, width, 3), 2 * index, np.uint8) for index in range(count)]


def cut_up(source: Open, how: Segmenting | None = None) -> tuple[Segment, ...]:
    """As the worker does: stretch by stretch, then the segments."""
    videos = Videos()
    start: float | None = 0.0
    times: list[float] = []
    while start is not None:
        found = videos.cuts(source, start)
        times += found.times
        start = found.next_start
    return videos.segments(source, how or Segmenting(), times)


def test_probe_tells_length_and_size(clip: Clip) -> None:
    probe = Videos().probe(clip(shades(25), fps=10), format="mp4")
    assert (probe.media, probe.frames, probe.width, probe.height, probe.pages) == (Media.VIDEO, 25, 64, 48, 0)
    assert probe.duration_seconds == pytest.approx(2.5, abs=0.01)


def test_scenes_begin_at_the_cuts(clip: Clip) -> None:
    segments = cut_up(clip(film((1, 23), (2, 31), (3, 26)), fps=10))
    assert [segment.start for segment in segments] == pytest.approx([0, 2.3, 5.4], abs=0.01)
    assert segments[-1].end == pytest.approx(8.0, abs=0.01)


def test_a_long_video_is_sampled_and_its_cut_still_exact(clip: Clip) -> None:
    source = clip(film((1, 1013), (2, 900)), fps=30)
    segments = cut_up(source, Segmenting(max_seconds=600))
    assert [segment.start for segment in segments] == pytest.approx([0, 1013 / 30], abs=0.005)


def test_a_long_film_is_searched_in_stretches(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.readers.video.STRETCH_SECONDS", 4.0)
    source = clip(film((1, 25), (2, 15), (3, 41), (4, 39)), fps=10)  # a cut where a stretch begins, one just behind it
    whole = open_decoder(source, max_side=128)
    assert Videos().cuts(source, 0.0).next_start == 4.0
    assert [segment.start for segment in cut_up(source)] == pytest.approx([0, 2.5, 4.0, 8.1], abs=0.01)
    held = [len(_stretch(whole, start - 3.0, start + 4.0)) for start in (0.0, 4.0, 8.0)]
    assert max(held) <= 70, "what is held of a film is what one stretch has"


def test_out_of_time_the_search_ends_with_what_it_has(clip: Clip) -> None:
    decoder = open_decoder(clip(film((1, 40), (2, 40)), fps=10), max_side=128)
    assert find_cuts(decoder, deadline=time.monotonic() - 1) == []


def test_key_frames_serve_where_not_all_can_be_decoded(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = open_decoder(clip(film((1, 60), (2, 60)), fps=10), max_side=128)
    seen: list[int] = []
    read = decoder.read

    def slow(index: int) -> RGB:
        seen.append(index)
        now[0] += 0.1
        return read(index)

    now = [0.0]
    monkeypatch.setattr(decoder, "read", slow)
    monkeypatch.setattr("worker.readers.video.time.monotonic", lambda: now[0])
    cuts = find_cuts(decoder, deadline=3.0)
    assert set(seen[2:]) <= set(decoder.keys)
    assert now[0] <= 3.2
    assert all(5.0 <= cut <= 7.5 for cut in cuts)


def test_frames_are_evenly_spread_true_to_time_and_fit_the_side(clip: Clip) -> None:
    source = clip(shades(100, height=120, width=200), fps=10)
    frames = Videos().frames(source, Segment(number=1, start=2.0, end=6.0), count=4, max_side=100)
    assert frames.times == pytest.approx((2.5, 3.5, 4.5, 5.5), abs=0.01)
    assert [image.shape for image in frames.images] == [(60, 100, 3)] * 4
    assert [image.mean() / 2 for image in frames.images] == pytest.approx([25, 35, 45, 55], abs=2)
    assert frames.warnings == ()


def test_fewer_frames_where_there_are_fewer_and_never_larger_than_life(clip: Clip) -> None:
    frames = Videos().frames(clip(shades(3), fps=10), Segment(number=1, start=0, end=0.3), count=8, max_side=1000)
    assert frames.times == pytest.approx((0, 0.1, 0.2), abs=0.01)
    assert frames.images[0].shape == (48, 64, 3)


def test_one_frame_is_a_video(clip: Clip) -> None:
    source = clip(shades(1), fps=10)
    segments = cut_up(source)
    assert len(segments) == 1
    assert len(Videos().frames(source, segments[0], count=8, max_side=64).images) == 1


def test_limits_of_length_and_side_hold(clip: Clip) -> None:
    with pytest.raises(SourceError, match=r"lasts 5 s.*MAX_VIDEO_SECONDS") as caught:
        Videos().probe(clip(shades(50), fps=10, max_video_seconds=4), format="mp4")
    assert caught.value.code == Code.VIDEO_TOO_LONG
    frames = Videos().frames(
        clip(shades(5, height=128, width=128), max_frame_side=64),
        Segment(number=1, start=0, end=1),
        count=1,
        max_side=999,
    )
    assert frames.images[0].shape == (64, 64, 3)


def test_a_frame_that_fails_is_left_out_and_said(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    source, videos = clip(shades(20), fps=10), Videos()
    decoder = open_decoder(source, max_side=64)
    read = decoder.read

    def broken(index: int) -> RGB:
        if index >= 10:
            raise FrameError("damaged")
        return read(index)

    monkeypatch.setattr(decoder, "read", broken)
    monkeypatch.setattr("worker.readers.video.open_decoder", lambda *_, **__: decoder)
    frames = videos.frames(source, Segment(number=1, start=0, end=2), count=4, max_side=64)
    assert len(frames.images) == 2
    assert frames.warnings == ("2 of 4 frames could not be decoded (damaged video data)",)
    with pytest.raises(SourceError, match=r"damaged video data: no frame between 1\.00 and 2\.00 s"):
        videos.frames(source, Segment(number=2, start=1, end=2), count=4, max_side=64)


def test_a_file_cut_short_names_the_missing_part(clip: Clip, open_: Callable[..., Open]) -> None:
    whole = clip(shades(20)).path.read_bytes()
    with pytest.raises(SourceError, match="moov atom is missing"):
        Videos().probe(open_(whole[: whole.index(b"moov") - 4], "cut.mp4"), format="mp4")
    with pytest.raises(SourceError, match="damaged or truncated video"):
        Videos().probe(open_(b"\x1a\x45\xdf\xa3" + b"matroska" * 40, "junk.mkv"), format="mkv")


def test_the_second_decoder_agrees_with_the_first(clip: Clip) -> None:
    source = clip(shades(30, height=120, width=200), fps=10)
    first, second = open_decoder(source, max_side=100), _OpenCV(source.path, max_side=100)
    assert second.starts == pytest.approx(first.starts, abs=0.01)
    assert second.duration == pytest.approx(first.duration, abs=0.01)
    for index in (20, 3, 4, 29):
        assert second.read(index).shape == (60, 100, 3)
        assert second.read(index).mean() == pytest.approx(first.read(index).mean(), abs=3)
    with pytest.raises(FrameError):
        second.read(30)
