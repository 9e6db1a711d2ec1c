"""Norm-aware linear attention in Triton: features are made in the kernels and never stored.

Tokens go in blocks.  ``sums`` gives phi^T v and phi^T w of every range of tokens; their totals, or
in the causal form their running totals, are the states; ``read`` turns a state, and in the causal
form the block itself, into outputs.  Backward, ``grad_q`` reads the same states, and ``grad_k`` the
sums over later queries.  Everything is accumulated in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .precision import of_products

BLOCK = 64
NORM_FLOOR = tl.constexpr(1e-6)


@triton.jit
def _power(size, p):
    """size ** p, and zero at zero."""
    return tl.where(size > 0, tl.exp2(p * tl.log2(tl.where(size > 0, size, 1.0))), 0.0)


@triton.jit
def _direction(q):
    """The norm of every row, and its direction."""
    norm = tl.sqrt(tl.sum(q * q, 1))
    return norm, q / tl.maximum(norm, NORM_FLOOR)[:, None]


@triton.jit
def _tanh(x):
    """Of numbers that are not negative."""
    e = tl.exp(-2 * x)
    return (1 - e) / (1 + e)


@triton.jit
def _features(x, lam, tau, QUERY: tl.constexpr):
    """The two halves of the features of rows of queries, or of keys."""
    if QUERY:
        norm, unit = _direction(x)
        size = _power(tl.abs(unit), (lam * (tau + _tanh(norm)))[:, None])
    else:
        unit = x
        size = _power(tl.abs(x), lam)
    return tl.where(unit > 0, size, 0.0), tl.where(unit < 0, size, 0.0)


@triton.jit
def _rows(start, n, width: tl.constexpr, full, BLOCK: tl.constexpr):
    """Offsets [BLOCK, width] of rows from start, and which of them exist."""
    rows, columns = start + tl.arange(0, BLOCK), tl.arange(0, width)
    offsets = rows[:, None] * full + columns[None, :]
    return offsets, (rows[:, None] < n) & (columns[None, :] < full)


@triton.jit
def _load(pointer, start, n, width: tl.constexpr, full, BLOCK: tl.constexpr):
    offsets, there = _rows(start, n, width, full, BLOCK)
    return tl.load(pointer + offsets, there, 0.0).to(tl.float32)


@triton.jit
def _state(kv, z, at, D: tl.constexpr, E: tl.constexpr):
    """The two halves of a state, [D, E] and [D] each, at a place of the scratch tensors."""
    matrix = tl.arange(0, D)[:, None] * E + tl.arange(0, E)[None, :]
    first, second = kv + at * 2 * D * E, kv + (at * 2 + 1) * D * E
    z_first, z_second = z + at * 2 * D, z + (at * 2 + 1) * D
    features = tl.arange(0, D)
    return (
        tl.load(first + matrix),
        tl.load(second + matrix),
        tl.load(z_first + features),
        tl.load(z_second + features),
    )


@triton.jit
def sums(
    x,
    v,
    w,
    kv,
    z,
    n,
    d,
    e,
    ranges,
    blocks,
    lam,
    tau,
    QUERY: tl.constexpr,
    WEIGHTED: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """phi(x)^T v and phi(x)^T w (w one unless WEIGHTED) of one range of blocks of one head."""
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    a, b = tl.zeros((D, E), tl.float32), tl.zeros((D, E), tl.float32)
    z_a, z_b = tl.zeros((D,), tl.float32), tl.zeros((D,), tl.float32)
    for i in range(blocks):
        start = (part * blocks + i) * BLOCK
        first, second = _features(_load(x + head * n * d, start, n, D, d, BLOCK), lam, tau, QUERY)
        values = _load(v + head * n * e, start, n, E, e, BLOCK)
        a += tl.dot(tl.trans(first), values, input_precision=PRECISION)
        b += tl.dot(tl.trans(second), values, input_precision=PRECISION)
        if WEIGHTED:
            rows = start + tl.arange(0, BLOCK)
            weight = tl.load(w + head * n + rows, rows < n, 0.0)
            first, second = first * weight[:, None], second * weight[:, None]
        z_a += tl.sum(first, 0)
        z_b += tl.sum(second, 0)
    at = head * ranges + part
    matrix = tl.arange(0, D)[:, None] * E + tl.arange(0, E)[None, :]
    tl.store(kv + at * 2 * D * E + matrix, a)
    tl.store(kv + (at * 2 + 1) * D * E + matrix, b)
    tl.store(z + at * 2 * D + tl.arange(0, D), z_a)
    tl.store(z + (at * 2 + 1) * D + tl.arange(0, D), z_b)


@triton.jit
def read(
    q,
    k,
    v,
    kv,
    z,
    out,
    den,
    n,
    m,
    d,
    e,
    states,
    lam,
    tau,
    eps,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Outputs and denominators of one block of queries."""
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = block * BLOCK
    at = head * states + (block if CAUSAL else 0)
    first, second = _features(_load(q + head * n * d, start, n, D, d, BLOCK), lam, tau, True)
    kv_a, kv_b, z_a, z_b = _state(kv, z, at, D, E)
    num = tl.dot(first, kv_a, input_precision=PRECISION)
    num += tl.dot(second, kv_b, input_precision=PRECISION)
    weight = tl.sum(first * z_a[None, :], 1) + tl.sum(second * z_b[None, :], 1)
    rows = start + tl.arange(0, BLOCK)
    if CAUSAL:
        k_a, k_b = _features(_load(k + head * m * d, start, m, D, d, BLOCK), lam, tau, False)
        scores = tl.dot(first, tl.trans(k_a), input_precision=PRECISION)
        scores += tl.dot(second, tl.trans(k_b), input_precision=PRECISION)
        seen = tl.arange(0, BLOCK)[:, None] >= tl.arange(0, BLOCK)[None, :]
        scores = tl.where(seen, scores, 0.0)
        values = _load(v + head * m * e, start, m, E, e, BLOCK)
        num += tl.dot(scores, values, input_precision=PRECISION)
        weight += tl.sum(scores, 1) + eps * (rows + 1)
    else:
        weight += eps * m
    offsets, there = _rows(start, n, E, e, BLOCK)
    tl.store(out + head * n * e + offsets, (num / weight[:, None]).to(out.dtype.element_ty), there)
    tl.store(den + head * n + rows, weight, rows < n)


