from __future__ import annotations

import copy
import random
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest
import torch

from domain.errors import Code, EngineError
from worker.engines.base import FinishReason, Sampling
from worker.engines.generation import Generation, GenerationRequest
from worker.engines.generator import Generator
from worker.engines.slots import SlotLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import LlamaForCausalLM

CONTEXT = 128


def letters(tokens: Sequence[int]) -> str:
    """A decoder for the tiny models: two letters a token."""
    return "".join(chr(97 + token % 26) + chr(65 + token // 26) for token in tokens)


def start(model: Any, *, slots: int = 3, eos: frozenset[int] = frozenset(), **options: Any) -> Generator:
    options = {"decode": letters, **options}
    return Generator(model, eos_ids=eos, slots=slots, context_tokens=CONTEXT, **options)


def request(prompt: Sequence[int] | torch.Tensor, new_tokens: int = 10, **options: Any) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, max_new_tokens=new_tokens, **{"guard_repetition": False, **options})


def reference(model: Any, prompt: Sequence[int], new_tokens: int) -> tuple[int, ...]:
    """What transformers' own generate gives, greedy, for this prompt alone."""
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
    return tuple(output[0, len(prompt) :].tolist())


def prompts(count: int, *, seed: int, longest: int = 60, vocabulary: int = 97) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(3, vocabulary) for _ in range(source.randint(1, longest))] for _ in range(count)]


class Steps:
    """A clock that acts: at step n, before rows are looked at for their deadline, `at[n]` is called."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None) -> None:
        self.at = at or {}
        self.step = 0

    def __call__(self) -> float:
        self.step += 1
        self.at.get(self.step, int)()
        return float(self.step)


class Breaking:
    """Raises `error` in the model's forwards that `applies` picks by their number and prompt length."""

    def __init__(self, model: Any, *, error: Exception, applies: Callable[[int, int], bool]) -> None:
        self.model = copy.deepcopy(model)
        self.error = error
        self.applies = applies
        self.calls = 0
        self.model.base_model.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, _: Any, __: Any, arguments: dict[str, Any]) -> None:
        self.calls += 1
        if self.applies(self.calls, arguments["inputs_embeds"].shape[1]):
            raise self.error


@pytest.mark.parametrize("slots", [1, 3, 6])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_answers_equal_those_of_generate_whoever_the_neighbours_are(
    family: str, slots: int, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    source = random.Random(slots)
    works = [(prompt, source.randint(1, 40)) for prompt in prompts(12, seed=1)]
    expected = [reference(model, prompt, new) for prompt, new in works]
    order = source.sample(range(12), 12)
    made = [GenerationRequest(prompt=p, max_new_tokens=new, guard_repetition=False) for p, new in works]
    with start(model, slots=slots, prefill_tokens=100) as generator:
        futures = {index: generator.submit(made[index]) for index in order[:6]}
        futures[order[0]].result(60)
        futures |= {index: generator.submit(made[index]) for index in order[6:]}
        results = [futures[index].result(60) for index in range(12)]
    assert [result.token_ids for result in results] == expected
    assert {result.finish_reason for result in results} == {FinishReason.LENGTH}
    assert [result.prompt_tokens for result in results] == [len(prompt) for prompt, _ in works]


@pytest.mark.weights
def test_smollm_answers_equal_those_of_generate(smollm_parts: tuple[Any, Any]) -> None:
    model, tokenizer = smollm_parts
    texts = [
        "The three largest cities of France are",
        "Dear Sir or Madam, I am writing to complain about the noise that comes from the owls in the attic. " * 3,
        "1, 2, 3, 5, 8,",
        "Once upon a time in a small harbour town there lived",
        "def main() -> None:\n    ",
        "Minutes of the meeting held on 12 May. Present: Mrs Brown, Mr Ito. The chair opened the meeting. " * 2,
    ]
    works = [(list(tokenizer(text)["input_ids"]), new) for text, new in zip(texts, (8, 4, 10, 6, 9, 3), strict=True)]
    expected = [_reference_without_end(model, prompt, new) for prompt, new in works]
    for slots in (1, 3, 6):
        with Generator(
            model, eos_ids=frozenset(), slots=slots, context_tokens=256, decode=tokenizer.decode
        ) as generator:
            futures = [generator.submit(request(prompt, new)) for prompt, new in works]
            assert [future.result(120).token_ids for future in futures] == expected


def _reference_without_end(model: Any, prompt: list[int], new_tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt) :].tolist())


