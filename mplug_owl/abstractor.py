"""The visual abstractor of mPLUG-Owl: learned queries that read a picture, or all frames of a clip, as one set.

Shapes: b pictures or clips, t frames, n tokens of a picture, D the width of vision and abstractor, Q queries, L the
width of the language model. Module names are the keys of published checkpoints. All LayerNorms evaluate in float32 and
cast back, as torch's kernels do for half-precision input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.linear import Linear

if TYPE_CHECKING:
    from mplug_owl.configuration import MplugOwlVisualAbstractorConfig


class AbstractorAttention(nn.Module):
    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.encoder_hidden_size, config.hidden_size)
        self.value = Linear(config.encoder_hidden_size, config.hidden_size)

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(b, q, D), (b, k, D) -> (b, q, D)"""
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, q or k, head_size)
            for projected in (self.query(queries), self.key(context), self.value(context))
        )
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(2)


class AbstractorMLP(nn.Module):
    """SwiGLU with a norm between the gated product and the second map."""

    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        width = cast("int", config.feed_forward_size)
        self.w1 = Linear(config.hidden_size, width)
        self.w2 = Linear(width, config.hidden_size)
        self.w3 = Linear(config.hidden_size, width)
        self.ffn_ln = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.w2(self.ffn_ln(F.silu(self.w1(x)) * self.w3(x))))


class AbstractorOutput(nn.Module):
    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        self.out_proj = Linear(config.hidden_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = AbstractorMLP(config)

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = queries + self.out_proj(context)
        return cast("torch.Tensor", x + self.mlp(self.norm2(x)))


class AbstractorCrossAttention(nn.Module):
    """Queries attend to themselves and the picture. Its norms have torch's default epsilon, whatever the config."""

    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.normk = nn.LayerNorm(config.hidden_size)
        self.attention = AbstractorAttention(config)
        self.output = AbstractorOutput(config)

    def forward(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(b, q, D), (b, k, D) -> (b, q, D). The residual starts from the normalized queries, not from the input."""
        queries = self.norm1(queries)
        context = torch.cat([queries, self.normk(features)], dim=1)
        return cast("torch.Tensor", self.output(queries, self.attention(queries, context)))


class AbstractorLayer(nn.Module):
    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        self.crossattention = AbstractorCrossAttention(config)

    def forward(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.crossattention(queries, features))


class AbstractorEncoder(nn.Module):
    def __init__(self, config: MplugOwlVisualAbstractorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, queries: torch.Tensor, features: torch.Tensor) -> list[torch.Tensor]:
        """The output of every layer, each (b, q, D)."""
        states: list[torch.Tensor] = []
        for layer in self.layers:
            states.append(layer(states[-1] if states else queries, features))
        return states


class MplugOwlVisualAbstractor(nn.Module):
    """From the tokens of a picture or a clip to Q vectors for the language model, and a learned end vector."""

    def __init__(self, config: MplugOwlVisualAbstractorConfig, *, language_width: int, has_temporal: bool) -> None:
        super().__init__()
        self.encoder = AbstractorEncoder(config)
        self.visual_fc = Linear(config.hidden_size, language_width)
        self.temporal_visual_fc = Linear(config.hidden_size, language_width) if has_temporal else None
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, language_width))

    def forward(
        self,
        query_embeds: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *,
        temporal_query_embeds: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BaseModelOutputWithPooling:
        """Queries (b, Q, D) and features (b, n, D) or (b, t, n, D) -> `last_hidden_state` (b, Q + 1, L).

        With temporal queries, which only clips of several frames have, both groups attend together, and their
        projections are added. `hidden_states` are the outputs of the layers, (b, Q or 2 Q, D); `pooler_output` (b, D)
        is the first row of the last of them.
        """
        features = encoder_hidden_states.flatten(1, -2)  # frames are one set: nothing here knows their order
        size = query_embeds.shape[1]
        queries = query_embeds
        if temporal_query_embeds is not None:
            queries = torch.cat([query_embeds, temporal_query_embeds], dim=1)
        states = self.encoder(queries, features)
        y = self.visual_fc(states[-1][:, :size])
        if temporal_query_embeds is not None and self.temporal_visual_fc is not None:
            y = y + self.temporal_visual_fc(states[-1][:, size:])
        return BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([y, self.vit_eos.expand(len(y), -1, -1)], dim=1),
            pooler_output=states[-1][:, 0],
            hidden_states=tuple(states) if output_hidden_states else None,
        )
