"""Layers on a CPU: forward and backward, beside the formula in plain torch, as it is and compiled.

Every layer is checked against its formula first, then timed in alternation; ratios are medians of
paired ratios.  ``--only scaling`` measures how linear attention grows with the number of tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from pushforward.nn.activations import SELU, CRReLU, EntropyTunedActivation
from pushforward.nn.attention import nala_attention, soft_attention
from pushforward.nn.normalisation import EvoNorm, L1BatchNorm2d, L1LayerNorm, UnifiedNorm
from pushforward.nn.quantisation import QConfig, QLinear

Layer = Callable[..., Tensor]
EPS = 1e-5


def channel(x: Tensor) -> Tensor:
    return x[:, None, None]


def plain_s0(norm: EvoNorm) -> Layer:
    def layer(x: Tensor) -> Tensor:
        parts = x.reshape(len(x), norm.groups, -1)
        root = (parts.var(-1, correction=0, keepdim=True) + EPS).sqrt()
        gated = x * torch.sigmoid(channel(norm.v) * x)
        out = (gated.reshape(parts.shape) / root).reshape(x.shape)
        return out * channel(norm.weight) + channel(norm.bias)

    return layer


def plain_b0(norm: EvoNorm) -> Layer:
    def layer(x: Tensor) -> Tensor:
        batch = (x.var((0, 2, 3), correction=0, keepdim=True) + EPS).sqrt()
        own = (x.var((2, 3), correction=0, keepdim=True) + EPS).sqrt()
        out = x / torch.maximum(batch, channel(norm.v) * x + own)
        return out * channel(norm.weight) + channel(norm.bias)

    return layer


def plain_unified(norm: UnifiedNorm) -> Layer:
    """Of a batch alone, which has an ordinary gradient; no window is kept."""

    def layer(x: Tensor) -> Tensor:
        return x / (x.square().mean(0) + EPS).sqrt() * norm.weight + norm.bias

    return layer


def plain_l1(norm: Any, over: tuple[int, ...]) -> Layer:
    def layer(x: Tensor) -> Tensor:
        away = x - x.mean(over, keepdim=True)
        out = away / (away.abs().mean(over, keepdim=True) + EPS)
        if len(over) == 1:
            return out * norm.weight + norm.bias
        return out * channel(norm.weight) + channel(norm.bias)

    return layer


def plain_nala(causal: bool) -> Layer:
    """With the matrix of all weights."""

    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = q.norm(dim=-1, keepdim=True)
        unit = q / size.clamp(min=1e-6)
        power = 3.0 * (0.5 + size.tanh())
        phi_q = torch.cat([unit.clamp(min=0) ** power, (-unit).clamp(min=0) ** power], -1)
        phi_k = torch.cat([k.clamp(min=0) ** 3, (-k).clamp(min=0) ** 3], -1)
        scores = phi_q @ phi_k.transpose(-2, -1)
        scores = scores.tril() if causal else scores
        count = torch.arange(1, q.shape[2] + 1)[:, None] if causal else k.shape[2]
        return scores @ v / (scores.sum(-1, keepdim=True) + 1e-6 * count)

    return layer


def plain_soft(q: Tensor, v: Tensor, marks: Tensor) -> Tensor:
    """With Newton's iteration differentiated step by step."""

    def gaussian(a: Tensor, b: Tensor) -> Tensor:
        square = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
        return torch.exp(-0.5 * (square - 2 * a @ b.transpose(-2, -1)).clamp(min=0))

    q = q * q.shape[-1] ** -0.25
    a, p = gaussian(marks, marks), gaussian(q, marks)
    x = 1.8 * a / (a.sum(-2).amax(-1) * a.sum(-1).amax(-1))[..., None, None]
    for _ in range(20):
        x = 2 * x - x @ a @ x
    return p @ (x @ (p.transpose(-2, -1) @ v))


def plain_tuned(layer: EntropyTunedActivation) -> Layer:
    def activation(x: Tensor) -> Tensor:
        return torch.relu(x) + layer.eps * x * torch.exp(-0.5 * x.square())

    return activation


class PlainQuantised(torch.autograd.Function):
    """x W^T in floating point, with all operands rounded, and the gradient twice at random."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        def rounded(x: Tensor) -> Tensor:
            scale = x.abs().amax() / 7
            return (x / scale).round() * scale

        x, weight = rounded(x), rounded(weight)
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors

        def rounded(g: Tensor, dim: int) -> Tensor:
            ranges = g.abs().amax(dim, keepdim=True)
            group = torch.log2(ranges.amax() / ranges).floor().clamp(0, 3)
            t = g / (ranges.amax() / 7 * torch.exp2(-group))
            below = t.floor()
            up = (torch.rand_like(t) < t - below).to(t.dtype)
            return (below + up) * (ranges.amax() / 7 * torch.exp2(-group))

        return rounded(gradients[0], 0) @ weight, rounded(gradients[0], 1).T @ x


def plain_linear(layer: QLinear) -> Layer:
    """In floating point, with torch's random numbers."""
    return lambda x: PlainQuantised.apply(x, layer.weight) + layer.bias


