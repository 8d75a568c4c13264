"""The vision encoder of mPLUG-Owl: a ViT whose layers, in the video variant, let frames see their neighbours.

Shapes: b pictures or clips, t frames, n tokens of a picture (its patches and the class token), D the width.
Module names are the keys of published checkpoints. All LayerNorms evaluate in float32 and cast back, as the original's
do: torch's kernels do so for half-precision input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.linear import Linear, linear

if TYPE_CHECKING:
    from mplug_owl.configuration import MplugOwlVisionConfig


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


class VisionEmbeddings(nn.Module):
    """Patches, the class token and learned positions."""

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.tokens, config.hidden_size))
        self.patch_embed = nn.Conv2d(3, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(b, 3, height, width) -> (b, n, D), patches row by row.

        Raises:
            ValueError: the picture has more patches than there are positions. A smaller one takes the first positions.
        """
        patches = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        most = self.position_embedding.shape[1]
        if tokens.shape[1] > most:
            size = "x".join(str(side) for side in pixel_values.shape[-2:])
            raise ValueError(f"a picture of {size} pixels is {tokens.shape[1]} tokens, and the encoder has {most}")
        return cast("torch.Tensor", self.pre_layernorm(tokens + self.position_embedding[:, : tokens.shape[1]]))


class VisionAttention(nn.Module):
    """Self-attention with one projection, whose rows go head by head: query, key, value of head 0, then of head 1."""

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, n, D) -> (b, n, D)"""
        fused = self.query_key_value(x).unflatten(-1, (self.heads, 3, -1))  # (b, n, heads, 3, head_size)
        query, key, value = fused.permute(3, 0, 2, 1, 4)  # each (b, heads, n, head_size)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return cast("torch.Tensor", self.dense(context.transpose(1, 2).flatten(2)))


class VisionMLP(nn.Module):
    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.fc2(quick_gelu(self.fc1(x))))


class LocalTemporal(nn.Module):
    """What lets frames of a clip see their neighbours: a narrow depthwise convolution along time, patch by patch.

    The convolutions hold their weights in the published shapes and are evaluated as the plain sums they are: two
    linear maps, and three shifted products. That needs neither the axes moved nor a kernel for half precision, where
    the original goes from bfloat16 through float16; float32 is closer to both.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 2
        self.ln = nn.LayerNorm(width)
        self.down_proj = nn.Conv3d(width, narrow, kernel_size=1)
        self.conv = nn.Conv3d(narrow, narrow, kernel_size=(3, 1, 1), padding=(1, 0, 0), groups=narrow)
        self.up_proj = nn.Conv3d(narrow, width, kernel_size=1)
        # A fresh block changes no patch. The other convolutions keep torch's default.
        for parameter in self.up_proj.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, t, n, D) -> (b, t, n, D), to be added to x. The class token passes unchanged, and so is doubled by the
        addition: checkpoints are trained with this."""
        down = linear(self.ln(x[:, :, 1:]), self.down_proj.weight.flatten(1), self.down_proj.bias)
        up = linear(quick_gelu(self._along_time(down)), self.up_proj.weight.flatten(1), self.up_proj.bias)
        return torch.cat([x[:, :, :1], up], dim=2)

    def _along_time(self, x: torch.Tensor) -> torch.Tensor:
        before, here, after = self.conv.weight.flatten(1).float().unbind(1)  # each (narrow)
        padded = F.pad(x.float(), (0, 0, 0, 0, 1, 1))  # zeros before the first frame and after the last
        moved = padded[:, :-2] * before + padded[:, 1:-1] * here + padded[:, 2:] * after
        return (moved + cast("torch.Tensor", self.conv.bias).float()).to(x.dtype)


class VisionLayer(nn.Module):
    def __init__(self, config: MplugOwlVisionConfig, *, has_temporal: bool) -> None:
        super().__init__()
        self.temporal = LocalTemporal(config.hidden_size) if has_temporal else None
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: torch.Tensor, *, frames: int) -> torch.Tensor:
        """(b * t, n, D) -> (b * t, n, D); past the temporal block, frames are pictures of their own."""
        if self.temporal is not None and frames > 1:
            clips = x.reshape(-1, frames, *x.shape[1:])
            x = (clips + self.temporal(clips)).flatten(0, 1)
        x = x + self.self_attn(self.input_layernorm(x))
        return x + cast("torch.Tensor", self.mlp(self.post_attention_layernorm(x)))


class VisionEncoder(nn.Module):
    def __init__(self, config: MplugOwlVisionConfig, *, has_temporal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            VisionLayer(config, has_temporal=has_temporal) for _ in range(config.num_hidden_layers)
        )

    def forward(self, x: torch.Tensor, *, frames: int) -> list[torch.Tensor]:
        """The input of every layer and the output of the last, each (b * t, n, D)."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], frames=frames))
        return states


class MplugOwlVisionModel(nn.Module):
    """The ViT. All tokens go on to the abstractor, the class token too."""

    def __init__(self, config: MplugOwlVisionConfig, *, has_temporal: bool) -> None:
        super().__init__()
        self.has_temporal = has_temporal
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config, has_temporal=has_temporal)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor, *, output_hidden_states: bool = False) -> BaseModelOutputWithPooling:
        """Encode images (b, 3, S, S), or in the video variant clips (b, 3, t, S, S).

        `last_hidden_state` and `hidden_states` are (b, n, D); in the video variant (b, t, n, D), an image having one
        frame. `pooler_output` (b, D) is normalized twice, as in the original.
        """
        frames = 1
        if pixel_values.dim() == 5:
            frames = pixel_values.shape[2]
            pixel_values = pixel_values.transpose(1, 2).flatten(0, 1)
        states = self.encoder(self.embeddings(pixel_values), frames=frames)
        last = self.post_layernorm(states[-1])
        pooled = self.post_layernorm(last[:, 0].reshape(-1, frames, last.shape[-1]).mean(1))
        return BaseModelOutputWithPooling(
            last_hidden_state=self._by_frame(last, frames),
            pooler_output=pooled,
            hidden_states=tuple(self._by_frame(state, frames) for state in states) if output_hidden_states else None,
        )

    def _by_frame(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        return x.reshape(-1, frames, *x.shape[1:]) if self.has_temporal else x
