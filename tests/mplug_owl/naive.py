"""mPLUG-Owl once more, as plainly as can be, for tests to compare with.

Written from the formulas, in float64, one picture, one head, one token at a time where that is what the formula says.
It knows nothing of transformers or of the library under test: weights come as a mapping of published keys, sizes as a
plain dictionary in the form of the published config.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Tensor = torch.Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * weight


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(scores: Tensor) -> Tensor:
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return exponentials / exponentials.sum(-1, keepdim=True)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """One head: (q, size), (k, size), (k, size) -> (q, size); `bias` (q, k) is added to the scores."""
    scores = query @ key.T / math.sqrt(query.shape[-1])
    return softmax(scores if bias is None else scores + bias) @ value


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveOwl:
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> NaiveOwl:
        return cls(weights={key: tensor.double() for key, tensor in state.items()}, config=config)

    def w(self, key: str) -> Tensor:
        return self.weights[key]

    def linear(self, x: Tensor, key: str) -> Tensor:
        y = x @ self.w(f"{key}.weight").T
        return y + self.weights[f"{key}.bias"] if f"{key}.bias" in self.weights else y

    def norm(self, x: Tensor, key: str, eps: float) -> Tensor:
        return layer_norm(x, self.w(f"{key}.weight"), self.w(f"{key}.bias"), eps)

    # Vision: a clip is a list of pictures (3, S, S); an image is a clip of one

    def see(self, clip: Sequence[Tensor]) -> list[list[Tensor]]:
        """The tokens (n, D) of every picture, as they enter each layer, and at last normalized."""
        vision = self.config["vision_config"]
        frames = [self.patches(picture) for picture in clip]
        states = [frames]
        for layer in range(vision["num_hidden_layers"]):
            name = f"vision_model.encoder.layers.{layer}"
            if len(frames) > 1:
                frames = self.local_temporal(frames, f"{name}.temporal")
            frames = [self.vision_block(frame, name) for frame in frames]
            states.append(frames)
        eps = vision["layer_norm_eps"]
        return [*states, [self.norm(frame, "vision_model.post_layernorm", eps) for frame in frames]]

    def patches(self, picture: Tensor) -> Tensor:
        vision = self.config["vision_config"]
        size, side = vision["patch_size"], vision["image_size"] // vision["patch_size"]
        kernel = self.w("vision_model.embeddings.patch_embed.weight")  # (D, 3, size, size)
        tokens = [self.w("vision_model.embeddings.cls_token")[0, 0]]
        for row in range(side):
            for column in range(side):
                patch = picture[:, row * size : (row + 1) * size, column * size : (column + 1) * size].double()
                tokens.append((kernel * patch).sum((1, 2, 3)))
        placed = torch.stack(tokens) + self.w("vision_model.embeddings.position_embedding")[0]
        return self.norm(placed, "vision_model.embeddings.pre_layernorm", vision["layer_norm_eps"])

    def local_temporal(self, frames: list[Tensor], name: str) -> list[Tensor]:
        """Each frame with what its neighbours in time add to its patches; its class token doubled."""
        down = [
            self.norm(frame[1:], f"{name}.ln", 1e-5) @ self.w(f"{name}.down_proj.weight")[:, :, 0, 0, 0].T
            + self.w(f"{name}.down_proj.bias")
            for frame in frames
        ]
        kernel = self.w(f"{name}.conv.weight")[:, 0, :, 0, 0]  # (D / 2, 3)
        result = []
        for t, frame in enumerate(frames):
            moved = self.w(f"{name}.conv.bias").expand_as(down[t])
            for tap, at in enumerate((t - 1, t, t + 1)):
                if 0 <= at < len(frames):
                    moved = moved + kernel[:, tap] * down[at]
            gelu = moved * sigmoid(1.702 * moved)
            up = gelu @ self.w(f"{name}.up_proj.weight")[:, :, 0, 0, 0].T + self.w(f"{name}.up_proj.bias")
            result.append(torch.cat([2 * frame[:1], frame[1:] + up]))
        return result

    def vision_block(self, x: Tensor, name: str) -> Tensor:
        vision = self.config["vision_config"]
        heads, eps = vision["num_attention_heads"], vision["layer_norm_eps"]
        fused = self.linear(self.norm(x, f"{name}.input_layernorm", eps), f"{name}.self_attn.query_key_value")
        size = x.shape[1] // heads
        outputs = []
        for head in range(heads):
            of_head = fused[:, head * 3 * size : (head + 1) * 3 * size]
            outputs.append(attend(of_head[:, :size], of_head[:, size : 2 * size], of_head[:, 2 * size :]))
        x = x + self.linear(torch.cat(outputs, 1), f"{name}.self_attn.dense")
        inner = self.linear(self.norm(x, f"{name}.post_attention_layernorm", eps), f"{name}.mlp.fc1")
        return x + self.linear(inner * sigmoid(1.702 * inner), f"{name}.mlp.fc2")

    def pooled(self, clip: Sequence[Tensor]) -> Tensor:
        rows = torch.stack([frame[0] for frame in self.see(clip)[-1]])
        eps = self.config["vision_config"]["layer_norm_eps"]
        return self.norm(rows.mean(0), "vision_model.post_layernorm", eps)

    # Abstractor

    def encode(self, clip: Sequence[Tensor]) -> Tensor:
        """The vectors (Q + 1, L) of one image or clip."""
        features = torch.cat(self.see(clip)[-1])
        queries = self.w("query_tokens")[0]
        count = len(queries)
        if len(clip) > 1:
            queries = torch.cat([queries, self.w("temporal_query_tokens")[0]])
        for layer in range(self.config["visual_abstractor_config"]["num_hidden_layers"]):
            queries = self.abstract(queries, features, f"abstractor.encoder.layers.{layer}.crossattention")
        y = self.linear(queries[:count], "abstractor.visual_fc")
        if len(clip) > 1:
            y = y + self.linear(queries[count:], "abstractor.temporal_visual_fc")
        return torch.cat([y, self.w("abstractor.vit_eos")[0]])

    def abstract(self, queries: Tensor, features: Tensor, name: str) -> Tensor:
        config = self.config["visual_abstractor_config"]
        heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
        queries = self.norm(queries, f"{name}.norm1", 1e-5)
        context = torch.cat([queries, self.norm(features, f"{name}.normk", 1e-5)])
        query = self.linear(queries, f"{name}.attention.query").chunk(heads, 1)
        key = self.linear(context, f"{name}.attention.key").chunk(heads, 1)
        value = self.linear(context, f"{name}.attention.value").chunk(heads, 1)
        seen = torch.cat([attend(query[head], key[head], value[head]) for head in range(heads)], 1)
        queries = queries + self.linear(seen, f"{name}.output.out_proj")
        x = self.norm(queries, f"{name}.output.norm2", 1e-5)
        gate = self.linear(x, f"{name}.output.mlp.w1")
        inner = gate * sigmoid(gate) * self.linear(x, f"{name}.output.mlp.w3")
        return queries + self.linear(self.norm(inner, f"{name}.output.mlp.ffn_ln", eps), f"{name}.output.mlp.w2")

    # Language

    def embed(self, prompt: Sequence[int | Tensor]) -> Tensor:
        """A prompt of ids and of encoded media, in order: (s, L)."""
        rows = [self.word(part)[None] if isinstance(part, int) else part for part in prompt]
        return torch.cat(rows)

    def word(self, number: int) -> Tensor:
        if self.config["text_config"]["model_type"] == "llama":
            return self.w("language_model.model.embed_tokens.weight")[number]
        embedded = self.w("language_model.transformer.word_embeddings.weight")[number]
        return self.norm(embedded, "language_model.transformer.word_embeddings_layernorm", self.bloom_eps)

    @property
    def bloom_eps(self) -> float:
        return float(self.config["text_config"].get("layer_norm_epsilon", 1e-5))

    def logits(self, prompt: Sequence[int | Tensor]) -> Tensor:
        """(s, vocabulary)"""
        x = self.embed(prompt)
        return self.llama(x) if self.config["text_config"]["model_type"] == "llama" else self.bloom(x)

    def greedy(self, prompt: Sequence[int | Tensor], count: int) -> list[int]:
        made: list[int] = []
        for _ in range(count):
            made.append(int(self.logits([*prompt, *made])[-1].argmax()))
        return made

    def llama(self, x: Tensor) -> Tensor:
        text = self.config["text_config"]
        eps, heads = text["rms_norm_eps"], text["num_attention_heads"]
        causal = _causal(len(x))
        for layer in range(text["num_hidden_layers"]):
            name = f"language_model.model.layers.{layer}"
            normed = rms_norm(x, self.w(f"{name}.input_layernorm.weight"), eps)
            query, key, value = (
                self.linear(normed, f"{name}.self_attn.{kind}_proj").chunk(heads, 1) for kind in ("q", "k", "v")
            )
            seen = [attend(_rotated(query[h]), _rotated(key[h]), value[h], causal) for h in range(heads)]
            x = x + self.linear(torch.cat(seen, 1), f"{name}.self_attn.o_proj")
            normed = rms_norm(x, self.w(f"{name}.post_attention_layernorm.weight"), eps)
            gate = self.linear(normed, f"{name}.mlp.gate_proj")
            inner = gate * sigmoid(gate) * self.linear(normed, f"{name}.mlp.up_proj")
            x = x + self.linear(inner, f"{name}.mlp.down_proj")
        return self.linear(rms_norm(x, self.w("language_model.model.norm.weight"), eps), "language_model.lm_head")

    def bloom(self, x: Tensor) -> Tensor:
        text = self.config["text_config"]
        heads, size = text["n_head"], x.shape[1] // text["n_head"]
        causal = _causal(len(x))
        position = torch.arange(len(x)).double()
        slopes = _alibi_slopes(heads)
        for layer in range(text["n_layer"]):
            name = f"language_model.transformer.h.{layer}"
            normed = self.norm(x, f"{name}.input_layernorm", self.bloom_eps)
            fused = self.linear(normed, f"{name}.self_attention.query_key_value")
            seen = []
            for head in range(heads):
                query, key, value = fused[:, head * 3 * size : (head + 1) * 3 * size].chunk(3, 1)
                seen.append(attend(query, key, value, causal + slopes[head] * position))
            x = x + self.linear(torch.cat(seen, 1), f"{name}.self_attention.dense")
            normed = self.norm(x, f"{name}.post_attention_layernorm", self.bloom_eps)
            inner = self.linear(normed, f"{name}.mlp.dense_h_to_4h")
            gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            x = x + self.linear(gelu, f"{name}.mlp.dense_4h_to_h")
        x = self.norm(x, "language_model.transformer.ln_f", self.bloom_eps)
        return x @ self.w("language_model.transformer.word_embeddings.weight").T


def _causal(size: int) -> Tensor:
    return torch.full((size, size), -math.inf, dtype=torch.float64).triu(1)


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions (Su et al., 2021): dimension i is turned with dimension i + size / 2."""
    half = x.shape[1] // 2
    result = x.clone()
    for position in range(len(x)):
        for i in range(half):
            angle = position * 10000.0 ** (-i / half)
            first, second = x[position, i], x[position, i + half]
            result[position, i] = first * math.cos(angle) - second * math.sin(angle)
            result[position, i + half] = second * math.cos(angle) + first * math.sin(angle)
    return result


def _alibi_slopes(heads: int) -> list[float]:
    """Press et al., 2022: powers of one ratio; for a number that is no power of two, every other one of the next."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    between = [2 ** (-8 * (i + 1) / (2 * whole)) for i in range(0, 2 * whole, 2)]
    return slopes + between[: heads - whole]