@triton.jit
def grad_q(
    q,
    k,
    v,
    kv,
    z,
    d_num,
    d_den,
    d_q,
    n,
    m,
    d,
    e,
    states,
    lam,
    tau,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient of one block of queries."""
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = block * BLOCK
    at = head * states + (block if CAUSAL else 0)
    rows = start + tl.arange(0, BLOCK)
    g = _load(d_num + head * n * e, start, n, E, e, BLOCK)
    h = tl.load(d_den + head * n + rows, rows < n, 0.0)
    kv_a, kv_b, z_a, z_b = _state(kv, z, at, D, E)
    g_a = tl.dot(g, tl.trans(kv_a), input_precision=PRECISION) + h[:, None] * z_a[None, :]
    g_b = tl.dot(g, tl.trans(kv_b), input_precision=PRECISION) + h[:, None] * z_b[None, :]
    if CAUSAL:
        values = _load(v + head * m * e, start, m, E, e, BLOCK)
        k_a, k_b = _features(_load(k + head * m * d, start, m, D, d, BLOCK), lam, tau, False)
        inner = tl.dot(g, tl.trans(values), input_precision=PRECISION) + h[:, None]
        seen = tl.arange(0, BLOCK)[:, None] >= tl.arange(0, BLOCK)[None, :]
        inner = tl.where(seen, inner, 0.0)
        g_a += tl.dot(inner, k_a, input_precision=PRECISION)
        g_b += tl.dot(inner, k_b, input_precision=PRECISION)
    x = _load(q + head * n * d, start, n, D, d, BLOCK)
    norm, unit = _direction(x)
    bend = _tanh(norm)
    p = (lam * (tau + bend))[:, None]
    magnitude = tl.abs(unit)
    safe = tl.where(magnitude > 0, magnitude, 1.0)
    g_size = tl.where(unit > 0, g_a, tl.where(unit < 0, g_b, 0.0))
    slope = tl.exp2((p - 1) * tl.log2(safe))
    g_unit = g_size * p * tl.where(unit > 0, slope, -slope)
    g_p = tl.sum(g_size * _power(magnitude, p) * tl.log(safe), 1)
    g_norm = g_p * lam * (1 - bend * bend)
    scale = tl.maximum(norm, NORM_FLOOR)
    inside = tl.where(norm > NORM_FLOOR, tl.sum(g_unit * unit, 1), 0.0)
    along = x / tl.where(norm > 0, norm, 1.0)[:, None]
    g_x = (g_unit - inside[:, None] * unit) / scale[:, None] + g_norm[:, None] * along
    offsets, there = _rows(start, n, D, d, BLOCK)
    tl.store(d_q + head * n * d + offsets, g_x.to(d_q.dtype.element_ty), there)


@triton.jit
def grad_k(
    q,
    k,
    v,
    kv,
    z,
    d_num,
    d_den,
    d_k,
    d_v,
    n,
    m,
    d,
    e,
    states,
    lam,
    tau,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of one block of keys and values; kv and z are sums over (later) queries."""
    head, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = block * BLOCK
    at = head * states + (block if CAUSAL else 0)
    x = _load(k + head * m * d, start, m, D, d, BLOCK)
    values = _load(v + head * m * e, start, m, E, e, BLOCK)
    k_a, k_b = _features(x, lam, tau, False)
    kv_a, kv_b, z_a, z_b = _state(kv, z, at, D, E)
    g_a = tl.dot(values, tl.trans(kv_a), input_precision=PRECISION) + z_a[None, :]
    g_b = tl.dot(values, tl.trans(kv_b), input_precision=PRECISION) + z_b[None, :]
    g_v = tl.dot(k_a, kv_a, input_precision=PRECISION)
    g_v += tl.dot(k_b, kv_b, input_precision=PRECISION)
    if CAUSAL:
        rows = start + tl.arange(0, BLOCK)
        g = _load(d_num + head * n * e, start, n, E, e, BLOCK)
        h = tl.load(d_den + head * n + rows, rows < n, 0.0)
        q_a, q_b = _features(_load(q + head * n * d, start, n, D, d, BLOCK), lam, tau, True)
        seen = tl.arange(0, BLOCK)[:, None] >= tl.arange(0, BLOCK)[None, :]
        inner = tl.dot(g, tl.trans(values), input_precision=PRECISION) + h[:, None]
        inner = tl.trans(tl.where(seen, inner, 0.0))
        g_a += tl.dot(inner, q_a, input_precision=PRECISION)
        g_b += tl.dot(inner, q_b, input_precision=PRECISION)
        scores = tl.dot(q_a, tl.trans(k_a), input_precision=PRECISION)
        scores += tl.dot(q_b, tl.trans(k_b), input_precision=PRECISION)
        g_v += tl.dot(tl.trans(tl.where(seen, scores, 0.0)), g, input_precision=PRECISION)
    magnitude = tl.abs(x)
    safe = tl.where(magnitude > 0, magnitude, 1.0)
    slope = lam * tl.exp2((lam - 1) * tl.log2(safe))
    g_x = slope * tl.where(x > 0, g_a, tl.where(x < 0, -g_b, 0.0))
    offsets, there = _rows(start, m, D, d, BLOCK)
    tl.store(d_k + head * m * d + offsets, g_x.to(d_k.dtype.element_ty), there)
    offsets, there = _rows(start, m, E, e, BLOCK)
    tl.store(d_v + head * m * e + offsets, g_v.to(d_v.dtype.element_ty), there)


def _widths(q: Tensor, v: Tensor) -> dict[str, Any]:
    """Powers of two that hold the widths, and the precision of products."""
    d, e = (max(16, triton.next_power_of_2(x.shape[-1])) for x in (q, v))
    return {"D": d, "E": e, "BLOCK": BLOCK, "PRECISION": of_products(q.dtype)}


def _all_sums(
    x: Tensor,
    v: Tensor,
    w: Tensor | None,
    lam: float,
    tau: float,
    query: bool,
    causal: bool,
    about: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Sums [heads, ranges, 2, D, E] and [heads, ranges, 2, D] over ranges of tokens.

    In the causal form a range is a block; else there are enough to fill a GPU.
    """
    heads, n, d = x.shape
    blocks = triton.cdiv(n, BLOCK)
    per_range = 1 if causal else max(1, blocks * heads // 2048)
    ranges = triton.cdiv(blocks, per_range)
    size = (heads, ranges, 2, about["D"])
    kv = x.new_empty(*size, about["E"], dtype=torch.float32)
    z = x.new_empty(size, dtype=torch.float32)
    sums[(heads, ranges)](
        *(x, v, x if w is None else w, kv, z, n, d, v.shape[-1], ranges, per_range, lam, tau),
        QUERY=query,
        WEIGHTED=w is not None,
        **about,
    )
    return kv, z


def _before(x: Tensor) -> Tensor:
    """Totals of the ranges before each one (dimension 1)."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1].cumsum(1)], 1)


def _after(x: Tensor) -> Tensor:
    """Totals of the ranges behind each one (dimension 1); no difference of totals, since the
    gradients of early queries may be far greater than those of late ones."""
    return _before(x.flip(1)).flip(1)


class FusedAttention(torch.autograd.Function):
    """Attention of [heads, n, d], [heads, m, d], [heads, m, e]: [heads, n, e]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lam: float, tau: float, eps: float, causal: bool
    ) -> Tensor:
        about = _widths(q, v)
        (heads, n, d), (m, e) = q.shape, v.shape[1:]
        parts = _all_sums(k, v, None, lam, tau, False, causal, about)
        state = [_before(s) if causal else s.sum(1, keepdim=True) for s in parts]
        out = v.new_empty(heads, n, e)
        den = q.new_empty(heads, n, dtype=torch.float32)
        read[(heads, triton.cdiv(n, BLOCK))](
            *(q, k, v, *state, out, den, n, m, d, e, state[0].shape[1], lam, tau, eps),
            CAUSAL=causal,
            **about,
        )
        ctx.save_for_backward(q, k, v, out, den)
        ctx.settings = lam, tau, causal
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, den = ctx.saved_tensors
        lam, tau, causal = ctx.settings
        about = _widths(q, v)
        (heads, n, d), (m, e) = q.shape, v.shape[1:]
        wide = gradient.float()
        d_num = (wide / den[..., None]).contiguous()
        d_den = -(wide * out.float()).sum(-1) / den
        sizes = (n, m, d, e)
        parts = _all_sums(k, v, None, lam, tau, False, causal, about)
        state = [_before(s) if causal else s.sum(1, keepdim=True) for s in parts]
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        grad_q[(heads, triton.cdiv(n, BLOCK))](
            *(q, k, v, *state, d_num, d_den, d_q, *sizes, state[0].shape[1], lam, tau),
            CAUSAL=causal,
            **about,
        )
        parts = _all_sums(q, d_num, d_den, lam, tau, True, causal, about)
        state = [_after(s) if causal else s.sum(1, keepdim=True) for s in parts]
        grad_k[(heads, triton.cdiv(m, BLOCK))](
            *(q, k, v, *state, d_num, d_den, d_k, d_v, *sizes, state[0].shape[1], lam, tau),
            CAUSAL=causal,
            **about,
        )
        return d_q, d_k, d_v, None, None, None, None


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, lam: float, tau: float, eps: float, causal: bool
) -> Tensor:
    """Attention [b, h, n, e] of q [b, h, n, d], k [b, h, m, d], v [b, h, m, e], none empty."""
    heads = [x.flatten(0, 1).contiguous() for x in (q, k, v)]
    out: Tensor = FusedAttention.apply(*heads, lam, tau, eps, causal)
    heads_apart: Tensor = out.unflatten(0, v.shape[:2])
    return heads_apart
