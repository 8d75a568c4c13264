"""The thread that owns the model: generation requests in, futures out, all requests advancing together.

The scheduler decides who is in the batch, the cache holds their rows, and this file runs the steps: admit, prefill,
one token for every row, let go of who is done. What a request gives does not depend on its neighbours: greedy decoding
in fp32 equals `model.generate`, and sampling draws from a generator of the request's own.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self, TypeAlias, cast

import torch

from domain.errors import Code, EngineError
from worker.engines.base import GREEDY, FinishReason, Sampling
from worker.engines.scheduler import REPETITION_EVERY, Scheduler, Ticket, repetition_start
from worker.engines.slots import SlotCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from transformers import PreTrainedModel

    from worker.engines.scheduler import Leave

logger = logging.getLogger(__name__)

PREFILL_TOKENS = 1024
"""Prompt tokens, pads included, that one step may prefill: 1.2 s for SmolLM2 on two quiet cores (148 ms per 128). So
long do the rows under way then wait, and so late can a cancel be."""

PADDING_SHARE = 0.1
"""Prompts are prefilled together while no more than this share of the tokens is padding. On a CPU a prompt costs what
its tokens cost, in company or alone (1 x 128, 2 x 64 and 8 x 128 tokens: the same per token within 15 %), so pads are a
plain loss; a GPU gains from company."""


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
    """Totals since the start. `row_steps` adds up the active rows of every decode step."""

    slots: int
    steps: int = 0
    row_steps: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def mean_occupancy(self) -> float:
        """The share of slots at work in a decode step, 0 to 1."""
        return self.row_steps / (self.steps * self.slots) if self.steps else 0.0


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


_Tokens: TypeAlias = "list[int | None]"
"""The next token of each row; None where the model gave none."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """A request under way."""

    request: GenerationRequest
    future: Future[Generation]
    prompt_tokens: int
    max_new_tokens: int
    randomness: torch.Generator | None = None
    tokens: list[int] = field(default_factory=list)
    stop_window: int = 0

    @property
    def is_cancelled(self) -> bool:
        return self.request.cancel is not None and self.request.cancel.is_set()


class Generator:
    """Runs requests over a stock transformers causal language model.

    `context_tokens` bounds prompt and answer together; `decode` turns token ids into text and is called from the
    thread of this object, as are the callbacks of the futures: keep them short. An id in `eos_ids` ends an answer.
    The model must be one whose logits are its output embeddings times the last hidden state.

    A future gives a `Generation`, also after a cancel or a deadline, then with what there was. It raises EngineError:
    `context_too_long` (for good), `engine_memory` or `engine_failed` (a later attempt may succeed). It cannot be
    cancelled itself: set the request's `cancel`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_ids: frozenset[int],
        slots: int,
        context_tokens: int,
        decode: Callable[[Sequence[int]], str],
        prefill_tokens: int = PREFILL_TOKENS,
        clock: Callable[[], float] = time.monotonic,
        name: str = "generator",
    ) -> None:
        self.context_tokens = context_tokens
        self.name = name
        self._model = model
        self._embed = cast("torch.nn.Embedding", model.get_input_embeddings())
        self._head = cast("torch.nn.Linear", model.get_output_embeddings())  # type: ignore[no-untyped-call]
        self._eos_ids = eos_ids
        self._decode_text = decode
        self._clock = clock
        self._keys = itertools.count()
        self._scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens)
        self._cache = SlotCache(slots=slots, positions=context_tokens)
        self._runs: dict[int, _Run] = {}
        self._rows: list[int] = []  # the key in each row, as the scheduler has it
        self._inbox: list[_Run] = []
        self._closing = False
        self._wake = threading.Condition()
        self._statistics = Statistics(slots=slots)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def statistics(self) -> Statistics:
        return self._statistics

    def submit(self, request: GenerationRequest) -> Future[Generation]:
        """Queue a request, from any thread. Never blocks and refuses nothing for being one too many: the callers bound
        what they have under way. Raises ValueError for a request that no model could run."""
        run = self._run(request)
        future = run.future
        future.set_running_or_notify_cancel()
        if run.prompt_tokens >= self.context_tokens:
            future.set_exception(_too_long(run.prompt_tokens, self.context_tokens))
            return future
        with self._wake:
            if self._closing:
                future.set_exception(EngineError(f"{self.name} is closed"))
                return future
            self._inbox.append(run)
            self._wake.notify()
        return future

    def close(self) -> None:
        """End the thread after the step under way; what is waiting or active completes as cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, request: GenerationRequest) -> _Run:
        length = len(request.prompt)
        if length < 1 or request.max_new_tokens < 1:
            raise ValueError(f"a prompt of {length} tokens and {request.max_new_tokens} new ones: both must be over 0")
        width = self._embed.embedding_dim
        if isinstance(request.prompt, torch.Tensor) and request.prompt.shape != (length, width):
            raise ValueError(f"prompt embeddings must be (tokens, {width}), not {tuple(request.prompt.shape)}")
        sampling = request.sampling
        return _Run(
            request=request,
            future=Future(),
            prompt_tokens=length,
            max_new_tokens=min(request.max_new_tokens, self.context_tokens - length),
            randomness=torch.Generator().manual_seed(sampling.seed) if sampling.temperature > 0 else None,
            # A token is at least a byte, so the window holds any stop string, and some more for what decoders do to
            # the first token of a text.
            stop_window=max((len(text.encode()) for text in request.stop), default=-8) + 8,
        )

    # The thread. Nothing below is called by another one.

    def _work(self) -> None:
        with torch.inference_mode():
            while self._receive():
                try:
                    self._step()
                except Exception as error:
                    self._reset(error)
        self._cancel_all()

    def _receive(self) -> bool:
        """Take what was submitted; sleep while there is nothing to do. False when it is time to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._inbox or self._runs or self._closing)
            arrived, self._inbox = self._inbox, []
            closing = self._closing
        for run in arrived:
            self._add(run)
        return not closing

    def _add(self, run: _Run) -> None:
        key = next(self._keys)
        self._runs[key] = run
        request = run.request
        self._scheduler.add(
            Ticket(
                key=key,
                prompt_tokens=run.prompt_tokens,
                priority=request.priority,
                deadline_at=request.deadline_at,
            )
        )

    def _step(self) -> None:
        cancelled = {key for key, run in self._runs.items() if run.is_cancelled}
        plan = self._scheduler.plan(now=self._clock(), cancelled=cancelled)
        for leave, reason in plan.leaves:
            self._free(leave)
            self._complete(self._runs.pop(leave.key), reason)
        if plan.admits:
            self._admit([admit.key for admit in plan.admits])
        if self._rows:
            rows = list(self._rows)
            self._settle(rows, self._attempt(self._decode, rows))

    def _admit(self, keys: list[int]) -> None:
        """Prefill the new rows, group by group. Nobody leaves before all are done: rows would move meanwhile."""
        self._rows += keys
        self._cache.admit([self._runs[key].prompt_tokens for key in keys])
        outcomes = [(group, self._attempt(self._prefill, group)) for group in self._prefill_groups(keys)]
        for group, outcome in outcomes:
            self._settle(group, outcome)

    def _attempt(self, work: Callable[[list[int]], _Tokens], keys: list[int]) -> _Tokens | Exception:
        try:
            return work(keys)
        except Exception as error:
            return error

    def _settle(self, keys: list[int], outcome: _Tokens | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(keys, outcome)
            return
        for key, token in zip(keys, outcome, strict=True):
            self._take(key, token)

    def _prefill_groups(self, keys: list[int]) -> Iterator[list[int]]:
        """Neighbours of like length; the scheduler sorted them."""
        group: list[int] = []
        total = 0
        for key in keys:
            length = self._runs[key].prompt_tokens
            if group and (total + length) < (1 - PADDING_SHARE) * length * (len(group) + 1):
                yield group
                group, total = [], 0
            group.append(key)
            total += length
        if group:
            yield group

    def _prefill(self, keys: list[int]) -> _Tokens:
        began = time.perf_counter()
        runs = [self._runs[key] for key in keys]
        lengths = [run.prompt_tokens for run in runs]
        prompts = torch.nn.utils.rnn.pad_sequence([self._embedded(run) for run in runs], batch_first=True)
        self._cache.prefill(self._rows.index(keys[0]))
        positions = torch.arange(prompts.shape[1], device=prompts.device)[None]
        hidden = self._forward(prompts, position_ids=positions, mask=None)  # (rows, tokens, width)
        last = torch.tensor(lengths, device=hidden.device) - 1
        tokens = self._choose(hidden[torch.arange(len(runs), device=hidden.device), last], runs)
        totals = self._statistics
        self._statistics = replace(
            totals,
            prompt_tokens=totals.prompt_tokens + sum(lengths),
            new_tokens=totals.new_tokens + len(runs),
            prefill_seconds=totals.prefill_seconds + time.perf_counter() - began,
        )
        return tokens

    def _decode(self, keys: list[int]) -> _Tokens:
        began = time.perf_counter()
        runs = [self._runs[key] for key in keys]
        device = self._embed.weight.device
        mask, positions = self._cache.decode(device)
        last = torch.tensor([[run.tokens[-1]] for run in runs], device=device)
        hidden = self._forward(self._embed(last), position_ids=positions, mask=mask)  # (rows, 1, width)
        tokens = self._choose(hidden[:, 0], runs)
        totals = self._statistics
        self._statistics = replace(
            totals,
            steps=totals.steps + 1,
            row_steps=totals.row_steps + len(runs),
            new_tokens=totals.new_tokens + len(runs),
            decode_seconds=totals.decode_seconds + time.perf_counter() - began,
        )
        return tokens

    def _embedded(self, run: _Run) -> torch.Tensor:
        prompt, weight = run.request.prompt, self._embed.weight
        if isinstance(prompt, torch.Tensor):
            return prompt.to(device=weight.device, dtype=weight.dtype)
        embedded: torch.Tensor = self._embed(torch.tensor(prompt, device=weight.device))
        return embedded

    def _forward(
        self, embeddings: torch.Tensor, *, position_ids: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        output = self._model.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _choose(self, hidden: torch.Tensor, runs: list[_Run]) -> _Tokens:
        """The next token of each row from its last hidden state (rows, width); None where it is not a number."""
        logits = self._head(hidden)  # (rows, vocabulary)
        best = logits.max(dim=-1)
        tokens: _Tokens = best.indices.tolist()
        for row, (run, value) in enumerate(zip(runs, best.values.tolist(), strict=True)):
            if not math.isfinite(value):
                tokens[row] = None
            elif run.randomness is not None:
                tokens[row] = sample(logits[row], run.request.sampling, randomness=run.randomness)
        return tokens

    def _take(self, key: int, token: int | None) -> None:
        if token is None:
            self._fail([key], EngineError("the model gave logits that are not numbers"))
            return
        run = self._runs[key]
        run.tokens.append(token)
        try:
            reason = self._reason_to_finish(run)
        except Exception as error:
            # `decode` is the caller's, and no other request may suffer for it.
            self._fail([key], error)
            return
        if reason is not None:
            self._release(key)
            self._complete(run, reason)

    def _reason_to_finish(self, run: _Run) -> FinishReason | None:
        tokens, request = run.tokens, run.request
        if tokens[-1] in self._eos_ids or self._stops(run):
            return FinishReason.STOP
        # Looked at every few tokens of the answer's own, so that what a request gives hangs on no neighbour.
        if request.guard_repetition and len(tokens) % REPETITION_EVERY == 0 and repetition_start(tokens) is not None:
            return FinishReason.REPETITION
        return FinishReason.LENGTH if len(tokens) >= run.max_new_tokens else None

    def _stops(self, run: _Run) -> bool:
        if not run.request.stop:
            return False
        # Near the end first: decoding all of a long answer at each step would cost more than the step.
        tail = self._decode_text(run.tokens[-run.stop_window :])
        return any(text in tail for text in run.request.stop) and (
            _stop_index(self._decode_text(run.tokens), run.request.stop) is not None
        )

    def _release(self, key: int) -> _Run:
        self._free(self._scheduler.leave(key))
        return self._runs.pop(key)

    def _free(self, leave: Leave) -> None:
        if leave.row is None:
            return
        last = self._rows.pop()
        if leave.filled_from is not None:
            self._rows[leave.row] = last
        self._cache.leave(leave.row)

    def _complete(self, run: _Run, reason: FinishReason) -> None:
        try:
            generation = self._generation(run, reason)
        except Exception as error:  # `decode` again
            logger.error("%s: an answer could not be decoded", self.name, exc_info=error)
            run.future.set_exception(_engine_error(error))
            return
        run.future.set_result(generation)

    def _generation(self, run: _Run, reason: FinishReason) -> Generation:
        tokens = run.tokens
        if reason is FinishReason.REPETITION:
            tokens = tokens[: repetition_start(tokens)]
        elif tokens and tokens[-1] in self._eos_ids:
            tokens = tokens[:-1]
        text = self._decode_text(tokens) if tokens else ""
        if (index := _stop_index(text, run.request.stop)) is not None:
            text, reason = text[:index], FinishReason.STOP
        return Generation(
            token_ids=tuple(tokens),
            text=text,
            finish_reason=reason,
            prompt_tokens=run.prompt_tokens,
            new_tokens=len(run.tokens),
        )

    def _fail(self, keys: list[int], error: Exception) -> None:
        logger.error("%s: a step of %d requests failed", self.name, len(keys), exc_info=error)
        for key in keys:
            self._cache.clear(self._rows.index(key))
            self._release(key).future.set_exception(_engine_error(error))
        if not self._rows:
            self._cache = SlotCache(slots=self._scheduler.slots, positions=self.context_tokens)

    def _reset(self, error: Exception) -> None:
        """After a defect outside of the model: who is in which row can no longer be trusted."""
        logger.error("%s: failed with %d requests", self.name, len(self._runs), exc_info=error)
        runs, self._runs, self._rows = list(self._runs.values()), {}, []
        slots, prefill_tokens = self._scheduler.slots, self._scheduler.prefill_tokens
        self._scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens)
        self._cache = SlotCache(slots=slots, positions=self.context_tokens)
        for run in runs:
            if not run.future.done():
                run.future.set_exception(_engine_error(error))

    def _cancel_all(self) -> None:
        runs, self._runs, self._rows = list(self._runs.values()), {}, []
        for run in runs:
            self._complete(run, FinishReason.CANCELLED)


def _stop_index(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the first stop string begins."""
    return min((index for word in stop if (index := text.find(word)) >= 0), default=None)


def _engine_error(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return EngineError(error.message, code=error.code, retryable=error.retryable)
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    failure = EngineError(
        "the model ran out of memory" if is_memory else f"the model failed: {type(error).__name__}: {error}"[:500],
        code=Code.ENGINE_MEMORY if is_memory else Code.ENGINE_FAILED,
    )
    # Without the frames, which would keep the tensors of the failed step for as long as somebody holds the future.
    failure.__cause__ = error.with_traceback(None)
    return failure


def _too_long(prompt_tokens: int, context_tokens: int) -> EngineError:
    return EngineError(
        f"the prompt has {prompt_tokens} tokens; the context holds {context_tokens}, with at least one for the answer",
        code=Code.CONTEXT_TOO_LONG,
        retryable=False,
    )
