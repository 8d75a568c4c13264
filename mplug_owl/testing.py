"""Small random checkpoints in the published layout, and random models of any size: for tests, demos and benchmarks."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from transformers import initialization

from mplug_owl.checkpoint import save_published
from mplug_owl.configuration import MplugOwlConfig
from mplug_owl.modeling import MplugOwlForConditionalGeneration

if TYPE_CHECKING:
    from collections.abc import Iterator

Variant = Literal["image", "video"]
Language = Literal["llama", "bloom"]

_VOCABULARY = 640
_SPECIAL = {"llama": {"unk": 0, "pad": 0, "bos": 1, "eos": 2}, "bloom": {"unk": 0, "bos": 1, "eos": 2, "pad": 3}}


def tiny_checkpoint(
    folder: str | Path,
    variant: Variant = "image",
    *,
    language: Language = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    safe: bool = False,
    max_shard_size: int | str = "10GB",
    **sizes: Any,
) -> Path:
    """Write a random checkpoint of about a megabyte into `folder`, as the original would have published it.

    `sizes` are those of `tiny_config`; `safe` makes it safetensors. No weight is zero, and they are wide enough that
    the most likely answers differ from prompt to prompt. Neither our keys of `config.json` nor those that transformers
    added since are written: a reader has to do without. The tokenizer encodes any text.

    Raises ValueError for a variant or a language that does not exist.
    """
    _check("variant", variant, get_args(Variant))
    _check("language", language, get_args(Language))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_llama_tokenizer(folder) if language == "llama" else _write_bloom_tokenizer(folder)
    config = tiny_config(variant, language=language, vocabulary=vocabulary, **sizes)
    model = random_model(config, dtype=dtype, seed=seed)
    _prefer_text(model, language)
    save_published(model, folder, safe=safe, max_shard_size=max_shard_size)
    _write_json(folder / "config.json", _as_published(json.loads((folder / "config.json").read_text())))
    ids = {f"{name}_token_id": number for name, number in _SPECIAL[language].items()}
    _write_json(folder / "generation_config.json", {"max_length": 512, "do_sample": True, "top_k": 3, **ids})
    _write_json(folder / "preprocessor_config.json", _preprocessor(config.vision_config.image_size))
    return folder


def tiny_config(
    variant: Variant = "image",
    *,
    language: Language = "llama",
    vocabulary: int = _VOCABULARY,
    num_query_tokens: int = 16,
    image_size: int = 56,
    patch_size: int = 14,
    vision_width: int = 32,
    vision_layers: int = 2,
    vision_heads: int = 4,
    abstractor_layers: int = 2,
    abstractor_intermediate_size: int = 300,
    abstractor_layer_norm_eps: float = 1e-6,
    width: int = 48,
    layers: int = 2,
    heads: int = 4,
    context: int = 2048,
) -> MplugOwlConfig:
    """A model of a quarter of a million weights; `width`, `layers`, `heads` and `context` are the language model's."""
    return _config(
        variant,
        vision={
            "hidden_size": vision_width,
            "intermediate_size": 3 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_heads,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        abstractor={
            "num_hidden_layers": abstractor_layers,
            "num_attention_heads": vision_heads,
            "intermediate_size": abstractor_intermediate_size,
            "layer_norm_eps": abstractor_layer_norm_eps,
        },
        text=_text_config(
            language,
            width=width,
            intermediate=8 * width // 3,
            layers=layers,
            heads=heads,
            vocabulary=vocabulary,
            context=context,
        ),
        num_query_tokens=num_query_tokens,
    )


def full_size(
    variant: Variant = "image",
    *,
    language: Language = "llama",
    layers: int | None = None,
    width: int = 4096,
    vocabulary: int | None = None,
) -> MplugOwlConfig:
    """The published sizes: ViT-L/14 at 224 pixels, six abstractor layers, 64 queries, and LLaMA-7B or BLOOMZ-7B1.

    `layers` and `width` are those of the language model, which keeps its shape: heads of 128, LLaMA's inner layers
    11008 / 4096 as wide.
    """
    return _config(
        variant,
        vision={},
        abstractor={"intermediate_size": 4096 if variant == "video" else 2816},  # both come to 2816
        text=_text_config(
            language,
            width=width,
            intermediate=11008 * width // 4096,
            layers=layers or {"llama": 32, "bloom": 30}[language],
            heads=width // 128,
            vocabulary=vocabulary or {"llama": 32000, "bloom": 250880}[language],
            context=2048,
        ),
        num_query_tokens=64,
    )


def random_model(
    config: MplugOwlConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MplugOwlForConditionalGeneration:
    """A model of any size with random weights, made where it is to lie: nothing is copied from another device."""
    with initialization.no_init_weights(), torch.device(device), _default_dtype(dtype):
        model = MplugOwlForConditionalGeneration(config)
    model.tie_weights()
    randomize(model, seed=seed)
    model.eval()  # type: ignore[no-untyped-call]
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, *, seed: int = 0) -> None:
    """Fill all weights with numbers that keep signals about as large as they are, and logits a few units apart."""
    generators: dict[torch.device, torch.Generator] = {}
    for name, weight in model.named_parameters():
        generator = generators.setdefault(weight.device, torch.Generator(weight.device).manual_seed(seed))
        weight.normal_(generator=generator).mul_(_spread(name, weight))
        if weight.dim() == 1 and name.endswith("weight") and not name.endswith("ln_f.weight"):
            weight.add_(1)  # a norm


def _spread(name: str, weight: torch.Tensor) -> float:
    """The standard deviation that a weight is drawn with."""
    if name.endswith("ln_f.weight"):
        return 1.0  # BLOOM's head is its word table: with a norm of either sign it does not say what it has just read
    if weight.dim() == 1:
        return 0.05 if name.startswith("language_model.") else 0.2
    if not name.endswith(".weight") or name.endswith(("embed_tokens.weight", "word_embeddings.weight")):
        return 1.0  # vectors that are learned themselves
    gain = 3.0 if name.endswith("lm_head.weight") else 1.5
    return float(gain / weight[0].numel() ** 0.5)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _config(
    variant: Variant, *, vision: dict[str, Any], abstractor: dict[str, Any], text: dict[str, Any], num_query_tokens: int
) -> MplugOwlConfig:
    _check("variant", variant, get_args(Variant))
    width = vision.get("hidden_size", 1024)
    return MplugOwlConfig(
        vision_config=vision,
        visual_abstractor_config={"hidden_size": width, "encoder_hidden_size": width, **abstractor},
        text_config=text,
        num_query_tokens=num_query_tokens,
        has_temporal=variant == "video",
    )


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; there are {', '.join(known)}")


def _text_config(
    language: Language, *, width: int, intermediate: int, layers: int, heads: int, vocabulary: int, context: int
) -> dict[str, Any]:
    _check("language", language, get_args(Language))
    ids = {f"{name}_token_id": number for name, number in _SPECIAL[language].items() if name != "unk"}
    if language == "bloom":
        sizes = {"hidden_size": width, "n_layer": layers, "n_head": heads, "vocab_size": vocabulary}
        return {"model_type": "bloom", "tie_word_embeddings": True, **sizes, **ids}
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        **ids,
    }


