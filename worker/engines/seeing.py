"""The generator with eyes: prompts that hold the places of pictures and clips in, generations out.

submit ─ eyes (batches of media) ─ embed (features into the prompt) ─ generator (slots) ─ Generation
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch

from domain.errors import EngineError
from worker.engines.base import FinishReason
from worker.engines.eyes import Eyes, Look
from worker.engines.generation import Generation
from worker.engines.generator import PREFILL_TOKENS, Generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from mplug_owl import MplugOwlForConditionalGeneration
    from worker.engines.eyes import EyeStatistics
    from worker.engines.generation import GenerationRequest, Statistics

logger = logging.getLogger(__name__)


class SeeingGenerator:
    """Runs requests over an mPLUG-Owl model. `batch_images` bounds a visual batch; the rest is the generator's."""

    def __init__(
        self,
        model: MplugOwlForConditionalGeneration,
        *,
        eos_ids: frozenset[int],
        slots: int,
        context_tokens: int,
        batch_images: int,
        decode: Callable[[Sequence[int]], str],
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.context_tokens = context_tokens
        self._closed = threading.Event()
        self._model = model
        self._eyes = Eyes(self._encode, batch_images=batch_images)
        self._generator = Generator(
            model.language_model,
            eos_ids=eos_ids,
            slots=slots,
            context_tokens=context_tokens,
            decode=decode,
            prefill_tokens=prefill_tokens,
            embed=model.embed_text,
            feeder=self._eyes,
            name="mplug-owl",
        )

    @property
    def statistics(self) -> Statistics:
        return self._generator.statistics

    @property
    def eye_statistics(self) -> EyeStatistics:
        return self._eyes.statistics

    def submit(self, request: GenerationRequest, media: Sequence[torch.Tensor] = ()) -> Future[Generation]:
        """Queue a request, from any thread. Its prompt is ids, with the model's placeholders (-1 for each position of
        a picture, -2 of a clip) for `media`: pixel values, (3, S, S) of a picture and (3, T, S, S) of a clip.

        The future raises what the generator's does, and EngineError where the media cannot be encoded. Raises
        EngineError after `close`.
        """
        if self._closed.is_set():
            raise EngineError("mplug-owl is closed")
        # A prompt over the context is refused, with both counts, before anything is looked at.
        if not media or len(request.prompt) >= self.context_tokens:
            return self._generator.submit(request)
        target: Future[Generation] = Future()
        target.set_running_or_notify_cancel()

        def pass_on(done: Future[Generation]) -> None:
            if (error := done.exception()) is None:
                target.set_result(done.result())
            elif self._closed.is_set():  # the generator closed while the media were looked at
                target.set_result(_unseen(request))
            else:
                target.set_exception(error)

        def seen(outcome: list[torch.Tensor] | EngineError | None) -> None:
            try:
                if outcome is None:
                    target.set_result(_unseen(request))
                elif isinstance(outcome, EngineError):
                    target.set_exception(outcome)
                else:
                    prompt = self._embedded(request, media, outcome)
                    self._generator.submit(replace(request, prompt=prompt)).add_done_callback(pass_on)
            except Exception as error:  # the generator's thread must not fall over one request
                logger.exception("a prompt could not be put together")
                target.set_exception(EngineError(f"a prompt could not be put together: {error}"[:300]))

        self._eyes.add(Look(media=media, done=seen, is_dropped=lambda: _reason_to_drop(request) is not None))
        self._generator.wake()
        return target

    def close(self) -> None:
        """End the thread; what waits or runs completes as cancelled. Safe to call twice."""
        self._closed.set()
        self._generator.close()
        self._eyes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (n, Q + 1, L) of pictures (n, 3, S, S) or clips (n, 3, T, S, S)."""
        weights = self._model.query_tokens
        pixels = pixels.to(device=weights.device, dtype=weights.dtype, non_blocking=True)
        return self._model.encode_images(pixels) if pixels.dim() == 4 else self._model.encode_videos(pixels)

    def _embedded(
        self, request: GenerationRequest, media: Sequence[torch.Tensor], features: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The prompt with the features in their places, (tokens, L)."""
        images = [one for one, pixels in zip(features, media, strict=True) if pixels.dim() == 3]
        clips = [one for one, pixels in zip(features, media, strict=True) if pixels.dim() == 4]
        ids = torch.as_tensor(request.prompt, device=features[0].device)[None]
        embedded: torch.Tensor = self._model.embed(
            ids, images=torch.stack(images) if images else None, videos=torch.stack(clips) if clips else None
        )
        return embedded[0]


def _reason_to_drop(request: GenerationRequest) -> FinishReason | None:
    """Why nobody waits for it any more."""
    if request.cancel is not None and request.cancel.is_set():
        return FinishReason.CANCELLED
    if request.deadline_at is not None and time.monotonic() >= request.deadline_at:
        return FinishReason.DEADLINE
    return None


def _unseen(request: GenerationRequest) -> Generation:
    """Of a request that was let go before its media were looked at; of its own will, or because all ends."""
    reason = _reason_to_drop(request) or FinishReason.CANCELLED
    return Generation(token_ids=(), text="", finish_reason=reason, prompt_tokens=len(request.prompt), new_tokens=0)
