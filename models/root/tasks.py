"""Functions to be made large, of which low values are seen: Branin, and Hartmann's of six."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Task(NamedTuple):
    """A function of rows [n, d], bounds [d, 2], its maximum, and the share of low values seen."""

    value: Callable[[Tensor], Tensor]
    bounds: Tensor
    optimum: float
    seen: float

    def split(self, n: int = 400, pool: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
        """X [n, d] and y [n]: some of the lowest ``seen`` of uniform points.

        Errors:
            ValueError: there are fewer than n such points.
        """
        rng = torch.Generator().manual_seed(seed)
        low, high = self.bounds.unbind(1)
        X = low + (high - low) * torch.rand(pool, len(low), generator=rng, dtype=torch.float64)
        y = self.value(X)
        kept = y.argsort()[: int(self.seen * pool)]
        if not 0 < n <= len(kept):
            raise ValueError(f"{n} of {len(kept)} points were asked for")
        rows = kept[torch.randperm(len(kept), generator=rng)[:n]]
        return X[rows], y[rows]


def _branin(x: Tensor) -> Tensor:
    a, b = x.unbind(1)
    bowl = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    return -(bowl + 10 * (1 - 1 / (8 * math.pi)) * a.cos() + 10)


HEIGHTS = torch.tensor([1.0, 1.2, 3.0, 3.2], dtype=torch.float64)
PRECISIONS = torch.tensor(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ],
    dtype=torch.float64,
)
CENTRES = torch.tensor(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ],
    dtype=torch.float64,
)


def _hartmann6(x: Tensor) -> Tensor:
    away = (PRECISIONS * (x[:, None] - CENTRES) ** 2).sum(-1)
    return (-away).exp() @ HEIGHTS


_PLANE = torch.tensor([[-5.0, 10.0], [0.0, 15.0]], dtype=torch.float64)
_CUBE = torch.tensor([[0.0, 1.0]] * 6, dtype=torch.float64)
branin = Task(_branin, _PLANE, -0.39788736, 0.6)  # negated
hartmann6 = Task(_hartmann6, _CUBE, 3.32236801, 0.9)
