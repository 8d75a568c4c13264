"""Numbers that were computed once, by the plain implementation, and are kept: neither it nor the model may drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl import MplugOwlForConditionalGeneration
from tests.mplug_owl.make_goldens import CONFIGS, FILE, NEW, compute, formula_weights, pictures, prompt_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def kept() -> Mapping[str, torch.Tensor]:
    return load_file(FILE)


def model_of(name: str) -> Any:
    model = MplugOwlForConditionalGeneration(CONFIGS[name]).eval()  # type: ignore[no-untyped-call]
    model.load_state_dict({key: tensor.float() for key, tensor in formula_weights(model).items()})
    model.tie_weights()
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_computes_the_kept_numbers(kept: Mapping[str, torch.Tensor], name: str) -> None:
    model = model_of(name)
    image, clip = (media.float()[None] for media in pictures(model.config))
    inputs: dict[str, torch.Tensor] = {"input_ids": torch.tensor([prompt_ids(model.config)]), "pixel_values": image}
    assert (model.encode_images(image)[0] - kept[f"{name}/image"]).abs().max() < TOLERANCE
    if model.config.has_temporal:
        inputs["video_pixel_values"] = clip
        assert (model.encode_videos(clip)[0] - kept[f"{name}/clip"]).abs().max() < TOLERANCE
    assert (model(**inputs).logits[0] - kept[f"{name}/logits"]).abs().max() < TOLERANCE
    answer = model.generate(**inputs, do_sample=False, eos_token_id=None, max_new_tokens=NEW)[0]
    assert answer.tolist() == kept[f"{name}/answer"].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_so_does_the_plain_implementation(kept: Mapping[str, torch.Tensor], name: str) -> None:
    made = compute(formula_weights(model_of(name)), CONFIGS[name])
    assert (made.image - kept[f"{name}/image"]).abs().max() < 1e-5
    assert (made.logits - kept[f"{name}/logits"]).abs().max() < 1e-5
    assert made.answer == kept[f"{name}/answer"].tolist()
    if made.clip is not None:
        assert (made.clip - kept[f"{name}/clip"]).abs().max() < 1e-5


def test_answers_differ(kept: Mapping[str, torch.Tensor]) -> None:
    answers = [tuple(kept[f"{name}/answer"].tolist()) for name in CONFIGS]
    assert len(set(answers)) == len(answers)
    assert all(len(set(answer)) > 2 for answer in answers)
