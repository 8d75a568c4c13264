"""The engine of the runs: the fake one, but for pictures whose size asks for harm.

A picture of 64 × `DIES` pixels kills the worker, one of 64 × `HANGS` is never answered, whatever is asked.
"""

from __future__ import annotations

import signal
from concurrent.futures import Future
from typing import TYPE_CHECKING

from domain.errors import Code, EngineError
from tests.chaos.seams import Chaos, Point
from tests.chaos.switches import Switches
from worker.engines.fake import FakeEngine, parse_switches

if TYPE_CHECKING:
    from worker.engines.base import Completion, EngineConfig, Request

DIES, HANGS = 41, 43
"""Heights, in pixels."""
PAGE_PIXELS = 128
"""Small pictures: what is tested is not the rendering."""


class WildEngine(FakeEngine):
    """Switch `engine-memory`: {"every": n}. Each n-th request runs out of memory."""

    def __init__(self, *, delay_seconds: float, chaos: Chaos | None) -> None:
        super().__init__(switches=parse_switches(f"delay={delay_seconds}"), model="wild")
        self.page_pixels = PAGE_PIXELS
        self._chaos = chaos
        self._requests = 0

    def submit(self, request: Request) -> Future[Completion]:
        if self._chaos is None:
            return super().submit(request)
        heights = {image.shape[0] for image in request.images}
        if DIES in heights:
            self._chaos.struck("wild-dies")
            self._chaos.die("in the engine, of a picture", with_signal=signal.SIGSEGV)
        if HANGS in heights:
            self._chaos.struck("wild-hangs")
            return Future()
        future = super().submit(request)
        self._chaos.passed(Point.GENERATING)
        return self._without_memory(self._chaos) or future

    def _without_memory(self, chaos: Chaos) -> Future[Completion] | None:
        chaos.mark("engine")
        switch = chaos.switches.get("engine-memory")
        if switch is None:
            return None
        self._requests += 1
        if self._requests % switch["every"]:
            return None
        chaos.struck("engine-memory")
        failed: Future[Completion] = Future()
        message = "the engine ran out of memory"
        failed.set_exception(EngineError(message, code=Code.ENGINE_MEMORY))
        return failed


def create(config: EngineConfig) -> WildEngine:
    """The factory. The model string is the delay of a request, in seconds."""
    return WildEngine(delay_seconds=float(config.model or 0), chaos=Chaos(Switches.of_this_worker()))
