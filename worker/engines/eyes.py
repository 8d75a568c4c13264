"""The visual side of a model, batched by itself: dynamic batches over the pictures and clips of all waiting requests.

A feeder of the generator (worker/engines/generator.py): threads that prepare pictures `add` looks, the generator's
thread encodes a batch at a time between its steps, and each look whose media are all encoded is handed to its `done`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from domain.errors import Code, EngineError
from worker.engines.generator import is_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Look:
    """What one request wants to see. Media are pixel values: pictures (3, S, S) and clips (3, T, S, S).

    `done` gets the features of each medium, (Q + 1, L) in the order of `media`, or the error that kept them from being
    made; an `is_dropped` look is handed back with no features at all. It is called on the generator's thread: be short.
    """

    media: Sequence[torch.Tensor]
    done: Callable[[list[torch.Tensor] | EngineError | None], None]
    is_dropped: Callable[[], bool] = field(default=lambda: False)
    _features: dict[int, torch.Tensor] = field(default_factory=dict)
    _is_over: bool = False

    def take(self, index: int, features: torch.Tensor) -> None:
        self._features[index] = features
        if len(self._features) == len(self.media):
            self.end([self._features[number] for number in range(len(self.media))])

    def end(self, outcome: list[torch.Tensor] | EngineError | None) -> None:
        if not self._is_over:
            self._is_over = True
            self.done(outcome)

    @property
    def is_wanted(self) -> bool:
        return not self._is_over and not self.is_dropped()


@dataclass(frozen=True, slots=True, kw_only=True)
class EyeStatistics:
    """Totals since the start. A clip of T frames counts as T images."""

    images: int = 0
    batches: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Glance:
    """One medium of a look."""

    look: Look
    index: int

    @property
    def pixels(self) -> torch.Tensor:
        return self.look.media[self.index]

    @property
    def images(self) -> int:
        return 1 if self.pixels.dim() == 3 else self.pixels.shape[1]


class Eyes:
    """`encode` turns pixel values of one shape, (n, 3, S, S) or (n, 3, T, S, S) on any device, into features (n, Q + 1,
    L) on the model's. A batch holds up to `batch_images` images, the frames of clips counted; a longer clip goes alone.

    Where memory runs out, the batch is halved for good; a single medium that does not fit fails its look.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], *, batch_images: int) -> None:
        self.batch_images = batch_images
        self._encode = encode
        self._queue: deque[_Glance] = deque()
        self._lock = threading.Lock()
        self._statistics = EyeStatistics()

    @property
    def statistics(self) -> EyeStatistics:
        return self._statistics

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def add(self, look: Look) -> None:
        """Queue a look, from any thread. The caller then wakes the generator."""
        with self._lock:
            self._queue.extend(_Glance(look, index) for index in range(len(look.media)))

    def feed(self) -> None:
        """Encode one batch."""
        batch = self._next_batch()
        if not batch:
            return
        try:
            features = self._run(batch)
        except Exception as error:
            self._failed(batch, error)
            return
        for glance, one in zip(batch, features, strict=True):
            glance.look.take(glance.index, one)

    def close(self) -> None:
        """Hand back all that waits. Only when the generator's thread is over."""
        while self._queue:
            self._queue.popleft().look.end(None)

    def _next_batch(self) -> list[_Glance]:
        """From the head of the queue, those of the head's shape that fit; others keep their places."""
        batch: list[_Glance] = []
        passed: list[_Glance] = []
        room = self.batch_images
        while self._queue and room > 0 and len(passed) < self.batch_images:
            glance = self._queue.popleft()
            if not glance.look.is_wanted:
                glance.look.end(None)
            elif batch and (glance.pixels.shape != batch[0].pixels.shape or glance.images > room):
                passed.append(glance)
            else:
                batch.append(glance)
                room -= glance.images
        with self._lock:
            self._queue.extendleft(reversed(passed))
        return batch

    def _run(self, batch: list[_Glance]) -> torch.Tensor:
        began = time.perf_counter()
        features = self._encode(torch.stack([glance.pixels for glance in batch]))
        totals = self._statistics
        self._statistics = replace(
            totals,
            images=totals.images + sum(glance.images for glance in batch),
            batches=totals.batches + 1,
            seconds=totals.seconds + time.perf_counter() - began,
        )
        return features

    def _failed(self, batch: list[_Glance], error: Exception) -> None:
        if is_memory(error) and len(batch) > 1:
            self.batch_images = max(sum(glance.images for glance in batch) // 2, 1)
            logger.warning(
                "out of memory with %d media; from here on %d images at a time", len(batch), self.batch_images
            )
            with self._lock:
                self._queue.extendleft(reversed(batch))
            return
        failure = _failure(batch[0], error)
        logger.error("%d media could not be encoded", len(batch), exc_info=error)
        # Without the frames, which would keep the tensors of the failed step for as long as somebody holds the error.
        failure.__cause__ = error.with_traceback(None)
        for glance in batch:
            glance.look.end(failure)


def _failure(glance: _Glance, error: Exception) -> EngineError:
    if not is_memory(error):
        return EngineError(f"the visual side failed: {type(error).__name__}: {error}"[:500])
    shape = " x ".join(str(size) for size in glance.pixels.shape)
    return EngineError(
        f"a medium of {glance.images} images ({shape} values) does not fit into memory on its own",
        code=Code.ENGINE_MEMORY,
    )
