"""The published config.json, with all that is odd about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration
from mplug_owl.configuration import original_feed_forward_size
from mplug_owl.testing import full_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_defaults_are_the_published_sizes() -> None:
    config = MplugOwlConfig()
    vision, abstractor, text = config.vision_config, config.visual_abstractor_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.tokens) == (1024, 24, 14, 257)
    assert (vision.intermediate_size, vision.num_attention_heads, vision.layer_norm_eps) == (4096, 16, 1e-6)
    assert (abstractor.hidden_size, abstractor.num_hidden_layers, abstractor.num_attention_heads) == (1024, 6, 16)
    assert (abstractor.layer_norm_eps, abstractor.attention_probs_dropout_prob) == (1e-6, 0.1)
    assert (text.model_type, text.hidden_size, text.num_hidden_layers, text.pad_token_id) == ("llama", 4096, 32, 2)
    assert (config.num_query_tokens, config.positions_per_medium, config.has_temporal) == (64, 65, False)


@pytest.mark.parametrize(
    ("intermediate", "image", "video"),
    [(4096, 4096, 2816), (2816, 2816, 2816), (300, 300, 256), (384, 384, 256), (386, 386, 512)],
)
def test_the_original_makes_two_widths_of_one_number(intermediate: int, image: int, video: int) -> None:
    assert original_feed_forward_size(intermediate, has_temporal=False) == image
    assert original_feed_forward_size(intermediate, has_temporal=True) == video


@pytest.mark.parametrize("has_temporal", [False, True])
@pytest.mark.parametrize("configured", [2816, 4096, 300])
@pytest.mark.parametrize("width", [256, 1024, 2816, 4096])
def test_what_is_saved_leads_the_original_to_the_width_of_the_weights(
    has_temporal: bool, configured: int, width: int
) -> None:
    config = full_size()
    config.visual_abstractor_config.intermediate_size = configured
    config.adopt(has_temporal=has_temporal, feed_forward_size=width)
    saved = config.visual_abstractor_config.intermediate_size
    assert original_feed_forward_size(saved, has_temporal=has_temporal) == width
    if original_feed_forward_size(configured, has_temporal=has_temporal) == width:
        assert saved == configured


def test_junk_at_the_top_is_dropped() -> None:
    """BLOOM's aliases as strings in the image variant, all of the text config in the video variant."""
    text = {"model_type": "bloom", "n_layer": 3, "n_head": 4, "hidden_size": 64}
    junk: dict[str, Any] = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "__slotnames__": [],
        "vocab_size": 7,
    }
    config = MplugOwlConfig(text_config=text, **junk)
    assert not set(junk) & set(config.to_dict())
    assert (config.text_config.num_hidden_layers, config.text_config.num_attention_heads) == (3, 4)
    assert config.tie_word_embeddings


def test_the_language_model_is_llama_where_it_is_not_said() -> None:
    text = MplugOwlConfig(text_config={"hidden_size": 64, "num_attention_heads": 4}).text_config
    assert (text.model_type, text.num_key_value_heads) == ("llama", 4)
    assert text.rope_parameters == {"rope_theta": 10000.0, "rope_type": "default"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text_config": {"model_type": "gpt2"}}, "language model 'gpt2': mPLUG-Owl has"),
        ({"vision_config": {"hidden_size": 512}}, "these must be equal: vision_config.hidden_size=512, visual_abs"),
        ({"visual_abstractor_config": {"encoder_hidden_size": 8}}, "visual_abstractor_config.encoder_hidden_size=8"),
        ({"vision_config": {"num_attention_heads": 7}}, "vision_config: hidden_size=1024 does not divide into num"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MplugOwlConfig(**changed)


@pytest.mark.parametrize(("variant", "language"), [("image", "llama"), ("video", "bloom")])
def test_saved_and_read_again_it_is_the_same(
    owl: Callable[..., Any], tmp_path: Path, variant: str, language: str
) -> None:
    config = owl(variant, language).config
    config.save_pretrained(tmp_path)
    again = MplugOwlConfig.from_pretrained(tmp_path)
    before, after = config.to_dict(), again.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        before.pop(name, None), after.pop(name, None)
    assert after == before
    assert again.has_temporal is (variant == "video")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["llama-7b-image", "llama-7b-video", "bloomz-7b-image"])
def test_what_is_saved_has_what_the_original_reads(shared: Path, tmp_path: Path, name: str) -> None:
    """Its own keys and values in the three nested configurations, but for the library defaults of the time."""
    original = json.loads((shared / "keys" / f"{name}.json").read_text())["config_as_the_reference_saves_it"]
    config = MplugOwlConfig(**original)
    config.architectures = [MplugOwlForConditionalGeneration.__name__]
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for key in ("model_type", "architectures", "num_query_tokens", "use_decoder_only_language_model"):
        assert saved[key] == original[key]
    read = {
        "vision_config": "hidden_size intermediate_size projection_dim num_hidden_layers model_type num_channels "
        "num_attention_heads image_size patch_size hidden_act layer_norm_eps attention_dropout initializer_range",
        "visual_abstractor_config": "hidden_size num_hidden_layers num_attention_heads intermediate_size model_type "
        "attention_probs_dropout_prob initializer_range layer_norm_eps encoder_hidden_size",
        "text_config": "model_type hidden_size vocab_size pad_token_id bos_token_id eos_token_id use_cache "
        + (
            "n_layer n_head layer_norm_epsilon apply_residual_connection_post_layernorm hidden_dropout pretraining_tp"
            if name.startswith("bloom")
            else "num_hidden_layers num_attention_heads intermediate_size rms_norm_eps max_position_embeddings"
        ),
    }
    for part, keys in read.items():
        assert {key: saved[part][key] for key in keys.split()} == {key: original[part][key] for key in keys.split()}
