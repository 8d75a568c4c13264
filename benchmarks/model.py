"""mPLUG-Owl one request at a time, beside the same computation written as the original writes it.

    python benchmarks/model.py            # full-size ViT-L/14 and abstractor, 4 LLaMA layers of width 2048, 5 rounds
    python benchmarks/model.py --tiny     # the same paths with a tiny model, to see that they work

`plain` is the original's computation from PyTorch's usual operators: one product per linear map, attention as scores,
softmax and sum over all heads at once, and transformers' LLaMA with eager attention and a cache. It shares the weights
with `ours`, and both must give the same features and the same tokens. fp32; the two take turns within a round, and each
ratio is the median of the ratios of the rounds. Seconds are medians too; `best` and `cpu` say more on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # before torch loads, as the worker does
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from benchmarks import bounds
from mplug_owl import testing
from mplug_owl.linear import linear

if TYPE_CHECKING:
    from collections.abc import Callable

POSITIONS, ANSWER = 128, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """The image variant, from the weights of a model of ours."""

    model: Any

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, S, S) -> (n, Q + 1, L)"""
        w, config = self.weights, self.model.config
        features = _vision(pixels, w, config.vision_config)
        queries = w["query_tokens"].expand(len(pixels), -1, -1)
        for layer in range(config.visual_abstractor_config.num_hidden_layers):
            name = f"abstractor.encoder.layers.{layer}.crossattention"
            queries = _abstract(queries, features, w, name, config.visual_abstractor_config)
        end = w["abstractor.vit_eos"].expand(len(pixels), -1, -1)
        return torch.cat([_linear(queries, w, "abstractor.visual_fc"), end], dim=1)

    def generate(self, input_ids: torch.Tensor, *, pixel_values: torch.Tensor, **options: Any) -> torch.Tensor:
        """As ours: the new tokens only."""
        text = self.model.language_model
        embeddings = self.model.embed(input_ids, images=self.encode_images(pixel_values))
        text.set_attn_implementation("eager")
        try:
            made: torch.Tensor = text.generate(
                inputs_embeds=embeddings, attention_mask=torch.ones_like(input_ids), **options
            )
        finally:
            text.set_attn_implementation("sdpa")
        return made


