"""Ids, masks and pixels are those of the original, run in 2023 and kept beside the repository."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mplug_owl.processing import MplugOwlProcessor
from mplug_owl.video import frame_indices, read_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.shared

SETS = ("llama_image", "llama_video")
COMMON = (
    "text_only",
    "one_image",
    "multi_turn",
    "one_image_norepeat2",
    "image_first_text_after_space",
    "two_images",
    "batch2_equal_len_single_1",
    "batch2_equal_len",
)
CASES = [*((name, case) for name in SETS for case in COMMON)]
CASES += [("llama_video", case) for case in ("video_4", "video_8", "image_and_video")]
TRAINING = [(name, case) for name in SETS for case in ("train_image", "train_batch_mixed", "train_truncated")]
PICTURES = ("a.png", "b.png", "c.png", "big.png", "rgba.png", "gray.png", "palette.png")


@dataclass(frozen=True)
class Set:
    folder: Path
    processor: MplugOwlProcessor
    cases: dict[str, Any]
    tokenizer: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def images(self, case: dict[str, Any]) -> list[Image.Image] | None:
        return [Image.open(self.folder / name) for name in case["images"] or ()] or None


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], Set]:
    @functools.cache
    def load(name: str) -> Set:
        folder = shared / "dev" / name
        return Set(
            folder=folder,
            processor=MplugOwlProcessor.from_pretrained(folder / "checkpoint"),
            cases=json.loads((folder / "cases.json").read_text())["cases"],
            tokenizer=json.loads((folder / "tokenizer_cases.json").read_text()),
            tensors=load_file(folder / "goldens.safetensors"),
        )

    return load


@pytest.mark.parametrize(("name", "case"), CASES)
def test_what_the_model_is_given_is_equal(golden: Callable[[str], Set], name: str, case: str) -> None:
    found = golden(name)
    asked = found.cases[case]
    made = found.processor(
        text=asked["prompts"],
        images=found.images(asked),
        videos=[str(found.folder / file) for file in asked["videos"] or ()] or None,
        num_frames=asked["num_frames"] or 4,
        return_tensors="pt",
        padding=True,
    )
    assert made["input_ids"].tolist() == asked["input_ids"]
    assert not made["attention_mask"].is_floating_point()
    kept = {key.split("/")[1]: tensor for key, tensor in found.tensors.items() if key.startswith(f"{case}/")}
    for key in ("attention_mask", "pixel_values", "video_pixel_values"):
        assert (key in made) == (key in kept)
        if key in made:
            torch.testing.assert_close(made[key].float(), kept[key], atol=0, rtol=0)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("picture", PICTURES)
def test_pixels_of_every_kind_of_picture_are_equal(golden: Callable[[str], Set], name: str, picture: str) -> None:
    found = golden(name)
    made = found.processor.image_processor(Image.open(found.folder / "images" / picture), return_tensors="pt")
    torch.testing.assert_close(made["pixel_values"], found.tensors[f"preprocess/{picture}"], atol=0, rtol=0)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("number", range(21))
def test_ids_of_pieces_are_equal(golden: Callable[[str], Set], name: str, number: int) -> None:
    found = golden(name)
    text = found.tokenizer["strings"][number]
    assert found.processor.tokenizer.piece_ids(text) == found.tokenizer["ids_auto"][number]
    assert found.processor.tokenizer.training_piece_ids(text) == found.tokenizer["ids_slow"][number]


@pytest.mark.parametrize("name", SETS)
def test_all_strings_are_compared(golden: Callable[[str], Set], name: str) -> None:
    assert len(golden(name).tokenizer["strings"]) == 21


@pytest.mark.parametrize(("name", "case"), TRAINING)
def test_ids_and_masks_for_training_are_equal(golden: Callable[[str], Set], name: str, case: str) -> None:
    found = golden(name)
    asked = found.cases[case]
    made = [found.processor.tokenize_for_training(text, asked["max_length"]) for text in asked["conversations"]]
    kept = {key.split("/")[1]: tensor for key, tensor in found.tensors.items() if key.startswith(f"{case}/")}
    assert [one.ids for one in made] == kept["input_ids"].tolist()
    assert [one.prompt_mask for one in made] == kept["prompt_mask"].tolist()
    assert [one.non_media_mask for one in made] == kept["non_media_mask"].tolist()
    assert [one.non_padding_mask for one in made] == kept["non_padding_mask"].tolist()
    assert [one.labels for one in made] == kept["labels_after_masking"].tolist()
    assert [one.images for one in made] == kept["num_images"].tolist()


@pytest.mark.parametrize("name", SETS)
def test_answers_are_the_same_text(golden: Callable[[str], Set], name: str) -> None:
    found = golden(name)
    for case in found.cases.values():
        if "greedy_new_ids" in case:
            assert found.processor.batch_decode(case["greedy_new_ids"]) == case["greedy_text"]
            # Some have a begin token in the middle, and this form has one in front.
            assert found.processor.batch_decode(case["greedy_with_leading_bos"]) == case["greedy_text"]


@pytest.mark.parametrize("name", SETS)
def test_the_saved_tokenizer_is_the_one_that_transformers_428_wrote(
    golden: Callable[[str], Set], tmp_path: Path, shared: Path, name: str
) -> None:
    golden(name).processor.save_pretrained(tmp_path)
    # Both sets have the same tokenizer.model, and one has what 4.28 made of it.
    kept = shared / "dev" / "llama_image" / "checkpoint"
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads((kept / "tokenizer.json").read_text())
    assert (tmp_path / "tokenizer.model").read_bytes() == (kept / "tokenizer.model").read_bytes()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        assert json.loads((tmp_path / file).read_text()) == json.loads((kept / file).read_text())


def test_frames_are_chosen_as_the_original_does(shared: Path) -> None:
    table = json.loads((shared / "dev" / "llama_video" / "video" / "sampling.json").read_text())["get_index"]
    assert len(table) == 140
    for asked, indices in table.items():
        total, count = map(int, asked.split(","))
        assert frame_indices(total, count) == indices


@pytest.mark.parametrize("count", [4, 8])
def test_frames_are_decoded_as_the_original_does(shared: Path, count: int) -> None:
    folder = shared / "dev" / "llama_video" / "video"
    kept = [np.asarray(Image.open(file)) for file in sorted((folder / f"frames_{count}").glob("*.png"))]
    np.testing.assert_array_equal(read_frames(folder / "clip.mp4", count), np.stack(kept))
