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
    values = tl.load(x + row * n + columns, there, 0.0).to(tl.float32)
    return tl.where(there, values - tl.sum(values, 0) / n, 0.0), there


@triton.jit
def normalise(x, out, n, eps, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    centred, there = _centred(x, row, n, BLOCK)
    size = factor * (tl.sum(tl.abs(centred), 0) / n) + eps
    result = (centred / size).to(out.dtype.element_ty)
    tl.store(out + row * n + tl.arange(0, BLOCK), result, there)


@triton.jit
def grad_normalise(x, gradient, d_x, n, eps, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    centred, there = _centred(x, row, n, BLOCK)
    size = factor * (tl.sum(tl.abs(centred), 0) / n) + eps
    g = tl.load(gradient + row * n + tl.arange(0, BLOCK), there, 0.0).to(tl.float32)
    along = tl.sum(g * centred, 0) / (size * size)
    sign = tl.where(centred > 0, 1.0, tl.where(centred < 0, -1.0, 0.0))
    inner = g / size - factor / n * along * sign
    inner = (inner - tl.sum(inner, 0) / n).to(d_x.dtype.element_ty)
    tl.store(d_x + row * n + tl.arange(0, BLOCK), inner, there)


class FusedL1(torch.autograd.Function):
    """(x - mean) / (factor mean |x - mean| + eps) of rows [m, n], computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, factor: float, dtype: torch.dtype) -> Tensor:
        out = torch.empty_like(x, dtype=dtype)
        block = triton.next_power_of_2(x.shape[1])
        normalise[(len(x),)](x, out, x.shape[1], eps, factor, BLOCK=block)
        ctx.save_for_backward(x)
        ctx.settings = eps, factor, block
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        eps, factor, block = ctx.settings
        d_x = torch.empty_like(x)
        grad_normalise[(len(x),)](
            x, gradient.contiguous(), d_x, x.shape[1], eps, factor, BLOCK=block
        )
        return d_x, None, None, None


def fused_l1(rows: Tensor, eps: float, factor: float, dtype: torch.dtype) -> Tensor:
    """Rows [..., n] normalised, each of which is held at once, as numbers of a dtype."""
    if rows.numel() == 0:
        return rows.to(dtype)
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    out: Tensor = FusedL1.apply(flat, eps, factor, dtype)
    return out.reshape(rows.shape)
