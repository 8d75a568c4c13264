"""The thread that owns the model: generation requests in, futures out, all requests advancing together.

The scheduler decides who is in the batch, the cache holds their rows, and this file runs the steps: admit, prefill,
one token for every row, let go of who is done. What a request gives does not depend on its neighbours: greedy decoding
in fp32 equals `model.generate`, and sampling draws from a generator of the request's own.

Where memory runs out, what is admitted at a time is halved for good, and the requests that met the limit are put back
to the head of the queue with what they have; only a request that does not fit alone fails.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, cast

import torch

from domain.errors import Code, EngineError
from worker.engines.base import FinishReason
from worker.engines.generation import Generation, Statistics, sample
from worker.engines.scheduler import REPETITION_EVERY, Scheduler, Ticket, repetition_start
from worker.engines.slots import SlotCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from transformers import PreTrainedModel

    from worker.engines.generation import GenerationRequest
    from worker.engines.scheduler import Leave

logger = logging.getLogger(__name__)

PREFILL_TOKENS = 1024
"""Prompt tokens, pads included, that one step may prefill: 1.2 s for SmolLM2 on two quiet cores (148 ms per 128). So
long do the rows under way then wait, and so late can a cancel be."""

PADDING_SHARE = 0.1
"""Prompts are prefilled together while no more than this share of the tokens is padding. On a CPU a prompt costs what
its tokens cost, in company or alone (1 x 128, 2 x 64 and 8 x 128 tokens: the same per token within 15 %), so pads are a
plain loss; a GPU gains from company."""

READY_SHARE = 0.5
"""Requests that the feeder keeps ready beyond the free slots, as a share of all slots: what leaves in the steps that
the feeder's next piece of work takes."""


