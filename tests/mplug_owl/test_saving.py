"""Saving: folders that this library and the original load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl import MplugOwlForConditionalGeneration, inspect, save_published
from mplug_owl.checkpoint import published_state
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.prompts import alone, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

load = MplugOwlForConditionalGeneration.from_pretrained


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_saved_and_loaded_again_it_answers_the_same(
    owl: Callable[..., Any], tmp_path: Path, variant: str, language: str, safe: bool
) -> None:
    model = owl(variant, language)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    again = load(tmp_path)
    assert again.config.has_temporal is model.config.has_temporal
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    inputs = alone(prompt(model, "t4 v t3" if variant == "video" else "t4 i t3"))
    settings = {"do_sample": False, "max_new_tokens": 6}
    assert again.generate(**inputs, **settings).tolist() == model.generate(**inputs, **settings).tolist()


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_keys_are_the_published_ones(owl: Callable[..., Any], tmp_path: Path, variant: str, language: str) -> None:
    """The tied head is among them, and LLaMA's rotary tables, which the original keeps."""
    model = owl(variant, language)
    save_published(model, tmp_path)
    stored = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    wanted = set(model.state_dict())
    if language == "llama":
        wanted |= {f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(2)}
        table = stored["language_model.model.layers.1.self_attn.rotary_emb.inv_freq"]
        assert torch.allclose(table, 10000.0 ** -(torch.arange(0, 12, 2) / 12))
    assert set(stored) == wanted
    assert "language_model.lm_head.weight" in stored


@pytest.mark.parametrize(
    ("safe", "name"), [(False, "pytorch_model-0000{}-of-00004.bin"), (True, "model-0000{}-of-00004.safetensors")]
)
def test_shards_are_named_and_indexed_as_published(
    owl: Callable[..., Any], tmp_path: Path, safe: bool, name: str
) -> None:
    model = owl()
    save_published(model, tmp_path, safe=safe, max_shard_size="300KB")
    names = [name.format(number) for number in (1, 2, 3, 4)]
    index = json.loads(next(tmp_path.glob("*.index.json")).read_text())
    assert sorted(set(index["weight_map"].values())) == names
    state = published_state(model)
    assert set(index["weight_map"]) == set(state)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in state.values())
    files = {"config.json", "generation_config.json", *names, next(tmp_path.glob("*.index.json")).name}
    assert {file.name for file in tmp_path.iterdir()} == files


def test_a_tensor_brings_no_more_than_itself(owl: Callable[..., Any], tmp_path: Path) -> None:
    """A view would take all that it is a view of into a `.bin` file."""
    save_published(owl(), tmp_path)
    stored = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in stored.values())


def test_other_weights_in_the_folder_go_and_other_files_stay(tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = load(tiny())
    (tmp_path / "tokenizer.model").write_text("stays")
    save_published(model, tmp_path, max_shard_size="300KB")
    save_published(model, tmp_path, safe=True)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
    }


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_can_be_saved_over_while_its_weights_are_in_use(
    tiny: Callable[..., Path], tmp_path: Path, safe: bool
) -> None:
    save_published(load(tiny()), tmp_path, safe=safe)
    model = load(tmp_path)
    with torch.no_grad():
        model.query_tokens += 1
    save_published(model, tmp_path, safe=safe)
    assert torch.equal(load(tmp_path).query_tokens, load(tiny()).query_tokens + 1)


def test_half_precision_is_saved_as_such(tiny: Callable[..., Path], tmp_path: Path) -> None:
    load(tiny(), dtype=torch.float16).save_pretrained(tmp_path)
    assert inspect(tmp_path).dtype == torch.float16
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["torch_dtype"], config["architectures"]) == ("float16", ["MplugOwlForConditionalGeneration"])
    assert load(tmp_path).dtype == torch.float16


def test_safetensors_say_the_format_that_old_readers_ask_for(owl: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors import safe_open

    owl("image", "bloom").save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert "language_model.lm_head.weight" in load_file(tmp_path / "model.safetensors")


def test_other_processes_of_a_training_write_nothing(owl: Callable[..., Any], tmp_path: Path) -> None:
    owl().save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["llama_image", "llama_video"])
def test_the_originals_own_files_come_out_as_they_went_in(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "dev" / name / "checkpoint"
    save_published(load(folder), tmp_path)
    wanted: dict[str, torch.Tensor] = {}
    for file in inspect(folder).files:
        wanted |= torch.load(file, weights_only=True)
    stored = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert set(stored) == set(wanted)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in stored.items())
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    for part in ("vision_config", "visual_abstractor_config"):
        ours = {"feed_forward_size", "dtype"}
        assert {key: before[part][key] for key in after[part] if key not in ours} == {
            key: value for key, value in after[part].items() if key not in ours
        }
