"""Gaussian processes at points: the law of observations, latent values, and both given data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import deterministic, observe, sample
from ...ppl.distributions.gaussian_process import covariance_factor, process_law
from .given import Given, jitter_of, require_values, with_noise
from .kernel import Kernel, Number, require_points
from .means import zero


@dataclass(frozen=True, eq=False)
class Process:
    """A random function with f(x) of mean ``mean(x)``, and covariances ``kernel(x, y)``.

    Its parameters may be sampled values.  Points are [n, D].  Noise is a deviation: a number,
    [..., 1] or [..., n].  ``jitter`` is what is added to the diagonal of the covariance, in units
    of its mean; unless told it is none beside noise, and 1e-6 without noise.

    Args:
        mean: a function of points [n, D] to [..., n].

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapter 2.

    Errors:
        DataError: points or noise have another shape.
        ProgramError: noise is not positive.
        NumericalError: the covariance is not positive definite; it names the smallest eigenvalue.
    """

    kernel: Kernel
    mean: Callable[[Tensor], Tensor] = zero

    def law(self, x: Tensor, noise: Number | None = None, jitter: float | None = None) -> Any:
        """The normal law [..., n] of observations with noise at x, or of the values themselves."""
        covariance = with_noise(self.kernel(x), noise)
        return process_law(covariance, jitter_of(noise, jitter), mean=self.mean(x))

    def observed(
        self, name: str, x: Tensor, y: Tensor, noise: Number, jitter: float | None = None
    ) -> None:
        """Observe y [n] at x with normal noise, the function integrated out, as site ``name``."""
        observe(name, self.law(x, noise, jitter), y)

    def values(self, name: str, x: Tensor, jitter: float | None = None) -> Tensor:
        """Sample the values [n] at x, for any likelihood, from independent normals.

        Sites are ``name/white`` [n] and the derived ``name``.
        """
        factor = covariance_factor(self.kernel(x), jitter_of(None, jitter)).to(x.dtype)
        white = sample(f"{name}/white", standard(factor[..., 0]))
        return deterministic(name, self.mean(x) + (factor @ white[..., None])[..., 0])

    def given(
        self, x: Tensor, y: Tensor, noise: Number | None = None, jitter: float | None = None
    ) -> Given:
        """The process given observations y [..., n] at x, or given the values themselves there."""
        return self.exactly(x, y, noise, jitter)

    def exactly(
        self, x: Tensor, y: Tensor, noise: Number | None = None, jitter: float | None = None
    ) -> Exact:
        """The normal process of that kernel and mean, given data."""
        require_values(x, y)
        covariance = with_noise(self.kernel(x), noise)
        factor = covariance_factor(covariance, jitter_of(noise, jitter))
        white = solved(factor, (y - self.mean(x)).double()[..., None])[..., 0]
        return Exact(self, x, factor, white)


@dataclass(frozen=True, eq=False)
class Exact(Given):
    """A process given data.

    Args:
        x: [n, D], where it was seen.
        factor: L [..., n, n] of the covariance of what was seen.
        white: L^-1 (y - mean) [..., n].
    """

    process: Process
    x: Tensor
    factor: Tensor
    white: Tensor

    def mean(self, new: Tensor) -> Tensor:
        change = (self._across(new).mT @ self.white[..., None])[..., 0]
        return self.process.mean(new) + change.to(new.dtype)

    def covariance(self, new: Tensor) -> Tensor:
        across = self._across(new)
        return self.process.kernel(new) - (across.mT @ across).to(new.dtype)

    def variance(self, new: Tensor) -> Tensor:
        told = self._across(new).square().sum(-2)
        return (self.prior(new) - told.to(new.dtype)).clamp(min=0)

    def prior(self, new: Tensor) -> Tensor:
        return self.process.kernel.diagonal(new)

    def _across(self, new: Tensor) -> Tensor:
        """L^-1 k(x, new) [..., n, p], float64."""
        require_points(new)
        return solved(self.factor, self.process.kernel(self.x, new).double())


def standard(like: Tensor) -> Any:
    """Independent standard normals of that shape, as one event."""
    return dist.Normal(torch.zeros_like(like), 1.0).to_event(like.ndim)


def solved(factor: Tensor, right: Tensor) -> Tensor:
    """L^-1 right [..., n, p], of a lower triangle L [..., n, n]."""
    solution: Tensor = torch.linalg.solve_triangular(factor, right, upper=False)
    return solution
