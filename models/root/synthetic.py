"""Synthetic functions: means of Gaussian processes given data, and pairs of low and high inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
        weights = _kernel(x, self.X, self.lengthscale, self.variance) * self.coefficients
        return (weights @ self.X - weights.sum(1, keepdim=True) * x) / self.lengthscale**2


def mean_function(
    X: Tensor, y: Tensor, lengthscale: float = 1.0, variance: float = 1.0, noise: float = 0.01
) -> Mean:
    """The posterior mean of a Gaussian process with mean 0, given y [N] at X [N, d].

    Errors:
        ValueError: lengths differ, or a value is not finite, or a setting is not positive.
    """
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X is [N, d] and y [N]; shapes are {list(X.shape)} and {list(y.shape)}")
    if not bool(X.isfinite().all() and y.isfinite().all()):
        raise ValueError("X and y must be finite: leave out rows with NaN")
    if min(lengthscale, variance, noise) <= 0:
        raise ValueError("lengthscale, variance and noise are positive")
    K = _kernel(X, X, lengthscale, variance) + noise * torch.eye(len(X)).to(X)
    coefficients = torch.cholesky_solve(y[:, None], torch.linalg.cholesky(K))[:, 0]
    return Mean(X, coefficients, lengthscale, variance)


def pairs(
    mean: Mean, start: Tensor, steps: int = 100, rate: float = 0.001, threshold: float = 0.001
) -> tuple[Tensor, Tensor]:
    """Inputs (low, high) [n, d]: where steps down and up the function end that differ enough.

    Errors:
        RuntimeError: no pair differs by more than the threshold.
    """
    low, high = start, start
    for _ in range(steps):
        low, high = low - rate * mean.slope(low), high + rate * mean.slope(high)
    kept = mean(high) - mean(low) > threshold
    if not bool(kept.any()):
        raise RuntimeError(f"no pair differs by more than {threshold}: take a larger rate, or more")
    return low[kept], high[kept]


def _kernel(x: Tensor, X: Tensor, lengthscale: float, variance: float) -> Tensor:
    return variance * (-torch.cdist(x, X).square() / (2 * lengthscale**2)).exp()
