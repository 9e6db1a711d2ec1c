"""A function given what was seen of it: its mean, covariance and law at new points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.gaussian_process import process_law
from ...ppl.distributions.laws.parameters import refuted
from ...ppl.errors import DataError, ProgramError, located
from .kernel import Number, parameter, require_points

JITTER = 1e-6
"""What is added to the diagonal where there is no noise, in units of the mean prior variance."""


class Given(ABC):
    """The posterior of a function: a process again.

    Means and variances cost less than covariances: ask for no more than is needed where there are
    many points or a batch of parameters.

    Errors:
        DataError: points are not [p, D], or noise is neither one number nor one for each point.
    """

    @abstractmethod
    def mean(self, new: Tensor) -> Tensor:
        """[..., p], at points [p, D]."""

    @abstractmethod
    def covariance(self, new: Tensor) -> Tensor:
        """[..., p, p], of the function; add the noise where that of observations is meant."""

    @abstractmethod
    def variance(self, new: Tensor) -> Tensor:
        """[..., p], of the function; nothing is below zero by rounding."""

    @abstractmethod
    def prior(self, new: Tensor) -> Tensor:
        """[..., p]: the variances before the data."""

    def law(self, new: Tensor, noise: Number | None = None, jitter: float | None = None) -> Any:
        """The law [..., p] of the function's values at new points, or of observations there.

        Args:
            noise: the deviation of observations, [..., 1] or [..., p]; None is the function itself.
            jitter: on the diagonal, in units of the mean prior variance.  None is none with noise,
                and 1e-6 without: the covariance of a smooth function has eigenvalues of nearly 0.

        Errors:
            NumericalError: the covariance has no factor; take more jitter.
        """
        covariance = with_noise(self.covariance(new), noise)
        added, scale = jitter_of(noise, jitter), self.prior(new).mean(-1)
        return process_law(covariance, added, mean=self.mean(new), scale=scale)


def jitter_of(noise: Number | None, jitter: float | None) -> float:
    """What is told, or nothing beside noise and ``JITTER`` without."""
    if jitter is not None and not jitter >= 0:
        raise ProgramError(located(f"jitter is not negative, which {jitter} is"))
    return jitter if jitter is not None else 0.0 if noise is not None else JITTER


def variances(noise: Number | None, like: Tensor) -> Tensor:
    """The squared noise [..., 1] or [..., n] for values ``like`` [..., n].

    Errors:
        ProgramError: it is not positive.
        DataError: it is neither [..., 1] nor [..., n].
    """
    if noise is None:
        return like.new_zeros(1)
    deviation = parameter(noise, like)
    deviation = deviation[None] if deviation.ndim == 0 else deviation
    if deviation.shape[-1] not in (1, like.shape[-1]):
        what = f"noise of shape {list(deviation.shape)} is not for {like.shape[-1]} points"
        hint = "the last axis is of points; write [..., None] for one of each of a batch"
        raise DataError(located(what, hint=hint))
    if refuted((deviation > 0) & deviation.isfinite()):
        what = "noise is a deviation, positive and finite"
        raise ProgramError(located(f"{what}: {deviation.tolist()}", hint="None is no noise"))
    return deviation.square()


def with_noise(covariance: Tensor, noise: Number | None) -> Tensor:
    """The covariance [..., n, n] of values seen with noise."""
    if noise is None:
        return covariance
    added = variances(noise, covariance[..., 0])
    return covariance + added[..., None] * torch.eye(covariance.shape[-1]).to(covariance)


def require_values(x: Tensor, y: Tensor) -> None:
    """Refuse values that are not [..., n] for points [n, D].

    Errors:
        DataError: they are not, or are NaN.
    """
    require_points(x)
    if y.ndim < 1 or y.shape[-1] != x.shape[-2]:
        what = f"values at {x.shape[-2]} points are [..., {x.shape[-2]}], not {list(y.shape)}"
        raise DataError(located(what))
    if refuted(~y.isnan()):
        raise DataError(located("values that were seen are NaN", hint="leave those points out"))
