"""The passes of unified normalisation in Triton: each reads its rows once, in any precision.

Sums are made of ranges of rows first, then over the ranges.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 64


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
