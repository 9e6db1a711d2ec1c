"""Involutions that change volume, with the acceptance that accounts for it, and wrong ones.

Each swaps x and g(x) by hand: (x, s) goes to (g(x), -s) where s > 0, and back by the inverse of g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Rows = Callable[[Tensor], Tensor]


def log_density(rows: Tensor) -> Tensor:
    """Of rows [n, 2], skewed in x and even in s."""
    x, s = rows[:, 0], rows[:, 1]
    return -0.5 * (x - 0.3) ** 2 - 0.1 * x.exp() - 0.5 * s**2


@dataclass(frozen=True)
class Swap:
    """A map of the line, its inverse, and its derivative."""

    there: Rows
    back: Rows
    derivative: Rows

    def map(self, rows: Tensor) -> Tensor:
        x, s = rows[:, 0], rows[:, 1]
        return torch.stack([torch.where(s > 0, self.there(x), self.back(x)), -s], 1)

    def jacobian(self, rows: Tensor) -> Tensor:
        x, s = rows[:, 0], rows[:, 1]
        return torch.where(s > 0, self.derivative(x), 1 / self.derivative(self.back(x)))

    def accept(self, rows: Tensor, jacobian: Rows) -> Tensor:
        ratio = log_density(self.map(rows)) - log_density(rows) + jacobian(rows).log()
        return ratio.clamp(max=0.0).exp()


def detached(function: Rows) -> Rows:
    return lambda rows: function(rows.detach())


def by_numpy(function: Rows) -> Rows:
    """As code outside torch: it takes no argument that wants gradients."""
    return lambda rows: torch.from_numpy(function(torch.from_numpy(rows.numpy().copy())).numpy())


def half_detached(function: Rows) -> Rows:
    """Autograd sees one coordinate only."""

    def moved(rows: Tensor) -> Tensor:
        image = function(rows)
        return torch.stack([image[:, 0].detach(), image[:, 1]], 1)

    return moved


SWAPS: dict[str, Swap] = {
    "stretch": Swap(lambda x: 3 * x, lambda y: y / 3, lambda x: 3 + 0 * x),
    "shift": Swap(lambda x: x + 1, lambda y: y - 1, lambda x: 1 + 0 * x),
    "exp": Swap(torch.exp, lambda y: y.clamp(min=1e-3).log(), torch.exp),
    "sinh": Swap(torch.sinh, torch.asinh, torch.cosh),
    "cube": Swap(
        lambda x: x + x**3 / 3,
        lambda y: _solved(y),
        lambda x: 1 + x**2,
    ),
}


def _solved(y: Tensor) -> Tensor:
    """The root of x + x^3 / 3 = y, by Cardano."""
    half = 1.5 * y
    root = (half**2 + 1).sqrt()
    return (half + root).pow(1 / 3) - (root - half).pow(1 / 3)


class _NoBackward(torch.autograd.Function):
    """The identity, whose derivative nobody wrote."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


def without_derivative(function: Rows) -> Rows:
    """Autograd finds out when it asks for the derivative."""
    return lambda rows: _NoBackward.apply(function(rows))  # type: ignore[no-any-return]


FORMS: dict[str, Callable[[Rows], Rows]] = {
    "torch": lambda function: function,
    "detached": detached,
    "half detached": half_detached,
    "numpy": by_numpy,
    "no derivative": without_derivative,
}


def points_for(name: str) -> Tensor:
    """Rows on both sides of s = 0, off the edges of the map."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    back = (rows[:, 1] < 0) & torch.tensor(name == "exp")
    rows[:, 0] = torch.where(back, rows[:, 0].exp(), rows[:, 0])
    return rows[rows[:, 1].abs() > 0.05]
