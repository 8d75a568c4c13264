"""The `fake` engine: deterministic, instant, and free of weights. For tests, and for trying a deployment out.

Its model string may hold comma-separated switches: `delay=0.05` (seconds per request), `fail=every:7` (each seventh
request raises EngineError), `hang` (requests end only by cancel, deadline or close), `text=...` (what every request
answers; a comma ends it), `quick=...` (requests in which these words occur neither hang nor pass a delay; a comma ends
it), `die=...` (kill -9 of this process, after the delay, by a request in which these words occur, or a picture's size
and mean colour: "160x120 #0a0a0a"; a comma ends it). Unknown switches raise SetupError.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from domain.errors import Code, EngineError, SetupError
from worker.engines.base import Completion, FinishReason, Line, Purpose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.engines.base import RGB, EngineConfig, Request

WORKERS = 4
POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    delay_seconds: float = 0.0
    fail_every: int = 0
    hang: bool = False
    text: str | None = None
    quick: str | None = None
    die: str | None = None


class FakeEngine:
    """An Engine whose answers depend on the request alone."""

    name = "fake"

    def __init__(self, *, switches: Switches | None = None, model: str = "fake", context_tokens: int = 2048) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.page_pixels = 1024
        self._switches = switches or Switches()
        self._numbers = count(1)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fake-engine")

    def submit(self, request: Request) -> Future[Completion]:
        if self._closed.is_set():
            return _failed(EngineError("the engine is closed"))
        prompt_tokens = sum(self.count_tokens(turn.text) for turn in request.turns)
        if prompt_tokens >= self.context_tokens:
            message = f"the prompt has {prompt_tokens} tokens and the context {self.context_tokens}"
            return _failed(EngineError(message, code=Code.CONTEXT_TOO_LONG, retryable=False))
        return self._pool.submit(self._complete, request, number=next(self._numbers), prompt_tokens=prompt_tokens)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True)

    def _complete(self, request: Request, *, number: int, prompt_tokens: int) -> Completion:
        every = self._switches.fail_every
        if every and number % every == 0:
            raise EngineError(f"the fake engine fails every {every} requests, and this was number {number}")
        interrupted = self._wait(request)
        if interrupted is not None:
            return Completion(text="", finish_reason=interrupted, prompt_tokens=prompt_tokens)
        if self._switches.die is not None and self._switches.die in "\n".join(_parts(request)):
            os.kill(os.getpid(), signal.SIGKILL)
        text, reason = _clipped(self._answer(request), request)
        lines = tuple(_line(image) for image in request.images) if request.purpose is Purpose.READ else ()
        new_tokens = self.count_tokens(text)
        return Completion(
            text=text, finish_reason=reason, prompt_tokens=prompt_tokens, new_tokens=new_tokens, lines=lines
        )

    def _wait(self, request: Request) -> FinishReason | None:
        """Pass the delay; says what cut it short. A request that is cancelled or late before it starts is cut short."""
        ends_at = None if self._switches.hang else time.monotonic() + self._switches.delay_seconds
        if self._switches.quick is not None and self._switches.quick in "\n".join(_parts(request)):
            ends_at = time.monotonic()
        while True:
            if self._closed.is_set() or (request.cancel is not None and request.cancel.is_set()):
                return FinishReason.CANCELLED
            now = time.monotonic()
            if request.deadline_at is not None and now >= request.deadline_at:
                return FinishReason.DEADLINE
            if ends_at is not None and now >= ends_at:
                return None
            self._closed.wait(POLL_SECONDS)

    def _answer(self, request: Request) -> str:
        if self._switches.text is not None:
            return self._switches.text
        if request.purpose is Purpose.WRITE:
            return f"[{_digest(request)}] {' '.join(_words(request))}".strip()
        return "\n".join(f"{request.purpose} {_name(image)}" for image in request.images)


def create(config: EngineConfig) -> FakeEngine:
    """The factory. Raises SetupError for a model string that it does not understand."""
    model = config.model or "fake"
    switches = parse_switches("" if model == "fake" else model)
    return FakeEngine(switches=switches, model=model, context_tokens=config.context_tokens)


def parse_switches(text: str) -> Switches:
    found = Switches()
    for item in filter(None, (item.strip() for item in text.split(","))):
        found = _with(found, item)
    return found


def _with(switches: Switches, item: str) -> Switches:
    key, _, value = item.partition("=")
    try:
        match key:
            case "delay":
                return replace(switches, delay_seconds=float(value))
            case "fail":
                return replace(switches, fail_every=int(value.removeprefix("every:")))
            case "hang":
                return replace(switches, hang=True)
            case "text":
                return replace(switches, text=value)
            case "quick" if value:
                return replace(switches, quick=value)
            case "die" if value:
                return replace(switches, die=value)
    except ValueError as error:
        raise SetupError(_unknown(item)) from error
    raise SetupError(_unknown(item))


def _unknown(item: str) -> str:
    known = "delay=SECONDS, fail=every:N, hang, text=ANSWER, quick=WORDS and die=WORDS"
    return f"the fake engine does not understand {item!r}: it knows {known}"


def _failed(error: EngineError) -> Future[Completion]:
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future


def _clipped(text: str, request: Request) -> tuple[str, FinishReason]:
    for stop in request.stop:
        text = text.partition(stop)[0] if stop else text
    words = text.split()
    if len(words) <= request.max_new_tokens:
        return text, FinishReason.STOP
    return " ".join(words[: request.max_new_tokens]), FinishReason.LENGTH


def _words(request: Request) -> list[str]:
    return request.turns[-1].text.split()[:12] if request.turns else []


def _digest(request: Request) -> str:
    return hashlib.sha256("\0".join(_parts(request)).encode()).hexdigest()[:8]


def _parts(request: Request) -> Iterator[str]:
    for turn in request.turns:
        yield f"{turn.role}:{turn.text}"
    for image in request.images:
        yield _name(image)
    if request.sampling.temperature:
        yield f"seed:{request.sampling.seed}"


def _name(image: RGB) -> str:
    """The size of a picture and a hash of its mean colour."""
    height, width = image.shape[:2]
    colour = np.asarray(image, np.uint64).reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return f"{width}x{height} #{bytes(colour).hex()}"


def _line(image: RGB) -> tuple[Line, ...]:
    height, width = float(image.shape[0]), float(image.shape[1])
    box = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return (Line(text=f"{Purpose.READ} {_name(image)}", box=box, confidence=1.0),)
