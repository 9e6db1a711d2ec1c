"""Matern kernels as linear stochastic differential equations, with exact steps of any length.

A function f whose kernel has smoothness p - 1/2 is the first of p states: dz = F z dt + L dB,
where F has the one eigenvalue -a, a = sqrt(2 p - 1) / lengthscale.  So F + a is nilpotent, exp(F d)
is exp(-a d) times a polynomial, and the noise of a step is a sum of incomplete gamma functions: no
difference of nearly equal matrices is taken, and a step of 1e-7 is as exact as one of 1.

Source: Hartikainen, Sarkka, Kalman filtering and smoothing solutions to temporal Gaussian process
regression models (MLSP 2010); the noise in closed form is worked out here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import DataError, ProgramError, located
from ..tensors.hidden import is_known
from .law import GaussianMarkov

KERNELS = {"matern12": 1, "matern32": 2, "matern52": 3}
"""The order of a kernel by its name."""


@dataclass(frozen=True)
class Matern:
    """The kernel of smoothness ``order`` - 1/2, of one function or of a batch of them.

    Args:
        order: the number p of states: 1, 2, 3, ... for Matern 1/2, 3/2, 5/2, ...
        lengthscale: [...], in units of time.
        variance: [...], of the function.

    Errors:
        ProgramError: one of them is not positive.
    """

    order: int
    lengthscale: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ProgramError(located(f"a Matern kernel has at least one state, not {self.order}"))
        for name in ("lengthscale", "variance"):
            value = getattr(self, name)
            if is_known(value) and not bool(((value > 0) & value.isfinite()).all()):
                what = (
                    f"the {name} of a kernel is positive and finite, which {value.tolist()} is not"
                )
                raise ProgramError(located(what))

    @classmethod
    def named(
        cls, name: str, lengthscale: Tensor | float, variance: Tensor | float = 1.0
    ) -> Matern:
        """A kernel by its name; numbers become float64.

        Errors:
            ProgramError: there is no kernel of that name.
        """
        if name not in KERNELS:
            what = f"there is no kernel {name!r}"
            raise ProgramError(located(what, hint=f"kernels are {', '.join(KERNELS)}"))
        return cls(KERNELS[name], _tensor(lengthscale), _tensor(variance))

    @property
    def rate(self) -> Tensor:
        """a [...]: by which the law forgets, and the unit of its derivatives."""
        return math.sqrt(2 * self.order - 1) / self.lengthscale

    @property
    def units(self) -> Tensor:
        """[..., p]: what a state of the chain is to be multiplied with to be a derivative of f."""
        return self.rate[..., None] ** torch.arange(self.order, device=self.rate.device)

    def state_space(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F [..., p, p], L [p], Qc [...] and the stationary P [..., p, p], of f and derivatives."""
        drift, diffusion = (
            self._constant(_drift(self.order)),
            self._constant(_diffusion(self.order)),
        )
        units = self.units
        F = self.rate[..., None, None] * units[..., :, None] * drift / units[..., None, :]
        density = _density(self.order) * self.variance * self.rate ** (2 * self.order - 1)
        P = self._scaled(self._constant(_stationary(self.order))) * _outer(units)
        return F, diffusion, density, P

    def step(self, gap: Tensor) -> tuple[Tensor, Tensor]:
        """A and Q [..., p, p] of a step of length ``gap`` [...], of f and its derivatives."""
        (A, Q), units = self._step(gap), self.units
        return A * units[..., :, None] / units[..., None, :], Q * _outer(units)

    def chain(self, times: Tensor) -> GaussianMarkov:
        """The law of the states [..., T, p] at ``times`` [..., T], which do not fall.

        State i is the i-th derivative of the function over rate^i: all are of its magnitude.

        Errors:
            DataError: times fall, or are not numbers.
        """
        gaps = times.diff()
        if is_known(times) and not bool((gaps >= 0).all() & times.isfinite().all()):
            what = "times of a chain are finite and do not fall"
            raise DataError(located(what, hint="sort them"))
        batched = Matern(self.order, self.lengthscale[..., None], self.variance[..., None])
        A, Q = batched._step(gaps.to(self.rate.dtype))
        first = batched._scaled(self._constant(_stationary(self.order))).expand(
            *Q.shape[:-3], 1, -1, -1
        )
        A = torch.cat([torch.zeros_like(first), A], -3)
        return GaussianMarkov(A, A.new_zeros(A.shape[:-1]), torch.cat([first, Q], -3))

    def covariance(self, gap: Tensor) -> Tensor:
        """The kernel [...] itself, at a distance."""
        A, _ = self._step(gap.abs())
        first: Tensor = (A @ self._constant(_stationary(self.order)))[..., 0, 0]
        return self.variance * first

    def _step(self, gap: Tensor) -> tuple[Tensor, Tensor]:
        """A and Q of states in units of the rate."""
        x = self.rate * gap
        powers = x[..., None] ** torch.arange(self.order, device=x.device)
        A = torch.einsum("...k,kij->...ij", powers, self._constant(_powers(self.order)))
        return (-x).exp()[..., None, None] * A, self._scaled(self._noise(x))

    def _noise(self, x: Tensor) -> Tensor:
        """The integral of g g^T from 0 to x, where g(s) = exp(F s) L, at rate and variance one."""
        n, y = 2 * self.order - 1, 2 * x
        shares = [-torch.expm1(-y) if n == 1 else torch.special.gammainc(torch.full_like(y, n), y)]
        for k in range(n - 1, 0, -1):  # P(k, y), of P(k + 1, y): sums of positive terms
            shares.append(shares[-1] + y**k * (-y).exp() / math.factorial(k))
        parts = torch.stack(shares[::-1], -1)
        return torch.einsum("...k,kij->...ij", parts, self._constant(_moments(self.order)))

    def _scaled(self, covariance: Tensor) -> Tensor:
        return self.variance[..., None, None] * covariance

    def _constant(self, x: Tensor) -> Tensor:
        return x.to(self.rate)


