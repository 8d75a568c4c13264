"""What the original computed (transformers 4.28.1, float32), number for number and token for token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl import MplugOwlForConditionalGeneration, load_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.shared

# Absolute, as the goldens' own page suggests. Logits are some units large, features too.
LOGITS, FEATURES = 5e-5, 2e-5
INPUTS = ("input_ids", "attention_mask", "pixel_values", "video_pixel_values")

ANSWERS = {
    "llama_image": [
        "text_only",
        "one_image",
        "multi_turn",
        "one_image_norepeat2",
        "image_first_text_after_space",
        "two_images",
        "batch2_equal_len_single_1",
        "batch2_equal_len",
    ],
    "llama_video": [
        "text_only",
        "one_image",
        "multi_turn",
        "one_image_norepeat2",
        "image_first_text_after_space",
        "two_images",
        "video_4",
        "video_8",
        "image_and_video",
        "batch2_equal_len_single_1",
        "batch2_equal_len",
    ],
}
CASES = [(name, case) for name, cases in ANSWERS.items() for case in cases]
SEEN = ("one_image", "two_images", "batch2_equal_len", "video_4", "video_8")
FEATURES_OF = [(name, case) for name, case in CASES if case in SEEN]
TRAINING = [(name, case) for name in ANSWERS for case in ("train_image", "train_batch_mixed", "train_truncated")]


class Goldens:
    """One configuration: the model, what was put in and what came out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = MplugOwlForConditionalGeneration.from_pretrained(folder / "checkpoint")
        self.cases = json.loads((folder / "cases.json").read_text())["cases"]
        self._tensors = load_file(folder / "goldens.safetensors")

    def of(self, case: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(f"{case}/"): value for key, value in self._tensors.items() if key.startswith(f"{case}/")
        }

    def inputs(self, case: str) -> dict[str, Any]:
        return {key: value for key, value in self.of(case).items() if key in INPUTS}


@pytest.fixture(scope="module")
def goldens(shared: Path) -> Callable[[str], Goldens]:
    made: dict[str, Goldens] = {}

    def get(name: str) -> Goldens:
        return made.setdefault(name, Goldens(shared / "dev" / name)) if name not in made else made[name]

    return get


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got.detach().float() - wanted.float()).abs().max())


