"""Prompts of random words and media, alone and in padded batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mplug_owl import MplugOwlForConditionalGeneration

FRAMES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`images` are (3, S, S) each, `videos` (3, frames, S, S)."""

    ids: tuple[int, ...]
    images: tuple[torch.Tensor, ...]
    videos: tuple[torch.Tensor, ...]


def prompt(model: MplugOwlForConditionalGeneration, form: str, *, seed: int = 0) -> Prompt:
    """A prompt of the form `"t5 i t3 v t4"`: begin token, five random words, an image, three words, a video, four."""
    random = torch.Generator().manual_seed(seed)
    config = model.config
    side = config.vision_config.image_size
    ids, images, videos = [1], [], []
    for part in form.split():
        if part == "i":
            ids += [-1] * config.positions_per_medium
            images.append(torch.randn(3, side, side, generator=random))
        elif part == "v":
            ids += [-2] * config.positions_per_medium
            videos.append(torch.randn(3, FRAMES, side, side, generator=random))
        else:
            words = torch.randint(10, config.text_config.vocab_size, (int(part[1:]),), generator=random)
            ids += words.tolist()
    return Prompt(ids=tuple(ids), images=tuple(images), videos=tuple(videos))


def batch(prompts: Sequence[Prompt], *, pad_id: int = 0) -> dict[str, torch.Tensor]:
    """What the processor makes of them: padded on the left, a float mask, media in the order of the prompts."""
    longest = max(len(one.ids) for one in prompts)
    padding = [longest - len(one.ids) for one in prompts]
    inputs = {
        "input_ids": torch.tensor([[pad_id] * pad + list(one.ids) for pad, one in zip(padding, prompts, strict=True)]),
        "attention_mask": torch.tensor([[0.0] * pad + [1.0] * (longest - pad) for pad in padding]),
    }
    for name, media in (
        ("pixel_values", [image for one in prompts for image in one.images]),
        ("video_pixel_values", [video for one in prompts for video in one.videos]),
    ):
        if media:
            inputs[name] = torch.stack(media)
    return inputs


def alone(one: Prompt) -> dict[str, Any]:
    return batch([one])
