"""The passes of unified normalisation in Triton: each reads its rows once, in any precision.

Sums are made of ranges of rows first, then over the ranges.  The steps of the two windows, dozens
of operations on a few numbers, are one program each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import windows

ROWS, COLUMNS = 32, 64
LEAST, LIMIT = tl.constexpr(windows.LEAST), tl.constexpr(windows.LIMIT)


@triton.jit
def _load(x, rows, columns, there, c):
    at = rows.to(tl.int64)[:, None] * c + columns[None, :]
    return tl.load(x + at, there, 0.0).to(tl.float32)


@triton.jit
def sum_squares(
    x, valid, out, n, c, blocks, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    part = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for i in range(blocks):
        rows = (part * blocks + i) * ROWS + tl.arange(0, ROWS)
        there = (rows[:, None] < n) & (columns[None, :] < c)
        if MASKED:
            there = there & (tl.load(valid + rows, rows < n, 0)[:, None] != 0)
        values = _load(x, rows, columns, there, c)
        total += tl.sum(values * values, 0)
    tl.store(out + part.to(tl.int64) * c + columns, total, columns < c)


@triton.jit
def sum_products(
    gradient, x, valid, out, n, c, blocks,
    MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    some = tl.zeros((COLUMNS,), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    alone = tl.zeros((COLUMNS,), tl.float32)
    for i in range(blocks):
        rows = (part * blocks + i) * ROWS + tl.arange(0, ROWS)
        there = (rows[:, None] < n) & (columns[None, :] < c)
        g = _load(gradient, rows, columns, there, c)
        product = g * _load(x, rows, columns, there, c)
        total += tl.sum(product, 0)
        alone += tl.sum(g, 0)
        if MASKED:
            keep = tl.load(valid + rows, rows < n, 0) != 0
            some += tl.sum(tl.where(keep[:, None], product, 0.0), 0)
    if not MASKED:
        some = total
    at = out + part.to(tl.int64) * 3 * c + columns
    tl.store(at, some, columns < c)
    tl.store(at + c, total, columns < c)
    tl.store(at + 2 * c, alone, columns < c)


@triton.jit
def combined(x, a, y, b, out, n, c, BOTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows[:, None] < n) & (columns[None, :] < c)
    scale = tl.load(a + columns, columns < c, 0.0)[None, :]
    other = tl.load(b + columns, columns < c, 0.0)[None, :]
    if BOTH:
        other = other * _load(y, rows, columns, there, c)
    result = scale * _load(x, rows, columns, there, c) + other
    at = rows.to(tl.int64)[:, None] * c + columns[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), there)


def _ranges(n: int, c: int) -> tuple[tuple[int, int], int]:
    """The grid (blocks of columns, ranges of rows), and the blocks of rows in each range."""
    wide, blocks = triton.cdiv(c, COLUMNS), triton.cdiv(n, ROWS)
    per_range = max(1, blocks * wide // 1024)
    return (wide, triton.cdiv(blocks, per_range)), per_range


ABOUT = {"ROWS": ROWS, "COLUMNS": COLUMNS}


def squares(x: Tensor, valid: Tensor | None) -> Tensor:
    """sum x^2 [c] in float32 over the valid ones of rows [n, c], none empty."""
    n, c = x.shape
    grid, blocks = _ranges(n, c)
    out = torch.empty(grid[1], c, dtype=torch.float32, device=x.device)
    mask = x if valid is None else valid.contiguous().view(torch.uint8)
    sum_squares[grid](x, mask, out, n, c, blocks, MASKED=valid is not None, **ABOUT)
    return out.sum(0)


def products(gradient: Tensor, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """sum g x over valid rows, sum g x and sum g over all: [c] each, in float32."""
    n, c = x.shape
    grid, blocks = _ranges(n, c)
    out = torch.empty(grid[1], 3, c, dtype=torch.float32, device=x.device)
    mask = x if valid is None else valid.contiguous().view(torch.uint8)
    sum_products[grid](gradient, x, mask, out, n, c, blocks, MASKED=valid is not None, **ABOUT)
    some, total, alone = out.sum(0)
    return some, total, alone


def combine(x: Tensor, a: Tensor, y: Tensor | None, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a x + b y of rows [n, c] with a, b [c] in float32; a x + b without y."""
    n, c = x.shape
    out = torch.empty_like(x, dtype=dtype)
    grid = (triton.cdiv(n, ROWS), triton.cdiv(c, COLUMNS))
    other = x if y is None else y
    combined[grid](x, a, other, b, out, n, c, BOTH=y is not None, **ABOUT)
    return out


@triton.jit
def _finite(x):
    return (x == x) & (tl.abs(x) != float("inf"))


@triton.jit
def _at(window, i, here, row, columns, c):
    """Row i of a window in which ``row`` stands at place ``here``."""
    return tl.where(i == here, row, tl.load(window + i * c + columns, columns < c, 0.0))


