"""What a training needs of the model: a loss, gradients, dropout, checkpointing, and the original's fresh weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.testing import random_model, tiny_config
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.prompts import alone, batch, prompt

if TYPE_CHECKING:
    from collections.abc import Callable


def labels_of(ids: torch.Tensor) -> torch.Tensor:
    """Everything but media and the first three positions is learned."""
    labels = ids.masked_fill(ids < 0, -100)
    labels[:, :3] = -100
    return labels


@torch.no_grad()
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_loss_is_the_mean_over_labelled_tokens_of_the_batch(
    owl: Callable[..., Any], variant: str, language: str
) -> None:
    model = owl(variant, language)
    inputs = batch([prompt(model, "t6 i t5"), prompt(model, "t28", seed=1)])
    labels = labels_of(inputs["input_ids"])
    made = model(**inputs, labels=labels)
    chances = made.logits[:, :-1].log_softmax(-1)
    wanted = [-chances[row, at, labels[row, at + 1]] for row, at in (labels[:, 1:] != -100).nonzero().tolist()]
    assert float(made.loss) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_every_weight_has_a_gradient(variant: Any, language: Any) -> None:
    model = random_model(tiny_config(variant, language=language))
    form = "t4 i t3 v t2" if variant == "video" else "t4 i t3"
    inputs = alone(prompt(model, form))
    model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # Keys of a softmax take any constant, so a bias of keys alone changes nothing; rounding leaves some of it.
    assert [name for name in without if not name.endswith("attention.key.bias")] == []


def test_a_clip_is_learned_from(owl: Callable[..., Any]) -> None:
    """The original's training forward encodes clips and then does not use them."""
    model = owl("video")
    one = prompt(model, "t4 v t3")
    inputs = alone(one)
    labels = labels_of(inputs["input_ids"])
    with torch.no_grad():
        loss = model(**inputs, labels=labels).loss
        other = model(**{**inputs, "video_pixel_values": inputs["video_pixel_values"].flip(2)}, labels=labels).loss
    assert loss != other


@torch.no_grad()
def test_dropout_is_the_abstractors_and_only_while_training() -> None:
    model = random_model(tiny_config())
    image = torch.randn(1, 3, 56, 56)
    torch.manual_seed(0)
    assert torch.equal(model.encode_images(image), model.encode_images(image))
    model.train()
    assert not torch.equal(model.encode_images(image), model.encode_images(image))
    vision = model.vision_model
    assert torch.equal(vision(image).last_hidden_state, vision(image).last_hidden_state)


@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_gradients_are_the_same_with_activations_recomputed(language: Any) -> None:
    config = tiny_config(language=language)
    config.visual_abstractor_config.attention_probs_dropout_prob = 0.0
    model = random_model(config).train()
    inputs = alone(prompt(model, "t4 i t3"))
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(**inputs, labels=labels_of(inputs["input_ids"])).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-5) for name in gradients[0])


def test_fresh_weights_are_those_of_the_original() -> None:
    torch.manual_seed(0)
    model = MplugOwlForConditionalGeneration(tiny_config("video", width=64, vision_width=64))
    state = model.state_dict()
    layer = "vision_model.encoder.layers.0"
    for key in ("query_tokens", "temporal_query_tokens", f"{layer}.temporal.up_proj.weight", f"{layer}.mlp.fc1.bias"):
        assert not state[key].any(), key
    for key in (
        "vision_model.embeddings.cls_token",
        "vision_model.embeddings.position_embedding",
        "vision_model.embeddings.patch_embed.weight",
        "abstractor.vit_eos",
        "abstractor.visual_fc.weight",
        f"{layer}.self_attn.query_key_value.weight",
        "language_model.lm_head.weight",
    ):
        assert 0.014 < state[key].std() < 0.026, key
    for key in (f"{layer}.input_layernorm", f"{layer}.temporal.ln", "vision_model.post_layernorm"):
        assert (state[f"{key}.weight"] == 1).all()
        assert not state[f"{key}.bias"].any()
    # torch's own spread, uniform up to 1 / sqrt(3 inputs) and to 1 / sqrt(64 inputs)
    assert 0.25 < state[f"{layer}.temporal.conv.weight"].std() < 0.42
    assert 0.05 < state[f"{layer}.temporal.down_proj.weight"].std() < 0.09


@torch.no_grad()
def test_a_fresh_temporal_block_changes_no_patch_and_doubles_the_class_token() -> None:
    from mplug_owl.vision import LocalTemporal

    model = MplugOwlForConditionalGeneration(tiny_config("video"))
    block = model.vision_model.encoder.layers[0].temporal
    assert isinstance(block, LocalTemporal)
    tokens = torch.randn(2, 3, 17, 32)
    added = block(tokens)
    assert torch.equal(added[:, :, 0], tokens[:, :, 0])
    assert not added[:, :, 1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_temporal_sums_are_the_convolutions_they_stand_for(dtype: torch.dtype) -> None:
    """Evaluated as the original does it: axes moved, three-dimensional convolutions."""
    model = random_model(tiny_config("video"))
    block: Any = model.vision_model.encoder.layers[0].temporal
    tokens = torch.randn(2, 5, 17, 32)
    x = block.ln(tokens[:, :, 1:]).permute(0, 3, 1, 2).unflatten(-1, (4, 4))  # (b, D, t, 4, 4)
    inner = block.conv(block.down_proj(x))
    wanted = block.up_proj(inner * torch.sigmoid(1.702 * inner)).flatten(3).permute(0, 2, 3, 1)
    made = block.to(dtype)(tokens.to(dtype))
    assert made.dtype == dtype
    assert (made[:, :, 1:].float() - wanted).abs().max() < (1e-5 if dtype == torch.float32 else 0.1)
