"""Models of the three published sizes have the keys and shapes of the published checkpoints, and no others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration
from mplug_owl.testing import full_size

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = {
    "llama-7b-image": full_size("image"),
    "bloomz-7b-image": full_size("image", language="bloom"),
    "llama-7b-video": full_size("video"),
}


def shapes(config: MplugOwlConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = MplugOwlForConditionalGeneration(config)
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def keys(shared: Path) -> dict[str, Any]:
    return {name: json.loads((shared / "keys" / f"{name}.json").read_text()) for name in PUBLISHED}


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_of_published_checkpoints(keys: dict[str, Any], name: str) -> None:
    published = keys[name]
    config = MplugOwlConfig(**published["config_as_the_reference_saves_it"])
    width = published["keys"]["abstractor.encoder.layers.0.crossattention.output.mlp.w1.weight"][0]
    config.adopt(has_temporal="temporal_query_tokens" in published["keys"], feed_forward_size=width)
    wanted = {key: shape for key, shape in published["keys"].items() if key not in published["buffers"]}
    assert shapes(config) == wanted


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_is_the_published_size(keys: dict[str, Any], name: str) -> None:
    wanted = {key: shape for key, shape in keys[name]["keys"].items() if key not in keys[name]["buffers"]}
    assert shapes(PUBLISHED[name]) == wanted


@pytest.mark.parametrize(
    ("name", "count"), [("llama-7b-image", 7123068928), ("bloomz-7b-image", 7453669376), ("llama-7b-video", 7152633856)]
)
def test_number_of_weights(name: str, count: int) -> None:
    with torch.device("meta"):
        model = MplugOwlForConditionalGeneration(PUBLISHED[name])
    assert sum(weight.numel() for weight in model.parameters()) == count
