"""Synthetic functions: means of Gaussian processes given data, and pairs of low and high inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw, program
from ...ppl.errors import NumericalError, located

JITTER = 1e-4


class Mean(NamedTuple):
    """mu(x) = sum_i coefficients_i v exp(-|x - X_i|^2 / (2 l^2)), for X [N, d]."""

    X: Tensor
    coefficients: Tensor
    lengthscale: float
    variance: float

    def __call__(self, x: Tensor) -> Tensor:
        """mu at x [n, d]."""
        return _kernel(x, self.X, self.lengthscale, self.variance) @ self.coefficients

    def slope(self, x: Tensor) -> Tensor:
        """Its gradient at x [n, d]."""
        weights = _kernel(x, self.X, self.lengthscale, self.variance).mul_(self.coefficients)
        return (weights @ self.X - weights.sum(1, keepdim=True) * x) / self.lengthscale**2


class Pairs(NamedTuple):
    """Inputs low and high [n, d], and the values [n] of a function there."""

    low: Tensor
    high: Tensor
    y_low: Tensor
    y_high: Tensor

    def at(self, rows: slice | Tensor) -> Pairs:
        """Some of them."""
        return Pairs(*(column[rows] for column in self))


def joined(rows: list[Pairs]) -> Pairs:
    """All pairs of a list."""
    return Pairs(*(torch.cat(columns) for columns in zip(*rows, strict=True)))


@program
def hyperparameters(
    lengthscale: float, variance: float, delta: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """A lengthscale and a variance, each uniform within its delta of the one given."""
    one = torch.ones((), dtype=torch.float64)
    away = draw(dist.Uniform(-one, one), (2,))
    return lengthscale + delta[0] * away[0], variance + delta[1] * away[1]


def mean_function(
    X: Tensor, y: Tensor, lengthscale: float = 1.0, variance: float = 1.0, noise: float = 0.01
) -> Mean:
    """The posterior mean of a Gaussian process with mean 0, given y [N] at X [N, d].

    Errors:
        ValueError: lengths differ, or a value is not finite, or a setting is not positive.
        NumericalError: the matrix is not positive definite, with 1e-4 more on its diagonal either.
    """
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X is [N, d] and y [N]; shapes are {list(X.shape)} and {list(y.shape)}")
    if not bool(X.isfinite().all() and y.isfinite().all()):
        raise ValueError("X and y must be finite: leave out rows with NaN")
    if min(lengthscale, variance, noise) <= 0:
        raise ValueError("lengthscale, variance and noise are positive")
    K = _kernel(X, X, lengthscale, variance)
    K.diagonal().add_(noise)
    root, failed = torch.linalg.cholesky_ex(K)
    if failed:
        K.diagonal().add_(JITTER)
        root, failed = torch.linalg.cholesky_ex(K)
    if failed:
        what = f"the kernel matrix of {len(X)} points is not positive definite"
        raise NumericalError(located(what, hint="take more noise, or leave out equal points"))
    return Mean(X, torch.cholesky_solve(y[:, None], root)[:, 0], lengthscale, variance)


def pairs(
    mean: Mean, start: Tensor, steps: int = 100, rate: float = 0.001, threshold: float = 0.001
) -> Pairs:
    """Where steps down and up the function end, from start [n, d], that differ enough.

    Errors:
        RuntimeError: no pair differs by more than the threshold.
    """
    ends = torch.cat([start, start])
    way = rate * torch.ones_like(ends[:, :1])
    way[: len(start)] *= -1
    for _ in range(steps):
        ends = ends + way * mean.slope(ends)
    values = mean(ends)
    low, high = ends.split(len(start))
    y_low, y_high = values.split(len(start))
    kept = y_high - y_low > threshold
    if not bool(kept.any()):
        raise RuntimeError(f"no pair differs by more than {threshold}: take a larger rate, or more")
    return Pairs(low, high, y_low, y_high).at(kept)


def _kernel(x: Tensor, X: Tensor, lengthscale: float, variance: float) -> Tensor:
    """[n, N]; distances are from the first point of X, so that digits stay where all are far."""
    a, b = ((v - X[0]) / lengthscale for v in (x, X))
    halves = (a.square().sum(1, keepdim=True) + b.square().sum(1)) / 2
    return torch.addmm(halves, a, b.mT, beta=-1).clamp_(max=0).exp_().mul_(variance)
