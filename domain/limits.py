"""The bounds that are checked before memory, disk or time is spent on a source.

Each check names what was found, the limit and the setting that moves it.
"""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, Field

from domain.errors import Code, ParamsError, ReaderError, SourceError

DECODER_MIB = 180
"""Memory of a reader child that has its decoders loaded, and of the page that it gives back."""

TABLE_BYTES = 1024
"""Of the table of a zip file, for each member that it may have. Names are some dozens of bytes long."""
FREE_BYTES = 64 * 1024**2
"""Unpacked bytes to which the bound on the ratio does not apply: a small archive of blank pages is no bomb."""


class Limits(BaseModel):
    """Safe defaults; every field is a setting `NIGHTOWL_LIMITS__<NAME>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_source_bytes: int = Field(default=2 * 1024**3, gt=0, description="Largest source file, in bytes.")
    max_pages: int = Field(default=5_000, gt=0, description="Most pages (or image frames) that one job may have.")
    max_page_pixels: int = Field(
        default=12_000_000, gt=0, description="Pixels of one rendered page; a larger page is rendered smaller."
    )
    max_image_pixels: int = Field(
        default=200_000_000, gt=0, description="Pixels that an image file may claim before it is refused."
    )
    max_video_seconds: float = Field(default=6 * 3600.0, gt=0, description="Longest video, in seconds.")
    max_video_frames: int = Field(default=2_000_000, gt=0, description="Frames that a video may claim to have.")
    max_segments: int = Field(default=1_000, gt=0, description="Most segments that one video is cut into.")
    max_frame_side: int = Field(default=1280, ge=64, description="Longer side of a decoded video frame, in pixels.")
    max_text_bytes: int = Field(
        default=10_000_000,
        gt=0,
        description="Largest plain text or piece of markup (SVG, FB2, a chapter of an e-book), in bytes; each is laid "
        "out as a whole.",
    )
    max_members: int = Field(
        default=50_000, gt=0, description="Most members of a document that is a zip file: an e-book, XPS, a comic."
    )
    max_params_bytes: int = Field(default=1_000_000, gt=0, description="Params of one job, as JSON in bytes.")
    max_result_bytes: int = Field(
        default=64 * 1024**2, gt=0, description="Result of one job or one part, text and data as JSON, in bytes."
    )
    max_text_chars: int = Field(default=400_000, gt=0, description="Characters of text kept of one page.")
    max_pdf_bytes: int = Field(
        default=256 * 1024**2, gt=0, description="Largest searchable PDF that is made, in bytes."
    )
    read_seconds: float = Field(default=60.0, gt=0, description="Time for one read (probe, page or frames) in a child.")
    max_hard_parts: int = Field(
        default=16,
        gt=0,
        description="Parts of one job that may run out of a reader's time or memory, or crash it; where they are more "
        "than those that succeeded, the rest is not read.",
    )
    read_memory_mb: int = Field(default=1200, ge=256, description="Memory of one reader child, in MiB.")
    fetch_seconds: float = Field(
        default=300.0, gt=0, description="Time for fetching one source from the network, redirects and all."
    )
    connect_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Time for looking up the name of a server, and for connecting to one address of it.",
    )

    max_batch_entries: int = Field(
        default=1_000_000, gt=0, description="Most entries that one submit of a batch reads, all archives together."
    )
    max_batch_bytes: int = Field(
        default=512 * 1024**3, gt=0, description="Most bytes that the archives of one submit may unpack to."
    )
    max_archive_ratio: float = Field(
        default=200.0,
        ge=1,
        description="How many times its own bytes an archive, all depths together, or a document that is a zip may "
        "unpack to.",
    )
    max_archive_depth: int = Field(
        default=3, ge=1, le=20, description="How deep archives may lie in each other; 1 opens none inside of one."
    )

    def check_source_bytes(self, size: int, *, name: str) -> None:
        if size == 0:
            raise SourceError(f"{name} is an empty file (0 bytes)", code=Code.SOURCE_EMPTY)
        if size > self.max_source_bytes:
            raise SourceError(
                f"{name} has {size} bytes; the limit is {self.max_source_bytes} "
                "(setting NIGHTOWL_LIMITS__MAX_SOURCE_BYTES)",
                code=Code.SOURCE_TOO_LARGE,
            )

    def check_members(self, count: int, *, table_bytes: int, name: str) -> None:
        """Of a zip file; its table is read into memory whole."""
        if count > self.max_members:
            raise SourceError(
                f"{name} is a zip file of {count} members; the limit for one document is {self.max_members} "
                "(setting NIGHTOWL_LIMITS__MAX_MEMBERS)",
                code=Code.ARCHIVE_LIMIT,
            )
        if table_bytes > self.max_members * TABLE_BYTES:
            raise SourceError(
                f"{name} is a zip file whose table has {table_bytes} bytes; the limit is {TABLE_BYTES} for each of "
                f"{self.max_members} members (setting NIGHTOWL_LIMITS__MAX_MEMBERS)",
                code=Code.ARCHIVE_LIMIT,
            )

    def check_unpacked(self, unpacked: int, *, packed: int, name: str) -> None:
        """What the members of a zip file say that they unpack to, in bytes."""
        if unpacked > FREE_BYTES and unpacked > self.max_archive_ratio * packed:
            raise SourceError(
                f"{name} unpacks to {unpacked} bytes, {unpacked / packed:.0f} times its own {packed}; the limit is "
                f"{self.max_archive_ratio:g} times (setting NIGHTOWL_LIMITS__MAX_ARCHIVE_RATIO)",
                code=Code.ARCHIVE_LIMIT,
            )

    def check_pages(self, count: int, *, name: str) -> None:
        if count > self.max_pages:
            raise SourceError(
                f"{name} has {count} pages; the limit for one job is {self.max_pages} "
                "(setting NIGHTOWL_LIMITS__MAX_PAGES, or ask for fewer with the param pages)",
                code=Code.TOO_MANY_PAGES,
            )

    def check_image_pixels(self, width: int, height: int, *, name: str) -> None:
        if width <= 0 or height <= 0:
            raise SourceError(f"{name} has zero size ({width} x {height} pixels)", code=Code.IMAGE_INVALID)
        if width * height > self.max_image_pixels:
            raise SourceError(
                f"{name} is too large: {width} x {height} = {width * height} pixels; the limit is "
                f"{self.max_image_pixels} (setting NIGHTOWL_LIMITS__MAX_IMAGE_PIXELS)",
                code=Code.IMAGE_TOO_LARGE,
            )

    def check_decoding(self, width: int, height: int, *, needed: int, name: str) -> None:
        """`needed` is the memory for decoding a picture, in bytes; some is kept for the decoder and the result."""
        if needed + DECODER_MIB * 1024**2 > self.read_memory_mb * 1024**2:
            raise SourceError(
                f"{name} is too large to decode: its {width} x {height} pixels take {needed // 1024**2} MiB, the "
                f"decoder {DECODER_MIB}; the limit is {self.read_memory_mb} MiB "
                "(setting NIGHTOWL_LIMITS__READ_MEMORY_MB)",
                code=Code.IMAGE_TOO_LARGE,
            )

    def check_params(self, params: object) -> None:
        """Raises ParamsError, for whatever stands where a job's params should."""
        if (size := json_bytes(params)) > self.max_params_bytes:
            raise ParamsError(
                f"the params have {size} bytes; the limit is {self.max_params_bytes} "
                "(setting NIGHTOWL_LIMITS__MAX_PARAMS_BYTES)"
            )

    def check_hard_parts(self, hard: int, *, succeeded: int) -> None:
        """Raises ReaderError where a job costs reader after reader and hardly a part is read."""
        if hard >= self.max_hard_parts and hard > succeeded:
            raise ReaderError(
                f"not read: {hard} parts of the job ran out of a reader's time or memory, or crashed it; {succeeded} "
                f"succeeded; the limit is {self.max_hard_parts} (setting NIGHTOWL_LIMITS__MAX_HARD_PARTS)",
                code=Code.DEADLINE,
            )

    def check_result(self, size: int, *, name: str) -> None:
        """`size` in bytes, of text and data."""
        if size > self.max_result_bytes:
            raise SourceError(
                f"the result of {name} has {size} bytes; the limit is {self.max_result_bytes} "
                "(setting NIGHTOWL_LIMITS__MAX_RESULT_BYTES); parts that succeeded are kept and can be read one by one",
                code=Code.RESULT_TOO_LARGE,
            )

    def check_text_bytes(self, size: int, *, name: str, format: str) -> None:
        if size > self.max_text_bytes:
            raise SourceError(
                f"{name} has {size} bytes of {format}; the limit for text and markup is {self.max_text_bytes} "
                "(setting NIGHTOWL_LIMITS__MAX_TEXT_BYTES); cut it into several files",
                code=Code.SOURCE_TOO_LARGE,
            )

    def check_video_frames(self, count: int, *, name: str) -> None:
        if count > self.max_video_frames:
            raise SourceError(
                f"{name} says that it has {count} frames; the limit is {self.max_video_frames} "
                "(setting NIGHTOWL_LIMITS__MAX_VIDEO_FRAMES)",
                code=Code.VIDEO_TOO_LONG,
            )

    def check_video_seconds(self, seconds: float, *, name: str) -> None:
        if seconds > self.max_video_seconds:
            raise SourceError(
                f"{name} lasts {seconds:.0f} s; the limit is {self.max_video_seconds:.0f} s "
                "(setting NIGHTOWL_LIMITS__MAX_VIDEO_SECONDS)",
                code=Code.VIDEO_TOO_LONG,
            )


def json_bytes(value: object) -> int:
    """Bytes of a value as JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))
