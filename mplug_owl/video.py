"""Frames of a video file, chosen and decoded as the original does it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Frames: TypeAlias = npt.NDArray[np.uint8]
"""Frames of a clip in order of time: (frames, height, width, 3)."""

DECODED_SIDE = 224
"""Frames are decoded to this square whatever the file's shape and the encoder's size."""


def frame_indices(total: int, count: int) -> list[int]:
    """Which `count` of `total` frames stand for a clip: the middles of equal stretches, repeated if there are fewer.

    With s = (total - 1) / count, the first is int(s / 2) and the others lie round(s * i) behind it, halves to the even
    number.

    Raises:
        ValueError: one of the two is not positive.
    """
    if total < 1 or count < 1:
        raise ValueError(f"{count} of {total} frames: both numbers must be at least 1")
    stride = (total - 1) / count
    first = int(stride / 2)
    return [first + round(stride * number) for number in range(count)]


def read_frames(path: str | Path, count: int) -> Frames:
    """`count` frames of a video file, (count, 224, 224, 3), by decord's own scaler.

    decord can crash, or spin for ever while it holds the interpreter's lock, on a file made to do so: decode files of
    strangers in a process that can be killed, and give the processor the frames.

    Raises:
        ImportError: decord is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or `count` is not positive.
    """
    try:
        import decord
        from decord._ffi.base import DECORDError
    except ImportError as error:
        raise ImportError("videos given as files need decord: pip install decord, or give decoded frames") from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    try:
        reader = decord.VideoReader(str(path), width=DECODED_SIDE, height=DECODED_SIDE)
        indices = frame_indices(len(reader), count)
        frames: Frames = reader.get_batch(indices).asnumpy()
    except (
        RuntimeError,
        DECORDError,
    ) as error:  # what cannot be opened is the first, what breaks on the way the second
        raise ValueError(f"{path}: cannot be decoded as a video ({str(error).strip().splitlines()[-1]})") from error
    return frames
