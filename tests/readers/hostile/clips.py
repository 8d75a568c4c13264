"""Videos that lie about their length, their frames and their size, and such that hold nothing."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import cv2
import numpy as np

from tests.readers.hostile import case
from tests.readers.hostile.pictures import patched


def clip(name: str = "a.mp4", *, frames: int = 20, fps: float = 10.0, side: int = 64, codec: str = "mp4v") -> bytes:
    """A honest clip of grey frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (side, side))
        for number in range(frames):
            writer.write(np.full((side, side, 3), number % 256, np.uint8))
        writer.release()
        return path.read_bytes()


def at(content: bytes, box: bytes, offset: int) -> int:
    """Where the field at `offset` after the name of a box lies."""
    return content.index(box) + 4 + offset


def long(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


@case("mp4_of_no_bytes.mp4", "source_empty")
def _() -> bytes:
    return b""


@case("mp4_of_no_frames.mp4", "no_frames source_damaged no_video_stream")
def _() -> bytes:
    made = clip()
    return patched(
        made, (at(made, b"stsz", 8), long(0)), (at(made, b"stts", 4), long(0)), (at(made, b"stsc", 4), long(0))
    )


@case("mp4_header_only.mp4", "source_damaged")
def _() -> bytes:
    return clip()[:32]


@case("mp4_each_frame_lasts_an_hour.mp4", "video_too_long")
def _() -> bytes:
    """Twenty frames, twenty hours: so says the time table. The edit list, which knows better, is gone."""
    made = clip()
    scale = struct.unpack(">I", made[at(made, b"mdhd", 12) : at(made, b"mdhd", 16)])[0]
    return patched(made.replace(b"edts", b"free"), (at(made, b"stts", 12), long(scale * 3600)))


@case("mp4_says_ten_years.mp4", "ok video_too_long")
def _() -> bytes:
    """Only its headers say so."""
    made = clip()
    fields = [
        (at(made, name, offset), long(2**31 - 1)) for name, offset in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16))
    ]
    return patched(made, *fields)


@case("mp4_of_eleven_hours.mp4", "video_too_long", heavy=True)
def _() -> bytes:
    """It is what it says: a frame each ten seconds."""
    return clip(frames=4000, fps=0.1)


@case("mp4_says_65535x65535.mp4", "image_too_large source_damaged ok")
def _() -> bytes:
    made = clip()
    size = struct.pack(">HH", 65_535, 65_535)
    return patched(made, (at(made, b"mp4v", 24), size), (at(made, b"tkhd", 76), long(65_535 << 16) * 2))


@case("mp4_says_4_billion_frames.mp4", "source_damaged ok no_frames read_memory")
def _() -> bytes:
    made = clip()
    return patched(made, (at(made, b"stsz", 8), long(-1)))


@case("mp4_time_table_of_4_billion_frames.mp4", "source_damaged ok no_frames read_memory video_too_long")
def _() -> bytes:
    made = clip()
    return patched(made, (at(made, b"stts", 8), long(-1)))


@case("mp4_frames_of_4_gigabytes.mp4", "source_damaged ok no_frames read_memory")
def _() -> bytes:
    made = clip()
    return patched(made, (at(made, b"stsz", 4), long(-2)))


@case("mp4_time_of_no_scale.mp4", "source_damaged ok no_frames video_too_long")
def _() -> bytes:
    made = clip()
    return patched(made, (at(made, b"mdhd", 12), long(0)), (at(made, b"mvhd", 12), long(0)))


@case("mp4_boxes_in_boxes.mp4", "source_damaged no_video_stream no_frames reader_crashed")
def _() -> bytes:
    inner = b""
    for _ in range(20_000):
        inner = long(len(inner) + 8) + b"moov" + inner
    return long(16) + b"ftypisom" + long(0) + inner


@case("mp4_box_of_size_zero_and_one.mp4", "source_damaged no_video_stream no_frames")
def _() -> bytes:
    return long(16) + b"ftypisom" + long(0) + long(1) + b"mdat" + b"\xff" * 8 + long(0) + b"moov"


@case("mp4_half.mp4", "source_damaged ok no_frames")
def _() -> bytes:
    made = clip(frames=60)
    return made[: len(made) // 2]


@case("mp4_of_100000_frames.mp4", "ok read_timeout", heavy=True)
def _() -> bytes:
    return clip(frames=100_000, fps=30.0, side=16)


@case("avi_says_a_billion_frames.avi", "ok source_damaged no_frames video_too_long")
def _() -> bytes:
    made = clip("a.avi", codec="MJPG")
    header = made.index(b"strh")
    return patched(made, (made.index(b"avih") + 24, b"\xff\xff\xff\x3f"), (header + 40, b"\xff\xff\xff\x3f"))


@case("avi_says_65535x65535.avi", "image_too_large source_damaged ok")
def _() -> bytes:
    made = clip("a.avi", codec="MJPG")
    return patched(made, (made.index(b"strf") + 12, struct.pack("<ii", 65_535, 65_535)))


@case("avi_of_rate_zero.avi", "ok source_damaged no_frames video_too_long")
def _() -> bytes:
    made = clip("a.avi", codec="MJPG")
    return patched(made, (made.index(b"strh") + 28, bytes(8)), (made.index(b"avih") + 8, bytes(4)))


@case("avi_frame_of_20000x20000.avi", "ok source_damaged image_too_large no_frames read_memory")
def _() -> bytes:
    """The container says 64 x 64, its JPEG frames say another size."""
    made = bytearray(clip("a.avi", codec="MJPG"))
    start = 0
    while (start := made.find(b"\xff\xc0", start)) >= 0:
        made[start + 5 : start + 9] = struct.pack(">HH", 20_000, 20_000)
        start += 9
    return bytes(made)


@case("mkv_of_endless_size.mkv", "source_damaged no_video_stream no_frames")
def _() -> bytes:
    header = bytes.fromhex("1a45dfa3a3428681014 2f7810142f2810442f381084282886d6174726f736b61".replace(" ", ""))
    return header + bytes.fromhex("18538067") + b"\x01" + b"\xff" * 7 + b"\x1f\x43\xb6\x75" + b"\x01" + b"\xff" * 200


@case("ts_of_packets_of_nothing.ts", "source_damaged no_video_stream no_frames read_timeout")
def _() -> bytes:
    return (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 50_000


@case("flv_of_nothing.flv", "source_damaged no_video_stream no_frames")
def _() -> bytes:
    return b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + b"\x09\xff\xff\xff" * 1000


@case("asf_of_nothing.wmv", "source_damaged no_video_stream no_frames")
def _() -> bytes:
    return b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c" + b"\xff" * 5000


@case("ogg_of_nothing.ogv", "source_damaged no_video_stream no_frames")
def _() -> bytes:
    return b"OggS\0\2" + bytes(20) + b"\1\x1e\x01vorbis" + bytes(5000)