@triton.jit
def forward_kernel(
    q, window, running, iters, skips, sigma2, scaling, flag, number,
    c, m, warmup, rescale_after, momentum, eps,
    FILTRATION: tl.constexpr, PER_CHANNEL: tl.constexpr, UPDATE: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, C)
    there = columns < c
    row = tl.load(q + columns, there, 0.0)
    usual = tl.load(running + columns, there, 1.0)
    t = tl.load(iters) + 1
    skipped = tl.load(skips)
    each_finite = _finite(row)
    finite = tl.min(each_finite.to(tl.int32), 0) != 0
    here = t % m
    logs, total, roots = (
        tl.zeros((C,), tl.float32),
        tl.zeros((C,), tl.float32),
        tl.zeros((C,), tl.float32),
    )
    for i in range(m):
        each = _at(window, i, here, row, columns, c)
        logs += tl.log(tl.maximum(each, LEAST))
        total += each
        roots += tl.sqrt(tl.load(window + i * c + columns, there, 0.0))
    geometric = tl.exp(logs / m)
    full = (t > m) & (t >= warmup) & (m > 1)
    outlier = t < 0
    if FILTRATION:
        centre = roots / m
        if not PER_CHANNEL:
            centre = tl.zeros_like(roots) + tl.sum(tl.where(there, roots, 0.0), 0) / (m * c)
        away = tl.zeros((C,), tl.float32)
        for i in range(m):
            apart = tl.sqrt(tl.load(window + i * c + columns, there, 0.0)) - centre
            away += tl.where(there, apart * apart, 0.0)
        spread = away / m
        if not PER_CHANNEL:
            spread = tl.zeros_like(away) + tl.sum(away, 0) / tl.maximum(m * c - 1, 1)
        beyond = there & (total / m - geometric > m * spread)
        outlier = (tl.max(beyond.to(tl.int32), 0) != 0) & full & finite
    early = (full == 0) | outlier
    new = tl.where(early, row, geometric)
    new = tl.where(finite, new, tl.where(each_finite, row, float("nan")))
    ratio = tl.sqrt_rn((new + eps) / (usual + eps))
    ratio = tl.minimum(tl.maximum(ratio, 1 / LIMIT), LIMIT)
    unscaled = (t <= tl.maximum(rescale_after, warmup)) | outlier | (finite == 0) | (m == 1)
    tl.store(sigma2 + columns, new, there)
    tl.store(scaling + columns, tl.where(unscaled, 1.0, ratio), there)
    place = window + here * c + columns
    kept = tl.where(finite, tl.where(outlier, usual, row), tl.load(place, there, 0.0))
    tl.store(place, kept, there)
    moves = finite
    if not UPDATE:
        moves = finite & (outlier == 0)
    moved = tl.where(moves, usual * momentum + new * (1 - momentum), usual)
    tl.store(running + columns, moved, there)
    tl.store(iters, t - 1 + finite)
    tl.store(skips, skipped + (outlier | (finite == 0)))
    tl.store(flag, outlier.to(tl.uint8))
    tl.store(number, tl.where(finite, t, -1))


@triton.jit
def backward_kernel(
    p, window, average, tickets, number, flag, taken, c, m, warmup, momentum, C: tl.constexpr
):
    columns = tl.arange(0, C)
    there = columns < c
    row = tl.load(p + columns, there, 0.0)
    usual = tl.load(average + columns, there, 0.0)
    t = tl.load(number)
    outlier = tl.load(flag) != 0
    here = tl.maximum(t, 0) % m
    ticket = tl.load(tickets + here)
    finite = tl.min(_finite(row).to(tl.int32), 0) != 0
    moves = finite & (t > 0) & (ticket != t)
    written = tl.where(outlier, usual, row)
    total = tl.zeros((C,), tl.float32)
    for i in range(m):
        total += _at(window, i, here, written, columns, c)
    early = (t <= m) | (t < warmup) | outlier
    mean = tl.where(early, row, total / m)
    moved = tl.where(moves, usual * momentum + mean * (1 - momentum), usual)
    stays = outlier | (finite == 0) | (t < 0) | (m == 1)
    tl.store(taken + columns, tl.where(stays, row, moved), there)
    place = window + here * c + columns
    tl.store(place, tl.where(moves, written, tl.load(place, there, 0.0)), there)
    tl.store(average + columns, moved, there)
    tl.store(tickets + here, tl.where(moves, t, ticket))


def _channels(c: int) -> dict[str, int]:
    block = triton.next_power_of_2(c)
    return {"C": block, "num_warps": min(16, max(1, block // 256))}


def forward_step(
    q: Tensor,
    window: Tensor,
    running: Tensor,
    iters: Tensor,
    skips: Tensor,
    warmup: int,
    rescale_after: int,
    filtration: bool,
    per_channel: bool,
    update_on_outlier: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`pushforward.kernels.unified.forward_step` in float32."""
    m, c = window.shape
    sigma2, scaling = torch.empty_like(q), torch.empty_like(q)
    flag, number = torch.empty_like(iters, dtype=torch.bool), torch.empty_like(iters)
    forward_kernel[(1,)](
        *(q, window, running, iters, skips, sigma2, scaling, flag.view(torch.uint8), number),
        *(c, m, warmup, rescale_after, momentum, eps),
        **{"FILTRATION": filtration, "PER_CHANNEL": per_channel, "UPDATE": update_on_outlier},
        **_channels(c),
    )
    return sigma2, scaling, flag, number


def backward_step(
    p: Tensor,
    window: Tensor,
    average: Tensor,
    tickets: Tensor,
    t: Tensor,
    outlier: Tensor,
    warmup: int,
    momentum: float,
) -> Tensor:
    """:func:`pushforward.kernels.unified.backward_step` in float32."""
    m, c = window.shape
    taken = torch.empty_like(p)
    backward_kernel[(1,)](
        *(p, window, average, tickets, t, outlier.view(torch.uint8), taken),
        *(c, m, warmup, momentum),
        **_channels(c),
    )
    return taken
