"""Gaussian attention through landmarks in Triton: the kernel of tokens and landmarks is not stored.

With P = exp(-|q_i - b_j|^2 / 2), ``into_landmarks`` gives P^T v of every range of tokens, and
``out_of_landmarks`` P y; both make P again from the tokens.  Backward, for a gradient g of P, the
tokens get sum_j g_ij P_ij (b_j - q_i), and the landmarks the mirror image.  All landmarks of a head
are held at once.  Everything is accumulated in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..precision import as_given
from .precision import of_products

BLOCK = 64


@triton.jit
def _load(pointer, start, n, width: tl.constexpr, full, BLOCK: tl.constexpr):
    rows, columns = start + tl.arange(0, BLOCK), tl.arange(0, width)
    there = (rows[:, None] < n) & (columns[None, :] < full)
    return tl.load(pointer + rows[:, None] * full + columns[None, :], there, 0.0).to(tl.float32)


@triton.jit
def _store(pointer, x, start, n, width: tl.constexpr, full, BLOCK: tl.constexpr):
    rows, columns = start + tl.arange(0, BLOCK), tl.arange(0, width)
    there = (rows[:, None] < n) & (columns[None, :] < full)
    offsets = rows[:, None] * full + columns[None, :]
    tl.store(pointer + offsets, x.to(pointer.dtype.element_ty), there)


@triton.jit
def _gaussian(q, marks, start, n, m, BLOCK: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr):
    """P of a block of tokens and all landmarks; zero where one of the two does not exist."""
    square = tl.sum(q * q, 1)[:, None] + tl.sum(marks * marks, 1)[None, :]
    inner = tl.dot(q, tl.trans(marks), input_precision=PRECISION)
    rows, columns = start + tl.arange(0, BLOCK), tl.arange(0, M)
    there = (rows[:, None] < n) & (columns[None, :] < m)
    return tl.where(there, tl.exp(-0.5 * tl.maximum(square - 2 * inner, 0.0)), 0.0)


@triton.jit
def into_landmarks(
    q, marks, v, out, n, m, d, e, ranges, blocks,
    M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P^T v of one range of blocks of tokens of one head."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at_marks = _load(marks + head * m * d, 0, m, D, d, M)
    total = tl.zeros((M, E), tl.float32)
    for i in range(blocks):
        start = (part * blocks + i) * BLOCK
        tokens = _load(q + head * n * d, start, n, D, d, BLOCK)
        p = _gaussian(tokens, at_marks, start, n, m, BLOCK, M, PRECISION)
        values = _load(v + head * n * e, start, n, E, e, BLOCK)
        total += tl.dot(tl.trans(p), values, input_precision=PRECISION)
    _store(out + (head * ranges + part) * m * e, total, 0, m, E, e, M)


@triton.jit
def out_of_landmarks(
    q, marks, y, out, n, m, d, e,
    M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P y of one block of tokens."""
    head, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK
    at_marks = _load(marks + head * m * d, 0, m, D, d, M)
    tokens = _load(q + head * n * d, start, n, D, d, BLOCK)
    p = _gaussian(tokens, at_marks, start, n, m, BLOCK, M, PRECISION)
    rows = tl.dot(p, _load(y + head * m * e, 0, m, E, e, M), input_precision=PRECISION)
    _store(out + head * n * e, rows, start, n, E, e, BLOCK)


