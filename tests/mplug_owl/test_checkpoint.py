"""Loading: what a folder's files tell, every form they come in, and refusals that name what is wrong."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mplug_owl import CheckpointError, MplugOwlConfig, MplugOwlForConditionalGeneration, inspect
from tests.mplug_owl.conftest import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

load = MplugOwlForConditionalGeneration.from_pretrained
FORMS: dict[str, dict[str, Any]] = {
    "one bin": {},
    "bin shards": {"max_shard_size": "300KB"},
    "one safetensors": {"safe": True},
    "safetensors shards": {"safe": True, "max_shard_size": "300KB"},
}


@pytest.fixture
def folder(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint that the test may spoil."""
    return copy_of(tiny(), tmp_path)


def copy_of(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source, tmp_path / "spoilt")
    return tmp_path / "spoilt"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(folder / "pytorch_model.bin", weights_only=True)
    return loaded


def change(folder: Path, changed: dict[str, torch.Tensor | None]) -> None:
    """Set or remove keys of a checkpoint of one file."""
    state = {**weights(folder), **changed}
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_headers_tell_the_variant_the_width_and_the_size(
    tiny: Callable[..., Path], variant: str, language: str, form: str
) -> None:
    folder = tiny(variant, language, **FORMS[form])
    facts = inspect(folder)
    model = load(folder)
    assert facts.has_temporal is model.config.has_temporal is (variant == "video")
    # 300 is taken as it is by the image variant, and two thirds of it rounded up to 256 by the video variant.
    assert facts.abstractor_intermediate_size == (256 if variant == "video" else 300)
    assert model.config.visual_abstractor_config.feed_forward_size == facts.abstractor_intermediate_size
    assert facts.dtype == torch.float32
    names = dict(model.named_parameters(remove_duplicate=False))
    assert facts.shapes["query_tokens"] == (1, 16, 32)
    assert names.keys() == {key for key in facts.shapes if not key.endswith("inv_freq")}
    # A tied head is written out beside the table that it shares.
    stored = sum(weight.numel() for weight in names.values())
    assert (facts.parameters, facts.bytes) == (stored, 4 * stored)
    assert len(facts.files) == 1 if form.startswith("one") else len(facts.files) > 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_weights_are_the_same_in_every_form(tiny: Callable[..., Path], variant: str, language: str, form: str) -> None:
    stored = weights(tiny(variant, language))
    state = load(tiny(variant, language, **FORMS[form])).state_dict()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in state.items())


