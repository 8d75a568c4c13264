from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from worker.engines.generation import GenerationRequest
from worker.engines.generator import Generator
from worker.engines.packed import PackedLinear, can_pack, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

needs_operators = pytest.mark.skipif(not can_pack(nn.Linear(2, 2)), reason="this torch has no packed linear operators")


def generated(model: Any, prompts: Sequence[Sequence[int]], *, steps: int) -> list[tuple[int, ...]]:
    with Generator(model, eos_ids=frozenset(), slots=3, context_tokens=128, decode=lambda _: "") as generator:
        futures = [
            generator.submit(GenerationRequest(prompt=list(prompt), max_new_tokens=steps, guard_repetition=False))
            for prompt in prompts
        ]
        return [tuple(future.result().token_ids) for future in futures]


@needs_operators
@pytest.mark.parametrize("rows", [(1,), (3,), (16,), (2, 5), (200,)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same_products(rows: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias)
    states = torch.randn(*rows, 24)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(states), layer(states), rtol=1e-5, atol=1e-5)


@needs_operators
def test_every_linear_layer_is_replaced_and_the_tokens_stay(llama: Any) -> None:
    prompts = [[5, 17, 3], list(range(1, 40)), [9] * 7, [88, 2]]
    packed = copy.deepcopy(llama)
    layers = sum(type(module) is nn.Linear for module in packed.modules())
    assert pack(packed) == layers > 0
    assert not any(type(module) is nn.Linear for module in packed.modules())
    assert generated(packed, prompts, steps=12) == generated(llama, prompts, steps=12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_are_left_alone(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).to(dtype)
    assert pack(model) == 0
    assert type(model[0]) is nn.Linear


@needs_operators
@pytest.mark.weights
def test_smollm_packed_says_what_generate_says(smollm_parts: tuple[Any, Any]) -> None:
    model, tokenizer = smollm_parts
    packed = copy.deepcopy(model)
    pack(packed)
    texts = ("The owl is a bird that", "Once upon a time, in a small town by the sea, there lived", "2 + 2 =")
    prompts = [tokenizer(text).input_ids for text in texts]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, min_new_tokens=24, do_sample=False
        )
        expected.append(tuple(output[0, len(prompt) :].tolist()))
    assert generated(packed, prompts, steps=24) == expected
