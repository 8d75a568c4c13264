from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from worker.engines.slots import WIDTH_STEP, SlotCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import LlamaForCausalLM

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def prefill(model: LlamaForCausalLM, cache: SlotCache, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The last hidden states (rows, tokens, width) of new prompts, padded on the right with token 0."""
    first = len(cache.lengths)
    cache.admit([len(prompt) for prompt in prompts])
    cache.prefill(first)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    return forward(model, cache, ids, positions=torch.arange(longest)[None], mask=None)


def step(model: LlamaForCausalLM, cache: SlotCache, tokens: Sequence[int]) -> torch.Tensor:
    """The hidden states (rows, width) after one more token in each row."""
    mask, positions = cache.decode(CPU)
    return forward(model, cache, torch.tensor(tokens)[:, None], positions=positions, mask=mask)[:, 0]


def forward(
    model: LlamaForCausalLM, cache: SlotCache, ids: torch.Tensor, *, positions: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    output = model.model(
        input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def plain(model: LlamaForCausalLM, tokens: Sequence[int]) -> torch.Tensor:
    hidden: torch.Tensor = model.model(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
    return hidden


def test_each_row_has_its_own_length(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=4, positions=64)
    prefill(llama, cache, [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10]])
    prefill(llama, cache, [[11] * 20])
    hidden = step(llama, cache, [21, 22, 23])
    expected = [plain(llama, [1, 2, 3, 21]), plain(llama, [4, 5, 6, 7, 8, 9, 10, 22]), plain(llama, [*[11] * 20, 23])]
    torch.testing.assert_close(hidden, torch.stack(expected))
    assert cache.lengths == [4, 8, 21]


def test_the_last_row_moves_into_a_hole(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=3, positions=64)
    prefill(llama, cache, [[1, 2], [3, 4], [5, 6, 7]])
    cache.leave(0)
    assert cache.lengths == [3, 2]
    hidden = step(llama, cache, [8, 9])
    torch.testing.assert_close(hidden, torch.stack([plain(llama, [5, 6, 7, 8]), plain(llama, [3, 4, 9])]))


def test_a_row_is_used_again_after_a_longer_one(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=1, positions=64)
    prefill(llama, cache, [[1] * 40])
    cache.leave(0)
    prefill(llama, cache, [[2, 3]])
    torch.testing.assert_close(step(llama, cache, [4])[0], plain(llama, [2, 3, 4]))


def test_the_width_grows_in_steps_up_to_the_positions(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=1, positions=WIDTH_STEP + 3)
    prefill(llama, cache, [[1] * (WIDTH_STEP - 1)])
    assert cache.decode(CPU)[0].shape == (1, WIDTH_STEP)
    assert cache.decode(CPU)[0].shape == (1, WIDTH_STEP + 3)


def test_sizes_come_from_the_first_keys(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=2, positions=8)
    prefill(llama, cache, [[1, 2]])
    assert [tuple(layer.keys.shape) for layer in cache.layers] == [(2, 2, 8, 8)] * 2
    assert cache.get_max_length() == 8


def test_a_cleared_row_holds_nothing_that_is_not_a_number(llama: LlamaForCausalLM) -> None:
    cache = SlotCache(slots=1, positions=16)
    prefill(llama, cache, [[1] * 9])
    cache.layers[0].keys[0, :, 8] = torch.nan
    cache.clear(0)
    cache.leave(0)
    prefill(llama, cache, [[2, 3]])
    torch.testing.assert_close(step(llama, cache, [4])[0], plain(llama, [2, 3, 4]))


@pytest.mark.parametrize("lengths", [[1, 1, 1], [17]])
def test_what_does_not_fit_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        SlotCache(slots=2, positions=16).admit(lengths)
