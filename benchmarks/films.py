"""Makes films whose cuts are known: procedural shots with drifting cameras, moving things and grain, joined in ways
that a search for cuts takes for granted or stumbles over. No footage is needed.

`make(style, seed=…)` gives the frames' pictures and the truth; `write` encodes them (MPEG-4 in MP4, OpenCV).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.readers.base import RGB

    Picture = npt.NDArray[np.float32]

WIDTH, HEIGHT, FPS = 256, 144, 25
SHOTS = 21
STYLES = ("hard", "similar", "flashes", "pans", "fades", "dissolves", "grain", "mixed")
SHORTEST, LONGEST = 30, 50
"""Frames of a shot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Frames first..last are where the new scene may be said to begin: one frame for a hard cut, the whole of a fade or
    a dissolve."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    frames: tuple[RGB, ...]
    cuts: tuple[Cut, ...]


def make(style: str, *, seed: int = 0, shots: int = SHOTS) -> Film:
    """`shots` shots, so one cut less. Raises ValueError for a style that is not among STYLES."""
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; known are {', '.join(STYLES)}")
    random = np.random.default_rng([seed, STYLES.index(style)])
    world = _world(random) if style == "similar" else None
    takes = [_shot(random, style=style, number=number, world=world) for number in range(shots)]
    joins = [_join_of(style, number) for number in range(shots - 1)]
    return _joined(takes, joins, grain=9.0 if style == "grain" else 2.5, random=random)


def write(film: Film, path: Path, *, fps: float = FPS) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, film.frames[0].shape[1::-1])
    for frame in film.frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def _join_of(style: str, number: int) -> str:
    """How a shot goes over into the next: at once, through black, or one into the other."""
    if style == "mixed":
        return ("hard", "dissolves", "hard", "fades", "hard")[number % 5]
    return style if style in ("fades", "dissolves") else "hard"


def _joined(takes: list[list[Picture]], joins: list[str], *, grain: float, random: np.random.Generator) -> Film:
    frames: list[Picture] = list(takes[0])
    cuts = []
    for take, join in zip(takes[1:], joins, strict=True):
        length = 1 if join == "hard" else int(random.integers(10, 18))
        cuts.append(_append(frames, take, join=join, length=length))
    return Film(frames=tuple(_grainy(frame, grain, random) for frame in frames), cuts=tuple(cuts))


def _append(frames: list[Picture], take: list[Picture], *, join: str, length: int) -> Cut:
    """Puts the next shot behind the frames there are; says where the cut is."""
    at = len(frames)
    if join == "hard":
        frames.extend(take)
        return Cut(first=at, last=at)
    shares = [(step + 1) / (length + 1) for step in range(length)]
    if join == "dissolves":
        for step, share in enumerate(shares):
            frames[at - length + step] = frames[at - length + step] * (1 - share) + take[step] * share
        frames.extend(take[length:])
        return Cut(first=at - length, last=at)
    for step, share in enumerate(shares):
        frames[at - length + step] = frames[at - length + step] * (1 - share)
        take[step] = take[step] * share
    frames.extend(take)
    return Cut(first=at - length, last=at + length)


def _grainy(frame: Picture, grain: float, random: np.random.Generator) -> RGB:
    noise = random.normal(0, grain, frame.shape[:2]).astype(np.float32)
    return np.asarray(np.clip(frame + noise[..., None], 0, 255), np.uint8)


def _shot(random: np.random.Generator, *, style: str, number: int, world: Picture | None) -> list[Picture]:
    length = int(random.integers(SHORTEST, LONGEST))
    backdrop = _world(random) if world is None else world
    whip = style in ("pans", "mixed") and number % 2 == 1
    path = _whip(random, length, backdrop) if whip else _drift(random, length, backdrop)
    things = _things(random)
    frames = []
    for step, (x, y, zoom) in enumerate(path):
        frame = _view(backdrop, x, y, zoom)
        for thing in things:
            thing.draw(frame, step)
        frames.append(frame)
    if style in ("flashes", "mixed") and number % 2 == 0:
        _flash(frames, random)
    return frames


def _flash(frames: list[Picture], random: np.random.Generator) -> None:
    """One or two frames, nearly white, well inside the shot."""
    at = int(random.integers(8, len(frames) - 10))
    for step in range(int(random.integers(1, 3))):
        frames[at + step] = frames[at + step] * 0.15 + 215


def _world(random: np.random.Generator) -> Picture:
    """A scenery four frames wide: clouds of colour in four octaves, and blocks with edges."""
    height, width = HEIGHT * 2, WIDTH * 4
    colours = random.uniform(20, 235, (2, 3))
    picture = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = random.normal(0, 1, (3 * 2**octave, 8 * 2**octave)).astype(np.float32)
        picture += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    share = np.clip(picture / 4 + 0.5, 0, 1)[..., None]
    world: Picture = np.asarray(colours[0] * (1 - share) + colours[1] * share, np.float32)
    for _ in range(40):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        w, h = int(random.integers(10, 90)), int(random.integers(10, 80))
        shade = colours[int(random.integers(0, 2))] + random.normal(0, 45, 3)
        cv2.rectangle(world, (x, y), (x + w, y + h), tuple(np.clip(shade, 0, 255).tolist()), -1)
    return world


def _drift(random: np.random.Generator, length: int, world: Picture) -> Iterator[tuple[float, float, float]]:
    """A camera that hardly moves: x, y of the view's corner and its zoom, per frame."""
    x, y = random.uniform(40, WIDTH * 3 - 60), random.uniform(10, HEIGHT - 40)
    dx, dy, growth = random.uniform(-0.8, 0.8), random.uniform(-0.3, 0.3), random.uniform(-0.002, 0.002)
    for step in range(length):
        yield x + dx * step, y + dy * step, 1 + growth * step


def _whip(random: np.random.Generator, length: int, world: Picture) -> Iterator[tuple[float, float, float]]:
    """A camera that stands, swings by one to two frames' width in a third of a second, and stands again."""
    x, y = random.uniform(20, WIDTH * 0.9), random.uniform(10, HEIGHT - 40)
    far = random.uniform(WIDTH, WIDTH * 1.9)
    begin, swing = length // 2 - 4, 9
    for step in range(length):
        share = min(1.0, max(0.0, (step - begin) / swing))
        yield x + far * (3 * share**2 - 2 * share**3), y, 1.0


def _view(world: Picture, x: float, y: float, zoom: float) -> Picture:
    turn = np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]], np.float32)
    return np.array(cv2.warpAffine(world, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """Something that crosses the picture: an ellipse with a colour, in pixels and pixels per frame."""

    x: float
    y: float
    dx: float
    size: int
    colour: tuple[float, float, float]

    def draw(self, frame: Picture, step: int) -> None:
        middle = (int(self.x + self.dx * step), int(self.y))
        cv2.ellipse(frame, middle, (self.size, self.size * 2), 0, 0, 360, self.colour, -1)


def _things(random: np.random.Generator) -> list[_Thing]:
    return [
        _Thing(
            x=float(random.uniform(0, WIDTH)),
            y=float(random.uniform(HEIGHT * 0.3, HEIGHT)),
            dx=float(random.uniform(-4, 4)),
            size=int(random.integers(6, 22)),
            colour=tuple(random.uniform(0, 255, 3).tolist()),
        )
        for _ in range(int(random.integers(1, 4)))
    ]
