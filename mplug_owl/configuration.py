"""The configuration of mPLUG-Owl: the vision encoder, the visual abstractor, and a language model of transformers.

Reads and writes the published `config.json`. Two keys are ours, and the original ignores them: `has_temporal`, and the
abstractor's `feed_forward_size`. Published files have neither; loading a checkpoint finds both in the weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

LANGUAGE_MODELS = ("llama", "bloom")


class MplugOwlVisionConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """A ViT; the defaults are ViT-L/14 at 224 pixels. Its activation is always QuickGELU, its input has 3 channels."""

    model_type = "mplug_owl_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    projection_dim: int = 768
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    use_flash_attn: bool = False

    @property
    def tokens(self) -> int:
        """What the encoder makes of one picture: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class MplugOwlVisualAbstractorConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The abstractor, which sums a picture up in a few learned queries.

    `layer_norm_eps` belongs to the norm inside the feed-forward layer; the others have torch's default of 1e-5.
    """

    model_type = "mplug_owl_visual_abstract"
    base_config_key = "visual_abstractor_config"

    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    encoder_hidden_size: int = 1024
    feed_forward_size: int | None = None
    """Width of the feed-forward layers: what `intermediate_size` says is not always what the weights are."""


class MplugOwlConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The whole model: `vision_config`, `visual_abstractor_config`, `text_config` and the number of queries.

    A medium takes `num_query_tokens + 1` positions of the prompt. `has_temporal` tells the video variant.

    Raises:
        ValueError: a language model that is neither LLaMA nor BLOOM, or widths that do not fit together.
    """

    model_type = "mplug-owl"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=MplugOwlVisionConfig),
        "visual_abstractor_config": SubConfigSpec(config_class=MplugOwlVisualAbstractorConfig),
        # LLaMA where the key `model_type` is absent; LLaMA-7B padded with 2 where there is no text_config at all.
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama", init_kwargs={"pad_token_id": 2}),
    }

    vision_config: Any = None
    visual_abstractor_config: Any = None
    text_config: Any = None
    num_query_tokens: int = 64
    has_temporal: bool = False
    tie_word_embeddings: bool = False
    use_decoder_only_language_model: bool = True
    initializer_factor: float = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        # The sub-configurations first: they say what of the rest is junk.
        for key, spec in self.sub_configs_defaults.items():
            made, _ = spec.create_subconfig(key, getattr(self, key))  # type: ignore[no-untyped-call]
            setattr(self, key, made)
        super().__post_init__(**_without_copies(kwargs, self.text_config))  # type: ignore[no-untyped-call]
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        abstractor = self.visual_abstractor_config
        if abstractor.feed_forward_size is None:
            abstractor.feed_forward_size = original_feed_forward_size(
                abstractor.intermediate_size, has_temporal=self.has_temporal
            )
        self._check()

    @property
    def positions_per_medium(self) -> int:
        """Positions of the prompt that an image or a video takes: the queries and the end vector."""
        return self.num_query_tokens + 1

    def adopt(self, *, has_temporal: bool, feed_forward_size: int | None) -> None:
        """Take over what only the weights tell.

        `intermediate_size` is changed only where the original would make another width of it, so that what we save it
        can load.
        """
        self.has_temporal = has_temporal
        if feed_forward_size is None:
            return
        abstractor = self.visual_abstractor_config
        abstractor.feed_forward_size = feed_forward_size
        size = abstractor.intermediate_size
        if original_feed_forward_size(size, has_temporal=has_temporal) != feed_forward_size:
            abstractor.intermediate_size = _intermediate_size_for(feed_forward_size, has_temporal=has_temporal)

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: all of it, as the original does, which knows other defaults than transformers has today."""
        whole: dict[str, Any] = self.to_dict()
        whole["torch_dtype"] = whole.get("dtype")
        return whole

    def _check(self) -> None:
        if self.text_config.model_type not in LANGUAGE_MODELS:
            raise ValueError(f"language model {self.text_config.model_type!r}: mPLUG-Owl has {LANGUAGE_MODELS}")
        widths = {
            "vision_config.hidden_size": self.vision_config.hidden_size,
            "visual_abstractor_config.hidden_size": self.visual_abstractor_config.hidden_size,
            "visual_abstractor_config.encoder_hidden_size": self.visual_abstractor_config.encoder_hidden_size,
        }
        if len(set(widths.values())) > 1:
            # One norm serves the queries' width and the features', and their results are joined.
            raise ValueError(f"these must be equal: {', '.join(f'{name}={width}' for name, width in widths.items())}")
        for config in (self.vision_config, self.visual_abstractor_config):
            if config.hidden_size % config.num_attention_heads:
                raise ValueError(
                    f"{config.base_config_key}: hidden_size={config.hidden_size} does not divide into "
                    f"num_attention_heads={config.num_attention_heads}"
                )


def original_feed_forward_size(intermediate_size: int, *, has_temporal: bool) -> int:
    """The width that the original makes of a configured `intermediate_size`.

    The image variant takes it as it is. The video variant takes two thirds of it, rounded up to a multiple of 256,
    unless it is 2816, which is what 4096 comes to.
    """
    if not has_temporal or intermediate_size == 2816:
        return intermediate_size
    return 256 * -(-int(2 * intermediate_size / 3) // 256)


def _intermediate_size_for(feed_forward_size: int, *, has_temporal: bool) -> int:
    """An `intermediate_size` of which the original makes this width, or the next that it can."""
    if not has_temporal or feed_forward_size == 2816:
        return feed_forward_size
    return -(-3 * feed_forward_size // 2)


def _without_copies(kwargs: dict[str, Any], text_config: PreTrainedConfig) -> dict[str, Any]:
    """Drop what the original copied from `text_config` to the top: `hidden_size`, or "num_hidden_layers": "n_layer"."""
    copies = {"__slotnames__", *text_config.attribute_map, *vars(text_config)} - set(vars(PreTrainedConfig()))
    return {key: value for key, value in kwargs.items() if key not in copies}
