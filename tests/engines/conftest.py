"""Models for the engine's tests: tiny random ones, and SmolLM2 under the mark `weights`."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from worker.engines import smollm

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY = 97


@contextmanager
def _single_thread() -> Iterator[None]:
    # Two threads gain nothing on models this small, and spin against whatever else runs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    with _single_thread():
        yield


def _seeded(build: type[Any], config: Any) -> Any:
    state = torch.get_rng_state()
    torch.manual_seed(7)
    model = build(config).eval()
    torch.set_rng_state(state)
    # An end token of its own would make the lengths of the reference answers depend on the weights.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """Two layers, grouped heads. The wide initialization makes answers vary from token to token."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.6,
        eos_token_id=None,
        bos_token_id=None,
    )
    model: LlamaForCausalLM = _seeded(LlamaForCausalLM, config)
    return model


@pytest.fixture(scope="session")
def bloom() -> BloomForCausalLM:
    config = BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.6,
        eos_token_id=None,
        bos_token_id=None,
    )
    model: BloomForCausalLM = _seeded(BloomForCausalLM, config)
    return model


@pytest.fixture(scope="session")
def smollm_cache() -> Path:
    """The user's cache, not a temporary one: unpacking takes 20 s, and so happens once per machine."""
    return Path(platformdirs.user_cache_dir("nightowl"))


@pytest.fixture(scope="session")
def smollm_parts(smollm_cache: Path) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    return smollm.load(smollm_cache)
