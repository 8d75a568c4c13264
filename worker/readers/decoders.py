"""Frames out of a video file, one at a time, through decord or, where that cannot open it, through OpenCV's FFmpeg.

A decoder knows indexes and true times; which frames are wanted, and why, is video.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import decord
import numpy as np
import numpy.typing as npt
from decord._ffi.base import DECORDError

from domain.errors import Code, SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from worker.readers.base import RGB, Open

Times = npt.NDArray[np.float64]

# Codecs that at least one of the two decoders has: with these, a first frame that fails is damage, not lack of support.
_KNOWN_CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "mpeg2", "mjpeg", "theora", "wmv", "flv1"})
_CODEC_NAMES = {
    "AV01": "av1",
    "AVC1": "h264",
    "H264": "h264",
    "HEVC": "hevc",
    "HEV1": "hevc",
    "HVC1": "hevc",
    "VP80": "vp8",
    "VP90": "vp9",
    "FMP4": "mpeg4",
    "MP4V": "mpeg4",
    "XVID": "mpeg4",
    "DIVX": "mpeg4",
    "MPG2": "mpeg2",
    "MJPG": "mjpeg",
    "THEO": "theora",
    "WMV2": "wmv",
    "WMV3": "wmv",
    "FLV1": "flv1",
    "VVC1": "vvc",
}


class FrameError(Exception):
    """One frame cannot be decoded."""


class Decoder(Protocol):
    """`starts[i]` is when frame i appears, in seconds from the video's start; the last is shown until `duration`."""

    starts: Times
    duration: float
    keys: tuple[int, ...]

    def read(self, index: int) -> RGB:
        """Frame `index`, upright. Raises FrameError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the container says of its video stream, read without decoding. Width and height are upright."""

    codec: str
    width: int
    height: int
    frames: int


def read_header(path: Path) -> Header | None:
    """None if OpenCV finds no video stream, or cannot open the file at all."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            return None
        return Header(
            codec=_codec(int(capture.get(cv2.CAP_PROP_FOURCC))),
            width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            frames=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
        )
    finally:
        capture.release()


def open_decoder(source: Open, *, max_side: int) -> Decoder:
    """The first decoder that gives frame 0, its frames at most `max_side` on the longer side.

    Raises:
        SourceError: neither does; the code says whether it is the codec, the stream or damage.
    """
    header = read_header(source.path)
    if header is not None:  # decord makes room for every frame that a container claims
        source.limits.check_video_frames(header.frames, name=source.label)
    if header is not None and min(header.width, header.height) > 0:
        # FFmpeg allocates whole frames whatever size is asked of it afterwards.
        source.limits.check_image_pixels(header.width, header.height, name=f"{source.label} (a frame)")
    try:
        return _Decord(source.path, size=fit(header, max_side=max_side))
    except (RuntimeError, DECORDError, FrameError) as error:
        refusal = _why(source, header, str(error))
    if header is None or header.frames == 0:
        raise refusal
    try:
        return _OpenCV(source.path, max_side=max_side)
    except FrameError:
        raise refusal from None


def fit(header: Header | None, *, max_side: int) -> tuple[int, int] | None:
    """Width and height to decode at, in the video's own shape; None to leave them as they are."""
    if header is None or min(header.width, header.height) <= 0:
        return None
    scale = min(1.0, max_side / max(header.width, header.height))
    return max(1, round(header.width * scale)), max(1, round(header.height * scale))


