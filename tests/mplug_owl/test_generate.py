"""`generate`: what it returns, batches, bounds, settings, and refusals."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import GenerationConfig

from mplug_owl import MplugOwlForConditionalGeneration
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.prompts import alone, batch, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None}
MIXED = {
    "image": ["t3", "t9 i t4", "i t2 i t30", "t1 i i t2", "t60"],
    "video": ["t3", "t9 i t4", "t5 v t2", "t1 v i t2", "i t40 v t1", "t60"],
}


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_each_row_of_a_batch_is_what_it_is_alone(owl: Callable[..., Any], variant: str, language: str) -> None:
    model = owl(variant, language)
    prompts = [prompt(model, form, seed=seed) for seed, form in enumerate(MIXED[variant])]
    every = [model.generate(**alone(one), max_new_tokens=24, **GREEDY)[0].tolist() for one in prompts]
    assert model.generate(**batch(prompts), max_new_tokens=24, **GREEDY).tolist() == every
    assert len({tuple(answer) for answer in every}) == len(prompts)  # the prompts matter


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_logits_do_not_depend_on_padding(owl: Callable[..., Any], variant: str, language: str) -> None:
    model = owl(variant, language)
    prompts = [prompt(model, form, seed=seed) for seed, form in enumerate(MIXED[variant])]
    with torch.no_grad():
        together = model(**batch(prompts)).logits
        for row, one in zip(together, prompts, strict=True):
            single = model(**alone(one)).logits[0]
            assert (row[-len(single) :] - single).abs().max() < 1e-4


def test_rows_that_end_early_are_filled_with_the_pad_id(owl: Callable[..., Any]) -> None:
    model = owl()
    prompts = [prompt(model, form, seed=seed) for seed, form in enumerate(["t4", "i t6"])]
    answers = model.generate(**batch(prompts), do_sample=False, eos_token_id=None, max_new_tokens=6).tolist()
    stop = next(token for token in answers[0] if token not in answers[1])
    at = answers[0].index(stop) + 1
    ended = model.generate(**batch(prompts), do_sample=False, eos_token_id=stop, max_new_tokens=6).tolist()
    assert ended == [answers[0][:at] + [0] * (6 - at), answers[1]]


def test_only_new_tokens_come_back(owl: Callable[..., Any]) -> None:
    model = owl()
    one = alone(prompt(model, "t4 i t3"))
    made = model.generate(**one, max_new_tokens=5, **GREEDY)
    with torch.no_grad():
        first = model(**one).logits[0, -1].argmax()
    assert made.shape == (1, 5)
    assert made[0, 0] == first


def test_scores_come_with_as_many_tokens(owl: Callable[..., Any]) -> None:
    model = owl()
    inputs = alone(prompt(model, "t4 i t3"))
    made = model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True, output_scores=True, **GREEDY)
    assert made.sequences.tolist() == model.generate(**inputs, max_new_tokens=5, **GREEDY).tolist()
    assert torch.stack([step[0].argmax() for step in made.scores]).tolist() == made.sequences[0].tolist()


@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_embeddings_in_place_of_ids(owl: Callable[..., Any], language: str) -> None:
    model = owl("image", language)
    inputs = alone(prompt(model, "t4 i t3"))
    with torch.no_grad():
        embeddings = model.embed(inputs["input_ids"], images=model.encode_images(inputs["pixel_values"]))
    made = model.generate(inputs_embeds=embeddings, max_new_tokens=5, **GREEDY)
    assert made.tolist() == model.generate(**inputs, max_new_tokens=5, **GREEDY).tolist()


def test_beams_and_several_answers(owl: Callable[..., Any]) -> None:
    model = owl()
    inputs = batch([prompt(model, "t4 i t3"), prompt(model, "t9", seed=1)])
    made = model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2, **GREEDY)
    assert made.shape == (4, 5)
    assert made[0].tolist() != made[1].tolist()


def test_settings_of_the_checkpoint_are_used(owl: Callable[..., Any]) -> None:
    model = owl()
    settings = model.generation_config
    # generation_config.json says max_length 512, of which the original spends one on the begin token.
    assert (settings.do_sample, settings.top_k, settings.max_new_tokens, settings.max_length) == (True, 3, 511, None)
    inputs = alone(prompt(model, "t4"))
    torch.manual_seed(0)
    sampled = {tuple(model.generate(**inputs, max_new_tokens=6)[0].tolist()) for _ in range(8)}
    assert len(sampled) > 1


def test_an_answer_ends_where_the_checkpoint_says(tiny: Callable[..., Path]) -> None:
    model = MplugOwlForConditionalGeneration.from_pretrained(tiny())
    model.generation_config.max_new_tokens = 7
    inputs = alone(prompt(model, "t4"))
    assert model.generate(**inputs, **GREEDY).shape == (1, 7)


def test_max_length_counts_the_prompt(owl: Callable[..., Any]) -> None:
    model = owl()
    inputs = alone(prompt(model, "t4"))  # five positions
    assert model.generate(**inputs, max_length=8, **GREEDY).shape == (1, 3)
    bound = GenerationConfig(do_sample=False, max_length=9, eos_token_id=[])  # type: ignore[no-untyped-call]
    assert model.generate(**inputs, generation_config=bound).shape == (1, 4)
    assert bound.max_length == 9
    with pytest.raises(ValueError, match="max_length leaves no room for an answer after a prompt of 5 positions"):
        model.generate(**inputs, max_length=5, **GREEDY)


def test_min_length_counts_the_prompt(owl: Callable[..., Any]) -> None:
    model = owl()
    inputs = alone(prompt(model, "t4"))
    first = model.generate(**inputs, max_new_tokens=1, **GREEDY)[0, 0].item()
    ending = {"do_sample": False, "eos_token_id": first, "max_new_tokens": 9}
    assert model.generate(**inputs, **ending).tolist() == [[first]]
    assert model.generate(**inputs, min_length=5 + 3, **ending).shape[1] > 3


def test_processors_see_one_begin_token_and_the_answer(owl: Callable[..., Any]) -> None:
    """So the original does it, and so a repeated pair of the prompt is no repetition."""
    model = owl()
    inputs = alone(prompt(model, "t4 i t3"))
    seen: list[list[int]] = []

    def look(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(ids[0].tolist())
        return scores

    made = model.generate(**inputs, max_new_tokens=3, logits_processor=[look], **GREEDY)[0].tolist()
    assert seen == [[1], [1, made[0]], [1, made[0], made[1]]]


def test_no_pair_of_tokens_repeats(owl: Callable[..., Any]) -> None:
    model = owl("image", "bloom")
    inputs = alone(prompt(model, "t4 i t3"))
    free = model.generate(**inputs, max_new_tokens=40, **GREEDY)[0].tolist()
    made = model.generate(**inputs, max_new_tokens=40, no_repeat_ngram_size=2, **GREEDY)[0].tolist()
    assert len(set(pairwise(free))) < 39
    assert len(set(pairwise(made))) == 39


def test_padding_on_the_right_is_refused(owl: Callable[..., Any]) -> None:
    model = owl()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(ValueError, match="pad on the left"):
        model.generate(input_ids=torch.full((2, 3), 5), attention_mask=mask)


def test_a_mask_of_another_size_is_refused(owl: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"attention_mask is \(1, 4\) for prompts of \(1, 3\)"):
        owl().generate(input_ids=torch.full((1, 3), 5), attention_mask=torch.ones(1, 4))


def test_what_goes_in_is_left_as_it_was(owl: Callable[..., Any]) -> None:
    model = owl()
    inputs = batch([prompt(model, "t4 i t3"), prompt(model, "t9", seed=1)])
    before, settings = copy.deepcopy(inputs), model.generation_config.to_dict()
    model.generate(**inputs, max_new_tokens=2, **GREEDY)
    assert all(torch.equal(inputs[key], value) for key, value in before.items())
    assert model.generation_config.to_dict() == settings
