"""The linear maps of the visual side: oneDNN's operator where it fits, torch's own layer elsewhere, equal values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mplug_owl import linear as module
from mplug_owl.linear import Linear, linear

if TYPE_CHECKING:
    from collections.abc import Callable

needs_operator = pytest.mark.skipif(not module._HAS_OPERATOR, reason="this torch has no oneDNN operator")


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each product that goes the usual way."""
    calls: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return torch.nn.functional.linear(*arguments)

    monkeypatch.setattr(module, "F", type("F", (), {"linear": staticmethod(counted)}))
    return calls


@needs_operator
@pytest.mark.parametrize("shape", [(0, 5, 24), (24,), (1, 24), (3, 7, 24), (2, 3, 5, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_onednn_gives_the_same_products(usual: list[int], shape: tuple[int, ...], has_bias: bool) -> None:
    x, weight, bias = torch.randn(shape), torch.randn(40, 24), torch.randn(40) if has_bias else None
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)
    assert not usual


@needs_operator
def test_parts_of_larger_tensors_are_taken_as_they_lie(usual: list[int]) -> None:
    x, weight = torch.randn(2, 9, 3, 24), torch.randn(24, 40)
    torch.testing.assert_close(
        linear(x[:, 1:, 0], weight.T, None), F.linear(x[:, 1:, 0], weight.T), rtol=1e-5, atol=1e-5
    )
    assert not usual


@pytest.mark.parametrize(
    "change", [lambda layer: layer.double(), lambda layer: layer.bfloat16(), lambda layer: layer.to("meta")]
)
def test_other_numbers_and_devices_go_the_usual_way(usual: list[int], change: Callable[[Any], nn.Module]) -> None:
    layer = change(Linear(4, 6))
    parameter = next(layer.parameters())
    with torch.no_grad():
        made = layer(torch.zeros(2, 4, dtype=parameter.dtype, device=parameter.device))
    assert (made.shape, made.dtype, made.device) == ((2, 6), parameter.dtype, parameter.device)
    assert usual


def test_what_learns_goes_the_usual_way(usual: list[int]) -> None:
    layer, x = Linear(4, 6), torch.randn(2, 4)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    frozen = layer.requires_grad_(False)
    entering = x.clone().requires_grad_()
    frozen(entering).sum().backward()
    assert entering.grad is not None
    assert len(usual) == 2


def test_autocast_goes_the_usual_way(usual: list[int]) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(4, 6)(torch.zeros(2, 4)).dtype is torch.bfloat16
    assert usual


@needs_operator
def test_the_visual_side_gives_the_same_features_both_ways(
    owl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = owl("video")
    side = model.config.vision_config.image_size
    clip = torch.randn(2, 3, 4, side, side)
    with torch.no_grad():
        fast = model.encode_images(clip[:, :, 0]), model.encode_videos(clip)
        monkeypatch.setattr(module, "_HAS_OPERATOR", False)
        usual = model.encode_images(clip[:, :, 0]), model.encode_videos(clip)
    for one, other in zip(fast, usual, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
