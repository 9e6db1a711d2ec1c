"""Orders of particles in which neighbours are alike: by size, or along a Hilbert curve."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

MOST_AXES = 31  # beyond these a curve has less than two digits for each
FINEST = 16  # binary digits of a coordinate


def flat(values: Any, n: int) -> Tensor:
    """The numbers of a tree of tensors [n, ...], side by side [n, s]."""
    parts = [x.reshape(n, math.prod(x.shape[1:])).double() for x in tree_leaves(values)]
    return torch.cat(parts, 1) if parts else torch.zeros(n, 0, dtype=torch.float64)


def along_curve(state: Tensor) -> Tensor:
    """An order [n] of points [n, s]: of numbers by size, and of others along a Hilbert curve."""
    n, s = state.shape
    if s == 0:
        return torch.arange(n, device=state.device)
    if s == 1:
        order: Tensor = state[:, 0].argsort(stable=True)
        return order
    return hilbert(_cells(state[:, :MOST_AXES].double())).argsort(stable=True)


def _cells(x: Tensor) -> Tensor:
    """Points [n, s] on a grid of 2^digits cells a side, of about as many in each row."""
    x = torch.nan_to_num(x)
    spread = x.std(0, correction=0)
    z = (x - x.mean(0)) / torch.where(spread > 0, spread, 1.0)
    digits = digits_of(x.shape[1])
    cells: Tensor = (torch.special.ndtr(z) * (1 << digits)).long()
    return cells.clamp(max=(1 << digits) - 1)


def digits_of(s: int) -> int:
    """Binary digits of each of s coordinates of a place, so that 62 hold all."""
    return min(62 // s, FINEST)


def hilbert(cells: Tensor) -> Tensor:
    """The place along a Hilbert curve of each cell [n, s] of a grid of 2^digits_of(s) a side.

    Cells that follow each other are neighbours.  Skilling 2004, "Programming the Hilbert curve".
    """
    s = cells.shape[1]
    digits, x = digits_of(s), list(cells.unbind(1))
    for k in range(digits - 1, 0, -1):
        bit, below = 1 << k, (1 << k) - 1
        for i in range(s):
            turned = (x[i] & bit) != 0
            swapped = torch.where(turned, 0, (x[0] ^ x[i]) & below)
            x[0] = torch.where(turned, x[0] ^ below, x[0] ^ swapped)
            if i:
                x[i] = x[i] ^ swapped
    for i in range(1, s):
        x[i] = x[i] ^ x[i - 1]
    last = torch.zeros_like(x[0])
    for k in range(digits - 1, 0, -1):
        last = torch.where((x[s - 1] & (1 << k)) != 0, last ^ ((1 << k) - 1), last)
    x = [each ^ last for each in x]
    place = torch.zeros_like(x[0])
    for k, i in ((k, i) for k in range(digits - 1, -1, -1) for i in range(s)):
        place = (place << 1) | ((x[i] >> k) & 1)
    return place
