"""Checkpoint folders: what lies in one, whether it is the model's, writing one, and adapters on top.

Two things about a published checkpoint stand only in its weights: whether it is the video variant, and how wide the
abstractor's feed-forward layers are. `inspect` tells them from the headers of the files, before a weight is read, and
finds what is broken while it is cheap to say so.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from huggingface_hub.errors import HFValidationError

from mplug_owl.weights import (
    A_LORA,
    ADAPTER_CONFIG,
    BIN_INDEX,
    SAFE_INDEX,
    CheckpointError,
    Header,
    headers,
    raise_if_any,
    some,
    weight_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from transformers import GenerationConfig, PreTrainedModel

    from mplug_owl.modeling import MplugOwlForConditionalGeneration

__all__ = [
    "CheckpointError",
    "CheckpointFacts",
    "inspect",
    "load_adapter",
    "modern_generation_config",
    "published_state",
    "save_published",
]

_ANY_WEIGHTS = re.compile(r"(pytorch_model|model)(-\d{5}-of-\d{5})?\.(bin|safetensors)(\.index\.json)?")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Tables of the attention layers, which old transformers saved as buffers.
_ROTARY_TABLE = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What the files of a folder say of themselves."""

    folder: Path
    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Every stored key and its shape, saved buffers included."""
    has_temporal: bool
    """Whether this is the video variant."""
    abstractor_intermediate_size: int | None
    """Width of the abstractor's feed-forward layers; None if there is no abstractor."""
    parameters: int
    """Numbers in all weights; a head that shares its storage counts once, saved rotary tables do not count."""
    bytes: int
    """Size of those weights as stored."""
    dtype: torch.dtype
    """The floating type that most of the numbers are stored in."""


def inspect(folder: str | Path) -> CheckpointFacts:
    """Read the headers of a checkpoint's weights: one file or shards, safetensors or pickled by torch.

    Raises:
        CheckpointError: no weights in the folder, a shard or a key of a shard missing, a file cut short or damaged.
    """
    folder = Path(folder)
    files, placed = weight_files(folder)
    tensors: dict[str, Header] = {}
    for file in files:
        found = headers(file)
        absent = [key for key, name in placed.items() if name == file.name and key not in found]
        if absent:
            raise CheckpointError(f"{file}: the index places {some(absent)} here, and the file does not have it")
        tensors.update(found)
    weights = {tensor.place: tensor for key, tensor in tensors.items() if not key.endswith(_ROTARY_TABLE)}
    return CheckpointFacts(
        folder=folder,
        files=tuple(files),
        shapes=MappingProxyType({key: tensor.shape for key, tensor in tensors.items()}),
        has_temporal="temporal_query_tokens" in tensors or any(".temporal." in key for key in tensors),
        abstractor_intermediate_size=_feed_forward_size(tensors),
        parameters=sum(tensor.numel for tensor in weights.values()),
        bytes=sum(tensor.numel * tensor.dtype.itemsize for tensor in weights.values()),
        dtype=_main_dtype(folder, weights.values()),
    )


def _feed_forward_size(tensors: Mapping[str, Header]) -> int | None:
    for key, tensor in tensors.items():
        if key.startswith("abstractor.") and key.endswith(".mlp.w1.weight"):
            return tensor.shape[0]
    return None


def _main_dtype(folder: Path, weights: Iterable[Header]) -> torch.dtype:
    count: Counter[torch.dtype] = Counter()
    for tensor in weights:
        if tensor.dtype.is_floating_point:
            count[tensor.dtype] += tensor.numel
    if not count:
        raise CheckpointError(f"{folder}: there are no floating-point weights in it")
    return count.most_common(1)[0][0]


