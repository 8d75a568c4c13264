"""From the settings to an mPLUG-Owl checkpoint on its device, with what fits beside it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from domain.errors import SetupError
from worker.engines import packed
from worker.engines.base import DEFAULT_SLOTS
from worker.engines.generator import PREFILL_TOKENS
from worker.engines.progress import no_progress_bars

if TYPE_CHECKING:
    from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
    from worker.engines.base import EngineConfig

logger = logging.getLogger(__name__)

CPU_BATCH_IMAGES, GPU_BATCH_IMAGES = 4, 32
"""Images in one visual batch. On a CPU company gains little (docs/performance.md), and rows wait meanwhile."""

GPU_PREFILL_TOKENS = 8192
MOST_SLOTS = 128
CACHE_SHARE = 0.85
"""Of the GPU memory that the weights leave free; the rest is for the activations of prefills and visual batches."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """`label` says what runs, for the job's row."""

    model: MplugOwlForConditionalGeneration
    processor: MplugOwlProcessor
    label: str
    slots: int
    context_tokens: int
    batch_images: int
    prefill_tokens: int


def load(config: EngineConfig) -> Loaded:
    """Raises SetupError that names the model and what is wrong with it, with the device, or with the adapter."""
    if config.model is None:
        raise SetupError("the engine mplug-owl needs a checkpoint: set NIGHTOWL_MODEL to its folder or hub id")
    device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    began = time.monotonic()
    try:
        with no_progress_bars():
            model, processor = _load(config.model, dtype=_dtype(config.dtype, device), adapter=config.adapter)
        model = model.to(device).eval()
    except ImportError as error:
        raise SetupError(f"{config.model} needs a package that is missing: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: also a GPU without the memory for the weights
        raise SetupError(f"{config.model} cannot be loaded: {error}") from error
    parameters = model.num_parameters()  # before packing takes them out of sight
    from mplug_owl.linear import Linear

    packed.pack(model, also=(Linear,))
    context_tokens = _context_tokens(config, model)
    slots = _slots(config, model, context_tokens=context_tokens, device=device)
    label = "+".join(Path(name).name for name in (config.model, config.adapter) if name)
    _log(
        label,
        model,
        parameters=parameters,
        device=device,
        slots=slots,
        context_tokens=context_tokens,
        seconds=time.monotonic() - began,
    )
    is_gpu = device.type == "cuda"
    return Loaded(
        model=model,
        processor=processor,
        label=label,
        slots=slots,
        context_tokens=context_tokens,
        batch_images=GPU_BATCH_IMAGES if is_gpu else CPU_BATCH_IMAGES,
        prefill_tokens=GPU_PREFILL_TOKENS if is_gpu else PREFILL_TOKENS,
    )


def _load(name: str, *, dtype: torch.dtype, adapter: str | None) -> tuple[Any, Any]:
    from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
    from mplug_owl.checkpoint import load_adapter

    processor = MplugOwlProcessor.from_pretrained(name)
    model = MplugOwlForConditionalGeneration.from_pretrained(name, dtype=dtype)
    if adapter is not None:
        model = load_adapter(model, adapter, merge=True)
    return model, processor


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SetupError(f"NIGHTOWL_DEVICE={name} is no device: auto, cpu or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SetupError(f"NIGHTOWL_DEVICE={name}: this process sees {torch.cuda.device_count()} GPUs")
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _DTYPES[name]


def _context_tokens(config: EngineConfig, model: MplugOwlForConditionalGeneration) -> int:
    """What was asked for, or what the model was trained on if that is less. BLOOM's ALiBi names no bound."""
    trained = getattr(model.config.text_config, "max_position_embeddings", None)
    if trained is None or config.context_tokens <= trained:
        return config.context_tokens
    logger.warning(
        "NIGHTOWL_CONTEXT_TOKENS is %d; %s was made for %d, which is used", config.context_tokens, config.model, trained
    )
    return int(trained)


def slot_bytes(text_config: Any, *, context_tokens: int, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one slot: 2 x layers x heads x head size x positions x bytes of a number."""
    heads = text_config.num_attention_heads
    kept = getattr(text_config, "num_key_value_heads", None) or heads
    head_size = text_config.hidden_size // heads
    return int(2 * text_config.num_hidden_layers * kept * head_size * context_tokens * dtype.itemsize)


def _slots(
    config: EngineConfig, model: MplugOwlForConditionalGeneration, *, context_tokens: int, device: torch.device
) -> int:
    """What was asked for; by itself 8 on a CPU, and on a GPU what the memory holds."""
    if device.type != "cuda":
        return config.slots or DEFAULT_SLOTS
    each = slot_bytes(model.config.text_config, context_tokens=context_tokens, dtype=model.dtype)
    free, _ = torch.cuda.mem_get_info(device)
    fit = int(free * CACHE_SHARE) // each
    if fit < 1:
        raise SetupError(
            f"{config.model} leaves {free / 1024**3:.1f} GiB of {device} free; one slot of {context_tokens} positions "
            f"needs {each / 1024**3:.1f} GiB: set a smaller NIGHTOWL_CONTEXT_TOKENS, or a smaller NIGHTOWL_DTYPE"
        )
    wanted = config.slots or MOST_SLOTS
    if config.slots > fit:
        logger.warning("NIGHTOWL_SLOTS is %d; %d fit into the memory of %s", config.slots, fit, device)
    return min(wanted, fit)


def _log(
    label: str,
    model: MplugOwlForConditionalGeneration,
    *,
    parameters: int,
    device: torch.device,
    slots: int,
    context_tokens: int,
    seconds: float,
) -> None:
    cache = slots * slot_bytes(model.config.text_config, context_tokens=context_tokens, dtype=model.dtype)
    logger.info(
        "%s loaded in %.1f s: %.1f million parameters in %s on %s; %d slots of %d positions, a cache of up to %.2f GiB",
        label, seconds, parameters / 1e6, str(model.dtype).removeprefix("torch."), device, slots, context_tokens,
        cache / 1024**3,
        extra={"action": "model_loaded", "seconds": round(seconds, 3), "parameters": parameters, "slots": slots},
    )  # fmt: skip
