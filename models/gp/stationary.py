"""Kernels that depend on the distance of points alone, each of variance one.

``lengthscale`` is a number [...] or has one entry for each coordinate, [..., D] (automatic
relevance): a tensor of one dimension is that.  A batch of kernels has it [..., 1] or [..., D].

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapter 4.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ppl.distributions.gaussian_process import rbf, squared_distances
from ...ppl.errors import DataError, located
from .kernel import Kernel, Number, parameter, require_positive, wide


@dataclass(frozen=True, eq=False)
class _Stationary(Kernel):
    """Of variance one, by the distance in lengthscales.

    Errors:
        ProgramError: a lengthscale is not positive.
        DataError: there are other numbers of lengthscales and of coordinates.
    """

    lengthscale: Number = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "lengthscale")

    def diagonal(self, x: Tensor) -> Tensor:
        batch = parameter(self.lengthscale, x).shape[:-1]
        return x.new_ones(*batch, x.shape[-2])

    def _lengths(self, x: Tensor) -> Tensor:
        """[..., D] or [..., 1]."""
        lengths = parameter(self.lengthscale, x)
        lengths = lengths[None] if lengths.ndim == 0 else lengths
        if lengths.shape[-1] not in (1, x.shape[-1]):
            have = f"{list(lengths.shape)} for points of {x.shape[-1]} coordinates"
            hint = "the last axis is of coordinates; write [..., None] for a batch of kernels"
            raise DataError(located(f"lengthscales are {have}", hint=hint))
        return lengths

    def _units(self, *points: Tensor) -> tuple[Tensor, ...]:
        """Points [..., n, D] in lengthscales."""
        return tuple(x / self._lengths(x)[..., None, :] for x in points)


@dataclass(frozen=True, eq=False)
class SquaredExponential(_Stationary):
    """k(x, y) = exp(-r^2 / 2), r the distance in lengthscales: ``rbf`` of variance one."""

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return rbf(*self._units(x, y))

    def log_spectral_density(self, rates: Tensor) -> Tensor:
        """That of (2 pi)^(D / 2) prod l exp(-|l w|^2 / 2)."""
        squares, log_volume = _spectral(self._lengths(rates), rates)
        return rates.shape[-1] / 2 * math.log(2 * math.pi) + log_volume - squares / 2


class _Matern(_Stationary):
    """The kernel of smoothness ``order`` - 1/2: a polynomial of a r times exp(-a r).

    In one coordinate ``ppl.markov.Matern`` is the same as a state space, linear in time.
    """

    order: int

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self._units(x, y)
        squares = squared_distances(x, y)
        apart = squares > 0  # the root has no derivative at zero, but the kernel does
        distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
        scaled = math.sqrt(2 * self.order - 1) * distance
        return self._polynomial(scaled) * (-scaled).exp()

    @abstractmethod
    def _polynomial(self, r: Tensor) -> Tensor:
        """By what exp(-r) is multiplied."""

    def log_spectral_density(self, rates: Tensor) -> Tensor:
        """That of c prod l (2 nu + |l w|^2)^-(nu + D / 2), nu = order - 1/2."""
        squares, log_volume = _spectral(self._lengths(rates), rates)
        nu, half = self.order - 0.5, rates.shape[-1] / 2
        log_c = 2 * half * math.log(2) + half * math.log(math.pi) + nu * math.log(2 * nu)
        log_c += math.lgamma(nu + half) - math.lgamma(nu)
        return log_c + log_volume - (nu + half) * (2 * nu + squares).log()


class Matern12(_Matern):
    """k(x, y) = exp(-r), r the distance in lengthscales: continuous, and nowhere smooth."""

    order = 1

    def _polynomial(self, r: Tensor) -> Tensor:
        return torch.ones_like(r)


class Matern32(_Matern):
    """k(x, y) = (1 + sqrt(3) r) exp(-sqrt(3) r), r the distance in lengthscales."""

    order = 2

    def _polynomial(self, r: Tensor) -> Tensor:
        return 1 + r


class Matern52(_Matern):
    """k(x, y) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r), r the distance in lengthscales."""

    order = 3

    def _polynomial(self, r: Tensor) -> Tensor:
        return 1 + r + r.square() / 3


@dataclass(frozen=True, eq=False)
class RationalQuadratic(_Stationary):
    """k(x, y) = (1 + r^2 / (2 mixing))^-mixing, r the distance in lengthscales.

    Args:
        mixing: [...]; the larger, the nearer to the squared exponential.
    """

    mixing: Number = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "lengthscale", "mixing")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        a = wide(self.mixing, x)
        x, y = self._units(x, y)
        squares = squared_distances(x, y)
        return (-a * torch.log1p(squares / (2 * a))).exp()


@dataclass(frozen=True, eq=False)
class Periodic(_Stationary):
    """k(x, y) = exp(-2 sum over coordinates of sin^2(pi (x - y) / period) / lengthscale^2).

    Args:
        period: [...], in units of the coordinates.

    Source: MacKay (1998).  Stan and scikit-learn have this form; PyMC has 1/2 in place of 2.
    """

    period: Number = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "lengthscale", "period")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        turns = (x[..., :, None, :] - y[..., None, :, :]) / wide(self.period, x)[..., None]
        sines = (math.pi * turns).sin() / self._lengths(x)[..., None, None, :]
        return (-2 * sines.square().sum(-1)).exp()


def _spectral(lengths: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """|l w|^2 [..., m] and the sum of log l over the coordinates [..., 1]."""
    squares = (lengths[..., None, :] * rates).square().sum(-1)
    each = lengths.log().expand(*lengths.shape[:-1], rates.shape[-1])
    return squares, each.sum(-1, keepdim=True)
