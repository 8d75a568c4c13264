"""Files of weights: which of a folder count, and the headers of the tensors in them, read without the tensors."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER_CONFIG = "adapter_config.json"

A_LORA = "a LoRA adapter, not a model: load the model it was trained on, then mplug_owl.load_adapter(model, folder)"

_SAFE_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_UNREADABLE = (safetensors.SafetensorError, RuntimeError, OSError, EOFError, zipfile.BadZipFile, pickle.PickleError)


class CheckpointError(ValueError):
    """A folder whose weights are absent, broken, or not those of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of a tensor before it is read. Two with the same `place` are one tensor under two names."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    place: object

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that hold the weights, and for shards the name of the file of each key.

    Raises:
        CheckpointError: there are none, or a shard is missing.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    for single, index in ((SAFE, SAFE_INDEX), (BIN, BIN_INDEX)):  # the order in which transformers looks for them
        if (folder / single).is_file():
            return [folder / single], {}
        if (folder / index).is_file():
            return _shards(folder / index)
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{folder} holds {A_LORA}")
    raise CheckpointError(f"{folder}: no weights: expected {SAFE}, {BIN}, or shards with {SAFE_INDEX} or {BIN_INDEX}")


def _shards(index: Path) -> tuple[list[Path], dict[str, str]]:
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [index.parent / name for name in sorted(set(placed.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({type(error).__name__}: {error})") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{index.parent}: of {len(files)} shards in {index.name}, missing: {some(absent)}")
    return files, placed


def headers(file: Path) -> dict[str, Header]:
    """The headers of a file's tensors by name. A `.bin` file is mapped, not read.

    Raises:
        CheckpointError: the file is cut short or damaged, or holds something else than tensors.
    """
    try:
        return dict(_safe_headers(file) if file.suffix == ".safetensors" else _bin_headers(file))
    except _UNREADABLE as error:
        size = file.stat().st_size if file.exists() else 0
        raise CheckpointError(f"{file}: cut short or damaged, {size} bytes ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: holds something else than weights ({error})") from error


def _safe_headers(file: Path) -> Iterator[tuple[str, Header]]:
    with safetensors.safe_open(file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118  # not a mapping
            part = opened.get_slice(key)
            yield key, Header(shape=tuple(part.get_shape()), dtype=_SAFE_DTYPES[part.get_dtype()], place=key)


def _bin_headers(file: Path) -> Iterator[tuple[str, Header]]:
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    for key, tensor in loaded.items():
        shape = tuple(tensor.shape)
        place = (file.name, tensor.untyped_storage().data_ptr(), tensor.storage_offset(), shape)
        yield key, Header(shape=shape, dtype=tensor.dtype, place=place)


def raise_if_any(folder: Path, found: Mapping[str, list[str]]) -> None:
    """Raise a CheckpointError that names the keys found wrong, by what is wrong with them."""
    said = [f"{len(names)} {what}: {some(names)}" for what, names in found.items() if names]
    if said:
        raise CheckpointError(f"{folder} does not fit the model. Keys {'; '.join(said)}")


def some(names: list[str], most: int = 5) -> str:
    """The first few of a list of names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
