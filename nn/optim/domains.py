"""Convex sets that learners stay in, and the projections on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Domain(Protocol):
    """A convex set: the nearest point of it, and the greatest distance in it."""

    @property
    def diameter(self) -> float: ...
    def project(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Free:
    """All tensors."""

    @property
    def diameter(self) -> float:
        return math.inf

    def project(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class Ball:
    """Tensors of a norm of at most ``radius``, over all entries."""

    radius: float

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f"a ball has a positive radius, not {self.radius}")

    @property
    def diameter(self) -> float:
        return 2 * self.radius

    def project(self, x: Tensor) -> Tensor:
        inside: Tensor = x * (self.radius / torch.linalg.vector_norm(x).clamp(min=self.radius))
        return inside

    def project_in(self, h: Tensor, y: Tensor) -> Tensor:
        """The point of the ball nearest to a vector y [d] in the norm of a matrix H [d, d].

        It is (H + l)^(-1) H y, with the least l >= 0 that brings it into the ball.
        """
        if bool(torch.linalg.vector_norm(y) <= self.radius):
            return y
        values, vectors = torch.linalg.eigh(h)
        along = values * (vectors.T @ y)
        low, high = 0.0, float(torch.linalg.vector_norm(along)) / self.radius
        for _ in range(200):
            middle = (low + high) / 2
            inside = float(torch.linalg.vector_norm(along / (values + middle))) <= self.radius
            low, high = (low, middle) if inside else (middle, high)
        return self.project(vectors @ (along / (values + high)))


@dataclass(frozen=True)
class Box:
    """Tensors with entries from ``low`` to ``high``; the diameter is that of one entry."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a box has low < high, not {self.low}, {self.high}")

    @property
    def diameter(self) -> float:
        return self.high - self.low

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


@dataclass(frozen=True)
class PositiveOrthant:
    """Tensors with positive entries (zero, for projections)."""

    @property
    def diameter(self) -> float:
        return math.inf

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


@dataclass(frozen=True)
class Simplex:
    """Tensors whose last dimension is not negative and sums to one."""

    @property
    def diameter(self) -> float:
        return math.sqrt(2)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: all entries less a number, at least zero."""
        order = x.sort(-1, descending=True).values
        over = order.cumsum(-1) - 1
        count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        kept = (order - over / count > 0).sum(-1, keepdim=True)
        return (x - over.gather(-1, kept - 1) / kept).clamp(min=0)


# so that ``torch.load`` takes the state dict of an optimiser that holds one
torch.serialization.add_safe_globals([Free, Ball, Box, PositiveOrthant, Simplex])