def _linear(x: torch.Tensor, w: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(x: torch.Tensor, w: dict[str, torch.Tensor], name: str, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(b, heads, q, size) and twice (b, heads, k, size) -> (b, q, heads * size)"""
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    context: torch.Tensor = scores.softmax(dim=-1) @ value
    return context.transpose(1, 2).flatten(2)


def _vision(pixels: torch.Tensor, w: dict[str, torch.Tensor], config: Any) -> torch.Tensor:
    """(n, 3, S, S) -> (n, tokens, D)"""
    eps, heads = config.layer_norm_eps, config.num_attention_heads
    patches = F.conv2d(pixels, w["vision_model.embeddings.patch_embed.weight"], stride=config.patch_size)
    first = w["vision_model.embeddings.cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + w["vision_model.embeddings.position_embedding"]
    x = _norm(x, w, "vision_model.embeddings.pre_layernorm", eps)
    for layer in range(config.num_hidden_layers):
        name = f"vision_model.encoder.layers.{layer}"
        fused = _linear(_norm(x, w, f"{name}.input_layernorm", eps), w, f"{name}.self_attn.query_key_value")
        query, key, value = fused.view(*fused.shape[:2], heads, 3, -1).permute(3, 0, 2, 1, 4)
        x = x + _linear(_attend(query, key, value), w, f"{name}.self_attn.dense")
        inner = _linear(_norm(x, w, f"{name}.post_attention_layernorm", eps), w, f"{name}.mlp.fc1")
        x = x + _linear(inner * torch.sigmoid(1.702 * inner), w, f"{name}.mlp.fc2")
    return _norm(x, w, "vision_model.post_layernorm", eps)


def _abstract(
    queries: torch.Tensor, features: torch.Tensor, w: dict[str, torch.Tensor], name: str, config: Any
) -> torch.Tensor:
    queries = _norm(queries, w, f"{name}.norm1", 1e-5)
    context = torch.cat([queries, _norm(features, w, f"{name}.normk", 1e-5)], dim=1)
    query, key, value = (
        _linear(x, w, f"{name}.attention.{kind}").view(*x.shape[:2], config.num_attention_heads, -1).transpose(1, 2)
        for kind, x in (("query", queries), ("key", context), ("value", context))
    )
    queries = queries + _linear(_attend(query, key, value), w, f"{name}.output.out_proj")
    x = _norm(queries, w, f"{name}.output.norm2", 1e-5)
    inner = F.silu(_linear(x, w, f"{name}.output.mlp.w1")) * _linear(x, w, f"{name}.output.mlp.w3")
    inner = _norm(inner, w, f"{name}.output.mlp.ffn_ln", config.layer_norm_eps)
    return queries + _linear(inner, w, f"{name}.output.mlp.w2")


# What is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    seconds: float
    cpu_seconds: float


def take(run: Callable[[], object]) -> Taken:
    began, cpu_began = time.perf_counter(), time.process_time()
    run()
    return Taken(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu_began)


def compare(name: str, plain: Callable[[], object], ours: Callable[[], object], *, rounds: int, count: int = 1) -> None:
    """One line per way: seconds of one of `count`."""
    plain(), ours()  # warm up
    pairs = [(take(plain), take(ours)) for _ in range(rounds)]
    for way, taken in (("plain", [pair[0] for pair in pairs]), ("ours", [pair[1] for pair in pairs])):
        seconds = [one.seconds / count for one in taken]
        ratios = [mine.seconds / first.seconds for mine, (first, _) in zip(taken, pairs, strict=True)]
        cpu_ratios = [mine.cpu_seconds / first.cpu_seconds for mine, (first, _) in zip(taken, pairs, strict=True)]
        print(
            f"{name:<40} {way:<6} {statistics.median(seconds):>7.2f} s, best {min(seconds):>6.2f}, "
            f"cpu {statistics.median(one.cpu_seconds for one in taken) / count:>6.2f}; "
            f"x plain {statistics.median(ratios):.2f}, cpu {statistics.median(cpu_ratios):.2f}",
            flush=True,
        )


def products(model: Any) -> str:
    """How fast a picture's tokens are multiplied by the widest layer of the ViT: the same product, both ways."""
    layer = model.vision_model.encoder.layers[0].mlp.fc1
    x = torch.randn(model.config.vision_config.tokens, layer.in_features)
    work = 2 * x.numel() * layer.out_features / 1e9
    device = torch.device("cpu")
    usual = bounds.best(lambda: F.linear(x, layer.weight, layer.bias), device=device)
    fast = bounds.best(lambda: linear(x, layer.weight, layer.bias), device=device)
    shape = f"{len(x)} x {layer.in_features} x {layer.out_features}"
    return f"{shape}: torch's linear {work / usual:.0f} GFLOP/s, ours {work / fast:.0f} GFLOP/s"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = testing.tiny_config() if arguments.tiny else testing.full_size(layers=4, width=2048)
    model: Any = testing.random_model(config, seed=1)
    model.generation_config.eos_token_id = None
    plain, side = Plain(model=model), config.vision_config.image_size
    torch.manual_seed(0)
    pictures = torch.randn(8, 3, side, side)
    words = torch.randint(3, config.text_config.vocab_size, (POSITIONS - config.num_query_tokens - 2,))
    ids = torch.cat([torch.tensor([1] + [-1] * (config.num_query_tokens + 1)), words])[None]
    options: dict[str, Any] = {
        "pixel_values": pictures[:1], "do_sample": False, "max_new_tokens": ANSWER, "min_new_tokens": ANSWER
    }  # fmt: skip
    print(bounds.machine())
    print(f"{bounds.measure(torch.device('cpu'), torch.float32)}; {products(model)}")
    worst = (plain.encode_images(pictures[:2]) - model.encode_images(pictures[:2])).abs().max()
    is_equal = torch.equal(plain.generate(ids, **options), model.generate(ids, **options))
    print(f"features differ by {worst:.1e} at most; tokens {'equal' if is_equal else 'DIFFER'}\n")
    for count in (1, 8):
        some = pictures[:count]
        compare(
            f"vision and abstractor, each of {count}",
            lambda some=some: plain.encode_images(some),  # type: ignore[misc]
            lambda some=some: model.encode_images(some),  # type: ignore[misc]
            rounds=arguments.rounds,
            count=count,
        )
    compare(
        f"a request: {ids.shape[1]} positions, {ANSWER} tokens",
        lambda: plain.generate(ids, **options),
        lambda: model.generate(ids, **options),
        rounds=arguments.rounds,
    )
    print(bounds.machine())


if __name__ == "__main__":
    main()
