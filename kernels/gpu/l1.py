"""Normalisation of rows by their mean absolute deviation in Triton: one read, one write.

With D = f a + eps, a = mean |c| and c = x - mean x, the gradient of c is g / D - (f / n) sign(c)
sum(g c) / D^2, and that of x is the same less its mean.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _centred(x, row, n, BLOCK: tl.constexpr):
    """The row less its mean, and which of its entries exist."""
    columns = tl.arange(0, BLOCK)
    there = columns < n
    values = tl.load(x + row * n + columns, there, 0.0)
    return tl.where(there, values - tl.sum(values, 0) / n, 0.0), there


@triton.jit
def normalise(x, out, n, eps, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    centred, there = _centred(x, row, n, BLOCK)
    size = factor * (tl.sum(tl.abs(centred), 0) / n) + eps
    tl.store(out + row * n + tl.arange(0, BLOCK), centred / size, there)


@triton.jit
def grad_normalise(x, gradient, d_x, n, eps, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    centred, there = _centred(x, row, n, BLOCK)
    size = factor * (tl.sum(tl.abs(centred), 0) / n) + eps
    g = tl.load(gradient + row * n + tl.arange(0, BLOCK), there, 0.0)
    along = tl.sum(g * centred, 0) / (size * size)
    sign = tl.where(centred > 0, 1.0, tl.where(centred < 0, -1.0, 0.0))
    inner = g / size - factor / n * along * sign
    tl.store(d_x + row * n + tl.arange(0, BLOCK), inner - tl.sum(inner, 0) / n, there)


class FusedL1(torch.autograd.Function):
    """(x - mean) / (factor mean |x - mean| + eps) of rows [m, n] in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, factor: float) -> Tensor:
        out = torch.empty_like(x)
        block = triton.next_power_of_2(x.shape[1])
        normalise[(len(x),)](x, out, x.shape[1], eps, factor, BLOCK=block)
        ctx.save_for_backward(x)
        ctx.settings = eps, factor, block
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        eps, factor, block = ctx.settings
        d_x = torch.empty_like(x)
        grad_normalise[(len(x),)](
            x, gradient.contiguous(), d_x, x.shape[1], eps, factor, BLOCK=block
        )
        return d_x, None, None


def fused_l1(rows: Tensor, eps: float, factor: float) -> Tensor:
    """Rows [..., n] of float32 normalised, each of which is held at once."""
    if rows.numel() == 0:
        return rows
    out: Tensor = FusedL1.apply(rows.reshape(-1, rows.shape[-1]).contiguous(), eps, factor)
    return out.reshape(rows.shape)
