"""Quantisation with shifts, and products of int8 matrices, in Triton; bit for bit as in torch.

``ranges`` finds the greatest entry of every column, comparing the bits of numbers that are not
negative as whole numbers, among which a number that is not finite is the greatest.  ``quantise``
rounds; matrices are read by their strides, so that a transposed one needs no copy.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 64
TINY = tl.constexpr(1.1754943508222875e-38)
INFINITE = tl.constexpr(float("inf"))
HALVES = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds small numbers, ties to even


@triton.jit
def _hashed(x):
    """The hash of ``kernels.shiftquant`` of uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def ranges(x, out, m, k, by_row, by_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows[:, None] < m) & (columns[None, :] < k)
    values = tl.load(x + rows[:, None] * by_row + columns[None, :] * by_column, there, 0.0)
    bits = tl.abs(values).to(tl.int32, bitcast=True)
    tl.atomic_max(out + columns, tl.max(bits, 0), columns < k)


@triton.jit
def quantise(
    x, range, greatest, seed, q, shift, scale,
    m, k, by_row, by_column, top, groups,
    STOCHASTIC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows[:, None] < m) & (columns[None, :] < k)
    values = tl.load(x + rows[:, None] * by_row + columns[None, :] * by_column, there, 0.0)
    most = tl.load(greatest)
    normal = most >= TINY
    step = tl.where(normal | (most != most), tl.div_rn(most, top), 1.0)
    step = tl.where(most == INFINITE, float("nan"), step)
    greatest_of_column = tl.load(range + columns, columns < k, 0.0)
    group = tl.zeros((COLUMNS,), tl.int32)
    power = 1.0
    for _ in tl.range(1, groups):
        power = power * 2.0
        group += (greatest_of_column * power <= most).to(tl.int32)
    by_group = tl.exp2(group.to(tl.float32))
    t = tl.where(normal, tl.div_rn(values, step + tl.zeros_like(values)), 0.0) * by_group[None, :]
    if STOCHASTIC:
        below = tl.floor(t)
        place = (rows[:, None] * k + columns[None, :]).to(tl.uint32)
        mixed = _hashed(place + _hashed(tl.load(seed).to(tl.uint32)))
        uniform = (mixed >> 8).to(tl.float32) * 5.9604644775390625e-08
        rounded = below + (uniform < t - below).to(tl.float32)
    else:
        rounded = (t + HALVES) - HALVES
    rounded = tl.where(rounded == rounded, rounded, 0.0)
    rounded = tl.minimum(tl.maximum(rounded, -top), top)
    tl.store(q + rows[:, None] * k + columns[None, :], rounded.to(tl.int8), there)
    if tl.program_id(0) == 0:
        tl.store(shift + columns, group.to(tl.uint8), columns < k)
        if tl.program_id(1) == 0:
            tl.store(scale, step)


def fused_quantise(
    x: Tensor, bits: int, num_groups: int, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """q int8 [m, k], the scale and the shifts uint8 [k] of x [m, k] in float32, not empty."""
    (m, k), strides = x.shape, x.stride()
    grid = (triton.cdiv(m, ROWS), triton.cdiv(k, COLUMNS))
    about = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    of_columns = torch.zeros(k, dtype=torch.int32, device=x.device)
    ranges[grid](x, of_columns, m, k, *strides, **about)
    values = of_columns.view(torch.float32)
    greatest = of_columns.amax().view(torch.float32)
    q = torch.empty(m, k, dtype=torch.int8, device=x.device)
    shift = torch.empty(k, dtype=torch.uint8, device=x.device)
    scale = x.new_empty(())
    quantise[grid](
        *(x, values, greatest, greatest if seed is None else seed, q, shift, scale),
        *(m, k, *strides, float(2 ** (bits - 1) - 1), num_groups),
        STOCHASTIC=seed is not None,
        **about,
    )
    return q, scale, shift


@triton.jit
def multiply(
    a, b, out, m, n, k, a_row, a_column, b_row, b_column,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One block of the product of int8 matrices, in int32."""
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    columns = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    total = tl.zeros((M, N), tl.int32)
    for start in range(0, k, K):
        at = start + inner
        left = tl.load(
            a + rows[:, None] * a_row + at[None, :] * a_column,
            (rows[:, None] < m) & (at[None, :] < k),
            0,
        )
        right = tl.load(
            b + at[:, None] * b_row + columns[None, :] * b_column,
            (at[:, None] < k) & (columns[None, :] < n),
            0,
        )
        total = tl.dot(left, right, total, out_dtype=tl.int32)
    there = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(out + rows[:, None] * n + columns[None, :], total, there)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """The product int32 [m, n] of int8 matrices [m, k] and [k, n], none empty.

    Tensor cores read both along k, and so a b that lies the other way is turned first.
    """
    (m, k), n = a.shape, b.shape[1]
    out = torch.empty(m, n, dtype=torch.int32, device=a.device)
    large = min(m, n) >= 1024
    if large and b.stride(0) != 1:
        b = b.T.contiguous().T
    about = {"M": 128, "N": 128, "K": 128} if large else {"M": 64, "N": 64, "K": 64}
    grid = (triton.cdiv(m, about["M"]), triton.cdiv(n, about["N"]))
    warps = 8 if large else 4
    multiply[grid](a, b, out, m, n, k, *a.stride(), *b.stride(), **about, num_warps=warps)
    return out
