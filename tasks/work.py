"""What a kind is handed: one part to work on, or one job to finish; with readers and engine already bound to it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from domain.errors import Code, EngineError, LostError, SetupError
from domain.params import Params
from tasks import prompts
from worker.engines.base import FinishReason, Purpose, Request, Turn
from worker.readers.base import Media, Probe, Segment

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from domain.jobs import Job, Part
    from tasks.context import Context
    from tasks.prompts import Prompts
    from worker.engines.base import Completion, Engine
    from worker.readers.base import Frames, Open, Page, Segmenting

P = TypeVar("P", bound=Params)
POLL_SECONDS = 0.2
SIDE_BY_SIDE = 16
"""Most requests of one merge that are with the engine at a time."""
INSTRUCTION_TOKENS = 160
"""Room for the wording around the source and for the form of the conversation; more only where a wording needs it.
SmolLM2's tokenizer makes 70 tokens of the longest English instruction and 288 of the Korean one."""
FORM_TOKENS = 64
"""Room for what stands around one turn: a chat template, or the system line of mPLUG-Owl (30 and 37 tokens)."""
LEAST_ROOM = 64
TOLD_IN_ENGLISH = frozenset({"experts"})
"""Engines that are told in English what to do, and in which language. SmolLM2 was trained on English: told in another
language it repeats or continues the instruction instead of following it (docs/prompts.md)."""


class StoppedError(LostError):
    """The work was told to stop: cancelled, shut down, or its lease is gone. Nothing failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a part or a job gives back. `files` become artifacts: (name, media type, content)."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    files: tuple[tuple[str, str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk(Generic[P]):
    """The engine with this job's deadline and stop event."""

    context: Context
    job: Job
    params: P
    stop: threading.Event
    deadline_at: float

    @property
    def engine(self) -> Engine:
        if self.context.engine is None:
            raise SetupError("this worker serves no engine; start one with the queue gpu")
        return self.context.engine

    @property
    def prompts(self) -> Prompts:
        """What is said to the engine: in the job's language, if the engine follows instructions in it."""
        return prompts.of_params(self.params, in_english=self.engine.name in TOLD_IN_ENGLISH)

    def complete(self, request: Request) -> Completion:
        """Run one request. Raises EngineError, and StoppedError when the work must stop."""
        if self.stop.is_set():
            raise StoppedError("stopped before generation")
        future = self.engine.submit(replace(request, cancel=self.stop, deadline_at=self.deadline_at))
        while not wait([future], timeout=POLL_SECONDS).done:
            self._check(time.monotonic())
        completion = future.result()
        if completion.finish_reason is FinishReason.CANCELLED:
            raise StoppedError("stopped during generation")
        if completion.finish_reason is FinishReason.DEADLINE and not completion.text:
            raise _late()
        return completion

    def _check(self, now: float) -> None:
        """An engine that ignores its orders does not hold the job."""
        if self.stop.is_set():
            raise StoppedError("stopped during generation")
        if now > self.deadline_at + 5:
            raise _late()

    def room(self, *texts: str | None, new_tokens: int) -> int:
        """Tokens left for the source in a prompt that also holds an instruction and `texts`; never less than 64."""
        count = self.engine.count_tokens
        instruction = max(INSTRUCTION_TOKENS, FORM_TOKENS + count(self.prompts.wording.longest))
        spent = sum(count(text) for text in texts if text)
        return max(self.engine.context_tokens - new_tokens - instruction - spent, LEAST_ROOM)

    def write(self, prompt: str, **options: Any) -> str:
        """A text-only request of one turn; its text."""
        return self.complete(self.request(prompt, **options)).text

    def write_all(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """The texts of several text-only requests that do not need one another, generated side by side."""
        with ThreadPoolExecutor(max(1, min(len(prompts), SIDE_BY_SIDE)), thread_name_prefix="write") as pool:
            return list(pool.map(lambda prompt: self.write(prompt, **options), prompts))

    def request(self, prompt: str, **options: Any) -> Request:
        return Request(purpose=Purpose.WRITE, turns=(Turn(role="user", text=prompt),), **options)


def _late() -> EngineError:
    return EngineError(
        "the time for this part is over (setting NIGHTOWL_PART_SECONDS)", code=Code.DEADLINE, retryable=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartWork(Desk[P]):
    """One part to work on."""

    part: Part
    probe: Probe
    source: Open

    @property
    def is_video(self) -> bool:
        return self.probe.media is Media.VIDEO

    def page(self) -> Page:
        """Render or decode the page that this part is."""
        return self.context.readers.page(
            self.source, int(self.part.spec["page"]), target_pixels=self.engine.page_pixels, cancel=self.stop
        )

    def frames(self, *, count: int) -> Frames:
        """Decode frames of the segment that this part is."""
        segment = Segment(number=self.part.number, start=self.part.spec["start"], end=self.part.spec["end"])
        side = self.context.settings.limits.max_frame_side
        return self.context.readers.frames(self.source, segment, count=count, max_side=side, cancel=self.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWork(Desk[P]):
    """A job to finish: its parts in order, the failed ones too."""

    parts: Sequence[Part]
    probe: Probe | None

    @property
    def good(self) -> list[Part]:
        return [part for part in self.parts if part.error is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning(Generic[P]):
    """A job to plan."""

    context: Context
    job: Job
    params: P
    source: Open
    probe: Probe
    stop: threading.Event

    def segments(self, how: Segmenting) -> tuple[Segment, ...]:
        return self.context.readers.segments(self.source, how, cancel=self.stop)


def probe_to_json(probe: Probe) -> dict[str, Any]:
    return {name: getattr(probe, name) for name in Probe.__dataclass_fields__ if getattr(probe, name)}


def probe_from_json(values: Mapping[str, Any]) -> Probe:
    return Probe(**{**values, "media": Media(values["media"]), "warnings": tuple(values.get("warnings", ()))})
