"""The contract of a reader: plain values that cross a process boundary by pickling.

A reader opens one kind of file. It runs only inside a child process (children.py): PyMuPDF is not thread-safe and
decord can spin for ever holding the GIL. The rest of the worker sees `Readers` (children.py) and these values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from domain.limits import Limits

RGB: TypeAlias = npt.NDArray[np.uint8]
"""A picture: (height, width, 3), uint8, RGB, C-contiguous."""


class Media(StrEnum):
    DOCUMENT = "document"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file is, found without rendering or decoding it all.

    `pages` counts pages of a document or frames of an image file (a TIFF or a GIF may have many); 0 for a video.
    `warnings` are sentences for people: "the file was damaged and has been repaired".
    """

    media: Media
    format: str
    pages: int = 0
    duration_seconds: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """One line of a text layer. `box` is (left, top, right, bottom) in pixels of the page's image.

    `block` numbers the paragraph or cell the line belongs to, in the file's order; `size` is the font size in points.
    """

    text: str
    box: tuple[float, float, float, float]
    block: int = 0
    size: float = 0.0
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """A table of a text layer. `box` is in pixels of the page's image; `rows` hold the text of the cells, "" for an
    empty one and None for one that a merged cell covers; all rows are of the same length."""

    box: tuple[float, float, float, float]
    rows: tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayer:
    """The text that a document carries itself. `trusted` is False where it must not be used instead of the image:

    glyphs without a Unicode map, replacement characters, an invisible layer of earlier OCR, or ink that it leaves out;
    `reason` says which. `lines` are in the file's order; those of `tables` are among them.
    `cut` says that it was longer than the limit.
    """

    lines: tuple[LayerLine, ...] = ()
    tables: tuple[LayerTable, ...] = ()
    cut: bool = False
    trusted: bool = True
    reason: str = ""

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page or image, upright as its file says (/Rotate, EXIF).

    `image` is the picture (height, width, 3); `scale` is pixels per point (for image
    files a point is a native pixel, so 1.0 where nothing was shrunk), `rotation` the turn in
    degrees that the file asked for and that is already applied. `blank` is True where no ink was found.
    """

    number: int
    image: RGB
    width_points: float
    height_points: float
    scale: float = 1.0
    rotation: int = 0
    blank: bool = False
    layer: TextLayer | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedText:
    """A line of text that was read. `quad` holds its four corners (x, y, x, y, …), clockwise from the text's own top
    left, in pixels of the page's image."""

    text: str
    quad: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPage:
    """What was read on page `number`, whose image had `width` x `height` pixels. No lines where the page has a good
    layer of its own; `replaces` says that an invisible layer makes room for them."""

    number: int
    width: float = 1.0
    height: float = 1.0
    lines: tuple[PlacedText, ...] = ()
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a video, in seconds from its start: start <= t < end."""

    number: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Times in seconds at which new scenes begin in a stretch of a video; `next_start` is that of the next stretch."""

    times: tuple[float, ...]
    next_start: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Frames of one segment, evenly spread over its time; `times[i]` is the true time of `images[i]`, in seconds.

    `lost` counts the frames that were wanted and could not be decoded.
    """

    start: float
    end: float
    images: tuple[RGB, ...]
    times: tuple[float, ...]
    lost: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenting:
    """How a video is cut: at scene cuts ("scene"), or every `seconds` ("seconds").

    Scenes longer than `max_seconds` are cut again, evenly; scenes shorter than `min_seconds` join their neighbour.
    """

    mode: str = "scene"
    seconds: float = 10.0
    min_seconds: float = 1.0
    max_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """What to open: the file, its limits, the password of an encrypted document. The password never shows in a repr."""

    path: Path
    limits: Limits
    name: str = ""
    password: str | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The name that messages use: what the user calls the file, not where we keep it."""
        return self.name or self.path.name


class DocumentReader(Protocol):
    """Pages of a document or of an image file. Raises SourceError; any other exception is a defect."""

    def probe(self, source: Open, *, format: str) -> Probe: ...

    def page(self, source: Open, number: int, *, format: str, target_pixels: int) -> Page:
        """Page `number` (1-based), about `target_pixels` on its longer side, never over the pixel limits."""
        ...


class VideoReader(Protocol):
    """Segments and frames of a video. Raises SourceError."""

    def probe(self, source: Open, *, format: str) -> Probe: ...

    def cuts(self, source: Open, start: float) -> Cuts:
        """The cuts of the stretch that begins at `start` seconds."""
        ...

    def segments(self, source: Open, how: Segmenting, cuts: Sequence[float]) -> tuple[Segment, ...]: ...

    def frames(self, source: Open, segment: Segment, *, count: int, max_side: int) -> Frames: ...
