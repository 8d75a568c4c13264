"""LoRA adapters on the language model."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mplug_owl import CheckpointError, MplugOwlForConditionalGeneration, load_adapter, save_published
from tests.mplug_owl.prompts import alone, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": "../checkpoint",
    "r": 4,
    "lora_alpha": 12,
    "lora_dropout": 0.05,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "modules_to_save": None,
    "target_modules": r".*language_model.*\.(q_proj|v_proj)",
}
LAYER = "base_model.model.language_model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"


@pytest.fixture
def model(tiny: Callable[..., Path]) -> Any:
    return MplugOwlForConditionalGeneration.from_pretrained(tiny())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """As the original's training writes it: keys of the wrapper, in a `.bin` file."""
    random = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(2):
        for name in ("q", "v"):
            weights[LAYER.format(layer, name, "A")] = torch.randn(4, 48, generator=random)
            weights[LAYER.format(layer, name, "B")] = torch.randn(48, 4, generator=random) / 10
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    torch.save(weights, folder / "adapter_model.bin")
    return folder


def change(folder: Path, changed: dict[str, torch.Tensor | None]) -> None:
    weights = {**torch.load(folder / "adapter_model.bin", weights_only=True), **changed}
    torch.save({key: tensor for key, tensor in weights.items() if tensor is not None}, folder / "adapter_model.bin")


def test_merging_adds_the_scaled_product_to_the_weights(model: Any, adapter: Path) -> None:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = torch.load(adapter / "adapter_model.bin", weights_only=True)
    assert load_adapter(model, adapter) is model
    for key, tensor in model.state_dict().items():
        wanted = before[key]
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in weights:
            wanted = wanted + 12 / 4 * weights[f"{stem}.lora_B.weight"] @ weights[f"{stem}.lora_A.weight"]
        assert torch.allclose(tensor, wanted, atol=1e-5), key
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])]
    assert len(changed) == 4


@torch.no_grad()
def test_beside_the_weights_it_computes_what_merged_it_computes(
    owl: Callable[..., Any], tiny: Callable[..., Path], adapter: Path
) -> None:
    merged, beside = (
        load_adapter(MplugOwlForConditionalGeneration.from_pretrained(tiny()), adapter, merge=merge)
        for merge in (True, False)
    )
    inputs = alone(prompt(merged, "t4 i t3"))
    assert (merged(**inputs).logits - beside(**inputs).logits).abs().max() < 1e-4
    assert (merged(**inputs).logits - owl()(**inputs).logits).abs().max() > 0.1


def test_safetensors_too(model: Any, tiny: Callable[..., Path], adapter: Path) -> None:
    save_file(torch.load(adapter / "adapter_model.bin", weights_only=True), adapter / "adapter_model.safetensors")
    other = load_adapter(MplugOwlForConditionalGeneration.from_pretrained(tiny()), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    load_adapter(model, adapter)
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_merged_it_is_saved_as_a_checkpoint_like_any(model: Any, adapter: Path, tmp_path: Path) -> None:
    load_adapter(model, adapter)
    save_published(model, tmp_path / "saved", safe=True)
    assert not [key for key in load_file(tmp_path / "saved" / "model.safetensors") if "lora" in key]
    again = MplugOwlForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_unmerged_it_is_not_saved(model: Any, adapter: Path, tmp_path: Path) -> None:
    load_adapter(model, adapter, merge=False)
    with pytest.raises(ValueError, match="the model carries an adapter beside its weights"):
        save_published(model, tmp_path / "saved")


def test_in_half_precision(tiny: Callable[..., Path], model: Any, adapter: Path) -> None:
    half = MplugOwlForConditionalGeneration.from_pretrained(tiny(), dtype=torch.bfloat16)
    load_adapter(half, adapter)
    load_adapter(model, adapter)
    assert half.dtype == torch.bfloat16
    key = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(half.state_dict()[key].float(), model.state_dict()[key], atol=0.02)


def unchanged(model: Any, tiny: Callable[..., Path]) -> bool:
    wanted = MplugOwlForConditionalGeneration.from_pretrained(tiny()).state_dict()
    state = model.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_model.model.language_model.colour.lora_A.weight": torch.ones(4, 48)}, "1 unexpected: .*colour.lora_A"),
        ({"language_model.lm_head.weight": torch.ones(4)}, "1 unexpected: language_model.lm_head.weight"),
        ({LAYER.format(0, "q", "A"): torch.ones(4, 64)}, r"1 of another shape: .*q_proj.lora_A.weight \[4, 64\] for"),
        ({LAYER.format(0, "q", "A"): torch.ones(5, 48)}, r"\[5, 48\] for \[4, 48\]"),
        ({LAYER.format(1, "v", "B"): torch.ones(64, 4)}, r"\[64, 4\] for \[48, 4\]"),
        ({LAYER.format(1, "v", "B"): None}, "1 missing: .*layers.1.self_attn.v_proj.lora_B"),
        ({LAYER.format(1, "v", side): None for side in "AB"}, "2 missing: .*layers.1.self_attn.v_proj.lora_A"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(
    model: Any, tiny: Callable[..., Path], adapter: Path, changed: dict[str, Any], message: str
) -> None:
    change(adapter, changed)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(model, adapter)
    assert unchanged(model, tiny)


def test_an_adapter_for_llama_does_not_fit_bloom(tiny: Callable[..., Path], adapter: Path) -> None:
    bloom = MplugOwlForConditionalGeneration.from_pretrained(tiny("image", "bloom"))
    with pytest.raises(CheckpointError, match="8 unexpected: "):
        load_adapter(bloom, adapter)


def test_files_that_are_absent_or_damaged(model: Any, adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin: cut short or damaged, 2 bytes"):
        load_adapter(model, adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: expected adapter_model\.safetensors or adapter_model\.bin"):
        load_adapter(model, adapter)
    (adapter / "adapter_config.json").write_text("{")
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not the configuration of a LoRA adapter"):
        load_adapter(model, adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json, so not an adapter"):
        load_adapter(model, adapter)


def test_without_peft_it_says_how_to_get_it(model: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        load_adapter(model, adapter)
