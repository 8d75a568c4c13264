"""The `mplug-owl` engine: requests in words and pictures, completions out.

    submit ─ prepare (threads: tile, resize, tokenize) ─ seeing (visual batches, then slots) ─ Completion

A page that must be read is cut into tiles, each a prompt of its own, and the texts are stitched. Pictures and clips
that are asked about are seen as a whole.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from domain.errors import EngineError, NightowlError, SetupError
from worker.engines import conversation
from worker.engines.base import Completion, FinishReason, Purpose, Request, Turn
from worker.engines.generation import Generation, GenerationRequest
from worker.engines.generator import PREFILL_TOKENS
from worker.engines.level import levelled
from worker.engines.owl_loading import load
from worker.engines.seeing import SeeingGenerator
from worker.engines.stitch import stitch
from worker.engines.tiles import cut, view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
    from worker.engines.base import RGB, EngineConfig
    from worker.engines.eyes import EyeStatistics
    from worker.engines.generation import Statistics
    from worker.engines.tiles import Tiling

logger = logging.getLogger(__name__)

PREPARERS = 2
"""Threads that tile, resize and tokenize. Resizing lets go of the interpreter; the second thread is for pages that take
long to cut."""

TILE_TOKENS = 192
"""Most tokens of one tile's text: 224 pixels hold about 13 lines of 30 letters, which is some 110 LLaMA tokens."""

PAGE_PIXELS = 1344
"""Six tiles of 224 on the longer side: 10-point type on A4 is then seen 1:1, its small letters about 8 pixels high."""


class OwlEngine:
    """An Engine over one mPLUG-Owl checkpoint. It owns the model, the generator's thread and its own threads."""

    name = "mplug-owl"
    page_pixels = PAGE_PIXELS

    def __init__(
        self,
        model: MplugOwlForConditionalGeneration,
        processor: MplugOwlProcessor,
        *,
        label: str,
        slots: int,
        context_tokens: int,
        batch_images: int,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.model = label
        self.context_tokens = context_tokens
        self._processor = processor
        self._has_temporal = bool(model.config.has_temporal)
        self._side = int(model.config.vision_config.image_size)
        self._closed = threading.Event()
        self._seeing = SeeingGenerator(
            model,
            eos_ids=_eos_ids(model, processor),
            slots=slots,
            context_tokens=context_tokens,
            batch_images=batch_images,
            decode=self._decode,
            prefill_tokens=prefill_tokens,
        )
        self._pool = ThreadPoolExecutor(PREPARERS, thread_name_prefix="mplug-owl-prepare")

    @property
    def statistics(self) -> Statistics:
        return self._seeing.statistics

    @property
    def eye_statistics(self) -> EyeStatistics:
        return self._seeing.eye_statistics

    def submit(self, request: Request) -> Future[Completion]:
        target: Future[Completion] = Future()
        target.set_running_or_notify_cancel()
        try:
            if self._closed.is_set():
                raise RuntimeError
            self._pool.submit(self._prepare, request, target)
        except RuntimeError:  # closed, if only a moment ago
            target.set_exception(EngineError("the engine is closed"))
        return target

    def count_tokens(self, text: str) -> int:
        # Without the token that begins every prompt.
        return len(self._processor.encode_prompt(conversation.defused(text))) - 1

    def warm(self) -> float:
        """Look at one picture and say two words, so that the first job does not wait for memory and kernels. Seconds.

        Raises:
            EngineError: the model does not work.
        """
        began = time.monotonic()
        blank = np.full((self._side, self._side, 3), 255, dtype=np.uint8)
        turns = (Turn(role="user", text="What is this?"),)
        self.submit(Request(purpose=Purpose.DESCRIBE, turns=turns, images=(blank,), max_new_tokens=2)).result()
        return time.monotonic() - began

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True)
        self._seeing.close()

    def _prepare(self, request: Request, target: Future[Completion]) -> None:
        try:
            if request.purpose is Purpose.READ and request.images:
                self._read(request, target)
            else:
                self._ask(request, target)
        except NightowlError as error:
            target.set_exception(error)
        # The edge of the thread: whatever a library raises must reach the future, or its caller waits for ever.
        except Exception as error:
            logger.exception("a request could not be prepared")
            target.set_exception(EngineError(f"a request could not be prepared: {type(error).__name__}: {error}"[:300]))

    def _ask(self, request: Request, target: Future[Completion]) -> None:
        """Pictures or a clip as they are, one prompt."""
        media = self._media(request)
        clips = sum(medium.dim() == 4 for medium in media)
        prompt = self._prompt(request, images=len(media) - clips, clips=clips)
        generation = self._seeing.submit(_generation_request(request, prompt, most=request.max_new_tokens), media)
        generation.add_done_callback(lambda done: _settle(target, lambda: _completion(done.result())))

    def _read(self, request: Request, target: Future[Completion]) -> None:
        """Every tile of every page, one prompt each. The lines of a page must be level to be cut between."""
        pages = [levelled(image) for image in request.images]
        tilings = [cut(image, eye=self._side) for image, _ in pages]
        crops = [view(image, tile) for (image, _), tiling in zip(pages, tilings, strict=True) for tile in tiling.tiles]
        # The hint is the page's first words: it belongs to the tile that shows them.
        first = self._prompt(request, images=1, clips=0)
        others = self._prompt(replace(request, hint=""), images=1, clips=0)
        reading = _Reading(tilings=tilings, skews=[degrees for _, degrees in pages], count=len(crops), target=target)
        most = min(TILE_TOKENS, request.max_new_tokens)
        for number, crop in enumerate(crops):
            asked = _generation_request(request, others if number else first, most=most)
            pixels = self._pixels(_squashed(crop, self._side))
            self._seeing.submit(asked, [pixels]).add_done_callback(reading.taker(number))

    def _prompt(self, request: Request, *, images: int, clips: int) -> list[int]:
        text = conversation.render(request.turns, images=images, videos=clips, hint=request.hint)
        return list(self._processor.encode_prompt(text))

    def _media(self, request: Request) -> list[torch.Tensor]:
        """Pixel values (3, S, S) of each picture; of a clip, where the checkpoint knows clips, (3, T, S, S)."""
        if request.clip and len(request.images) > 1 and self._has_temporal:
            # The original decodes a clip's frames at S x S, whatever their shape.
            frames = [self._pixels(_squashed(image, self._side)) for image in request.images]
            return [torch.stack(frames, dim=1)]
        return [self._pixels(image) for image in request.images]

    def _pixels(self, image: RGB) -> torch.Tensor:
        return torch.from_numpy(self._processor.image_processor.preprocess_one(image))

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self._processor.decode(list(token_ids), skip_special_tokens=True))


