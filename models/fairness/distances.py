"""Euclidean distances between all rows, centred, and the sums of their products, by blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Stat = Literal["U", "V"]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Distances [m, n] of rows [m, d] from rows [n, d]; at zero, with the derivative zero."""
    if x.shape[1] == 1:
        return (x - y.T).abs()
    square = torch.zeros(len(x), len(y), dtype=x.dtype, device=x.device)
    for j in range(x.shape[1]):
        square = square + (x[:, j, None] - y[None, :, j]).square()
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def blocks(n: int, size: int) -> list[slice]:
    """Slices of at most ``size`` rows, which cover n."""
    return [slice(i, min(n, i + size)) for i in range(0, n, size)]


def centred(d: Tensor, rows: slice, sums: Tensor, stat: Stat) -> Tensor:
    """Distances [m, n] of some rows, centred by the sums [n] of all rows.

    V: less the means of row and column, plus the mean.  U: with n - 2 and (n - 1)(n - 2) in place
    of n and n^2, and zero on the diagonal, so that products of two have unbiased means.
    """
    n, total = len(sums), sums.sum()
    if stat == "V":
        return d - sums[rows, None] / n - sums / n + total / n**2
    off = d - (sums[rows, None] + sums) / (n - 2) + total / ((n - 1) * (n - 2))
    diagonal = torch.arange(n, device=d.device)
    return torch.where(diagonal[rows, None] == diagonal, 0.0, off)


def product_sum(xs: Sequence[Tensor], stat: Stat, offset: float | None, block: int) -> Tensor:
    """sum_kl prod_i A_i(k, l), or of prod_i (offset - A_i(k, l)), A_i the centred distances.

    Args:
        xs: rows [n, d_i].
        block: how many rows of the distances are held at once; derivatives compute them anew.
    """
    n = len(xs[0])
    sums = [torch.cat([distances(x[rows], x).sum(1) for rows in blocks(n, block)]) for x in xs]

    def part(rows: slice) -> Tensor:
        product: Tensor | None = None
        for x, total in zip(xs, sums, strict=True):
            a = centred(distances(x[rows], x), rows, total, stat)
            a = a if offset is None else offset - a
            product = a if product is None else product * a
        assert product is not None
        return product.sum()

    if block >= n:
        return part(slice(0, n))
    found = [checkpoint(part, rows, use_reentrant=False) for rows in blocks(n, block)]
    return torch.stack(found).sum()


def normalised(total: Tensor, n: int, stat: Stat) -> Tensor:
    """A sum over pairs as a statistic."""
    return total / (n * (n - 3)) if stat == "U" else total / n**2


def shift(n: int, stat: Stat, offset: float, count: int) -> float:
    """What a product of ``count`` offsets alone comes to, as a statistic."""
    return math.pow(offset, count) * (n / (n - 3) if stat == "U" else 1.0)
