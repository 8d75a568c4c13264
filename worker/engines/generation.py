"""What goes into the generator and what comes out of it, and how a token is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from worker.engines.base import GREEDY, FinishReason, Sampling

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationRequest:
    """One request. `prompt` is token ids, or input embeddings of shape (tokens, width) where a picture is part of it.

    `stop` strings end the answer and are cut off it. `deadline_at` is in seconds on the `time.monotonic()` clock. A
    higher `priority` is admitted first. `max_new_tokens` is clipped to what the context leaves after the prompt.
    `guard_repetition` ends an answer that runs in circles (see `scheduler.repetition_start`).
    """

    prompt: Sequence[int] | torch.Tensor
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    deadline_at: float | None = None
    cancel: threading.Event | None = None
    priority: int = 0
    guard_repetition: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What came back. `token_ids` leave out the end token and repeated copies of a cycle; `text` is `token_ids`
    decoded, up to the stop string. `new_tokens` counts every token that was computed, also those left out."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Totals since the start. `row_steps` adds up the active rows of every decode step, `slot_steps` the slots.

    `feed_seconds` is the time that the generator's thread spent in its feeder.
    """

    slots: int
    steps: int = 0
    slot_steps: int = 0
    row_steps: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    feed_seconds: float = 0.0

    @property
    def mean_occupancy(self) -> float:
        """The share of slots at work in a decode step, 0 to 1."""
        return self.row_steps / self.slot_steps if self.slot_steps else 0.0


def sample(logits: torch.Tensor, sampling: Sampling, *, randomness: torch.Generator) -> int:
    """Draw a token from logits of shape (vocabulary). One random number per token, drawn on the CPU, so that a seed
    gives the same text on any device (as far as the logits agree)."""
    ordered, ids = torch.sort(logits.float() / sampling.temperature, descending=True, stable=True)
    if sampling.top_k:
        ordered, ids = ordered[: sampling.top_k], ids[: sampling.top_k]
    cumulative = torch.softmax(ordered, dim=-1).cumsum(dim=-1)
    if sampling.top_p < 1.0:
        kept = int((cumulative < sampling.top_p).sum()) + 1
        cumulative = cumulative[:kept]
    point = torch.rand((), generator=randomness).item() * cumulative[-1]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=len(cumulative) - 1)
    return int(ids[index])
