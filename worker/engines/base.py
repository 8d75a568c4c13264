"""The contract of an engine, and the values that go in and come out.

An engine is one object per process, shared by all threads. `submit` returns at once; requests of many jobs advance
together. A request is cancelled by setting its `cancel` event; it then completes with `FinishReason.CANCELLED`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from concurrent.futures import Future
    from pathlib import Path

RGB: TypeAlias = npt.NDArray[np.uint8]
"""A picture: (height, width, 3), uint8."""


class Purpose(StrEnum):
    """What the caller wants, so that an engine may choose the expert or the prompt form for it."""

    READ = "read"  # write down the text that the images show
    DESCRIBE = "describe"  # say what the images show
    WRITE = "write"  # follow the instruction in the turns, looking at the images if there are any


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    REPETITION = "repetition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """temperature 0 is greedy. `top_k` 0 and `top_p` 1 are off. The same seed gives the same text."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One request. `turns` end with the user's; `deadline_at` is on the `time.monotonic()` clock, in seconds.

    `languages` are those of the text in the images, as the user named them ("en", "German"); empty if unknown. `clip`
    says that the images are frames of one clip, in order of time. `hint` is a sentence for the model with text that may
    help reading the images, and that may be wrong; an engine may ignore it.
    """

    purpose: Purpose = Purpose.WRITE
    turns: tuple[Turn, ...] = ()
    images: tuple[RGB, ...] = ()
    clip: bool = False
    languages: tuple[str, ...] = ()
    hint: str = ""
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    deadline_at: float | None = None
    cancel: threading.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of recognized text. `box` holds the four corners as (x, y) in pixels of the image, clockwise from the
    text's own top left; `confidence` is 0 to 1."""

    text: str
    box: tuple[tuple[float, float], ...]
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A thing that a tagger saw. `confidence` is 0 to 1."""

    name: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came back. `lines` and `labels` are what vision experts saw, one tuple per image; empty otherwise.

    `facts` holds what an engine wants kept with the part ({"rotation": 90}); JSON values only.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    new_tokens: int = 0
    lines: tuple[tuple[Line, ...], ...] = ()
    labels: tuple[tuple[Label, ...], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """Attributes: `name` (of the kind of engine), `model` (what exactly runs, for the job's row), `context_tokens`
    (prompt and answer together) and `page_pixels` (the longer side of a page image that suits it).

    An engine that recognizes text line by line may have `reads_scripts`: how the Unicode names of the letters that it
    knows begin ("LATIN"). A few lines of a text layer in these scripts are then held against the picture."""

    name: str
    model: str
    context_tokens: int
    page_pixels: int

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request. The future raises EngineError; a prompt over the context raises it with context_too_long."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def close(self) -> None:
        """Stop the threads; requests under way complete as cancelled. Safe to call twice."""
        ...


DEFAULT_SLOTS = 8
"""Of a language model on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What a factory needs. `model` is a local directory, a hub id or None for the engine's own default; `adapter` a
    LoRA adapter to lay over it; 0 slots or threads leave the number to the engine."""

    cache_dir: Path
    model: str | None = None
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    slots: int = 0
    context_tokens: int = 2048
    threads: int = 0