def test_a_prompt_of_embeddings_gives_what_its_ids_give(llama: LlamaForCausalLM) -> None:
    ids = [5, 6, 7, 8]
    embeddings = llama.get_input_embeddings()(torch.tensor(ids)).detach()
    with start(llama) as generator:
        by_ids, by_embeddings = generator.submit(request(ids)), generator.submit(request(embeddings))
        assert by_ids.result(30) == by_embeddings.result(30)


def test_sampling_hangs_on_the_seed_and_not_on_the_neighbours(llama: LlamaForCausalLM) -> None:
    def sampled(seed: int) -> GenerationRequest:
        return request([1, 2, 3], 20, sampling=Sampling(temperature=1.2, top_k=20, top_p=0.9, seed=seed))

    with start(llama, slots=1) as generator:
        alone = generator.submit(sampled(1)).result(30)
    with start(llama, slots=4) as generator:
        others = [generator.submit(request(prompt)) for prompt in prompts(2, seed=3)]
        again, different = generator.submit(sampled(1)), generator.submit(sampled(2))
        assert again.result(30) == alone
        assert different.result(30).token_ids != alone.token_ids
        assert [other.result(30).token_ids for other in others] == [
            reference(llama, prompt, 10) for prompt in prompts(2, seed=3)
        ]


@pytest.mark.parametrize("sampling", [Sampling(temperature=5.0, top_k=1), Sampling(temperature=5.0, top_p=1e-6)])
def test_sampling_from_one_candidate_is_greedy(llama: LlamaForCausalLM, sampling: Sampling) -> None:
    with start(llama) as generator:
        result = generator.submit(request([1, 2, 3], sampling=sampling)).result(30)
    assert result.token_ids == reference(llama, [1, 2, 3], 10)


def test_the_end_token_ends_the_answer_and_is_left_out(llama: LlamaForCausalLM) -> None:
    tokens = reference(llama, [5, 6, 7], 20)
    end = tokens.index(tokens[6])
    with start(llama, eos=frozenset({tokens[6]})) as generator:
        result = generator.submit(request([5, 6, 7], 20)).result(30)
    assert result.token_ids == tokens[:end]
    assert (result.finish_reason, result.new_tokens) == (FinishReason.STOP, end + 1)