def test_a_head_that_shares_its_storage_counts_once(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy_of(tiny("image", "bloom"), tmp_path)
    apart = inspect(folder).parameters
    state = weights(folder)
    table = state["language_model.transformer.word_embeddings.weight"]
    change(folder, {"language_model.transformer.word_embeddings.weight": table, "language_model.lm_head.weight": table})
    assert inspect(folder).parameters == apart - table.numel()


def test_the_type_most_numbers_are_stored_in(folder: Path) -> None:
    state = weights(folder)
    change(folder, {key: tensor.half() for key, tensor in state.items() if key.startswith("language_model")})
    facts = inspect(folder)
    assert facts.dtype == torch.float16
    assert facts.bytes < 4 * facts.parameters


def test_the_old_form_of_bin_files_loads_too(folder: Path) -> None:
    state = weights(folder)
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert inspect(folder).shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert torch.equal(load(folder).query_tokens, state["query_tokens"])


def test_weights_load_as_another_type(tiny: Callable[..., Path]) -> None:
    assert load(tiny(), dtype="bfloat16").query_tokens.dtype == torch.bfloat16
    assert load(tiny(), dtype=torch.float16).query_tokens.dtype == torch.float16


def test_a_model_comes_ready_to_answer(tiny: Callable[..., Path]) -> None:
    assert not load(tiny()).training


def test_loading_information_on_request(tiny: Callable[..., Path]) -> None:
    model, information = load(tiny(), output_loading_info=True)
    assert isinstance(model, MplugOwlForConditionalGeneration)
    assert not information["missing_keys"]


def test_a_configuration_may_be_given(tiny: Callable[..., Path]) -> None:
    config = MplugOwlConfig.from_pretrained(tiny("video"))
    model = load(tiny("video"), config=config)
    assert model.config.has_temporal
    assert not config.has_temporal  # the one given is left alone


def test_without_generation_settings_the_begin_and_end_are_those_of_the_language_model(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    settings = load(folder).generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)


# Refusals


@pytest.mark.parametrize("key", ["query_tokens", "abstractor.vit_eos", "language_model.lm_head.weight"])
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    change(folder, {key: None})
    with pytest.raises(CheckpointError, match=f"does not fit the model. Keys 1 missing: {key}$"):
        load(folder)


def test_an_unexpected_key_is_named(folder: Path) -> None:
    change(folder, {"abstractor.colour": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"Keys 1 unexpected: abstractor\.colour$"):
        load(folder)


def test_a_key_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    change(folder, {"query_tokens": torch.ones(1, 17, 32)})
    with pytest.raises(CheckpointError, match=r"1 of another shape: query_tokens \[1, 17, 32\] for \[1, 16, 32\]"):
        load(folder)


def test_many_keys_are_counted_and_the_first_named(folder: Path) -> None:
    change(folder, {key: None for key in weights(folder) if key.startswith("vision_model.encoder.layers.0.")})
    with pytest.raises(CheckpointError, match=r"12 missing: vision_model.encoder.layers.0.* and 7 more"):
        load(folder)


def test_half_a_video_variant_is_no_checkpoint(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy_of(tiny("video"), tmp_path)
    change(folder, {"temporal_query_tokens": None})
    with pytest.raises(CheckpointError, match="1 missing: temporal_query_tokens"):
        load(folder)


def test_rotary_tables_of_old_transformers_are_excused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    assert "language_model.model.layers.0.self_attn.rotary_emb.inv_freq" in inspect(tiny()).shapes
    folder = copy_of(tiny(), tmp_path)
    change(folder, {key: None for key in weights(folder) if key.endswith("inv_freq")})
    assert torch.equal(load(folder).query_tokens, load(tiny()).query_tokens)


def test_a_tied_head_may_be_left_out(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy_of(tiny("image", "bloom"), tmp_path)
    change(folder, {"language_model.lm_head.weight": None})
    model = load(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_tied_head_that_differs_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = copy_of(tiny("image", "bloom"), tmp_path)
    change(folder, {"language_model.lm_head.weight": weights(folder)["language_model.lm_head.weight"] * 2})
    with pytest.raises(CheckpointError, match=r"ties the head to the word embeddings, .* differ"):
        load(folder)


def test_weights_of_an_adapter_are_refused_with_the_way_to_load_them(folder: Path) -> None:
    key = "language_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    change(folder, {key: torch.ones(8, 48)})
    with pytest.raises(CheckpointError, match=f"{key}: a LoRA adapter, not a model: .* mplug_owl.load_adapter"):
        load(folder)


def test_the_folder_of_an_adapter_is_refused_with_the_way_to_load_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds a LoRA adapter, not a model: .* mplug_owl\.load_adapter"):
        load(tmp_path)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: expected model.safetensors, pytorch_model.bin, or shards"):
        inspect(folder)


def test_no_folder_and_no_name_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect(tmp_path / "none")
    with pytest.raises(CheckpointError, match="none: no such folder, and not to be had from the hub"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="owl/none: no such folder, and not to be had from the hub"):
        load("owl/none", local_files_only=True)


@pytest.mark.parametrize("form", ["bin shards", "safetensors shards"])
def test_a_missing_shard_is_named(tiny: Callable[..., Path], tmp_path: Path, form: str) -> None:
    folder = copy_of(tiny(**FORMS[form]), tmp_path)
    shard = inspect(folder).files[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"of 4 shards in .*index.json, missing: {shard.name}"):
        inspect(folder)


@pytest.mark.parametrize("form", ["bin shards", "safetensors shards"])
def test_a_shard_without_a_key_of_the_index(tiny: Callable[..., Path], tmp_path: Path, form: str) -> None:
    folder = copy_of(tiny(**FORMS[form]), tmp_path)
    shard = inspect(folder).files[1]
    state = load_file(shard) if shard.suffix == ".safetensors" else torch.load(shard, weights_only=True)
    key = next(iter(state))
    del state[key]
    if shard.suffix == ".safetensors":
        save_file(state, shard)
    else:
        torch.save(state, shard)
    with pytest.raises(CheckpointError, match=f"the index places {key} here, and the file does not have it"):
        inspect(folder)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": ["a"]}', '{"metadata": {}}'])
def test_an_index_that_is_none(folder: Path, index: str) -> None:
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="not an index of shards"):
        inspect(folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep", [0, 5, 1000, 100_000])
def test_a_file_cut_short(tiny: Callable[..., Path], tmp_path: Path, form: str, keep: int) -> None:
    folder = copy_of(tiny(**FORMS[form]), tmp_path)
    file = inspect(folder).files[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{file.name}: cut short or damaged, {keep} bytes"):
        load(folder)


@pytest.mark.parametrize("content", [["weights"], {"query_tokens": "weights"}, 7])
def test_a_bin_file_of_something_else(folder: Path, content: object) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds something else than weights"):
        inspect(folder)


def test_a_bin_file_that_would_run_code_is_refused(folder: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("ran",))

    torch.save({"query_tokens": Mischief()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: cut short or damaged.*[Ww]eights.only"):
        inspect(folder)


def test_weights_without_a_floating_number(folder: Path) -> None:
    torch.save({"query_tokens": torch.ones(3, dtype=torch.int64)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no floating-point weights"):
        inspect(folder)


def test_a_configuration_of_other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"2 of another shape: language_model\.model\.embed_tokens\.weight"):
        load(folder)
