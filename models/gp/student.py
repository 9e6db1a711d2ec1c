"""Student-t processes: functions with tails, whose uncertainty heeds how large the data were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import deterministic, sample
from ...ppl.distributions.gaussian_process import covariance_factor
from .given import Given, jitter_of, with_noise
from .kernel import Number, parameter, require_positive
from .process import Exact, Process, standard


@dataclass(frozen=True, eq=False)
class StudentProcess(Process):
    """A random function whose values at points have a multivariate Student law.

    ``kernel`` is its scale matrix: covariances are that times df / (df - 2), where df > 2.  Noise
    is added to the scale matrix, and so has the same tails, and is not independent.

    Args:
        df: [...], degrees of freedom.

    Source: Shah, Wilson, Ghahramani (arXiv 1402.4306), with the scale in place of the covariance.

    Errors:
        ProgramError: ``df`` is not positive.
    """

    df: Number = 3.0

    def __post_init__(self) -> None:
        require_positive(self, "df")

    def law(self, x: Tensor, noise: Number | None = None, jitter: float | None = None) -> Any:
        """The Student law [..., n] of observations with noise at x, or of the values themselves."""
        factor = covariance_factor(with_noise(self.kernel(x), noise), jitter_of(noise, jitter))
        return dist.MultivariateStudentT(parameter(self.df, x), self.mean(x), factor.to(x.dtype))

    def values(self, name: str, x: Tensor, jitter: float | None = None) -> Tensor:
        """Sample the values [n] at x, for any likelihood.

        Sites are ``name/white`` [n], ``name/precision`` (common to all points) and the derived
        ``name``.
        """
        factor = covariance_factor(self.kernel(x), jitter_of(None, jitter)).to(x.dtype)
        white = sample(f"{name}/white", standard(factor[..., 0]))
        half = parameter(self.df, x) / 2
        precision = sample(f"{name}/precision", dist.Gamma(half, half))
        normal = (factor @ white[..., None])[..., 0]
        return deterministic(name, self.mean(x) + normal / precision.sqrt()[..., None])

    def given(
        self, x: Tensor, y: Tensor, noise: Number | None = None, jitter: float | None = None
    ) -> StudentGiven:
        """The process given observations y [..., n] at x: df + n degrees of freedom."""
        return StudentGiven(self.exactly(x, y, noise, jitter), parameter(self.df, x))


@dataclass(frozen=True, eq=False)
class StudentGiven(Given):
    """A Student-t process given data: a normal one's moments, and a factor for the scale.

    Args:
        normal: the normal process with the same kernel, given the same data.
        before: [...], the degrees of freedom without data.
    """

    normal: Exact
    before: Tensor

    @property
    def df(self) -> Tensor:
        """[...]: degrees of freedom."""
        return self.before + self.normal.white.shape[-1]

    @property
    def factor(self) -> Tensor:
        """[...]: by which the scale is larger than a normal process has it."""
        square = self.normal.white.square().sum(-1).to(self.before.dtype)
        return (self.before + square) / self.df

    def mean(self, new: Tensor) -> Tensor:
        return self.normal.mean(new)

    def covariance(self, new: Tensor) -> Tensor:
        """[..., p, p]; infinite with two degrees of freedom or fewer."""
        return self._spread[..., None, None] * self.normal.covariance(new)

    def variance(self, new: Tensor) -> Tensor:
        return self._spread[..., None] * self.normal.variance(new)

    def prior(self, new: Tensor) -> Tensor:
        return self.normal.prior(new)

    @property
    def _spread(self) -> Tensor:
        """[...]: the covariance over that of the normal process."""
        return self.factor * torch.where(self.df > 2, self.df / (self.df - 2), torch.inf)

    def law(self, new: Tensor, noise: Number | None = None, jitter: float | None = None) -> Any:
        mean, covariance = self.mean(new), with_noise(self.normal.covariance(new), noise)
        scale = self.prior(new).mean(-1)
        root = covariance_factor(covariance, jitter_of(noise, jitter), scale).to(mean.dtype)
        scale_tril = self.factor.sqrt()[..., None, None] * root
        return dist.MultivariateStudentT(self.df, mean, scale_tril)