def fetch(name: str | Path, options: MutableMapping[str, Any]) -> Path:
    """The folder of that name, or a copy of the hub's repository of that name.

    For a repository, takes out of `options` what concerns the hub: `revision`, `cache_dir`, `token`,
    `local_files_only` and `force_download`. Its `.bin` files are copied only if it has no safetensors.

    Raises:
        CheckpointError: neither a folder nor to be had from the hub.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    known = ("revision", "cache_dir", "token", "local_files_only", "force_download")
    hub = {key: options.pop(key) for key in known if key in options}
    try:
        folder = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.model", "*.safetensors"], **hub))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(str(name), allow_patterns=["*.json", "*.model", "*.bin"], **hub))
    except (HFValidationError, OSError) as error:  # the hub's own errors are kinds of OSError
        raise CheckpointError(f"{name}: no such folder, and not to be had from the hub ({error})") from error
    return folder


def check_keys(facts: CheckpointFacts, model: PreTrainedModel) -> None:
    """Compare a checkpoint with a model of its configuration, which may lie on the meta device.

    Excused are the rotary tables that old transformers saved, and a head that is tied to the word embeddings.

    Raises:
        CheckpointError: keys missing, unexpected, or of another shape; it names them.
    """
    adapter = [key for key in facts.shapes if "lora_" in key]
    if adapter:
        raise CheckpointError(f"{facts.folder} has {some(adapter)}: {A_LORA}")
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    missing = [key for key in wanted if key not in facts.shapes and key not in model.all_tied_weights_keys]
    unexpected = [key for key in facts.shapes if key not in wanted and not key.endswith(_ROTARY_TABLE)]
    other = [
        f"{key} {list(facts.shapes[key])} for {list(shape)}"
        for key, shape in wanted.items()
        if facts.shapes.get(key, shape) != shape
    ]
    raise_if_any(facts.folder, {"missing": missing, "unexpected": unexpected, "of another shape": other})


def check_loaded(facts: CheckpointFacts, model: MplugOwlForConditionalGeneration, info: Mapping[str, Any]) -> None:
    """The same of what transformers reports after loading, and that a tied head is tied.

    Raises:
        CheckpointError: a key was not loaded, or the head and the word embeddings differ though the config ties them.
    """
    found = {name: sorted(str(key) for key in info[name]) for name in ("missing_keys", "mismatched_keys", "error_msgs")}
    raise_if_any(facts.folder, found)
    head, words = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.text_config.tie_word_embeddings and head.weight is not words.weight:
        raise CheckpointError(
            f"{facts.folder}: text_config ties the head to the word embeddings, and the weights of the two differ: "
            "set tie_word_embeddings to false in text_config, or correct the weights"
        )


def modern_generation_config(config: GenerationConfig) -> GenerationConfig:
    """The settings of a `generation_config.json`, in today's terms.

    The original counts one begin token and the answer in `max_length`, transformers today the prompt and the answer;
    so 512 becomes 511 new tokens.
    """
    modern = copy.deepcopy(config)
    if modern.max_length is not None:
        if modern.max_new_tokens is None:
            modern.max_new_tokens = modern.max_length - 1
        modern.max_length = None
    return modern


def save_published(
    model: MplugOwlForConditionalGeneration,
    folder: str | Path,
    *,
    safe: bool = False,
    max_shard_size: int | str = "10GB",
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a folder that the original loads: its keys, its config names, `pytorch_model.bin` or numbered shards.

    With `safe` the same tensors go to safetensors, which the original reads where that package is installed. Other
    weights in the folder are removed. Tokenizer and preprocessor are the processor's to save.

    Raises:
        ValueError: an adapter lies beside the weights; it must be merged first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = published_state(model, state_dict)
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    written = _write_weights(state, folder, safe=safe, max_shard_size=max_shard_size)
    for file in folder.iterdir():
        if _ANY_WEIGHTS.fullmatch(file.name) and file.name not in written:
            file.unlink()


def _write_weights(
    state: Mapping[str, torch.Tensor], folder: Path, *, safe: bool, max_shard_size: int | str
) -> set[str]:
    """The names of the files written."""
    pattern = "model{suffix}.safetensors" if safe else "pytorch_model{suffix}.bin"
    split = split_torch_state_dict_into_shards(dict(state), filename_pattern=pattern, max_shard_size=max_shard_size)
    for name, keys in split.filename_to_tensors.items():
        shard = {key: state[key] for key in keys}
        aside = folder / f".{name}"  # the weights may be mapped from the very file that is replaced
        if safe:
            safetensors.torch.save_file(shard, aside, metadata={"format": "pt"})
        else:
            torch.save(shard, aside)
        aside.replace(folder / name)
    written = set(split.filename_to_tensors)
    if split.is_sharded:
        index = folder / (SAFE_INDEX if safe else BIN_INDEX)
        index.write_text(json.dumps({"metadata": split.metadata, "weight_map": split.tensor_to_filename}, indent=2))
        written.add(index.name)
    return written


def published_state(
    model: MplugOwlForConditionalGeneration, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The weights under the keys of a published checkpoint, on the CPU, each with storage of its own.

    That is every key of the model, the head too where it is tied, and for LLaMA the rotary table of each layer.

    Raises:
        ValueError: an adapter lies beside the weights.
    """
    state = dict(model.state_dict() if state_dict is None else state_dict)
    adapter = [key for key in state if "lora_" in key]
    if adapter:
        raise ValueError(f"the model carries an adapter beside its weights ({some(adapter)}): merge it, then save")
    text = model.config.text_config
    if text.model_type == "llama":
        table: torch.Tensor = model.get_buffer("language_model.model.rotary_emb.inv_freq")
        for layer in range(text.num_hidden_layers):
            state[f"language_model.model.layers.{layer}.self_attn{_ROTARY_TABLE}"] = table
    return {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in state.items()}