def cases() -> dict[str, tuple[Layer, Layer, list[Tensor], float]]:
    """By name: the layer, its formula, inputs, and how far the two may differ, relatively."""
    images, rows = torch.randn(32, 32, 16, 16), torch.randn(2048, 256)
    heads = [torch.randn(2, 4, 512, 32) for _ in range(3)]
    marks = torch.randn(2, 4, 32, 32) * 2
    s0, b0 = EvoNorm(32, "S0"), EvoNorm(32, "B0", track_running_stats=False)
    unified, l1, l1_batch = UnifiedNorm(256), L1LayerNorm(256), L1BatchNorm2d(32)
    crrelu, tuned = CRReLU(), EntropyTunedActivation(refresh=10**9)
    linear = QLinear(256, 256, qconfig=QConfig(4, 4, 4))
    found: dict[str, tuple[Layer, Layer, list[Tensor], float]] = {
        "EvoNorm-S0": (s0, plain_s0(s0), [images], 1e-5),
        "EvoNorm-B0": (b0, plain_b0(b0), [images], 1e-5),
        "SELU": (SELU(), lambda x: F.selu(x), [rows], 1e-5),
        "CRReLU": (
            crrelu,
            lambda x: torch.relu(x) + crrelu.eps * x * torch.exp(-0.5 * x.square()),
            [rows],
            1e-5,
        ),
        "tuned activation": (tuned, plain_tuned(tuned), [rows], 1e-5),
        "UnifiedNorm": (unified, plain_unified(unified), [torch.randn(16384, 256)], 1e-5),
        "L1LayerNorm": (l1, plain_l1(l1, (-1,)), [rows], 1e-5),
        "L1BatchNorm2d": (l1_batch, plain_l1(l1_batch, (0, 2, 3)), [images], 1e-5),
        "NaLa": (nala_attention, plain_nala(causal=False), heads, 1e-4),
        "NaLa, causal": (
            lambda q, k, v: nala_attention(q, k, v, is_causal=True),
            plain_nala(causal=True),
            heads,
            1e-4,
        ),
        "SOFT": (soft_attention, plain_soft, [*heads[:2], marks], 1e-3),
        "QLinear, 4 bits": (linear, plain_linear(linear), [rows], 1e-4),
    }
    return found


def step(layer: Layer, inputs: list[Tensor], weight: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    own = [x.clone().requires_grad_() for x in inputs]
    start = time.perf_counter()
    layer(*own).backward(weight)
    return time.perf_counter() - start


def compare(name: str, rounds: int) -> list[str]:
    """One row of the table."""
    layer, plain, inputs, limit = cases()[name]
    with torch.no_grad():
        expected = plain(*inputs)
        error = float((layer(*inputs) - expected).abs().max() / expected.abs().max())
    assert error < limit, f"{name} differs from its formula by {error}"
    torch.compiler.reset()
    variants = {
        "plain": plain,
        "ours": layer,
        "plain, compiled": torch.compile(plain),
        "ours, compiled": torch.compile(layer, fullgraph=True),
    }
    weight = torch.randn(expected.shape)
    times: dict[str, list[float]] = {each: [] for each in variants}
    for turn in range(rounds + 3):
        for each, function in variants.items():
            seconds = step(function, inputs, weight)
            if turn >= 3:
                times[each].append(seconds)
    row = [name, *(f"{1e3 * statistics.median(times[each]):.2f}" for each in variants)]
    for mine, other in (("ours", "plain"), ("ours, compiled", "plain, compiled")):
        pairs = zip(times[mine], times[other], strict=True)
        row.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
    return row


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with the matrix of all weights."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def scaling(rounds: int) -> Table:
    """Milliseconds of a forward pass by the number of tokens."""
    names = ("NaLa", "NaLa, causal", "SOFT, 64 landmarks", "softmax", "SDPA")
    table = Table("tokens", *names, title="attention, forward, ms (4 heads of width 32)")
    for n in (1024, 2048, 4096, 8192, 16384):
        q, k, v = torch.randn(3, 1, 4, n, 32)
        marks = torch.randn(1, 4, 64, 32) * 2
        variants: tuple[Callable[[], Tensor] | None, ...] = (
            lambda q=q, k=k, v=v: nala_attention(q, k, v),
            lambda q=q, k=k, v=v: nala_attention(q, k, v, is_causal=True),
            lambda q=q, v=v, marks=marks: soft_attention(q, v, marks),
            (lambda q=q, k=k, v=v: softmax(q, k, v)) if n <= 8192 else None,
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
        )
        row = [str(n)]
        for variant in variants:
            seconds = []
            for _ in range(rounds if variant is not None else 0):
                start = time.perf_counter()
                assert variant is not None
                variant()
                seconds.append(time.perf_counter() - start)
            row.append(f"{1e3 * statistics.median(seconds):.1f}" if seconds else "")
        table.add_row(*row)
    return table


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", nargs="+", help="names of layers, or scaling")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = options.only or [*cases(), "scaling"]
    if chosen != ["scaling"]:
        names = ("plain", "ours", "plain, compiled", "ours, compiled")
        ratios = ("ours / plain", "the same, compiled")
        table = Table("layer", *names, *ratios, title="forward and backward, ms")
        for name in cases():
            if name in chosen:
                table.add_row(*compare(name, options.rounds))
        Console(width=120).print(table)
    if "scaling" in chosen:
        with torch.no_grad():
            Console(width=120).print(scaling(max(3, options.rounds // 4)))


if __name__ == "__main__":
    main()
