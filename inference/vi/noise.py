"""The noise of gradients: exponential means of tensors, and of the squares of their norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """The Euclidean norm of each tensor; infinite or NaN if an entry is, and only then."""
    if not tensors:
        return []
    each = torch._foreach_norm(list(tensors), 2, dtype=_wide(tensors))
    if len({(x.dtype, x.device) for x in each}) == 1:
        found: list[float] = torch.stack(each).tolist()
    else:
        found = [float(x) for x in each]
    if not all(map(math.isfinite, found)):  # squares may overflow where entries do not
        return [_norm(x) for x in tensors]
    return found


def _wide(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The precision to sum squares in: at least float32."""
    low = any(x.dtype in (torch.bfloat16, torch.float16) for x in tensors)
    return torch.float32 if low else None


def _norm(x: Tensor) -> float:
    if not bool(torch.isfinite(x).all()):
        return math.nan
    size = float(x.abs().max()) if x.numel() else 0.0
    return size * float((x / size).norm()) if size > 0 else 0.0


class Moments:
    """Exponential means of lists of tensors, and of the squares of their norms.

    The variances of all entries of a tensor add up to E|x|^2 - |E x|^2, of which only the second
    needs its entries.

    Args:
        window: of the means, in steps; as long as fewer were followed all weigh the same.
    """

    def __init__(self, window: int) -> None:
        self.window, self.count = window, 0
        self.means: list[Tensor] = []
        self.squares: list[float] = []

    def add(self, tensors: Sequence[Tensor], sizes: Sequence[float]) -> None:
        """Follow tensors, whose norms are ``sizes``."""
        if not self.count:
            self.means = [torch.zeros_like(x) for x in tensors]
            self.squares = [0.0 for _ in tensors]
        self.count += 1
        new = 1 / min(self.count, self.window)
        torch._foreach_lerp_(self.means, list(tensors), new)
        self.squares = [
            square + new * (size**2 - square)
            for square, size in zip(self.squares, sizes, strict=True)
        ]

    def noise(self, names: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Norms of the standard deviation and of the mean, by name; those of one name together."""
        sums: dict[str, tuple[float, float]] = {}
        for name, square, size in zip(names, self.squares, norms(self.means), strict=False):
            spread, mean = sums.get(name, (0.0, 0.0))
            sums[name] = spread + max(square - size**2, 0.0), mean + size**2
        return {name: (spread**0.5, mean**0.5) for name, (spread, mean) in sums.items()}

    @property
    def state(self) -> list[Any]:
        return [self.count, self.means, self.squares]

    @state.setter
    def state(self, kept: list[Any]) -> None:
        self.count, self.means, self.squares = kept
