"""EvoNorm-S0 and B0 in Triton: moments of each datum and channel, then one pass over the input.

Input is [n, c, s] with all of space in the last dimension; a program has one datum and channel.
Backward, a first pass takes the sums that parameters and moments need, a second gives the gradient
of the input.  Nothing but the input and its moments is stored; everything is in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def moments(x, mean, square, s, BLOCK: tl.constexpr):
    """The mean of one row, and the sum of squares about it, merged block by block."""
    row = tl.program_id(0).to(tl.int64)
    centre, away, count = 0.0, 0.0, 0.0
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        new = tl.minimum(s - start, BLOCK).to(tl.float32)
        own = tl.sum(values, 0) / new
        apart = tl.where(at < s, values - own, 0.0)
        shift = own - centre
        away += tl.sum(apart * apart, 0) + shift * shift * count * new / (count + new)
        centre += shift * new / (count + new)
        count += new
    tl.store(mean + row, centre)
    tl.store(square + row, away)


@triton.jit
def gate(x, out, inverse, v, weight, bias, c, s, BLOCK: tl.constexpr):
    """S0: weight x sigmoid(v x) / root + bias."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % c
    scale = tl.load(inverse + row) * tl.load(weight + channel)
    slope, shift = tl.load(v + channel), tl.load(bias + channel)
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        result = scale * values / (1 + tl.exp(-slope * values)) + shift
        tl.store(out + row * s + at, result.to(out.dtype.element_ty), at < s)


@triton.jit
def gate_sums(x, g, v, sums, rows, c, s, BLOCK: tl.constexpr):
    """S0: of one row, the sums of g h, g and g dh / dv, where h = x sigmoid(v x)."""
    row = tl.program_id(0).to(tl.int64)
    slope = tl.load(v + row % c)
    on_weight, on_bias, on_gate = 0.0, 0.0, 0.0
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        gradient = tl.load(g + row * s + at, at < s, 0.0).to(tl.float32)
        open_ = 1 / (1 + tl.exp(-slope * values))
        on_weight += tl.sum(gradient * values * open_, 0)
        on_bias += tl.sum(gradient, 0)
        on_gate += tl.sum(gradient * values * values * open_ * (1 - open_), 0)
    tl.store(sums + row, on_weight)
    tl.store(sums + rows + row, on_bias)
    tl.store(sums + 2 * rows + row, on_gate)


@triton.jit
def gate_back(x, g, d_x, mean, inverse, pull, v, weight, c, s, BLOCK: tl.constexpr):
    """S0: weight g h' / root - (x - mean) pull."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % c
    scale = tl.load(inverse + row) * tl.load(weight + channel)
    slope, centre, along = tl.load(v + channel), tl.load(mean + row), tl.load(pull + row)
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        gradient = tl.load(g + row * s + at, at < s, 0.0).to(tl.float32)
        open_ = 1 / (1 + tl.exp(-slope * values))
        h = open_ * (1 + slope * values * (1 - open_))
        result = scale * gradient * h - (values - centre) * along
        tl.store(d_x + row * s + at, result.to(d_x.dtype.element_ty), at < s)


@triton.jit
def divide(x, out, whole, own, v, weight, bias, c, s, BLOCK: tl.constexpr):
    """B0: weight x / max(root of the batch, v x + root of the datum) + bias."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % c
    batch, instance = tl.load(whole + channel), tl.load(own + row)
    slope, scale, shift = tl.load(v + channel), tl.load(weight + channel), tl.load(bias + channel)
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        result = scale * values / tl.maximum(batch, slope * values + instance) + shift
        tl.store(out + row * s + at, result.to(out.dtype.element_ty), at < s)


@triton.jit
def _shares(values, batch, instance, slope):
    """B0: the denominator, and the share of its gradient that goes to the batch; half in a tie."""
    other = slope * values + instance
    share = tl.where(batch > other, 1.0, tl.where(batch < other, 0.0, 0.5))
    return tl.maximum(batch, other), share


@triton.jit
def divide_sums(x, g, whole, own, v, sums, rows, c, s, BLOCK: tl.constexpr):
    """B0: of one row, the sums of g x / d, of g, and of the gradients of the batch's root, of the
    datum's root and of v, before the weight."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % c
    batch, instance, slope = tl.load(whole + channel), tl.load(own + row), tl.load(v + channel)
    on_weight, on_bias, on_batch, on_own, on_gate = 0.0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        gradient = tl.load(g + row * s + at, at < s, 0.0).to(tl.float32)
        below, share = _shares(values, batch, instance, slope)
        part = gradient * values / below
        on_weight += tl.sum(part, 0)
        on_bias += tl.sum(gradient, 0)
        on_below = -part / below
        on_batch += tl.sum(on_below * share, 0)
        on_own += tl.sum(on_below * (1 - share), 0)
        on_gate += tl.sum(on_below * (1 - share) * values, 0)
    tl.store(sums + row, on_weight)
    tl.store(sums + rows + row, on_bias)
    tl.store(sums + 2 * rows + row, on_batch)
    tl.store(sums + 3 * rows + row, on_own)
    tl.store(sums + 4 * rows + row, on_gate)


@triton.jit
def divide_back(
    x, g, d_x, whole, own, centre, mean, to_batch, to_own, v, weight, c, s, BLOCK: tl.constexpr
):
    """B0: the gradient of the input, with what comes through the two variances."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % c
    batch, instance, slope = tl.load(whole + channel), tl.load(own + row), tl.load(v + channel)
    scale, of_all, of_own = (
        tl.load(weight + channel),
        tl.load(centre + channel),
        tl.load(mean + row),
    )
    by_batch, by_own = tl.load(to_batch + channel), tl.load(to_own + row)
    for start in range(0, s, BLOCK):
        at = start + tl.arange(0, BLOCK)
        values = tl.load(x + row * s + at, at < s, 0.0).to(tl.float32)
        gradient = scale * tl.load(g + row * s + at, at < s, 0.0).to(tl.float32)
        below, share = _shares(values, batch, instance, slope)
        result = gradient / below * (1 - values / below * (1 - share) * slope)
        result += by_batch * (values - of_all) + by_own * (values - of_own)
        tl.store(d_x + row * s + at, result.to(d_x.dtype.element_ty), at < s)