class Feeder(Protocol):
    """Work on the same model that must be done before a request can be submitted, such as looking at its pictures. It
    runs on the generator's thread, between steps, so that two threads never compete for the device."""

    @property
    def waiting(self) -> bool:
        """Whether there is something to do. Called from the generator's thread, under its lock: answer at once."""
        ...

    def feed(self) -> None:
        """Do a bounded piece of it, and submit what is ready. Must not raise."""
        ...


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
    def length(self) -> int:
        """Positions that a prefill writes: the prompt, and what was generated before the request was put back."""
        return self.prompt_tokens + len(self.tokens)

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

    `embed` turns token ids of any shape into the input embeddings that the model's base takes; the model's own input
    embeddings by default. A `feeder` is asked to work whenever fewer requests wait than slots will need; whoever gives
    it work calls `wake`.
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
        embed: Callable[[torch.Tensor], torch.Tensor] | None = None,
        feeder: Feeder | None = None,
        clock: Callable[[], float] = time.monotonic,
        name: str = "generator",
    ) -> None:
        self.context_tokens = context_tokens
        self.name = name
        self._model = model
        embeddings = cast("torch.nn.Embedding", model.get_input_embeddings())
        self._width = embeddings.embedding_dim
        self._device, self._dtype = embeddings.weight.device, embeddings.weight.dtype
        self._layers = int(model.config.get_text_config().num_hidden_layers)
        self._embed: Callable[[torch.Tensor], torch.Tensor] = embed or embeddings
        self._feeder = feeder
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

    def wake(self) -> None:
        """Tell the thread that its feeder has work."""
        with self._wake:
            self._wake.notify()

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
        if isinstance(request.prompt, torch.Tensor) and request.prompt.shape != (length, self._width):
            raise ValueError(f"prompt embeddings must be (tokens, {self._width}), not {tuple(request.prompt.shape)}")
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
            self._wake.wait_for(lambda: self._inbox or self._runs or self._closing or self._is_fed())
            arrived, self._inbox = self._inbox, []
            closing = self._closing
        for run in arrived:
            self._add(run)
        return not closing

    def _is_fed(self) -> bool:
        return self._feeder is not None and self._feeder.waiting

    def _add(self, run: _Run) -> None:
        key = next(self._keys)
        self._runs[key] = run
        self._scheduler.add(_ticket(key, run))

    def _step(self) -> None:
        if self._is_fed() and self._is_hungry():
            self._feed()
        cancelled = {key for key, run in self._runs.items() if run.is_cancelled}
        plan = self._scheduler.plan(now=self._clock(), cancelled=cancelled)
        for leave, reason in plan.leaves:
            self._free(leave)
            self._complete(self._runs.pop(leave.key), reason)
        if self._scheduler.slots < self._cache.slots:
            self._shrink()
        if plan.admits:
            self._admit([admit.key for admit in plan.admits])
        if self._rows:
            rows = list(self._rows)
            self._settle(rows, self._attempt(self._decode, rows), make_room=self._make_room_to_decode)

    def _is_hungry(self) -> bool:
        """Whether slots will be empty soon: a request must be ready for each that is free now, and for a few more."""
        slots = self._scheduler.slots
        return len(self._scheduler.waiting) < slots - len(self._rows) + slots * READY_SHARE

    def _feed(self) -> None:
        began = time.perf_counter()
        cast("Feeder", self._feeder).feed()
        totals = self._statistics
        self._statistics = replace(totals, feed_seconds=totals.feed_seconds + time.perf_counter() - began)

    def _admit(self, keys: list[int]) -> None:
        """Prefill the new rows, group by group. Nobody leaves before all are done: rows would move meanwhile."""
        self._rows += keys
        self._cache.admit([self._runs[key].length for key in keys])
        outcomes = [(group, self._attempt(self._prefill, group)) for group in self._prefill_groups(keys)]
        for group, outcome in outcomes:
            self._settle(group, outcome, make_room=self._make_room_to_prefill)

    def _attempt(self, work: Callable[[list[int]], _Tokens], keys: list[int]) -> _Tokens | Exception:
        try:
            return work(keys)
        except Exception as error:
            return error

    def _settle(
        self, keys: list[int], outcome: _Tokens | Exception, *, make_room: Callable[[list[int]], list[int]]
    ) -> None:
        if isinstance(outcome, Exception):
            if is_memory(outcome) and (too_many := make_room(keys)):
                self._put_back(too_many)
            else:
                self._fail(keys, outcome)
            return
        for key, token in zip(keys, outcome, strict=True):
            self._take(key, token)

    def _prefill_groups(self, keys: list[int]) -> Iterator[list[int]]:
        """Neighbours of like length; the scheduler sorted them."""
        group: list[int] = []
        total = 0
        for key in keys:
            length = self._runs[key].length
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
        lengths = [run.length for run in runs]
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
        mask, positions = self._cache.decode(self._device)
        try:
            last = torch.tensor([[run.tokens[-1]] for run in runs], device=self._device)
            hidden = self._forward(self._embed(last), position_ids=positions, mask=mask)  # (rows, 1, width)
            tokens = self._choose(hidden[:, 0], runs)
        except Exception:
            self._cache.take_back()
            raise
        totals = self._statistics
        self._statistics = replace(
            totals,
            steps=totals.steps + 1,
            slot_steps=totals.slot_steps + self._scheduler.slots,
            row_steps=totals.row_steps + len(runs),
            new_tokens=totals.new_tokens + len(runs),
            decode_seconds=totals.decode_seconds + time.perf_counter() - began,
        )
        return tokens

    def _embedded(self, run: _Run) -> torch.Tensor:
        prompt = run.request.prompt
        if not isinstance(prompt, torch.Tensor):
            return self._embed(torch.tensor([*prompt, *run.tokens], device=self._device))
        prompt = prompt.to(device=self._device, dtype=self._dtype)
        if not run.tokens:
            return prompt
        return torch.cat([prompt, self._embed(torch.tensor(run.tokens, device=self._device))])

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

    def _make_room_to_prefill(self, keys: list[int]) -> list[int]:
        """Halve what is admitted, after memory ran out: the prompts of one prefill, or, where that was a single one or
        the cache itself found no room, the slots. Returns who must wait again; nobody if nothing is left to halve."""
        scheduler = self._scheduler
        if len(keys) > 1 and self._cache.is_complete(self._layers):
            longest = max(self._runs[key].length for key in keys)
            scheduler.prefill_tokens = min(scheduler.prefill_tokens, longest * len(keys) // 2)
        elif scheduler.slots > 1:
            scheduler.slots //= 2
        else:
            return []
        return keys

    def _make_room_to_decode(self, keys: list[int]) -> list[int]:
        """The same for a decode step: its later half must wait, and so many slots are gone."""
        if self._scheduler.slots == 1:
            return []
        self._scheduler.slots = max(len(keys) // 2, 1)
        return keys[self._scheduler.slots :] or keys

    def _put_back(self, keys: list[int]) -> None:
        logger.warning(
            "%s: out of memory with %d rows in use; from here on %d slots, and %d tokens in one prefill",
            self.name, len(self._rows), self._scheduler.slots, self._scheduler.prefill_tokens,
        )  # fmt: skip
        for key in reversed(keys):
            self._free(self._scheduler.put_back(_ticket(key, self._runs[key])))
        self._shrink()

    def _shrink(self) -> None:
        """Give the memory of slots that are no longer admitted back, once nobody is in them."""
        if len(self._rows) <= self._scheduler.slots < self._cache.slots:
            self._cache.shrink(self._scheduler.slots)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _fail(self, keys: list[int], error: Exception) -> None:
        logger.error("%s: a step of %d requests failed", self.name, len(keys), exc_info=error)
        for key in keys:
            self._cache.clear(self._rows.index(key))
            run = self._release(key)
            run.future.set_exception(self._does_not_fit(run) if is_memory(error) else _engine_error(error))
        if not self._rows:
            self._cache = SlotCache(slots=self._scheduler.slots, positions=self.context_tokens)

    def _does_not_fit(self, run: _Run) -> EngineError:
        weights = sum(parameter.nbytes for parameter in self._model.parameters())
        return EngineError(
            f"a request of {run.length} tokens does not fit into the memory of {self._device} on its own, beside the "
            f"model ({_gib(weights)}) and a cache of one slot of {self.context_tokens} "
            f"positions ({_gib(self._cache.bytes)}); a smaller NIGHTOWL_CONTEXT_TOKENS takes less",
            code=Code.ENGINE_MEMORY,
        )

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


def _ticket(key: int, run: _Run) -> Ticket:
    request = run.request
    return Ticket(key=key, prompt_tokens=run.length, priority=request.priority, deadline_at=request.deadline_at)


def is_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, of the device or of the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _gib(size: int) -> str:
    return f"{size / 1024**3:.2f} GiB"


def _stop_index(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the first stop string begins."""
    return min((index for word in stop if (index := text.find(word)) >= 0), default=None)


def _engine_error(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return EngineError(error.message, code=error.code, retryable=error.retryable)
    failure = EngineError(f"the model failed: {type(error).__name__}: {error}"[:500], code=Code.ENGINE_FAILED)
    # Without the frames, which would keep the tensors of the failed step for as long as somebody holds the future.
    failure.__cause__ = error.with_traceback(None)
    return failure


def _too_long(prompt_tokens: int, context_tokens: int) -> EngineError:
    return EngineError(
        f"the prompt has {prompt_tokens} tokens; the context holds {context_tokens}, with at least one for the answer",
        code=Code.CONTEXT_TOO_LONG,
        retryable=False,
    )
