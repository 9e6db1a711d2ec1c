"""Waves: bounded functions of the numbers in a value, enough of them to tell any two laws apart.

They are cos and sin of <w, atan((x - m) / s)> with m and s, the median and the spread of each
number, from a measure: smooth in the coordinates of a quadrature, and never large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

COUNT = 32
TINY = 1e-9  # of a number: quartiles this close are one value
NUMBERS = (Tensor, int, float, np.ndarray, np.generic)
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
        middle = _quantiles(rows, weights, 0.5)
        spread = _spreads(rows, weights, middle)
        return Waves(middle, spread, _rates(rows.shape[1]))

    def __call__(self, rows: Tensor) -> Tensor:
        angles = torch.atan((rows - self.middle) / self.spread) @ self.rates.T
        return torch.cat([angles.cos(), angles.sin()], 1)

    def name(self, i: int) -> str:
        """Wave number i in words."""
        kind, rate = ("cos", "sin")[i // COUNT], self.rates[i % COUNT].tolist()
        return f"{kind}<{rate}, atan((x - m) / s)>"


def _rates(k: int) -> Tensor:
    """Rates [COUNT, k] on one, two, four or all of k numbers in turn, whose length stays the same.

    Waves on few numbers see a change of these; those on many of what they have to do with others.
    """
    generator = torch.Generator().manual_seed(0)
    rates = 2 * torch.randn(COUNT, k, generator=generator, dtype=torch.float64)
    for i, rate in enumerate(rates):
        size = min(k, (1, 2, 4, k)[i % 4])
        rate[torch.randperm(k, generator=generator)[size:]] = 0.0
        rate /= math.sqrt(size)
    return rates


def rows_of(values: Iterable[Any]) -> Tensor | None:
    """The numbers in each value, as rows [n, k]; None if values differ in form or hold others."""
    rows = []
    for value in values:
        if not all(isinstance(x, NUMBERS) for x in tree_leaves(value)):
            return None
        rows.append(row_of(value))
    if not rows or len({len(row) for row in rows}) > 1 or not len(rows[0]):
        return None
    return torch.stack(rows)


def row_of(value: Any) -> Tensor:
    """The numbers [k] in a value."""
    leaves = tree_leaves(ordered(value))
    return torch.cat([torch.as_tensor(x).detach().double().reshape(-1) for x in leaves])


def ordered(value: Any) -> Any:
    """A value with its mappings in the order of their names: they are equal in any."""
    if isinstance(value, dict):
        return {name: ordered(value[name]) for name in sorted(value, key=str)}
    return type(value)(map(ordered, value)) if type(value) in (list, tuple) else value


def _spreads(rows: Tensor, weights: Tensor, middle: Tensor) -> Tensor:
    """Of every number: between its quartiles or, where these are equal, of what is not the middle.

    So a value that holds most of the mass does not hide where the rest lies.
    """
    found = _quantiles(rows, weights, 0.75) - _quantiles(rows, weights, 0.25)
    for i in (found <= TINY * (1.0 + middle.abs())).nonzero()[:, 0].tolist():
        away = (rows[:, i] - middle[i]).abs()
        others = (away > TINY * (1.0 + middle[i].abs())) & (weights > 0)
        if bool(others.any()):
            share = weights[others] / weights[others].sum()
            found[i] = _quantiles(away[others][:, None], share, 0.5)[0]
        else:
            found[i] = 1.0
    return found


def _quantiles(rows: Tensor, weights: Tensor, q: float) -> Tensor:
    """Of every number."""
    found = []
    for column in rows.T:
        order = column.argsort()
        place = int(torch.searchsorted(weights[order].cumsum(0), q))
        found.append(column[order][min(place, len(order) - 1)])
    return torch.stack(found)
