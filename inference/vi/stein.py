"""Stein's operator in a Gaussian kernel: the direction in which particles come closer to a law."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Direction(NamedTuple):
    """Of each particle where it is to go [n, d], and how far the particles are from the law.

    ``discrepancy`` [] is the kernelised Stein discrepancy of their empirical law.
    """

    move: Tensor
    discrepancy: Tensor


def direction(x: Tensor, slopes: Tensor, width: float | Tensor | None = None) -> Direction:
    """The steepest descent of KL(law of the particles || p) in the kernel exp(-|x - y|^2 / h).

    move_i = mean_j k(x_j, x_i) s_j + d k(x_j, x_i) / d x_j, for s_j the slope of log p at x_j.

    Args:
        x: particles [n, d].
        slopes: of log p there [n, d].
        width: h; by default the median of the squared distances over log (n + 1).

    Source: Liu, Wang (arXiv 1608.04471); Liu, Lee, Jordan (arXiv 1602.03253) for the discrepancy.
    """
    n, d = x.shape
    x = x - x.mean(0)  # lest differences of large numbers lose digits
    squares = (x @ x.T).neg().mul(2).add(x.square().sum(1)).add(x.square().sum(1)[:, None])
    squares = squares.clamp(min=0).fill_diagonal_(0)
    h = torch.as_tensor(_median(squares) if width is None else width).to(x)
    k = torch.exp(-squares / h)
    apart = x * k.sum(1, keepdim=True) - k @ x  # sum_j k(x_j, x_i) (x_i - x_j)
    move = (k @ slopes + 2 / h * apart) / n
    across = 2 / h * (slopes * apart).sum()
    within = (slopes * (k @ slopes)).sum()
    trace = (k * (2 * d / h - 4 * squares / h**2)).sum()
    return Direction(move, (within + 2 * across + trace).clamp(min=0).sqrt() / n)


def _median(squares: Tensor) -> Tensor:
    """The width that Liu and Wang give: about each particle weighs its neighbours to one."""
    n = len(squares)
    if n == 1:
        return squares.new_ones(())
    i, j = torch.triu_indices(n, n, 1).unbind()
    median = squares[i, j].median()
    return torch.where(median > 0, median / math.log(n + 1), torch.ones_like(median))