class _Decord:
    def __init__(self, path: Path, *, size: tuple[int, int] | None) -> None:
        decord.logging.set_level(decord.logging.QUIET)
        width, height = size or (-1, -1)
        # One thread: two cost more CPU in total, and the work is split by files anyway.
        self._reader: Any = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
        if len(self._reader) == 0:
            raise FrameError("no frames")
        # A fresh reader that seeks first returns rubbish for some streams without saying so (4:4:4 H.264 of old x264).
        self.read(0)
        shown = np.asarray(self._reader.get_frame_timestamp(np.arange(len(self._reader))), dtype=np.float64)
        # decord counts in single precision: milliseconds are what is left of it after some hours.
        shown = np.round(shown - shown[0, 0], 3)
        self.starts: Times = np.maximum.accumulate(shown[:, 0])
        self.duration = _duration(self.starts, end=float(shown[-1, 1]), fps=self._reader.get_avg_fps())
        self.keys: tuple[int, ...] = tuple(int(key) for key in self._reader.get_key_indices())

    def read(self, index: int) -> RGB:
        try:
            return cast("RGB", np.ascontiguousarray(self._reader[index].asnumpy()))
        except (RuntimeError, DECORDError, IndexError) as error:
            raise FrameError(str(error).splitlines()[0] if str(error) else "decoding failed") from error


class _OpenCV:
    """Reads forward only; going back opens the file anew. Seeking by frame is not exact in OpenCV."""

    def __init__(self, path: Path, *, max_side: int) -> None:
        self._path, self._max_side = path, max_side
        self._rewind()
        fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0
        starts = []
        while self._capture.grab():
            starts.append(float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000)
        if not starts:
            raise FrameError("no frames")
        self.starts: Times = np.maximum.accumulate(np.array(starts) - starts[0])
        self.duration = _duration(self.starts, end=0.0, fps=fps)
        self.keys: tuple[int, ...] = ()
        self._rewind()
        self.read(0)

    def read(self, index: int) -> RGB:
        if index < self._next:
            self._rewind()
        while self._next <= index:
            if not self._capture.grab():
                raise FrameError("decoding failed")
            self._next += 1
        found, image = self._capture.retrieve()
        if not found or image is None:
            raise FrameError("decoding failed")
        return self._shrunk(cast("RGB", image))

    def _rewind(self) -> None:
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        self._next = 0

    def _shrunk(self, image: RGB) -> RGB:
        scale = self._max_side / max(image.shape[:2])
        if scale < 1:
            image = cast("RGB", cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        return cast("RGB", np.ascontiguousarray(image[..., ::-1]))


def _duration(starts: Times, *, end: float, fps: float) -> float:
    """Until the last frame ends; some containers do not say how long that one is shown."""
    frame = 1.0 / fps if fps > 0 else 0.04
    return max(end, float(starts[-1]) + min(frame, 1.0)) if end <= float(starts[-1]) else end


def _codec(fourcc: int) -> str:
    name = "".join(chr(fourcc >> 8 * byte & 0xFF) for byte in range(4)).strip("\0 ").upper()
    return _CODEC_NAMES.get(name, name.lower())


def _why(source: Open, header: Header | None, complaint: str) -> SourceError:
    label = source.label
    if header is None:
        return _why_not_opened(source, complaint)
    if header.frames == 0:
        return SourceError(f"{label}: the video has no frames", code=Code.NO_FRAMES)
    if header.codec not in _KNOWN_CODECS:
        return SourceError(
            f"{label}: unsupported codec {header.codec or 'unknown'} (no decoder for it is installed)",
            code=Code.CODEC_UNSUPPORTED,
        )
    return SourceError(f"{label}: damaged video data ({header.codec}): not even the first frame can be decoded")


def _why_not_opened(source: Open, complaint: str) -> SourceError:
    if "cannot find video stream" in complaint:
        return SourceError(f"{source.label} has no video stream", code=Code.NO_VIDEO_STREAM)
    if _lacks_moov(source.path):
        return SourceError(f"{source.label}: truncated MP4 (the moov atom is missing)")
    return SourceError(f"{source.label}: damaged or truncated video; it cannot be opened")


def _lacks_moov(path: Path) -> bool:
    """Walks the top-level boxes of an MP4 or MOV."""
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] not in {b"ftyp", b"mdat", b"wide", b"free", b"styp"}:
            return False
        at, size = 0, path.stat().st_size
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            if head[4:8] in {b"moov", b"moof"}:
                return False
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:16], "big") if length == 1 else length
            if length < 8:
                break
            at += length
    return True
