"""mPLUG-Owl (Ye et al., 2023, arXiv:2304.14178): a ViT, an abstractor that turns a picture into a few vectors, and a
language model of transformers that reads them among its word embeddings.

One model for the image and the video variant, over LLaMA and BLOOM. Module names are the keys of published checkpoints.

Shapes: b prompts of s positions, n images or videos of S x S pixels, Q queries, L the width of the language model.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn
from transformers import BloomForCausalLM, BloomModel, GenerationMixin, LlamaForCausalLM, PreTrainedModel
from transformers import initialization as init

from mplug_owl import checkpoint
from mplug_owl.abstractor import MplugOwlVisualAbstractor
from mplug_owl.configuration import MplugOwlConfig
from mplug_owl.vision import MplugOwlVisionModel, VisionEmbeddings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import BloomConfig, GenerationConfig
    from transformers.modeling_outputs import CausalLMOutputWithPast

IMAGE, VIDEO = -1, -2
"""Ids that hold the place of an image or a video in a prompt, one per position that it takes."""


class EmbeddingLayerNorm(nn.LayerNorm):
    """BLOOM's norm over word embeddings, applied where words are embedded.

    `BloomModel.forward` calls it on whatever embeddings it is given. Those here hold words already normalized and
    visual vectors that must not be, so that call changes nothing.
    """

    def normalize(self, words: torch.Tensor) -> torch.Tensor:
        return super().forward(words)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings


class MplugOwlBloomModel(BloomModel):  # type: ignore[no-untyped-call]
    """BLOOM whose `inputs_embeds` are final: they are taken as they are, and only ids are embedded and normalized."""

    word_embeddings: nn.Embedding
    word_embeddings_layernorm: EmbeddingLayerNorm

    def __init__(self, config: BloomConfig) -> None:
        super().__init__(config)
        self.word_embeddings_layernorm = EmbeddingLayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(..., s) -> (..., s, L)"""
        return self.word_embeddings_layernorm.normalize(self.word_embeddings(input_ids))

    def forward(
        self, input_ids: torch.Tensor | None = None, *, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if input_ids is not None:
            inputs_embeds = self.embed(input_ids)
        return super().forward(inputs_embeds=inputs_embeds, **kwargs)


class MplugOwlBloomForCausalLM(BloomForCausalLM):  # type: ignore[no-untyped-call]
    def __init__(self, config: BloomConfig) -> None:
        # Not BloomForCausalLM.__init__, which would build a BloomModel of billions of weights to be thrown away.
        super(BloomForCausalLM, self).__init__(config)
        self.transformer = MplugOwlBloomModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]


class MplugOwlPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    config_class = MplugOwlConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["VisionLayer", "AbstractorLayer", "LlamaDecoderLayer", "BloomBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # Tables that old transformers saved with each attention layer.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights as the original makes them. The temporal convolutions keep those they were made with."""
        std = self.config.initializer_range
        match module:
            case nn.Conv3d():
                pass
            case VisionEmbeddings():
                init.trunc_normal_(module.cls_token, std=std)
                init.trunc_normal_(module.position_embedding, std=std)
            case MplugOwlVisualAbstractor():
                init.trunc_normal_(module.vit_eos, std=std)
            case MplugOwlForConditionalGeneration():
                init.zeros_(module.query_tokens)
                if self.config.has_temporal:
                    init.zeros_(cast("torch.Tensor", module.temporal_query_tokens))
            case _:
                super()._init_weights(module)  # type: ignore[no-untyped-call]


class MplugOwlForConditionalGeneration(MplugOwlPreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """mPLUG-Owl. See `forward` and `generate`; `encode_images`, `encode_videos` and `embed` are their parts.

    `language_model` is a causal language model of its own: `language_model.base_model` takes embeddings exactly as
    `embed` and `embed_text` make them.
    """

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__(config)
        vision, abstractor, text = config.vision_config, config.visual_abstractor_config, config.text_config
        shape = (1, config.num_query_tokens, abstractor.hidden_size)
        self.query_tokens = nn.Parameter(torch.zeros(shape))
        self.temporal_query_tokens = nn.Parameter(torch.zeros(shape)) if config.has_temporal else None
        self.vision_model = MplugOwlVisionModel(vision, has_temporal=config.has_temporal)
        self.abstractor = MplugOwlVisualAbstractor(
            abstractor, language_width=text.hidden_size, has_temporal=config.has_temporal
        )
        language_model: Callable[[Any], Any] = {"llama": LlamaForCausalLM, "bloom": MplugOwlBloomForCausalLM}[
            text.model_type
        ]
        self.language_model: LlamaForCausalLM | MplugOwlBloomForCausalLM = language_model(text)
        self.post_init()  # type: ignore[no-untyped-call]

    # Checkpoints

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint from a folder or the hub, strictly.

        Whether it is the video variant, and how wide the abstractor's feed-forward layers are, is taken from the
        weights. `generation_config.json` is honoured: see `generate`. Takes the keywords of transformers, `dtype`,
        `device_map` and `output_loading_info` among them.

        Raises:
            CheckpointError: weights absent or damaged; keys missing, unexpected or of another shape, by name.
        """
        folder = checkpoint.fetch(pretrained_model_name_or_path, kwargs)
        facts = checkpoint.inspect(folder)
        config = kwargs.pop("config", None)
        if not isinstance(config, MplugOwlConfig):
            config = MplugOwlConfig.from_pretrained(folder if config is None else config)
        config = copy.deepcopy(config)
        config.adopt(has_temporal=facts.has_temporal, feed_forward_size=facts.abstractor_intermediate_size)
        with torch.device("meta"):
            checkpoint.check_keys(facts, cls(copy.deepcopy(config)))
        want_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(folder, *model_args, config=config, output_loading_info=True, **kwargs)
        model, info = loaded
        checkpoint.check_loaded(facts, model, info)
        model.generation_config = checkpoint.modern_generation_config(model.generation_config)
        return (model, info) if want_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        *,
        safe_serialization: bool = True,
        max_shard_size: int | str = "10GB",
    ) -> None:
        """Write a folder that this class and the original load; see `checkpoint.save_published`."""
        if is_main_process:
            checkpoint.save_published(
                self, save_directory, safe=safe_serialization, max_shard_size=max_shard_size, state_dict=state_dict
            )

    # Parts

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return cast("nn.Module", self.language_model.get_output_embeddings())  # type: ignore[no-untyped-call]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.lm_head = cast("nn.Linear", new_embeddings)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) -> (n, Q + 1, L)"""
        _check_pixels(pixel_values, "pixel_values", "(n, 3, S, S)", dims=4)
        features = self.vision_model(pixel_values.to(self.query_tokens.dtype)).last_hidden_state
        queries = self.query_tokens.expand(len(features), -1, -1)
        return cast("torch.Tensor", self.abstractor(queries, features).last_hidden_state)

    def encode_videos(self, video_pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 3, t, S, S) -> (n, Q + 1, L), whatever the number of frames. A clip of one frame is an image.

        Raises:
            ValueError: this is the image variant, which has no weights for clips.
        """
        _check_pixels(video_pixel_values, "video_pixel_values", "(n, 3, frames, S, S)", dims=5)
        if self.temporal_query_tokens is None:
            raise ValueError(
                "video_pixel_values were given, but this checkpoint is the image variant of mPLUG-Owl: "
                "show it frames as images, or load the video variant"
            )
        if video_pixel_values.shape[2] == 1:
            return self.encode_images(video_pixel_values[:, :, 0])
        features = self.vision_model(video_pixel_values.to(self.query_tokens.dtype)).last_hidden_state
        expanded = [
            queries.expand(len(features), -1, -1) for queries in (self.query_tokens, self.temporal_query_tokens)
        ]
        made = self.abstractor(expanded[0], features, temporal_query_embeds=expanded[1])
        return cast("torch.Tensor", made.last_hidden_state)

    def embed_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(..., s) -> (..., s, L): word embeddings as the language model takes them, BLOOM's normalized."""
        base = self.language_model.base_model
        if isinstance(base, MplugOwlBloomModel):
            return base.embed(input_ids)
        return cast("torch.Tensor", self.get_input_embeddings()(input_ids))

    def embed(
        self, input_ids: torch.Tensor, images: torch.Tensor | None = None, videos: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Put encoded media, each (n, Q + 1, L), at their places in the prompts: (b, s) -> (b, s, L).

        Images fill the positions of id -1 and videos those of -2, in the order of the prompts; Q + 1 positions each,
        so that two media may touch.

        Raises:
            ValueError: places and media differ in number, places are torn apart, or another id is negative.
        """
        lowest = int(input_ids.min()) if input_ids.numel() else 0
        if lowest < VIDEO:
            raise ValueError(f"id {lowest} in input_ids: placeholders are {IMAGE} (image) and {VIDEO} (video)")
        embeddings = self.embed_text(input_ids.clamp(min=0))
        embeddings = self._insert(embeddings, input_ids, images, IMAGE, "image")
        return self._insert(embeddings, input_ids, videos, VIDEO, "video")

    def _insert(
        self,
        embeddings: torch.Tensor,
        input_ids: torch.Tensor,
        media: torch.Tensor | None,
        marker: int,
        name: Literal["image", "video"],
    ) -> torch.Tensor:
        size = self.config.positions_per_medium
        places = input_ids == marker
        positions = places.nonzero()  # (positions, 2): row and column, row by row
        given = 0 if media is None else len(media)
        if len(positions) != given * size:
            raise ValueError(
                f"the prompts have {len(positions)} placeholders {marker}, of which {size} make one {name}, "
                f"that is {len(positions) / size:g} {name}s, and {given} {name}s were given"
            )
        if media is None or not given:
            return embeddings
        if media.shape[1:] != (size, embeddings.shape[-1]):
            raise ValueError(f"encoded {name}s are {tuple(media.shape)}, not (n, {size}, {embeddings.shape[-1]})")
        first, last = positions[::size], positions[size - 1 :: size]
        if not torch.equal(last - first, torch.tensor([[0, size - 1]], device=last.device).expand_as(first)):
            raise ValueError(f"the {size} placeholders {marker} of each {name} must stand together in one prompt")
        return embeddings.masked_scatter(places.unsqueeze(-1), media.to(embeddings.dtype))

    def _inputs(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        video_pixel_values: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (b, s, L) and the mask, which lets all media be seen."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if input_ids is None:
            if pixel_values is not None or video_pixel_values is not None:
                raise ValueError("pixel values go with input_ids: inputs_embeds hold the media already")
            return cast("torch.Tensor", inputs_embeds), attention_mask
        images = None if pixel_values is None else self.encode_images(pixel_values)
        videos = None if video_pixel_values is None else self.encode_videos(video_pixel_values)
        embeddings = self.embed(input_ids, images=images, videos=videos)
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask != 0
            attention_mask[:, -input_ids.shape[1] :] |= input_ids < 0
        return embeddings, attention_mask

    # The whole

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        video_pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Any = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (b, s, vocabulary) of the whole sequence, and with `labels` the loss.

        Args:
            input_ids: (b, s), with -1 at each of the Q + 1 positions of an image and -2 at those of a video.
            attention_mask: (b, past + s), 0 on padding, of any dtype. Positions count from it, so padding on either
                side changes nothing.
            pixel_values: (images of all prompts, 3, S, S), in the order of the prompts.
            video_pixel_values: (videos of all prompts, 3, frames, S, S).
            inputs_embeds: (b, s, L) in place of ids, as `embed` makes them.
            labels: (b, s), the ids themselves with -100 where nothing is to be learned; the shift happens here. The
                loss is the mean over all labelled tokens of the batch.

        Raises:
            ValueError: placeholders and media differ in number, or not exactly one of ids and embeddings is given.
        """
        embeddings, attention_mask = self._inputs(
            input_ids, attention_mask, pixel_values, video_pixel_values, inputs_embeds
        )
        if self.config.text_config.model_type == "llama":  # BLOOM has no positions but the mask
            kwargs["position_ids"] = _positions(position_ids, attention_mask, embeddings)
        return cast(
            "CausalLMOutputWithPast",
            self.language_model(
                inputs_embeds=embeddings,
                attention_mask=attention_mask,
                labels=labels,
                past_key_values=past_key_values,
                **kwargs,
            ),
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        video_pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continue each prompt: the new tokens only, (b, new), rows that end early filled with the pad id.

        Prompts of unequal length are padded on the left, with 0 in the mask; each row is then what it would be alone.

        Settings not given come from the checkpoint's `generation_config.json`, which the original writes but does not
        use: published ones sample from the three most likely tokens and stop after 511. For the most likely answer
        pass `do_sample=False`. `max_new_tokens` bounds the answer; `max_length`, as everywhere in transformers today,
        bounds prompt and answer. Other keywords are those of transformers.

        Processors of the running ids (`no_repeat_ngram_size`, `repetition_penalty`) see what the original shows them:
        one begin token and the answer, not the prompt.

        Raises:
            ValueError: padding on the right, `max_length` within the prompt, or inputs that `forward` refuses.
        """
        embeddings, attention_mask = self._inputs(
            input_ids, attention_mask, pixel_values, video_pixel_values, inputs_embeds
        )
        rows, prompt = embeddings.shape[:2]
        mask = embeddings.new_ones(rows, prompt) if attention_mask is None else attention_mask
        if mask.shape != (rows, prompt):
            raise ValueError(f"attention_mask is {tuple(mask.shape)} for prompts of {(rows, prompt)}")
        if bool((mask[:, -1] == 0).any()):
            raise ValueError("attention_mask ends in 0: answers go on from the last position, so pad on the left")
        lengths = _lengths(kwargs, generation_config, prompt)
        if generation_config is None:
            kwargs |= lengths
        else:
            generation_config = copy.deepcopy(generation_config)
            generation_config.update(**lengths, max_length=None, min_length=None)  # type: ignore[no-untyped-call]
        self.language_model.generation_config = self.generation_config
        begin = self.generation_config.bos_token_id
        running = None if begin is None else embeddings.new_full((rows, 1), begin, dtype=torch.long)
        language_model: Any = self.language_model  # its `generate` is annotated for another kind of self
        made = language_model.generate(
            running,
            inputs_embeds=embeddings,
            attention_mask=mask.long(),
            generation_config=generation_config,
            **kwargs,
        )
        return _without_begin(made, 0 if running is None else 1)


def _positions(
    position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, embeddings: torch.Tensor
) -> torch.Tensor | None:
    """Where LLaMA's tokens stand: given, counted over what the mask shows, or None for one after another."""
    if position_ids is not None or attention_mask is None or attention_mask.dim() != 2:
        return position_ids
    seen = attention_mask != 0
    counted = (seen.long().cumsum(-1) - 1).masked_fill(~seen, 1)  # what is masked stands anywhere
    return counted[:, -embeddings.shape[1] :]


def _lengths(given: dict[str, Any], config: GenerationConfig | None, prompt: int) -> dict[str, Any]:
    """Bounds on prompt and answer, taken out of what was given, as bounds on the answer."""
    found: dict[str, Any] = {}
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        length = given.pop(total, None) or getattr(config, total, None)
        if length and given.get(new) is None and getattr(config, new, None) is None:
            found[new] = max(length - prompt, 0)
    if found.get("max_new_tokens") == 0:
        raise ValueError(f"max_length leaves no room for an answer after a prompt of {prompt} positions")
    return found


def _check_pixels(pixels: torch.Tensor, name: str, wanted: str, *, dims: int) -> None:
    if pixels.dim() != dims or pixels.shape[1] != 3:
        raise ValueError(f"{name} must be {wanted}, not {tuple(pixels.shape)}")


def _without_begin(made: Any, count: int) -> Any:
    """Generated ids, alone or in an output with scores, without the tokens that they were started from."""
    if isinstance(made, torch.Tensor):
        return made[:, count:]
    made.sequences = made.sequences[:, count:]
    return made
