"""Images and clips: how they become vectors and where those go; the language model under them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import DynamicCache

from mplug_owl import MplugOwlForConditionalGeneration
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.prompts import alone, batch, prompt

if TYPE_CHECKING:
    from collections.abc import Callable

Q = 16
SIZE = Q + 1


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 56, 56, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_every_medium_becomes_the_queries_and_an_end_vector(owl: Callable[..., Any]) -> None:
    model = owl("video")
    assert model.encode_images(pixels(2, 3)).shape == (2, SIZE, 48)
    for frames in (1, 2, 4, 8):
        assert model.encode_videos(pixels(2, 3, frames)).shape == (2, SIZE, 48)
    images = model.encode_images(pixels(2, 3))
    assert torch.equal(images[:, -1], model.abstractor.vit_eos[0].expand(2, -1))


@torch.no_grad()
def test_media_of_a_batch_do_not_touch(owl: Callable[..., Any]) -> None:
    model = owl("video")
    images, clips = pixels(3, 3), pixels(3, 3, 4)
    for encode, media in ((model.encode_images, images), (model.encode_videos, clips)):
        single = torch.cat([encode(one[None]) for one in media])
        assert (encode(media) - single).abs().max() < 1e-5


@torch.no_grad()
def test_a_clip_of_one_frame_is_an_image(owl: Callable[..., Any]) -> None:
    """The original raises there."""
    model = owl("video")
    image = pixels(2, 3)
    assert torch.equal(model.encode_videos(image[:, :, None]), model.encode_images(image))


@torch.no_grad()
def test_a_still_clip_is_not_an_image(owl: Callable[..., Any]) -> None:
    """Class tokens double, the ends of the clip see zeros beyond, and the temporal queries join in."""
    model = owl("video")
    image = pixels(1, 3)
    still = image[:, :, None].expand(-1, -1, 4, -1, -1)
    assert (model.encode_videos(still) - model.encode_images(image)).abs().max() > 0.1
    tokens = model.vision_model(still).last_hidden_state
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 0.01


@torch.no_grad()
def test_the_order_of_frames_matters(owl: Callable[..., Any]) -> None:
    model = owl("video")
    clip = pixels(1, 3, 4)
    assert (model.encode_videos(clip) - model.encode_videos(clip.flip(2))).abs().max() > 0.01


def test_the_image_variant_refuses_clips(owl: Callable[..., Any]) -> None:
    for frames in (1, 4):
        with pytest.raises(ValueError, match="this checkpoint is the image variant"):
            owl().encode_videos(pixels(1, 3, frames))


@pytest.mark.parametrize(("shape", "message"), [((1, 3, 4), "pixel_values must be"), ((1, 1), "pixel_values must be")])
def test_pixels_of_another_shape_are_refused(owl: Callable[..., Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        owl("video").encode_images(pixels(*shape))
    with pytest.raises(ValueError, match="video_pixel_values must be"):
        owl("video").encode_videos(pixels(1, 3))


@torch.no_grad()
def test_smaller_pictures_take_the_first_positions_and_larger_ones_are_refused(owl: Callable[..., Any]) -> None:
    model = owl()
    small = pixels(1, 3)[..., :28, :]
    assert model.vision_model(small).last_hidden_state.shape == (1, 2 * 4 + 1, 32)
    with pytest.raises(ValueError, match="a picture of 70x70 pixels is 26 tokens, and the encoder has 17"):
        model.encode_images(torch.zeros(1, 3, 70, 70))


@torch.no_grad()
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_media_stand_where_the_placeholders_are(owl: Callable[..., Any], variant: str, language: str) -> None:
    model = owl(variant, language)
    form = "t2 i i t1 v t3 v" if variant == "video" else "t2 i i t1"
    prompts = [prompt(model, form), prompt(model, "t4 i t2", seed=1)]
    inputs = batch(prompts)
    images = model.encode_images(inputs["pixel_values"])
    videos = model.encode_videos(inputs["video_pixel_values"]) if variant == "video" else None
    embedded = model.embed(inputs["input_ids"], images=images, videos=videos)
    ids = inputs["input_ids"]
    assert torch.equal(embedded[ids == -1], images.flatten(0, 1))
    if videos is not None:
        assert torch.equal(embedded[ids == -2], videos.flatten(0, 1))
    assert torch.equal(embedded[ids >= 0], model.embed_text(ids[ids >= 0]))


@pytest.mark.parametrize(
    ("form", "images", "message"),
    [
        ("t2 i i t3", 1, "34 placeholders -1, of which 17 make one image, that is 2 images, and 1 images were given"),
        ("t2 i t3", 2, "17 placeholders -1, of which 17 make one image, that is 1 images, and 2 images were given"),
        ("t2 i t3", 0, "17 placeholders -1, .* and 0 images were given"),
        ("t5", 1, "0 placeholders -1, .* and 1 images were given"),
        ("t2 v t3", 0, "17 placeholders -2, .* that is 1 videos, and 0 videos were given"),
    ],
)
def test_a_mismatch_of_places_and_media_says_both_numbers(
    owl: Callable[..., Any], form: str, images: int, message: str
) -> None:
    model = owl("video")
    inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt(model, form).ids])}
    if images:
        inputs["pixel_values"] = pixels(images, 3)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=message):
            call(**inputs)


def test_places_of_an_incomplete_medium_are_refused(owl: Callable[..., Any]) -> None:
    model = owl()
    with pytest.raises(ValueError, match=r"10 placeholders -1, .* that is 0.588235 images, and 1 images were given"):
        model(input_ids=torch.tensor([[1] + [-1] * 10]), pixel_values=pixels(1, 3))


@pytest.mark.parametrize(
    "rows", [[[-1] * 10 + [5] + [-1] * 7], [[-1] * 16 + [5] * 2, [-1] + [5] * 17]], ids=["by a word", "by a row"]
)
def test_places_torn_apart_are_refused(owl: Callable[..., Any], rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="the 17 placeholders -1 of each image must stand together in one prompt"):
        owl()(input_ids=torch.tensor(rows), pixel_values=pixels(1, 3))


def test_other_negative_ids_are_refused(owl: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="id -3 in input_ids"):
        owl()(input_ids=torch.tensor([[1, -3]]))


def test_encoded_media_of_another_size_are_refused(owl: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"encoded images are \(1, 17, 40\), not \(n, 17, 48\)"):
        owl().embed(torch.full((1, SIZE), -1), images=torch.zeros(1, SIZE, 40))


def test_ids_or_embeddings_but_not_both_nor_pixels_beside_embeddings(owl: Callable[..., Any]) -> None:
    model = owl()
    ids, embeddings = torch.tensor([[1, 5]]), torch.zeros(1, 2, 48)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            call(input_ids=ids, inputs_embeds=embeddings)
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            call()
        with pytest.raises(ValueError, match="pixel values go with input_ids"):
            call(inputs_embeds=embeddings, pixel_values=pixels(1, 3))


@torch.no_grad()
def test_media_are_seen_even_where_the_mask_hides_them(owl: Callable[..., Any]) -> None:
    """As in the original, which sets the mask to one over media."""
    model = owl()
    inputs = alone(prompt(model, "t2 i t3"))
    wanted = model(**inputs).logits
    inputs["attention_mask"] = torch.where(inputs["input_ids"] < 0, 0.0, 1.0)
    assert torch.equal(model(**inputs).logits, wanted)


@torch.no_grad()
def test_bloom_normalizes_words_once_and_media_never(owl: Callable[..., Any]) -> None:
    model = owl("image", "bloom")
    base = model.language_model.base_model
    ids = torch.tensor([[1, 5, 300]])
    words = model.embed_text(ids)
    table = base.word_embeddings(ids)
    norm = base.word_embeddings_layernorm
    wanted = torch.nn.functional.layer_norm(table, (48,), norm.weight, norm.bias, norm.eps)
    assert torch.equal(words, wanted)
    by_ids, by_embeddings = base(input_ids=ids), base(inputs_embeds=words)
    assert torch.equal(by_ids.last_hidden_state, by_embeddings.last_hidden_state)
    media = torch.randn(1, 3, 48) * 7
    hidden = base(inputs_embeds=media, output_hidden_states=True).hidden_states
    assert torch.equal(hidden[0], media)


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_the_language_model_runs_by_itself_on_embeddings_and_a_cache(owl: Callable[..., Any], language: str) -> None:
    """As an engine of its own drives it: prefill by embeddings, then one embedded token at a time."""
    model = owl("image", language)
    inputs = alone(prompt(model, "t4 i t3"))
    wanted = model.generate(**inputs, do_sample=False, eos_token_id=None, max_new_tokens=6)[0].tolist()
    embeddings = model.embed(inputs["input_ids"], images=model.encode_images(inputs["pixel_values"]))
    cache, head = DynamicCache(config=model.config.text_config), model.language_model.get_output_embeddings()
    made: list[int] = []
    while len(made) < 6:
        past = cache.get_seq_length()
        hidden = model.language_model.base_model(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(1, past + embeddings.shape[1], dtype=torch.long),
            position_ids=torch.arange(past, past + embeddings.shape[1])[None],
            past_key_values=cache,
        ).last_hidden_state
        made.append(int(head(hidden[:, -1]).argmax()))
        embeddings = model.embed_text(torch.tensor([made[-1:]]))
    assert made == wanted


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_forward_goes_on_from_a_cache(owl: Callable[..., Any], language: str) -> None:
    model = owl("image", language)
    prompts = [prompt(model, "t4 i t3"), prompt(model, "t2", seed=1)]
    inputs = batch(prompts)
    more = torch.tensor([[7, 8], [9, 10]])
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 2)], 1)
    whole = dict(inputs, input_ids=torch.cat([inputs["input_ids"], more], 1), attention_mask=mask)
    first = model(**inputs, use_cache=True)
    then = model(input_ids=more, attention_mask=mask, past_key_values=first.past_key_values)
    assert (then.logits - model(**whole).logits[:, -2:]).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("variant", "language"), KINDS)
@torch.no_grad()
def test_half_precision_is_near_float32(
    owl: Callable[..., Any], tiny: Callable[..., Any], variant: str, language: str, dtype: torch.dtype
) -> None:
    model = MplugOwlForConditionalGeneration.from_pretrained(tiny(variant, language), dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    exact = owl(variant, language)
    inputs = batch([prompt(exact, "t4 i t3" if variant == "image" else "t4 v t2 i t3"), prompt(exact, "t2", seed=1)])
    logits = model(**inputs).logits
    assert logits.dtype == dtype
    wanted = exact(**inputs).logits
    seen = inputs["attention_mask"] > 0
    error = (logits.float() - wanted)[seen].abs().mean() / wanted[seen].std()
    assert error < (0.06 if dtype == torch.bfloat16 else 0.01)
    assert model.generate(**inputs, do_sample=False, max_new_tokens=3).shape[0] == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_are_evaluated_in_float32(dtype: torch.dtype) -> None:
    """What the library relies on torch for: squares of such numbers have no place in float16."""
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(dtype) * 3000
    norm = torch.nn.LayerNorm(64).to(dtype)
    wanted = torch.nn.functional.layer_norm(x.float(), (64,), norm.weight.float(), norm.bias.float()).to(dtype)
    assert (norm(x) - wanted).abs().max() <= 2e-3


@torch.no_grad()
def test_positions_count_what_the_mask_shows(owl: Callable[..., Any]) -> None:
    """Rotary positions are relative, so no logit would show a constant shift; the longest prompts need the room."""
    model = owl()
    given: list[torch.Tensor] = []
    hook = model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: given.append(kwargs["position_ids"]), with_kwargs=True
    )
    ids, mask = torch.full((2, 4), 9), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    model(ids, attention_mask=mask)
    model(ids[:, :1], attention_mask=mask)
    hook.remove()
    assert [positions.tolist() for positions in given] == [[[1, 1, 0, 1], [0, 1, 2, 1]], [[1], [1]]]
