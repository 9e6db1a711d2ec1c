"""Processes of a few features: f(x) = mean(x) + W(x) u, with u independent standard normals.

Laws of n observations cost n m^2, where m is the number of features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import observe
from ...ppl.distributions.gaussian_process import covariance_factor
from .given import Given, require_values, variances
from .kernel import Number, require_points
from .process import Process, solved


@dataclass(frozen=True, eq=False)
class LowRank(ABC):
    """An approximation of a process by features."""

    process: Process

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """W [..., n, m] at points [n, D]: W W' stands for the covariance."""

    @abstractmethod
    def left(self, x: Tensor) -> Tensor:
        """What the features leave of the covariance in a prediction, [..., n, n]."""

    def unexplained(self, x: Tensor, features: Tensor) -> Tensor:
        """The diagonal of ``left(x)`` [..., n], given the features at x."""
        return torch.zeros_like(features[..., 0])

    def own(self, x: Tensor, features: Tensor) -> Tensor:
        """Of what the features leave, the variance [..., n] that an observation has for itself."""
        return torch.zeros_like(features[..., 0])

    def law(self, x: Tensor, noise: Number) -> Any:
        """The normal law [..., n] of observations at x: of covariance W W' + own + noise^2."""
        require_points(x)
        W, mean = self.features(x), self.process.mean(x)
        diagonal = self.own(x, W) + variances(noise, W[..., 0])
        batch = torch.broadcast_shapes(mean.shape[:-1], W.shape[:-2], diagonal.shape[:-1])
        loc, W = mean.expand(*batch, W.shape[-2]), W.expand(*batch, *W.shape[-2:])
        return dist.LowRankMultivariateNormal(loc, W, diagonal.expand(loc.shape))

    def observed(self, name: str, x: Tensor, y: Tensor, noise: Number) -> None:
        """Observe y [n] at x with normal noise, the function integrated out, as site ``name``."""
        observe(name, self.law(x, noise), y)

    def given(self, x: Tensor, y: Tensor, noise: Number) -> Given:
        """The process given observations y [..., n] with noise at x."""
        require_values(x, y)
        W = self.features(x).double()
        weight = 1 / (self.own(x, W) + variances(noise, W[..., 0]))
        eye = torch.eye(W.shape[-1]).to(W)
        factor = covariance_factor(eye + W.mT @ (weight[..., None] * W))
        residual = (y - self.process.mean(x)).double()
        white = solved(factor, W.mT @ (weight * residual)[..., None])[..., 0]
        return ByFeatures(self, factor, white)


@dataclass(frozen=True, eq=False)
class ByFeatures(Given):
    """A process of features given data.

    Args:
        factor: L [..., m, m] of the posterior precision of u.
        white: L^-1 W' (noise)^-1 (y - mean) [..., m].
    """

    approximation: LowRank
    factor: Tensor
    white: Tensor

    def mean(self, new: Tensor) -> Tensor:
        change = (self._across(new).mT @ self.white[..., None])[..., 0]
        return self.approximation.process.mean(new) + change.to(new.dtype)

    def covariance(self, new: Tensor) -> Tensor:
        across = self._across(new)
        return self.approximation.left(new) + (across.mT @ across).to(new.dtype)

    def variance(self, new: Tensor) -> Tensor:
        told = self._across(new).square().sum(-2).to(new.dtype)
        return told + self.approximation.unexplained(new, self.approximation.features(new))

    def prior(self, new: Tensor) -> Tensor:
        return self.approximation.process.kernel.diagonal(new)

    def _across(self, new: Tensor) -> Tensor:
        """L^-1 W(new)' [..., m, p], float64."""
        require_points(new)
        return solved(self.factor, self.approximation.features(new).mT.double())