def load_adapter(
    model: MplugOwlForConditionalGeneration, folder: str | Path, merge: bool = True
) -> MplugOwlForConditionalGeneration:
    """Put a PEFT LoRA adapter (Hu et al., 2021, arXiv:2106.09685) on the model, in place, and merge it.

    Reads `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`, as the original's training
    writes them. Without `merge` the adapter stays beside the weights, for peft to work with.

    Raises:
        CheckpointError: files absent or damaged, keys that are no LoRA weights, or weights that fit no linear layer of
            this model; it names them.
        ImportError: the package peft is not installed.
    """
    folder = Path(folder)
    shapes = _adapter_shapes(folder)
    _check_adapter(folder, shapes, model)
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise ImportError("adapters need the package peft: pip install peft") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # said below
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft's own affair
        wrapped = PeftModel.from_pretrained(model, str(folder))
    missing = sorted(set(get_peft_model_state_dict(wrapped, save_embedding_layers=False)) - set(shapes))
    if missing:
        wrapped.unload()
        raise_if_any(folder, {"missing": missing})
    if merge:
        wrapped.merge_and_unload(safe_merge=True)
    return model


def _adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{folder}: no {ADAPTER_CONFIG}, so not an adapter")
    for name in _ADAPTER_WEIGHTS:
        if (folder / name).is_file():
            return {key: header.shape for key, header in headers(folder / name).items()}
    raise CheckpointError(f"{folder}: no weights: expected {' or '.join(_ADAPTER_WEIGHTS)}")


def _check_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]], model: PreTrainedModel) -> None:
    """Every key must be one side of a low-rank product that fits a linear layer, and have its other side."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    rank = _adapter_rank(folder / ADAPTER_CONFIG)
    unknown, other, alone = [], [], []
    for key, shape in shapes.items():
        match = _ADAPTER_KEY.fullmatch(key)
        if match is None or match["module"] not in linear:
            unknown.append(key)
            continue
        layer = linear[match["module"]]
        wanted = (rank, layer.in_features) if match["side"] == "A" else (layer.out_features, rank)
        if shape != wanted:
            other.append(f"{key} {list(shape)} for {list(wanted)}")
        twin = key.replace(".lora_A.", ".lora_B.") if match["side"] == "A" else key.replace(".lora_B.", ".lora_A.")
        if twin not in shapes:
            alone.append(twin)
    raise_if_any(folder, {"unexpected": unknown, "of another shape": other, "missing": alone})


def _adapter_rank(file: Path) -> int:
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["r"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the configuration of a LoRA adapter ({error!r})") from error