def _tensor(x: Tensor | float) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)


def _outer(x: Tensor) -> Tensor:
    return x[..., :, None] * x[..., None, :]


def _drift(p: int) -> Tensor:
    """F [p, p] at rate one: f^(p) = -sum_i binom(p, i) f^(i), the root -1 being p-fold."""
    F = torch.diag(torch.ones(p - 1, dtype=torch.float64), 1)
    F[-1] = -torch.tensor([float(math.comb(p, i)) for i in range(p)], dtype=torch.float64)
    return F


def _diffusion(p: int) -> Tensor:
    """L [p]: noise comes into the last derivative."""
    return torch.eye(p, dtype=torch.float64)[-1]


def _density(p: int) -> float:
    """Qc at rate and variance one."""
    return 2 * math.sqrt(math.pi) * math.gamma(p) / math.gamma(p - 0.5)


@cache
def _powers(p: int) -> Tensor:
    """(F + 1)^k / k! [k, p, p] at rate one."""
    nilpotent = _drift(p) + torch.eye(p, dtype=torch.float64)
    return torch.stack(
        [torch.linalg.matrix_power(nilpotent, k) / math.factorial(k) for k in range(p)]
    )


@cache
def _moments(p: int) -> Tensor:
    """The stationary covariance, by powers of s: [2 p - 1, p, p], at rate and variance one.

    g(s) is exp(-s) times a polynomial, and the integral of s^k exp(-2 s) from 0 to x is
    k! / 2^(k + 1) times P(k + 1, 2 x).
    """
    g = _powers(p) @ _diffusion(p)
    found = torch.zeros(2 * p - 1, p, p, dtype=torch.float64)
    for i in range(p):
        for j in range(p):
            weight = math.factorial(i + j) / 2 ** (i + j + 1)
            found[i + j] += _density(p) * weight * torch.outer(g[i], g[j])
    return found


def _stationary(p: int) -> Tensor:
    """P [p, p] at rate and variance one."""
    return _moments(p).sum(0)
