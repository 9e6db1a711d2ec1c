"""The minimum of E(u) = int L(x, u, grad u) - f u over functions that vanish at a cube's sides.

u is a series of products of sines, sum_k c_k prod_i sin(pi k_i x_i).  Energies are integrated by
the trapezoid rule, exactly for trigonometric polynomials of the band that the grid can tell; all
derivatives are those of the energy by the coefficients.

Source: Marwah, Lipton, Lu, Risteski, Neural Network Approximations of PDEs Beyond Linearity
(arXiv 2210.12101).  The Barron norm is theirs up to normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Source = Callable[[Tensor], Tensor]


class Lagrangian(Protocol):
    """L(x, u, p) [...] of points [..., d], values [...] and slopes [..., d]."""

    def __call__(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Poisson:
    """|p|^2 / 2: -Lap u = f."""

    def __call__(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        return p.square().sum(-1) / 2

    def growth(self, norm: float) -> float:
        """A bound of the Barron norm of dL / du where that of u is ``norm``."""
        return 0.0


@dataclass(frozen=True)
class SemilinearCubic:
    """|p|^2 / 2 + a u^4 / 4: -Lap u + a u^3 = f."""

    a: float | Tensor = 1.0

    def __call__(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        return p.square().sum(-1) / 2 + self.a * u**4 / 4

    def growth(self, norm: float) -> float:
        """A bound of the Barron norm of dL / du where that of u is ``norm``."""
        return abs(float(self.a)) * norm**3 if norm < 1e100 else math.inf


@dataclass(frozen=True)
class RegularisedPLaplace:
    """(|p|^2 + kappa^2)^(q / 2) / q; no bound of Barron norms is known for it here."""

    q: float
    kappa: float

    def __call__(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        return (p.square().sum(-1) + self.kappa**2) ** (self.q / 2) / self.q


@dataclass(frozen=True)
class LogCosh:
    """|p|^2 / 2 + log cosh u: -Lap u + tanh u = f; no bound of Barron norms is known here."""

    def __call__(self, x: Tensor, u: Tensor, p: Tensor) -> Tensor:
        return p.square().sum(-1) / 2 + torch.logaddexp(u, -u) - math.log(2)


class EllipticVariational:
    """A problem on (0, 1)^dim, for series of n sines in each dimension.

    A transform costs O(dim n^(dim + 1)).

    Args:
        dim: 1, 2 or 3.
        lagrangian: L; see :class:`Lagrangian`.  Beyond |p|^2 / 2 it should be convex in p.
        source: f [...] at points [..., dim].
        n: 127, 63 or 31 unless given.
        intervals: of the grid; twice n + 1 unless given, for which the integrals of a cubic
            nonlinearity are exact.

    Errors:
        ValueError: a size is out of range.
    """

    def __init__(
        self,
        dim: int,
        lagrangian: Lagrangian,
        source: Source,
        n: int | None = None,
        intervals: int | None = None,
    ) -> None:
        if dim not in (1, 2, 3):
            raise ValueError(f"grids are for 1, 2 or 3 dimensions, not {dim}")
        self.dim, self.lagrangian, self.source = dim, lagrangian, source
        self.n = {1: 127, 2: 63, 3: 31}[dim] if n is None else n
        self.intervals = 2 * (self.n + 1) if intervals is None else intervals
        if self.n < 3 or self.intervals <= self.n:
            what = f"n is 3 at least and below the intervals: {self.n}, {self.intervals}"
            raise ValueError(what)
        line = torch.arange(self.intervals + 1, dtype=torch.float64) / self.intervals
        k = math.pi * torch.arange(1, self.n + 1, dtype=torch.float64)
        self._sines = torch.sin(line[:, None] * k)
        self._slopes = k * torch.cos(line[:, None] * k)
        weight = torch.full_like(line, 1 / self.intervals)
        weight[[0, -1]] /= 2
        self.points = torch.stack(torch.meshgrid(*[line] * dim, indexing="ij"), -1)
        self.weight = _along(torch.ones([1] * dim, dtype=torch.float64), [weight[:, None]] * dim)
        waves = torch.meshgrid(*[k] * dim, indexing="ij")
        self.eigenvalues = sum((w.square() for w in waves), torch.zeros_like(waves[0]))
        with torch.no_grad():
            values = source(self.points)
        if values.shape != self.weight.shape:
            what = f"{list(self.points.shape)} to {list(self.weight.shape)}"
            raise ValueError(f"the source takes points {what}, not to {list(values.shape)}")
        self.source_coefficients = self.project(values)

    def values(self, c: Tensor) -> Tensor:
        """u on the grid ``points`` [intervals + 1, ...] of coefficients [n, ...]."""
        return _along(c, [self._sines] * self.dim)

    def slopes(self, c: Tensor) -> Tensor:
        """grad u on the grid, [intervals + 1, ..., dim]."""
        lines = range(self.dim)
        parts = [_along(c, [self._slopes if j == i else self._sines for j in lines]) for i in lines]
        return torch.stack(parts, -1)

    def project(self, values: Tensor) -> Tensor:
        """Coefficients [n, ...] of a function on the grid."""
        return 2.0**self.dim * _along(values * self.weight, [self._sines.T] * self.dim)

    def energy(self, c: Tensor) -> Tensor:
        """E(u), a scalar.

        Errors:
            TypeError: coefficients are complex.
            ValueError: they are not [n, ...].
        """
        if c.is_complex():
            raise TypeError("coefficients are real")
        if c.shape != (self.n,) * self.dim:
            raise ValueError(f"coefficients are {[self.n] * self.dim}, not {list(c.shape)}")
        u, source = self.values(c), self.source(self.points)
        density = self.lagrangian(self.points, u, self.slopes(c)) - source * u
        return (density * self.weight).sum()

    def euler_lagrange(self, c: Tensor) -> Tensor:
        """The coefficients of DE(u) = -div dL/dp + dL/du - f, projected to the band."""
        return self.both(c)[1]

    def both(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """The energy, and :meth:`euler_lagrange`."""
        slope, energy = torch.func.grad_and_value(self.energy)(c)
        return energy, 2.0**self.dim * slope

    def sobolev_gradient(self, c: Tensor) -> Tensor:
        """The coefficients of (I - Lap)^-1 DE(u)."""
        return self.euler_lagrange(c) / (1 + self.eigenvalues)

    def h1_norm(self, c: Tensor) -> Tensor:
        """The root of int u^2 + |grad u|^2."""
        return ((1 + self.eigenvalues) * c.square()).sum().div(2**self.dim).sqrt()

    def l2_norm(self, c: Tensor) -> Tensor:
        """The root of int u^2."""
        return c.square().sum().div(2**self.dim).sqrt()

    def __repr__(self) -> str:
        return f"EllipticVariational({self.dim}, {self.lagrangian}, n={self.n})"


def barron_norm(c: Tensor) -> Tensor:
    """sum_k |c_k| (1 + pi |k|) of coefficients [n, ...] of products of sines; differentiable.

    It is a norm; that of a product is at most the product of norms, and (I - Lap)^-1 divides it by
    1 + dim pi^2 at least.
    """
    k = [torch.arange(1, n + 1, dtype=c.dtype, device=c.device) for n in c.shape]
    square = sum(w.square() for w in torch.meshgrid(*k, indexing="ij"))
    return (c.abs() * (1 + math.pi * torch.as_tensor(square).sqrt())).sum()


def _along(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """x with matrix i [out, in] applied along dimension i."""
    for i, matrix in enumerate(matrices):
        x = torch.tensordot(x, matrix, ([i], [1])).movedim(-1, i)
    return x
