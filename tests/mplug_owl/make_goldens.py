"""Writes goldens/small.safetensors: what the plain implementation (naive.py) makes of weights given by a formula.

    python -m tests.mplug_owl.make_goldens

The weights are no random numbers of torch, whose generator may change, and so need not be stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from mplug_owl.testing import tiny_config
from tests.mplug_owl.naive import NaiveOwl

if TYPE_CHECKING:
    from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration

FILE = Path(__file__).parent / "goldens" / "small.safetensors"
NEW = 8

CONFIGS: dict[str, MplugOwlConfig] = {
    f"{variant}-{language}": tiny_config(
        variant,
        language=language,
        vocabulary=96,
        num_query_tokens=5,
        image_size=24,
        patch_size=8,
        vision_width=24,
        vision_heads=3,
        abstractor_intermediate_size=200,
        abstractor_layer_norm_eps=0.05,
        width=24,
        heads=3,
    )
    for variant in ("image", "video")
    for language in ("llama", "bloom")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Of one image, and in the video variant one clip of three frames, in one prompt."""

    image: torch.Tensor  # (Q + 1, L)
    clip: torch.Tensor | None  # (Q + 1, L)
    logits: torch.Tensor  # (s, vocabulary)
    answer: list[int]


def noise(count: int, *, start: int) -> torch.Tensor:
    """Numbers in float64 that look drawn from -1 to 1: the far decimals of a sine."""
    at = torch.arange(start, start + count, dtype=torch.float64)
    return ((torch.sin(at * 12.9898) * 43758.5453) % 1) * 2 - 1


def formula_weights(model: MplugOwlForConditionalGeneration) -> dict[str, torch.Tensor]:
    """Weights for all keys of a model: matrices keep the size of what they are applied to, norms are near 1."""
    weights = {}
    for number, (key, tensor) in enumerate(sorted(model.state_dict().items())):
        values = noise(tensor.numel(), start=1000 * number).reshape(tensor.shape)
        if key.endswith("ln_f.weight"):
            weights[key] = 2 * values  # of either sign, lest a tied head says what it has just read
        elif tensor.dim() == 1:
            weights[key] = 0.3 * values + (1 if key.endswith("weight") else 0)
        elif key.endswith(".weight") and "embed_tokens" not in key and "word_embeddings" not in key:
            weights[key] = values * math.sqrt(6 / tensor[0].numel())
        else:
            weights[key] = values
    for head, table in model.all_tied_weights_keys.items():
        weights[head] = weights[table]
    return weights


def pictures(config: MplugOwlConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (3, S, S) and a clip (3, 3, S, S)."""
    side = config.vision_config.image_size
    image = noise(3 * side * side, start=7).reshape(3, side, side)
    return image, noise(9 * side * side, start=70_000).reshape(3, 3, side, side)


def prompt_ids(config: MplugOwlConfig) -> list[int]:
    size = config.positions_per_medium
    ids = [1, 17, 50, *[-1] * size, 33, 8]
    return [*ids, *[-2] * size, 91, 64, 20] if config.has_temporal else ids


def compute(weights: dict[str, torch.Tensor], config: MplugOwlConfig) -> Made:
    owl = NaiveOwl.of(weights, config.to_dict())
    image, clip = pictures(config)
    seen = owl.encode([image])
    watched = owl.encode(list(clip.unbind(1))) if config.has_temporal else None
    prompt: list[int | torch.Tensor] = [1, 17, 50, seen, 33, 8]
    if watched is not None:
        prompt += [watched, 91, 64, 20]
    return Made(image=seen, clip=watched, logits=owl.logits(prompt), answer=owl.greedy(prompt, NEW))


def main() -> None:
    from mplug_owl import MplugOwlForConditionalGeneration

    tensors: dict[str, torch.Tensor] = {}
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            empty = MplugOwlForConditionalGeneration(config)
        made = compute(formula_weights(empty), config)
        tensors[f"{name}/image"] = made.image.float()
        tensors[f"{name}/logits"] = made.logits.float()
        tensors[f"{name}/answer"] = torch.tensor(made.answer)
        if made.clip is not None:
            tensors[f"{name}/clip"] = made.clip.float()
    save_file(tensors, FILE)


if __name__ == "__main__":
    main()