def test_a_stop_string_across_token_borders_ends_the_answer_and_is_cut_off(llama: LlamaForCausalLM) -> None:
    text = letters(reference(llama, [5, 6, 7], 20))
    stop = text[13:18]  # the second half of a token, two tokens, the first half of another
    with start(llama) as generator:
        result = generator.submit(request([5, 6, 7], 20, stop=("never", stop))).result(30)
    assert result.text == text[: text.index(stop)]
    assert (result.finish_reason, result.new_tokens) == (FinishReason.STOP, (text.index(stop) + 5 + 1) // 2)


def test_an_answer_that_runs_in_circles_is_ended_and_keeps_one_copy(llama: LlamaForCausalLM) -> None:
    constant = copy.deepcopy(llama)
    torch.nn.init.zeros_(constant.lm_head.weight)  # every token equally likely: greedy takes the first, for ever
    with start(constant) as generator:
        guarded = generator.submit(request([1], 100, guard_repetition=True)).result(30)
        free = generator.submit(request([1], 100)).result(30)
    assert (guarded.finish_reason, guarded.new_tokens) == (FinishReason.REPETITION, 48)
    assert (guarded.token_ids, guarded.text) == ((0,), letters([0]))
    assert (free.finish_reason, free.new_tokens) == (FinishReason.LENGTH, 100)


def test_a_prompt_over_the_context_is_refused_with_both_counts(llama: LlamaForCausalLM) -> None:
    with start(llama) as generator:
        error = generator.submit(request([1] * CONTEXT)).exception(30)
    assert isinstance(error, EngineError)
    assert (error.code, error.retryable) == (Code.CONTEXT_TOO_LONG, False)
    assert error.message.count(str(CONTEXT)) == 2


def test_an_answer_is_clipped_to_what_the_context_leaves(llama: LlamaForCausalLM) -> None:
    prompt = prompts(1, seed=5)[0][:1] * (CONTEXT - 5)
    with start(llama) as generator:
        result = generator.submit(request(prompt, 50)).result(30)
    assert (result.finish_reason, result.token_ids) == (FinishReason.LENGTH, reference(llama, prompt, 5))


@pytest.mark.parametrize(
    "bad",
    [request([]), request([1], 0), request(torch.zeros(3)), request(torch.zeros(3, 31))],
    ids=["empty", "no new tokens", "one dimension", "another width"],
)
def test_what_no_model_could_run_is_refused_at_once(llama: LlamaForCausalLM, bad: GenerationRequest) -> None:
    with start(llama) as generator, pytest.raises(ValueError, match="prompt"):
        generator.submit(bad)


def test_a_cancel_frees_the_row_within_a_step(llama: LlamaForCausalLM) -> None:
    cancel = threading.Event()
    with start(llama, slots=1, clock=Steps({5: cancel.set})) as generator:
        cancelled = generator.submit(request([1, 2], 100, cancel=cancel))
        follower = generator.submit(request([3, 4]))
        result = cancelled.result(30)
        assert follower.result(30).token_ids == reference(llama, [3, 4], 10)
    # The first step prefills and decodes; the cancel, made during the fifth, is seen by the sixth.
    assert (result.finish_reason, result.new_tokens) == (FinishReason.CANCELLED, 6)
    assert result.token_ids == reference(llama, [1, 2], 6)


def test_a_request_cancelled_while_waiting_never_runs(llama: LlamaForCausalLM) -> None:
    cancel = threading.Event()
    with start(llama, slots=1, clock=Steps({3: cancel.set})) as generator:
        running = generator.submit(request([1, 2], 20))
        result = generator.submit(request([3, 4], cancel=cancel)).result(30)
        assert running.result(30).new_tokens == 20
        assert generator.statistics.prompt_tokens == 2
    assert (result.finish_reason, result.text, result.new_tokens) == (FinishReason.CANCELLED, "", 0)


def test_a_deadline_ends_an_answer_and_a_wait(llama: LlamaForCausalLM) -> None:
    with start(llama, slots=1, clock=Steps()) as generator:
        active = generator.submit(request([1, 2], 100, deadline_at=4.0, priority=1)).result(30)
        late = generator.submit(request([1, 2], deadline_at=0.5)).result(30)
    assert (active.finish_reason, late.finish_reason) == (FinishReason.DEADLINE, FinishReason.DEADLINE)
    assert active.token_ids == reference(llama, [1, 2], active.new_tokens)
    assert late.new_tokens == 0


def test_a_failed_step_fails_its_batch_and_the_thread_goes_on(llama: LlamaForCausalLM) -> None:
    broken = Breaking(llama, error=RuntimeError("boom"), applies=lambda call, tokens: call == 4)
    with start(broken.model, slots=1) as generator:
        first, second = generator.submit(request([1, 2])), generator.submit(request([3, 4]))
        error = first.exception(30)
        assert second.result(30).token_ids == reference(llama, [3, 4], 10)
    assert isinstance(error, EngineError)
    assert (error.code, error.retryable) == (Code.ENGINE_FAILED, True)
    assert "boom" in error.message


class Small:
    """A device whose memory ends where `is_over` says so, by rows and tokens of one forward."""

    def __init__(self, model: Any, *, is_over: Callable[[int, int], bool], error: Exception | None = None) -> None:
        self.model = copy.deepcopy(model)
        self.is_over = is_over
        self.error = error or torch.OutOfMemoryError("no memory")
        self.most_rows = 0
        self.model.base_model.register_forward_pre_hook(self._hook, with_kwargs=True)

    def _hook(self, _: Any, __: Any, arguments: dict[str, Any]) -> None:
        rows, tokens = arguments["inputs_embeds"].shape[:2]
        if self.is_over(rows, tokens):
            raise self.error
        self.most_rows = max(self.most_rows, rows)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no memory")])
@pytest.mark.parametrize(
    "is_over",
    [
        pytest.param(lambda rows, tokens: tokens == 1 and rows > 2, id="decoding more than two"),
        pytest.param(lambda rows, tokens: rows * tokens > 70, id="prefilling more than 70 tokens"),
        pytest.param(lambda rows, tokens: rows > 1, id="more than one row of anything"),
    ],
)
def test_where_memory_runs_out_less_is_admitted_and_nothing_is_lost(
    llama: LlamaForCausalLM, error: Exception, is_over: Callable[[int, int], bool]
) -> None:
    small = Small(llama, is_over=is_over, error=error)
    works = prompts(10, seed=5)
    with start(small.model, slots=6) as generator:
        futures = [generator.submit(request(prompt, 25)) for prompt in works]
        results = [future.result(60) for future in futures]
    assert [result.token_ids for result in results] == [reference(llama, prompt, 25) for prompt in works]
    assert {result.prompt_tokens for result in results} == {len(prompt) for prompt in works}


def test_a_cache_that_finds_no_memory_is_made_smaller(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = SlotLayer.lazy_initialization

    def bounded(layer: SlotLayer, keys: torch.Tensor, values: torch.Tensor) -> None:
        if layer._slots > 2:
            raise torch.OutOfMemoryError("no memory")
        allocate(layer, keys, values)

    monkeypatch.setattr(SlotLayer, "lazy_initialization", bounded)
    works = prompts(5, seed=6)
    with start(llama, slots=8) as generator:
        futures = [generator.submit(request(prompt, 12)) for prompt in works]
        assert [f.result(60).token_ids for f in futures] == [reference(llama, prompt, 12) for prompt in works]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no memory")])
def test_what_does_not_fit_alone_fails_with_the_sizes(llama: LlamaForCausalLM, error: Exception) -> None:
    small = Small(llama, is_over=lambda rows, tokens: tokens > 40, error=error)
    with start(small.model, slots=4) as generator:
        bad, good = generator.submit(request([1] * 50)), generator.submit(request([2] * 20))
        failure = bad.exception(30)
        assert good.result(30).token_ids == reference(llama, [2] * 20, 10)
    assert isinstance(failure, EngineError)
    assert (failure.code, failure.retryable) == (Code.ENGINE_MEMORY, True)
    assert "50 tokens" in failure.message and f"{CONTEXT} positions" in failure.message


class Kitchen:
    """A feeder: each piece of its work makes one request ready."""

    def __init__(self, works: list[list[int]]) -> None:
        self.works = works
        self.futures: list[Future[Generation]] = []
        self.generator: Generator | None = None
        self.ready: list[int] = []

    @property
    def waiting(self) -> bool:
        return self.generator is not None and bool(self.works)

    def feed(self) -> None:
        assert self.generator is not None
        self.futures.append(self.generator.submit(request(self.works.pop(0), 20)))
        self.ready.append(sum(not future.done() for future in self.futures))


def test_a_feeder_works_ahead_of_the_slots_and_not_farther(llama: LlamaForCausalLM) -> None:
    works = prompts(12, seed=8)
    kitchen = Kitchen(list(works))
    with start(llama, slots=4, feeder=kitchen) as generator:
        kitchen.generator = generator
        generator.wake()
        wait_until(lambda: len(kitchen.futures) == 12)
        results = [future.result(30) for future in kitchen.futures]
    assert [result.token_ids for result in results] == [reference(llama, prompt, 20) for prompt in works]
    assert max(kitchen.ready) <= 4 + 2 + 1
    assert generator.statistics.feed_seconds > 0


def wait_until(is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_failed_prefill_leaves_the_others_alone(llama: LlamaForCausalLM) -> None:
    broken = Breaking(llama, error=RuntimeError("boom"), applies=lambda call, tokens: tokens == 50)
    with start(broken.model) as generator:
        works = [[1, 2, 3], [4] * 50, [5] * 20]
        good, bad, other = [generator.submit(request(prompt, 30)) for prompt in works]
        assert isinstance(bad.exception(30), EngineError)
        assert good.result(30).token_ids == reference(llama, works[0], 30)
        assert other.result(30).token_ids == reference(llama, works[2], 30)


def test_logits_that_are_not_numbers_fail_their_own_request(llama: LlamaForCausalLM) -> None:
    poison = torch.full((60, 32), torch.nan)
    with start(llama, slots=2) as generator:
        neighbour, bad = generator.submit(request([1, 2, 3], 40)), generator.submit(request(poison))
        assert isinstance(bad.exception(30), EngineError)
        follower = generator.submit(request([7, 8], 40))
        assert neighbour.result(30).token_ids == reference(llama, [1, 2, 3], 40)
        assert follower.result(30).token_ids == reference(llama, [7, 8], 40)


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_a_decoder_that_fails_fails_only_its_request(llama: LlamaForCausalLM, stop: tuple[str, ...]) -> None:
    def decode(tokens: Sequence[int]) -> str:
        if len(tokens) == 7:
            raise UnicodeError("seven")
        return letters(tokens)

    with start(llama, decode=decode) as generator:
        bad, good = generator.submit(request([1], 7, stop=stop)), generator.submit(request([2], 9))
        assert isinstance(bad.exception(30), EngineError)
        assert good.result(30).new_tokens == 9


def test_closing_cancels_what_is_waiting_and_active(llama: LlamaForCausalLM) -> None:
    running = threading.Event()
    generator = start(llama, slots=1, clock=Steps({2: running.set}), name="to be closed")
    futures = [generator.submit(request([1, 2], 100)) for _ in range(3)]
    assert running.wait(30)
    generator.close()
    generator.close()
    results = [future.result(0) for future in futures]
    assert results[-1] == Generation(
        token_ids=(), text="", finish_reason=FinishReason.CANCELLED, prompt_tokens=2, new_tokens=0
    )
    assert "to be closed" not in {thread.name for thread in threading.enumerate()}
    assert isinstance(generator.submit(request([1])).exception(0), EngineError)


def test_a_callback_may_close(llama: LlamaForCausalLM) -> None:
    generator = start(llama)
    closed: Future[None] = Future()

    def close(_: Future[Generation]) -> None:
        generator.close()
        closed.set_result(None)

    generator.submit(request([1])).add_done_callback(close)
    closed.result(30)
    generator.close()


def test_statistics_add_up(llama: LlamaForCausalLM) -> None:
    with start(llama, slots=2) as generator:
        assert generator.statistics.mean_occupancy == 0.0
        generator.submit(request([1, 2, 3], 5)).result(30)
        totals = generator.statistics
    assert (totals.steps, totals.row_steps, totals.prompt_tokens, totals.new_tokens) == (4, 4, 3, 5)
    assert totals.mean_occupancy == 0.5
    assert totals.prefill_seconds > 0 < totals.decode_seconds
