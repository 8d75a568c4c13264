"""The library in the forms that users of transformers know."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

import mplug_owl
from mplug_owl import (
    MplugOwlConfig,
    MplugOwlForConditionalGeneration,
    MplugOwlImageProcessor,
    MplugOwlProcessor,
)
from tests.mplug_owl.conftest import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_configuration_by_its_type(tiny: Callable[..., Path]) -> None:
    assert isinstance(AutoConfig.from_pretrained(tiny()), MplugOwlConfig)
    assert isinstance(AutoConfig.for_model("mplug-owl"), MplugOwlConfig)


@pytest.mark.parametrize(
    "auto", [AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM]
)
@pytest.mark.parametrize(("variant", "language"), KINDS)
def test_the_model_by_its_folder(tiny: Callable[..., Path], auto: Any, variant: str, language: str) -> None:
    model = auto.from_pretrained(tiny(variant, language), dtype=torch.bfloat16)
    assert isinstance(model, MplugOwlForConditionalGeneration)
    assert model.config.has_temporal is (variant == "video")
    assert model.generation_config.max_new_tokens == 511
    assert model.dtype == torch.bfloat16


def test_a_fresh_model_by_its_configuration(tiny: Callable[..., Path]) -> None:
    config = AutoConfig.from_pretrained(tiny())
    assert isinstance(AutoModelForImageTextToText.from_config(config), MplugOwlForConditionalGeneration)  # type: ignore[no-untyped-call]


def test_processors_by_their_folder(tiny: Callable[..., Path]) -> None:
    assert isinstance(AutoProcessor.from_pretrained(tiny()), MplugOwlProcessor)  # type: ignore[no-untyped-call]
    assert isinstance(AutoImageProcessor.from_pretrained(tiny()), MplugOwlImageProcessor)  # type: ignore[no-untyped-call]


def test_attention_of_the_language_model_can_be_chosen(tiny: Callable[..., Path]) -> None:
    folder = tiny()
    ids = torch.tensor([[1, 5, 6, 7]])
    eager, sdpa = (AutoModel.from_pretrained(folder, attn_implementation=name) for name in ("eager", "sdpa"))
    assert eager.language_model.config._attn_implementation == "eager"
    assert sdpa.language_model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert (eager(ids).logits - sdpa(ids).logits).abs().max() < 1e-4


def test_importing_the_package_is_enough() -> None:
    code = "import mplug_owl, transformers; print(transformers.AutoConfig.for_model('mplug-owl').model_type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "mplug-owl"


def test_what_is_exported_exists() -> None:
    assert all(hasattr(mplug_owl, name) for name in mplug_owl.__all__)
