"""Tiny checkpoints and random models: what others' tests, demos and benchmarks build on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer

from mplug_owl import MplugOwlProcessor, inspect
from mplug_owl.testing import full_size, random_model, tiny_checkpoint, tiny_config
from tests.mplug_owl.conftest import KINDS
from tests.mplug_owl.prompts import alone, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [
    "Read this page.\nAI: ",
    "漢字 и 한국어 😀 naïve",
    "  two  spaces\t\n",
    "\x00\u202e </s> <s>",
    "0123456789" * 20,
]


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_a_checkpoint_is_small_whole_and_made_in_seconds(tmp_path: Path, variant: Any, language: Any) -> None:
    began = time.monotonic()
    folder = tiny_checkpoint(tmp_path, variant, language=language)
    assert time.monotonic() - began < 10
    facts = inspect(folder)
    assert facts.has_temporal is (variant == "video")
    assert facts.bytes < 2_000_000
    names = {file.name for file in folder.iterdir()}
    tokenizer = {"tokenizer.model"} if language == "llama" else {"tokenizer.json"}
    common = {"config.json", "generation_config.json", "preprocessor_config.json", "pytorch_model.bin"}
    assert names == common | tokenizer | {"tokenizer_config.json", "special_tokens_map.json"}


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_no_weight_is_zero(owl: Callable[..., Any], variant: str, language: str) -> None:
    assert all((weight != 0).all() for weight in owl(variant, language).parameters())


def test_the_same_seed_makes_the_same_checkpoint(tmp_path: Path) -> None:
    folders = [tiny_checkpoint(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4))]
    first, second, third = (torch.load(folder / "pytorch_model.bin", weights_only=True) for folder in folders)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["query_tokens"], third["query_tokens"])
    assert (folders[0] / "tokenizer.model").read_bytes() == (folders[1] / "tokenizer.model").read_bytes()


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_its_configuration_tells_no_more_than_a_published_one(
    tiny: Callable[..., Path], variant: str, language: str
) -> None:
    text = (tiny(variant, language) / "config.json").read_text()
    for ours in ("has_temporal", "feed_forward_size", "rope_parameters", "num_key_value_heads"):
        assert ours not in text
    saved = json.loads(text)
    assert (saved["model_type"], saved["torch_dtype"]) == ("mplug-owl", "float32")
    assert saved.get("num_hidden_layers") == ("n_layer" if language == "bloom" else None)


@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_its_tokenizer_encodes_any_text(tiny: Callable[..., Path], language: str) -> None:
    processor: Any = MplugOwlProcessor.from_pretrained(tiny("image", language))
    for text in TEXTS:
        ids = processor(text=[text], return_tensors="pt")["input_ids"][0].tolist()
        assert ids[0] == 1
        assert 0 not in ids
        assert max(ids) < 640
        assert all(word in processor.decode(ids) for word in text.replace("</s>", "").replace("<s>", "").split())


def test_ids_of_llama_are_where_the_published_ones_are(tiny: Callable[..., Path]) -> None:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(tiny() / "tokenizer.model"))
    assert [model.id_to_piece(i) for i in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]
    assert model.encode("a\nb") == [*model.encode("a"), model.piece_to_id("<0x0A>"), model.piece_to_id("b")]


def test_ids_of_bloom_are_where_the_published_ones_are(tiny: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_file(str(tiny("image", "bloom") / "tokenizer.json"))
    assert [tokenizer.id_to_token(i) for i in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    settings = json.loads((tiny("image", "bloom") / "generation_config.json").read_text())
    assert (settings["pad_token_id"], settings["bos_token_id"], settings["eos_token_id"]) == (3, 1, 2)


@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_answers_vary_with_the_prompt_and_within(owl: Callable[..., Any], variant: str, language: str) -> None:
    model = owl(variant, language)
    prompts = [prompt(model, "t4 i t6", seed=seed) for seed in range(6)]
    answers = [model.generate(**alone(one), do_sample=False, max_new_tokens=32)[0].tolist() for one in prompts]
    assert len({tuple(answer) for answer in answers}) == 6
    assert sum(len(set(answer)) for answer in answers) / 6 > 6


def test_sizes_can_be_chosen(tiny: Callable[..., Path], owl: Callable[..., Any]) -> None:
    config = owl("image", "llama", num_query_tokens=24, image_size=28, context=4096, layers=3).config
    assert (config.num_query_tokens, config.vision_config.image_size) == (24, 28)
    assert (config.text_config.max_position_embeddings, config.text_config.num_hidden_layers) == (4096, 3)
    assert owl().config.text_config.max_position_embeddings >= 2048


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_random_model_has_the_type_asked_for_and_whole_tables(dtype: torch.dtype) -> None:
    model = random_model(tiny_config(), dtype=dtype, seed=1)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    table = model.get_buffer("language_model.model.rotary_emb.inv_freq")
    assert torch.allclose(table, 10000.0 ** -(torch.arange(0, 12, 2) / 12))
    assert torch.get_default_dtype() == torch.float32
    assert not model.training
    assert model.generate(torch.tensor([[1, 5, 6]]), do_sample=False, max_new_tokens=3).shape == (1, 3)


def test_a_random_bloom_ties_its_head() -> None:
    model = random_model(tiny_config(language="bloom"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_smaller_language_model_under_the_published_vision_side() -> None:
    config = full_size(layers=4, width=2048)
    vision, text = config.vision_config, config.text_config
    assert (vision.num_hidden_layers, config.visual_abstractor_config.feed_forward_size) == (24, 2816)
    assert (text.num_hidden_layers, text.num_attention_heads, text.intermediate_size) == (4, 16, 5504)


@pytest.mark.parametrize("wrong", [{"variant": "bloom"}, {"language": "video"}])
def test_an_unknown_variant_or_language_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is '{next(iter(wrong.values()))}'; there are"):
        tiny_checkpoint(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())
