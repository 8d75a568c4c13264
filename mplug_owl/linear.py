"""The linear maps of the visual side: torch's own, through oneDNN where that is faster.

torch gives float32 products on a CPU to MKL, which leaves AVX-512 unused on AMD's processors: 100 GFLOP/s a core for a
picture's tokens where oneDNN, which torch has too, reaches 205 (docs/performance.md). The results differ in rounding
only. oneDNN's operator is private and knows no gradients: whatever it is not made for goes the usual way, and all does
under `torch.backends.mkldnn.flags(enabled=False)`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

_HAS_OPERATOR = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(..., in), (out, in), (out) -> (..., out)"""
    if not _is_for_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    return cast("torch.Tensor", torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class Linear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def _is_for_onednn(*tensors: torch.Tensor | None) -> bool:
    if not _HAS_OPERATOR or not torch.backends.mkldnn.enabled or torch.is_autocast_enabled("cpu"):
        return False
    learns = torch.is_grad_enabled()
    return all(
        one.device.type == "cpu" and one.dtype == torch.float32 and not (learns and one.requires_grad)
        for one in tensors
        if one is not None
    )
