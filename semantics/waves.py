"""Waves: bounded functions of the numbers in a value, enough of them to tell any two laws apart.

They are cos and sin of <w, atan((x - m) / s)> with m and s, the median and the spread of each
number, from a measure: smooth in the coordinates of a quadrature, and never large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .measure import Measure, share

COUNT = 32
MOST = 0.75  # of them, whose means a quadrature must tell; the others are left out


@dataclass(frozen=True)
class Waves:
    """``2 * COUNT`` functions of rows [n, k] of numbers: the cosines first."""

    middle: Tensor
    spread: Tensor
    rates: Tensor

    @staticmethod
    def about(rows: Tensor, weights: Tensor) -> Waves:
        """Waves on the scale of weighted rows [n, k]; the weights sum to one."""
        low, middle, high = (_quantiles(rows, weights, q) for q in (0.25, 0.5, 0.75))
        generator = torch.Generator().manual_seed(0)
        rates = 2 * torch.randn(COUNT, rows.shape[1], generator=generator, dtype=torch.float64)
        return Waves(middle, (high - low).clamp(min=1e-12), rates)

    def __call__(self, rows: Tensor) -> Tensor:
        angles = torch.atan((rows - self.middle) / self.spread) @ self.rates.T
        return torch.cat([angles.cos(), angles.sin()], 1)

    def name(self, i: int) -> str:
        """Wave number i in words."""
        kind, rate = ("cos", "sin")[i // COUNT], self.rates[i % COUNT].tolist()
        return f"{kind}<{rate}, atan((x - m) / s)>"


def rows_of(values: Iterable[Any]) -> Tensor | None:
    """The numbers in each value, as rows [n, k]; None if values differ in form or hold others."""
    rows = []
    for value in values:
        if not all(isinstance(x, Tensor | int | float) for x in tree_leaves(value)):
            return None
        rows.append(row_of(value))
    if not rows or len({len(row) for row in rows}) > 1 or not len(rows[0]):
        return None
    return torch.stack(rows)


def row_of(value: Any) -> Tensor:
    """The numbers [k] in a value."""
    leaves = [torch.as_tensor(x).detach().double().reshape(-1) for x in tree_leaves(value)]
    return torch.cat(leaves)


def shares(measure: Measure, log_whole: float) -> Tensor:
    """The weights [n] of the atoms, as shares of a mass."""
    return torch.tensor([share(lw, log_whole) for _, lw in measure.atoms], dtype=torch.float64)


def _quantiles(rows: Tensor, weights: Tensor, q: float) -> Tensor:
    """Of every number."""
    found = []
    for column in rows.T:
        order = column.argsort()
        place = int(torch.searchsorted(weights[order].cumsum(0), q))
        found.append(column[order][min(place, len(order) - 1)])
    return torch.stack(found)