def _block(s: int) -> int:
    return int(min(4096, triton.next_power_of_2(s)))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means [n, c] and sums of squares about them [n, c]."""
    n, c, s = x.shape
    mean, square = x.new_empty(2, n, c, dtype=torch.float32)
    moments[(n * c,)](x, mean, square, s, BLOCK=_block(s))
    return mean, square


def _merged(mean: Tensor, square: Tensor, s: int, dims: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over a dimension of moments of s numbers each."""
    centre = mean.mean(dims, keepdim=True)
    variance = (square / s + (mean - centre).square()).mean(dims, keepdim=True)
    return centre, variance


class FusedS0(torch.autograd.Function):
    """weight x sigmoid(v x) / root(variance of a group + eps) + bias of [n, c, s]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        n, c, s = x.shape
        mean, square = (m.reshape(n, groups, -1) for m in _moments(x))
        centre, variance = _merged(mean, square, s, 2)
        inverse = (variance + eps).rsqrt()
        wide = [each.expand(n, groups, c // groups).reshape(n, c) for each in (centre, inverse)]
        out = torch.empty_like(x)
        gate[(n * c,)](x, out, wide[1], v, weight, bias, c, s, BLOCK=_block(s))
        ctx.save_for_backward(x, v, weight, *wide)
        ctx.groups = groups
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, v, weight, centre, inverse = ctx.saved_tensors
        n, c, s = x.shape
        gradient = gradient.contiguous()
        sums = x.new_empty(3, n, c, dtype=torch.float32)
        gate_sums[(n * c,)](x, gradient, v, sums, n * c, c, s, BLOCK=_block(s))
        on_weight, on_bias, on_gate = sums
        total = (weight * on_weight).reshape(n, ctx.groups, -1).sum(2, keepdim=True)
        size = s * (c // ctx.groups)
        pull = total.expand(n, ctx.groups, c // ctx.groups).reshape(n, c) * inverse**3 / size
        d_x = torch.empty_like(x)
        gate_back[(n * c,)](
            x, gradient, d_x, centre, inverse, pull, v, weight, c, s, BLOCK=_block(s)
        )
        d_v = (weight * on_gate * inverse).sum(0)
        return d_x, d_v, (on_weight * inverse).sum(0), on_bias.sum(0), None, None


class FusedB0(torch.autograd.Function):
    """weight x / max(root of the batch, v x + root of the datum) + bias of [n, c, s].

    ``running`` [c] stands for the variance of the batch where it is given.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: Tensor | None,
        eps: float,
    ) -> Tensor:
        n, c, s = x.shape
        mean, square = _moments(x)
        centre, variance = (m[0] for m in _merged(mean, square, s, 0))
        whole = ((variance if running is None else running.float()) + eps).sqrt()
        own = (square / s + eps).sqrt()
        out = torch.empty_like(x)
        divide[(n * c,)](x, out, whole, own, v, weight, bias, c, s, BLOCK=_block(s))
        ctx.save_for_backward(x, v, weight, mean, centre, whole, own)
        ctx.fixed = running is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, v, weight, mean, centre, whole, own = ctx.saved_tensors
        n, c, s = x.shape
        gradient = gradient.contiguous()
        sums = x.new_empty(5, n, c, dtype=torch.float32)
        divide_sums[(n * c,)](x, gradient, whole, own, v, sums, n * c, c, s, BLOCK=_block(s))
        on_weight, on_bias, on_batch, on_own, on_gate = sums
        to_batch = weight * on_batch.sum(0) / (n * s * whole)
        to_own = weight * on_own / (s * own)
        if ctx.fixed:
            to_batch = torch.zeros_like(to_batch)
        d_x = torch.empty_like(x)
        divide_back[(n * c,)](
            *(x, gradient, d_x, whole, own, centre, mean, to_batch, to_own, v, weight, c, s),
            BLOCK=_block(s),
        )
        return d_x, weight * on_gate.sum(0), on_weight.sum(0), on_bias.sum(0), None, None


def batch_variance(x: Tensor) -> Tensor:
    """The unbiased variance [c] in float32 over all but the channels of [n, c, *space]."""
    rows = x.reshape(*x.shape[:2], -1).contiguous()
    n, _, s = rows.shape
    variance: Tensor = _merged(*_moments(rows), s, 0)[1][0]
    return variance * (n * s / (n * s - 1))


def fused_s0(x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """EvoNorm-S0 of [n, c, *space], not empty, with v, weight and bias [c] in float32."""
    rows = x.reshape(*x.shape[:2], -1).contiguous()
    out: Tensor = FusedS0.apply(rows, v, weight, bias, groups, eps)
    return out.reshape(x.shape)


def fused_b0(
    x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, running: Tensor | None, eps: float
) -> Tensor:
    """EvoNorm-B0 of [n, c, *space], not empty, with v, weight and bias [c] in float32."""
    rows = x.reshape(*x.shape[:2], -1).contiguous()
    out: Tensor = FusedB0.apply(rows, v, weight, bias, running, eps)
    return out.reshape(x.shape)
