"""Videos: how long they are, where they are cut, and frames by time. Decoding itself is in decoders.py.

Frames are sampled by their true times, never by index over an average rate: phones and screen recorders vary it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from domain.errors import SourceError
from worker.readers import scenes
from worker.readers.base import Cuts, Frames, Media, Open, Probe, Segment, Segmenting
from worker.readers.decoders import Decoder, FrameError, open_decoder, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.readers.base import RGB

STRETCH_SECONDS = 600.0
"""A film is searched for cuts in stretches of so many seconds, each a read of its own: what is held at a time stays
small (about 70 MB), and each stretch has the time of a read."""
_OVERLAP_SECONDS = 3.0
"""What is looked at before a stretch, so that a cut at its beginning has neighbours."""
_SCAN_SIDE = 128
"""Longer side of the frames that are compared to find cuts."""
_SCAN_ALL = 1500
"""Up to so many frames of a stretch, each is looked at; above, samples are, and the frames around a change."""
_SCAN_FPS = 8.0
_SCAN_SHARE = 0.5
"""Part of the read limit that looking for cuts may take; after that, what was found has to do."""


@dataclass(slots=True)
class _Opened:
    key: tuple[object, ...]
    decoder: Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    """The frames that were looked at. `exact` is True where the list is dense enough to refine between neighbours."""

    indexes: list[int]
    looks: list[scenes.Look]
    exact: bool


@dataclass(slots=True)
class Videos:
    """The video reader. It keeps the last file open: the segments of one video usually come to one child in a row."""

    _opened: _Opened | None = field(default=None)

    def probe(self, source: Open, *, format: str) -> Probe:
        decoder = self._open(source, max_side=_SCAN_SIDE)
        size = self._size(decoder, source)
        return Probe(
            media=Media.VIDEO,
            format=format,
            duration_seconds=decoder.duration,
            frames=len(decoder.starts),
            width=size[0],
            height=size[1],
        )

    def cuts(self, source: Open, start: float) -> Cuts:
        decoder = self._open(source, max_side=_SCAN_SIDE)
        deadline = time.monotonic() + source.limits.read_seconds * _SCAN_SHARE
        end = start + STRETCH_SECONDS
        found = find_cuts(decoder, deadline=deadline, start=start, end=end)
        return Cuts(times=tuple(found), next_start=end if end < decoder.duration else None)

    def _size(self, decoder: Decoder, source: Open) -> tuple[int, int]:
        """Width and height as the container says, or, where only decord can open it, as the first frame has them."""
        if header := read_header(source.path):
            return header.width, header.height
        try:
            height, width = decoder.read(0).shape[:2]
        except FrameError as error:  # though it was decoded once, when the file was opened
            self._opened = None
            raise SourceError(f"{source.label}: damaged video data: the first frame cannot be decoded again") from error
        return width, height

    def segments(self, source: Open, how: Segmenting, cuts: Sequence[float]) -> tuple[Segment, ...]:
        decoder = self._open(source, max_side=_SCAN_SIDE)
        return scenes.make_segments(cuts, duration=decoder.duration, how=how, max_segments=source.limits.max_segments)

    def frames(self, source: Open, segment: Segment, *, count: int, max_side: int) -> Frames:
        decoder = self._open(source, max_side=min(max_side, source.limits.max_frame_side))
        wanted = pick(decoder.starts, segment, count=count)
        images, times = self._read(decoder, wanted)
        if not images:
            raise SourceError(
                f"{source.label}: damaged video data: no frame between {segment.start:.2f} and {segment.end:.2f} s "
                "can be decoded"
            )
        lost = len(wanted) - len(images)
        warnings = (f"{lost} of {len(wanted)} frames could not be decoded (damaged video data)",) if lost else ()
        return Frames(
            start=segment.start, end=segment.end, images=tuple(images), times=tuple(times), lost=lost, warnings=warnings
        )

    def _read(self, decoder: Decoder, wanted: Sequence[int]) -> tuple[list[RGB], list[float]]:
        images, times = [], []
        for index in wanted:
            try:
                images.append(decoder.read(index))
                times.append(float(decoder.starts[index]))
            except FrameError:
                self._opened = None  # a decoder that failed once is not used for another call
        return images, times

    def _open(self, source: Open, *, max_side: int) -> Decoder:
        stat = source.path.stat()
        key = (source.path, stat.st_mtime_ns, stat.st_size, max_side)
        if self._opened is None or self._opened.key != key:
            self._opened = None  # freed before the next is opened: two decoders are twice the memory
            self._opened = _Opened(key, open_decoder(source, max_side=max_side))
        decoder = self._opened.decoder
        source.limits.check_video_seconds(decoder.duration, name=source.label)
        return decoder


def pick(starts: Sequence[float] | np.ndarray, segment: Segment, *, count: int) -> list[int]:
    """Indexes of the frames that are on screen at the middles of `count` equal bins of the segment; no frame twice."""
    times = np.asarray(starts, dtype=np.float64)
    middles = segment.start + (segment.end - segment.start) * (np.arange(count) + 0.5) / count
    shown = np.searchsorted(times, middles, side="right") - 1
    first = int(np.searchsorted(times, segment.start - 1e-6, side="left"))
    last = int(np.searchsorted(times, segment.end - 1e-6, side="left")) - 1
    if first <= last:  # the segment has frames of its own: none of its neighbours' then
        shown = np.clip(shown, first, last)
    return [int(index) for index in np.unique(np.clip(shown, 0, len(times) - 1))]


def find_cuts(decoder: Decoder, *, deadline: float, start: float = 0.0, end: float = float("inf")) -> list[float]:
    """Times in [start, end) of the frames that begin a new scene.

    Stops at the deadline (time.monotonic) and keeps what it has.
    """
    scan = _scan(decoder, _stretch(decoder, start - _OVERLAP_SECONDS, end), deadline=deadline)
    hard = scenes.find_cuts(scan.looks)
    gradual = scenes.find_blends(scan.looks, cuts=hard) if scan.exact else []
    cuts = []
    for at in sorted({*hard, *gradual}):
        index = scan.indexes[at]
        if scan.exact and time.monotonic() < deadline:
            index = _refine(decoder, scan.indexes[at - 1], index)
        cuts.append(float(decoder.starts[index]))
    return [cut for cut in cuts if start <= cut < end]


def _stretch(decoder: Decoder, start: float, end: float) -> range:
    """The frames that begin in [start, end)."""
    first, last = np.searchsorted(decoder.starts, (start, end), side="left")
    return range(int(first), int(last))


def _scan(decoder: Decoder, stretch: range, *, deadline: float) -> _Scan:
    wanted = _samples(decoder, stretch)
    keys = [key for key in decoder.keys if key in stretch]
    begun = time.monotonic()
    # Samples in the order of time decode every frame between them. A trial tells whether that can be afforded.
    trial = max(1, len(wanted) // 50)
    indexes, looks = _look(decoder, wanted[:trial], deadline=deadline)
    estimate = (time.monotonic() - begun) * len(wanted) / trial
    if time.monotonic() + estimate <= deadline or len(keys) < 2:
        more, their_looks = _look(decoder, wanted[trial:], deadline=deadline)
        return _Scan(indexes=indexes + more, looks=looks + their_looks, exact=True)
    return _scan_keys(decoder, keys, deadline=deadline)


def _scan_keys(decoder: Decoder, keys: Sequence[int], *, deadline: float) -> _Scan:
    """Only key frames: each costs one decoded frame. Encoders put them at cuts, so they are a fair second best."""
    begun = time.monotonic()
    indexes, looks = _look(decoder, keys[:2], deadline=deadline)
    each = max(1e-4, (time.monotonic() - begun) / 2)
    affordable = max(2, int((deadline - time.monotonic()) / each))
    stride = max(1, -(-len(keys) // affordable))
    indexes, looks = _look(decoder, keys[::stride], deadline=deadline)
    return _Scan(indexes=indexes, looks=looks, exact=False)


def _samples(decoder: Decoder, stretch: range) -> list[int]:
    if len(stretch) <= _SCAN_ALL:
        return list(stretch)
    start, last = (float(decoder.starts[index]) for index in (stretch.start, stretch.stop - 1))
    count = int(max((last - start) * _SCAN_FPS, _SCAN_ALL))
    return pick(decoder.starts, Segment(number=1, start=start, end=last), count=count)


def _look(decoder: Decoder, wanted: Iterable[int], *, deadline: float) -> tuple[list[int], list[scenes.Look]]:
    indexes: list[int] = []
    looks: list[scenes.Look] = []
    for index in wanted:
        if time.monotonic() > deadline:
            break
        try:
            look = scenes.Look(decoder.read(index))
        except (FrameError, cv2.error):
            continue
        indexes.append(index)
        looks.append(look)
    return indexes, looks


def _refine(decoder: Decoder, before: int, after: int) -> int:
    """The very frame of the cut, between two samples."""
    if after - before <= 1:
        return after
    indexes, looks = _look(decoder, range(before, after + 1), deadline=float("inf"))
    return indexes[scenes.biggest_change(looks)] if len(looks) > 1 else after
