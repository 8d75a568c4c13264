"""Captions as SubRip (SRT) and WebVTT. Format of WebVTT: https://www.w3.org/TR/webvtt1/"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A caption from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def to_srt(cues: Sequence[Cue]) -> str:
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_lines(cue.text)}\n"
        for number, cue in enumerate(cues, start=1)
    ]
    return "\n".join(blocks)


def to_vtt(cues: Sequence[Cue]) -> str:
    blocks = [f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escape(_lines(cue.text))}\n" for cue in cues]
    return "\n".join(["WEBVTT\n", *blocks])


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, milliseconds = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _lines(text: str) -> str:
    """No empty line, which would end the cue, and no arrow, which would begin one."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()).replace("-->", "→")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