@pytest.mark.parametrize(("name", "case"), CASES)
def test_answers(goldens: Callable[[str], Goldens], name: str, case: str) -> None:
    those = goldens(name)
    made = those.model.generate(**those.inputs(case), **those.cases[case]["generate_kwargs"])
    assert made.tolist() == those.cases[case]["greedy_new_ids"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_embeddings_and_logits(goldens: Callable[[str], Goldens], name: str, case: str) -> None:
    those = goldens(name)
    inputs, wanted = those.inputs(case), those.of(case)
    with torch.no_grad():
        images = those.model.encode_images(inputs["pixel_values"]) if "pixel_values" in inputs else None
        has_videos = "video_pixel_values" in inputs
        videos = those.model.encode_videos(inputs["video_pixel_values"]) if has_videos else None
        embeddings = those.model.embed(inputs["input_ids"], images=images, videos=videos)
        assert distance(embeddings, wanted["inputs_embeds"]) < FEATURES
        if "logits" in wanted:
            assert distance(those.model(**inputs).logits, wanted["logits"]) < LOGITS


@pytest.mark.parametrize(("name", "case"), FEATURES_OF)
def test_features(goldens: Callable[[str], Goldens], name: str, case: str) -> None:
    those = goldens(name)
    wanted = those.of(case)
    kind, pixels = ("video", wanted["video_pixel_values"]) if "video" in case else ("image", wanted["pixel_values"])
    with torch.no_grad():
        vision = those.model.vision_model(pixels, output_hidden_states=True)
        queries = those.model.query_tokens.expand(len(pixels), -1, -1)
        temporal = those.model.temporal_query_tokens.expand(len(pixels), -1, -1) if kind == "video" else None
        abstract = those.model.abstractor(
            queries, vision.last_hidden_state, temporal_query_embeds=temporal, output_hidden_states=True
        )
    for part, output in (("vision", vision), ("abstractor", abstract)):
        for field in ("last_hidden_state", "pooler_output"):
            assert distance(output[field], wanted[f"{kind}.{part}.{field}"]) < FEATURES, (part, field)
    for i, state in enumerate(vision.hidden_states):
        assert distance(state, wanted[f"{kind}.vision.hidden_states.{i}"]) < FEATURES, i
    for i, state in enumerate(abstract.hidden_states):
        assert distance(state, wanted[f"{kind}.abstractor.layer.{i}"]) < FEATURES, i


@pytest.mark.parametrize(("name", "case"), TRAINING)
def test_training_loss_and_gradients(goldens: Callable[[str], Goldens], name: str, case: str) -> None:
    those = goldens(name)
    wanted = those.of(case)
    those.model.zero_grad()
    made = those.model(
        input_ids=wanted["input_ids"], pixel_values=wanted["pixel_values"], labels=wanted["labels_after_masking"]
    )
    assert float(made.loss.detach()) == pytest.approx(float(wanted["loss"]), abs=1e-5)
    if "logits" in wanted:
        assert distance(made.logits, wanted["logits"]) < LOGITS
    made.loss.backward()
    norms = {
        key: float(weight.grad.norm()) for key, weight in those.model.named_parameters() if weight.grad is not None
    }
    for key, norm in those.cases[case]["grad_norms"].items():
        assert norms[key] == pytest.approx(norm, rel=1e-3, abs=1e-6), key
    those.model.zero_grad()


@pytest.mark.parametrize("merge", [True, False])
def test_a_lora_adapter_of_the_original(shared: Path, merge: bool) -> None:
    folder = shared / "dev" / "llama_image"
    those = Goldens(folder)
    wanted = load_file(folder / "lora_adapter" / "goldens_lora.safetensors")
    model = load_adapter(those.model, folder / "lora_adapter", merge=merge)
    inputs = those.inputs("one_image")
    with torch.no_grad():
        assert distance(model(**inputs).logits, wanted["one_image_lora/logits"]) < LOGITS
    made = model.generate(**inputs, do_sample=False, max_new_tokens=16)
    assert made.tolist() == wanted["one_image_lora/generated"][:, 1:].tolist()


@pytest.mark.parametrize("name", ANSWERS)
def test_a_batch_of_unequal_prompts_answers_as_each_alone(goldens: Callable[[str], Goldens], name: str) -> None:
    """The original pads on the right and gets the shorter prompts wrong; alone it gets them right."""
    those = goldens(name)
    cases = [case for case in ANSWERS[name] if not case.startswith(("batch", "one_image_norepeat2", "video_8"))]
    every = [those.inputs(case) for case in cases]
    longest = max(inputs["input_ids"].shape[1] for inputs in every)
    left = [longest - inputs["input_ids"].shape[1] for inputs in every]
    pad = torch.nn.functional.pad
    batch = {
        "input_ids": torch.cat([pad(x["input_ids"], (n, 0)) for x, n in zip(every, left, strict=True)]),
        "attention_mask": torch.cat([pad(x["attention_mask"], (n, 0)) for x, n in zip(every, left, strict=True)]),
    }
    for key in ("pixel_values", "video_pixel_values"):
        if media := [inputs[key] for inputs in every if key in inputs]:
            batch[key] = torch.cat(media)
    made = those.model.generate(**batch, do_sample=False, max_new_tokens=16)
    assert made.tolist() == [those.cases[case]["greedy_new_ids"][0] for case in cases]


@pytest.mark.parametrize("name", ANSWERS)
def test_half_precision_is_near_the_original_in_half_precision(goldens: Callable[[str], Goldens], name: str) -> None:
    """Both differ from float32 by rounding; they must not differ from each other by more."""
    those = goldens(name)
    model = MplugOwlForConditionalGeneration.from_pretrained(those.folder / "checkpoint", dtype=torch.bfloat16)
    exact = those.of("one_image")
    rounded = those.of("bf16_informational")["one_image.abstractor.last_hidden_state"]
    with torch.no_grad():
        made = model.encode_images(exact["pixel_values"])
    error = distance(rounded, exact["image.abstractor.last_hidden_state"])
    assert distance(made, rounded) < 2 * error
    assert distance(made, exact["image.abstractor.last_hidden_state"]) < 2 * error
