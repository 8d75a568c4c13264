"""Linear layers for CPUs: the same products, from weights that oneDNN has laid out beforehand.

torch hands fp32 products to MKL, which is slow at the few rows of a decode step: on the CPU that docs/performance.md
names, 8 rows by SmolLM2's 1536 x 576 take 190 us, by its head 16.8 ms; with packed weights 94 us and 5.6 ms. The
results differ in rounding only.

The operators are torch's own, and private. `can_pack` says whether they are there; without them all works as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ROWS = 16
"""The number of rows that oneDNN lays the weights out for; other numbers work too, and were measured no slower."""


class PackedLinear(nn.Module):
    """Takes the place of an `nn.Linear` in inference: (…, in) to (…, out)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, states: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return packed


def can_pack(model: nn.Module) -> bool:
    """Whether the model is fp32 on a CPU, and this torch has the operators."""
    parameter = next(model.parameters())
    has_operators = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_operators and parameter.device.type == "cpu" and parameter.dtype == torch.float32


def pack(model: nn.Module, *, also: Sequence[type[nn.Linear]] = ()) -> int:
    """Replace every `nn.Linear` of the model, in place; its weights are freed unless something else shares them.

    Subclasses may use their weights in other ways, and stay, but for those in `also`. Returns how many were replaced: 0
    where `can_pack` says no. The model is for inference only afterwards.
    """
    if not can_pack(model):
        return 0
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and type(child) in (nn.Linear, *also)
    ]
    with torch.inference_mode():
        for parent, name, child in found:
            setattr(parent, name, PackedLinear(child))
    return len(found)
