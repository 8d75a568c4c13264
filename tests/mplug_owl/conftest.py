"""Tiny checkpoints of every kind, loaded once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.utils import logging

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.testing import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED = Path(__file__).parents[3] / "shared" / "goldens"
KINDS = [("image", "llama"), ("video", "llama"), ("image", "bloom"), ("video", "bloom")]


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_single_threaded() -> Iterator[None]:
    # Two threads gain nothing on models this small, and spin against whatever else runs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    yield
    torch.set_num_threads(threads)
    if shown:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared goldens are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a tiny checkpoint, or gives the one of these arguments: tests must not change it."""

    @functools.cache
    def make(variant: str = "image", language: str = "llama", **sizes: Any) -> Path:
        return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"), variant, language=language, **sizes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def owl(tiny: Callable[..., Path]) -> Callable[..., MplugOwlForConditionalGeneration]:
    """The model of a tiny checkpoint: tests must not change it."""

    @functools.cache
    def load(variant: str = "image", language: str = "llama", **sizes: Any) -> MplugOwlForConditionalGeneration:
        model: MplugOwlForConditionalGeneration = MplugOwlForConditionalGeneration.from_pretrained(
            tiny(variant, language, **sizes)
        )
        return model

    return load