def _as_published(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config as the original would have it: without our keys and newer ones, with the junk it copies up."""
    for key in ("has_temporal", "dtype"):
        saved.pop(key)
    saved["visual_abstractor_config"].pop("feed_forward_size")
    text = saved["text_config"]
    for key in ("rope_parameters", "num_key_value_heads", "head_dim", "attention_bias", "mlp_bias", "dtype"):
        text.pop(key, None)
    if text["model_type"] == "bloom":
        saved |= {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    return saved


@torch.no_grad()
def _prefer_text(model: MplugOwlForConditionalGeneration, language: Language) -> None:
    """Make ids of single bytes unlikely, so that answers are mostly text, and special ones less likely, so that they
    go on for a while. In BLOOM's shared table this changes no input, since that is normalized."""
    head = model.get_output_embeddings().get_parameter("weight")
    special = len(set(_SPECIAL[language].values()))
    head[:special] *= 0.7
    head[special : special + 256] *= 0.3


def _preprocessor(image_size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "MplugOwlImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Tokenizers


def _write_llama_tokenizer(folder: Path) -> int:
    """A sentencepiece model made as LLaMA's is: BPE with bytes to fall back on. Returns the size of its vocabulary."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=_VOCABULARY,
        byte_fallback=True,
        character_coverage=0.99995,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    _write_special_tokens(folder, pad="<unk>")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "sp_model_kwargs": {},
            **_special_tokens(pad="<unk>"),
        },
    )
    return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size())


def _write_bloom_tokenizer(folder: Path) -> int:
    """A BPE over bytes as BLOOM's is. Returns the size of its vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+"), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.split("\n"), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_special_tokens(folder, pad="<pad>")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BloomTokenizerFast",
            "add_prefix_space": False,
            "padding_side": "left",
            **_special_tokens(pad="<pad>"),
        },
    )
    return int(tokenizer.get_vocab_size())


def _special_tokens(*, pad: str) -> dict[str, str]:
    return {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": pad}


def _write_special_tokens(folder: Path, *, pad: str) -> None:
    _write_json(folder / "special_tokens_map.json", _special_tokens(pad=pad))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


_TEXT = """\
The conversation is between a human and an AI assistant, who answers the questions of the user in detail and politely.
Human: What does this page say about the price of the tickets, and when does the last train leave the station?
AI: The page is a timetable. The last train leaves at 23:45 from platform 7, and a single ticket costs 12.50 euros.
Human: Describe the picture in one sentence, then read all the text that you can see in it, line by line.
AI: A woman in a red coat is walking her dog along the river, while two children feed the ducks from a bridge.
Human: How many people are there in the video, and what are they doing with the boxes next to the door?
AI: Three men carry boxes from the house to a white van. One of them stops, opens the door and looks at his phone.
Human: Summarize the report for somebody who has five minutes.
AI: The report compares the costs of the last three years. Energy became cheaper, transport did not, and the authors
expect that the total will grow by 4 percent. They recommend to repair the roof before winter and to sell the old cars.
Invoice number 2041, date 16 March 2019, due within 30 days. Amount 1,280.00, tax 243.20, total 1,523.20. Thank you!
Chapter 3. Weather and climate: the wind that comes from the sea brings rain; in the mountains it falls as snow.
Figure 8 shows the share of households with a garden (left) and without one (right). Source: survey of June 1987.
Please write your name, address and phone number in capital letters, sign below, and return the form by Friday.
Our new lamp is bright, light and made to last: it folds flat, fits into every bag and works for ten hours without
a cable. Order today and get the second one for half the price. Questions? Write to us or visit the shop on Main Street.
The blue sky, the green field, the yellow sun, the black cat and the white horse: this drawing is by a child of six.
At first nothing happens. Then a small boat appears behind the island, turns around, and a man waves with his hat.
Some of these words are short and others are longer, but each of them should be read from left to right as it stands.
Ingredients: flour, water, salt, yeast, olive oil. Mix everything, wait for two hours, and bake at 220 degrees.
"""
