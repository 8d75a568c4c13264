"""The model computes what the formulas say: compared with a plain implementation of them, in float64."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.naive import NaiveOwl
from tests.mplug_owl.prompts import Prompt, alone, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOLERANCE = 1e-4  # of float32 against float64, on values of a few units

# Sizes other than the default ones, and epsilons so large that one in the wrong place shows.
SIZES: dict[str, dict[str, Any]] = {
    "usual": {},
    "uneven": {
        "num_query_tokens": 24,
        "image_size": 40,
        "patch_size": 10,
        "vision_width": 36,
        "vision_layers": 3,
        "vision_heads": 6,
        "abstractor_layers": 1,
        "abstractor_intermediate_size": 500,
        "abstractor_layer_norm_eps": 0.3,
        "width": 60,
        "layers": 3,
        "heads": 6,
        "seed": 5,
    },
}
FORMS = {
    "image": ["t7", "t3 i t5", "i t4 i t2", "t2 i i t3"],
    "video": ["t7", "t3 i t5", "t3 v t5", "t2 i t1 v t4", "v t2 i i t1 v t3"],
}


def naive_of(model: MplugOwlForConditionalGeneration) -> NaiveOwl:
    return NaiveOwl.of(model.state_dict(), model.config.to_dict())


def parts(reference: NaiveOwl, one: Prompt) -> list[int | torch.Tensor]:
    """A prompt as the plain implementation takes it: ids and encoded media in order."""
    images = iter([reference.encode([image]) for image in one.images])
    videos = iter([reference.encode(list(video.unbind(1))) for video in one.videos])
    size = len(reference.w("query_tokens")[0]) + 1
    result: list[int | torch.Tensor] = []
    at = 0
    while at < len(one.ids):
        number = one.ids[at]
        if number >= 0:
            result.append(number)
            at += 1
        else:
            result.append(next(images if number == -1 else videos))
            at += size
    return result


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_logits_of_every_kind_of_prompt(owl: Callable[..., Any], variant: str, language: str, sizes: str) -> None:
    model = owl(variant, language, **SIZES[sizes])
    reference = naive_of(model)
    for seed, form in enumerate(FORMS[variant]):
        one = prompt(model, form, seed=seed)
        with torch.no_grad():
            logits = model(**alone(one)).logits[0]
        wanted = reference.logits(parts(reference, one))
        assert logits.shape == wanted.shape
        assert (logits - wanted).abs().max() < TOLERANCE, form


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_the_most_likely_answer(owl: Callable[..., Any], variant: str, language: str) -> None:
    model = owl(variant, language)
    one = prompt(model, "t4 v t3" if variant == "video" else "t4 i t3", seed=3)
    reference = naive_of(model)
    made = model.generate(**alone(one), do_sample=False, max_new_tokens=8, eos_token_id=None)
    assert made.tolist() == [reference.greedy(parts(reference, one), 8)]


@pytest.mark.parametrize("sizes", SIZES)
def test_features_of_clips_and_images(owl: Callable[..., Any], sizes: str) -> None:
    model = owl("video", "llama", **SIZES[sizes])
    reference = naive_of(model)
    side = model.config.vision_config.image_size
    clip = torch.randn(1, 3, 3, side, side, generator=torch.Generator().manual_seed(1))
    for pixels, pictures in ((clip, list(clip[0].unbind(1))), (clip[:, :, 0], [clip[0, :, 0]])):
        with torch.no_grad():
            seen = model.vision_model(pixels, output_hidden_states=True)
        states = reference.see(pictures)
        for state, wanted in zip([*seen.hidden_states, seen.last_hidden_state], states, strict=True):
            assert (state[0] - torch.stack(wanted)).abs().max() < TOLERANCE
        assert (seen.pooler_output[0] - reference.pooled(pictures)).abs().max() < TOLERANCE


def test_bloom_with_a_number_of_heads_that_is_no_power_of_two(owl: Callable[..., Any]) -> None:
    model = owl("image", "bloom", heads=3)
    one = prompt(model, "t3 i t5")
    reference = naive_of(model)
    with torch.no_grad():
        logits = model(**alone(one)).logits[0]
    assert (logits - reference.logits(parts(reference, one))).abs().max() < TOLERANCE


@pytest.mark.shared
@pytest.mark.parametrize("name", ["llama_image", "llama_video"])
def test_the_plain_implementation_agrees_with_the_original(shared: Path, name: str) -> None:
    from safetensors.torch import load_file

    folder = shared / "dev" / name
    goldens = load_file(folder / "goldens.safetensors")
    model = MplugOwlForConditionalGeneration.from_pretrained(folder / "checkpoint")
    case = "one_image" if name == "llama_image" else "image_and_video"
    config = json.loads((folder / "checkpoint" / "config.json").read_text())
    reference = NaiveOwl.of(model.state_dict(), config)
    videos = goldens.get(f"{case}/video_pixel_values", torch.empty(0))
    one = Prompt(
        ids=tuple(goldens[f"{case}/input_ids"][0].tolist()),
        images=tuple(goldens[f"{case}/pixel_values"]),
        videos=tuple(videos),
    )
    wanted = goldens[f"{case}/logits"][0]
    assert (reference.logits(parts(reference, one)) - wanted).abs().max() < 5e-5