class _Reading:
    """The tiles of one READ request, as they come back. The last one completes the target."""

    def __init__(
        self, *, tilings: Sequence[Tiling], skews: Sequence[float], count: int, target: Future[Completion]
    ) -> None:
        self._tilings = tilings
        self._skews = skews
        self._target = target
        self._done: list[Future[Generation] | None] = [None] * count
        self._missing = count
        self._lock = threading.Lock()
        if not count:
            target.set_result(Completion(text="", finish_reason=FinishReason.STOP, facts={"tiles": 0}))

    def taker(self, number: int) -> Callable[[Future[Generation]], None]:
        def take(done: Future[Generation]) -> None:
            with self._lock:
                self._done[number] = done
                self._missing -= 1
                is_last = self._missing == 0
            if is_last:
                _settle(self._target, self._completion)

        return take

    def _completion(self) -> Completion:
        """Raises what any of the tiles raised."""
        read = [done.result() for done in self._done if done is not None]
        rest = iter(read)
        pages = [stitch(tiling, [next(rest).text.strip() for _ in tiling.tiles]) for tiling in self._tilings]
        return Completion(
            text="\n\n".join(page for page in pages if page),
            finish_reason=_worst([generation.finish_reason for generation in read]),
            prompt_tokens=sum(generation.prompt_tokens for generation in read),
            new_tokens=sum(generation.new_tokens for generation in read),
            facts=self._facts(read),
        )

    def _facts(self, read: Sequence[Generation]) -> dict[str, Any]:
        unfinished = [number for number, one in enumerate(read) if one.finish_reason is not FinishReason.STOP]
        facts: dict[str, Any] = {"tiles": len(read)}
        if any(self._skews):
            facts["skew"] = self._skews[0] if len(self._skews) == 1 else list(self._skews)
        if unfinished:
            facts["unfinished_tiles"] = unfinished
        if not all(tiling.legible for tiling in self._tilings):
            facts["warnings"] = ["the text is too small for the model's eye at this number of tiles"]
        return facts


_SEVERITY = (FinishReason.CANCELLED, FinishReason.DEADLINE, FinishReason.REPETITION, FinishReason.LENGTH)


def _worst(reasons: Sequence[FinishReason]) -> FinishReason:
    return next((reason for reason in _SEVERITY if reason in reasons), FinishReason.STOP)


def _generation_request(request: Request, prompt: Sequence[int], *, most: int) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        max_new_tokens=most,
        sampling=request.sampling,
        stop=(*request.stop, *conversation.STOP),
        deadline_at=request.deadline_at,
        cancel=request.cancel,
    )


def _settle(target: Future[Completion], made: Callable[[], Completion]) -> None:
    """Give the target what came back; whatever goes wrong on the way reaches it too."""
    try:
        completion = made()
    except Exception as error:
        target.set_exception(error)
        return
    target.set_result(completion)


def _completion(generation: Generation) -> Completion:
    return Completion(
        text=generation.text.strip(),
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        new_tokens=generation.new_tokens,
    )


def _squashed(image: RGB, side: int) -> RGB:
    """To side x side, whatever the shape: nothing may be cropped off a tile or a frame."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    shrinks = height >= side and width >= side
    resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)


def _eos_ids(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*listed, processor.tokenizer.eos_token_id) if token is not None)


def create(config: EngineConfig) -> OwlEngine:
    """The factory. Raises SetupError where the checkpoint cannot be loaded or does not generate."""
    loaded = load(config)
    engine = OwlEngine(
        loaded.model,
        loaded.processor,
        label=loaded.label,
        slots=loaded.slots,
        context_tokens=loaded.context_tokens,
        batch_images=loaded.batch_images,
        prefill_tokens=loaded.prefill_tokens,
    )
    try:
        seconds = engine.warm()
    except NightowlError as error:
        engine.close()
        raise SetupError(f"{loaded.label} loads but does not work: {error.message}") from error
    logger.info("warmed up in %.1f s", seconds, extra={"action": "engine_warm", "seconds": round(seconds, 3)})
    return engine