@triton.jit
def grad_gaussian(
    q, marks, right, left, d_q, d_marks, n, m, d, e, ranges, blocks,
    M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of tokens, and of landmarks by ranges, where that of P is left right^T."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at_marks = _load(marks + head * m * d, 0, m, D, d, M)
    at_right = _load(right + head * m * e, 0, m, E, e, M)
    total = tl.zeros((M, D), tl.float32)
    for i in range(blocks):
        start = (part * blocks + i) * BLOCK
        tokens = _load(q + head * n * d, start, n, D, d, BLOCK)
        at_left = _load(left + head * n * e, start, n, E, e, BLOCK)
        g = tl.dot(at_left, tl.trans(at_right), input_precision=PRECISION)
        g = g * _gaussian(tokens, at_marks, start, n, m, BLOCK, M, PRECISION)
        at_tokens = tl.dot(g, at_marks, input_precision=PRECISION) - tl.sum(g, 1)[:, None] * tokens
        _store(d_q + head * n * d, at_tokens, start, n, D, d, BLOCK)
        total += tl.dot(tl.trans(g), tokens, input_precision=PRECISION)
        total -= tl.sum(g, 0)[:, None] * at_marks
    _store(d_marks + (head * ranges + part) * m * d, total, 0, m, D, d, M)


@triton.jit
def newton(
    a, out, m, steps, scale, M: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """The iteration X <- 2 X - X A X of one matrix, which is held throughout."""
    head = tl.program_id(0).to(tl.int64)
    matrix = _load(a + head * m * m, 0, m, M, m, M)
    size = tl.abs(matrix)
    bound = tl.max(tl.sum(size, 0), 0) * tl.max(tl.sum(size, 1), 0)
    x = tl.trans(matrix) * (scale / bound)
    for _ in range(steps):
        ax = tl.dot(matrix, x, input_precision=PRECISION)
        x = 2 * x - tl.dot(x, ax, input_precision=PRECISION)
    _store(out + head * m * m, x, 0, m, M, m, M)


def _about(q: Tensor, marks: Tensor, v: Tensor) -> tuple[tuple[int, ...], dict[str, Any], int, int]:
    """Sizes n, m, d, e; powers of two that hold them; ranges of tokens, and blocks in each."""
    (heads, n, d), m, e = q.shape, marks.shape[1], v.shape[2]
    padded = [max(16, triton.next_power_of_2(size)) for size in (m, d, e)]
    blocks = triton.cdiv(n, BLOCK)
    per_range = max(1, blocks * heads // 2048)
    names = dict(zip("MDE", padded, strict=True), BLOCK=BLOCK, PRECISION=of_products(q.dtype))
    return (n, m, d, e), names, triton.cdiv(blocks, per_range), per_range


def fused_newton(a: Tensor, steps: int, scale: float) -> Tensor:
    """X of :func:`pushforward.kernels.soft.newton` of matrices [..., m, m] in float32, m <= 128."""
    matrices = a.reshape(-1, *a.shape[-2:]).contiguous()
    out, m = torch.empty_like(matrices), a.shape[-1]
    about = {"M": max(16, triton.next_power_of_2(m)), "PRECISION": of_products(a.dtype)}
    newton[(len(matrices),)](matrices, out, m, steps, scale, num_warps=8, **about)
    return out.reshape(a.shape)


class IntoLandmarks(torch.autograd.Function):
    """P^T v [heads, m, e]: tokens [heads, n, d], landmarks [heads, m, d], values [heads, n, e]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, marks: Tensor, v: Tensor) -> Tensor:
        sizes, names, ranges, blocks = _about(q, marks, v)
        out = q.new_empty(len(q), ranges, sizes[1], sizes[3], dtype=torch.float32)
        into_landmarks[(len(q), ranges)](q, marks, v, out, *sizes, ranges, blocks, **names)
        ctx.save_for_backward(q, marks, v)
        return out.sum(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, marks, v = ctx.saved_tensors
        gradient = gradient.contiguous()
        sizes, names, *_ = _about(q, marks, v)
        d_v = torch.empty_like(v)
        grid = (len(q), triton.cdiv(sizes[0], BLOCK))
        out_of_landmarks[grid](q, marks, gradient, d_v, *sizes, **names)
        return *_grad_gaussian(q, marks, gradient, v), d_v


class OutOfLandmarks(torch.autograd.Function):
    """P y [heads, n, e] of tokens [heads, n, d], landmarks [heads, m, d] and y [heads, m, e]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, marks: Tensor, y: Tensor) -> Tensor:
        sizes, names, *_ = _about(q, marks, y)
        out = q.new_empty(len(q), sizes[0], sizes[3], dtype=torch.float32)
        grid = (len(q), triton.cdiv(sizes[0], BLOCK))
        out_of_landmarks[grid](q, marks, y, out, *sizes, **names)
        ctx.save_for_backward(q, marks, y)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, marks, y = ctx.saved_tensors
        gradient = gradient.contiguous()
        sizes, names, ranges, blocks = _about(q, marks, y)
        d_y = q.new_empty(len(q), ranges, sizes[1], sizes[3], dtype=torch.float32)
        into_landmarks[(len(q), ranges)](q, marks, gradient, d_y, *sizes, ranges, blocks, **names)
        return *_grad_gaussian(q, marks, y, gradient), d_y.sum(1)


def _grad_gaussian(q: Tensor, marks: Tensor, right: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of tokens and landmarks where that of P is left right^T."""
    sizes, names, ranges, blocks = _about(q, marks, left)
    d_q = torch.empty_like(q)
    d_marks = q.new_empty(len(q), ranges, *marks.shape[1:], dtype=torch.float32)
    grad_gaussian[(len(q), ranges)](
        *(q, marks, right, left, d_q, d_marks, *sizes, ranges, blocks), num_warps=8, **names
    )
    return d_q, d_marks.sum(1).to(marks.dtype)


def fused_soft(tokens: Tensor, marks: Tensor, inverse: Tensor, v: Tensor) -> Tensor:
    """P A^+ P^T v [b, h, n, e] in float32; tokens [b, h, n, d], landmarks [b, h, m, d], scaled."""
    q, b, values = (x.float().flatten(0, 1).contiguous() for x in (tokens, marks, v))
    read: Tensor = IntoLandmarks.apply(q, b, values)
    with as_given(q.device):
        y = inverse.flatten(0, 1).float() @ read
    out: Tensor = OutOfLandmarks.apply(q, b, y.contiguous())
    heads_apart: Tensor = out.unflatten(0, v.shape[:2])
    return heads_apart
