"""Gaussian processes at points: the law of a function's values there."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..errors import NumericalError, located
from ..tensors.hidden import is_known

FEW = 16  # coordinates that are taken one by one: a sum over a short last axis is slow


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 [..., n, m] of points [..., n, D] and [..., m, D], by their differences."""
    if 0 < x.shape[-1] <= FEW:
        pairs = zip(x.unbind(-1), y.unbind(-1), strict=True)
        parts = [(a[..., :, None] - b[..., None, :]).square() for a, b in pairs]
        return sum(parts[1:], parts[0])
    return (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)


def rbf(
    x: Tensor, y: Tensor, lengthscale: Tensor | float = 1.0, variance: Tensor | float = 1.0
) -> Tensor:
    """variance exp(-|x_i - y_j|^2 / (2 lengthscale^2)) [..., n, m] of points [n, D] and [m, D].

    ``models.gp`` has it as ``variance * SquaredExponential(lengthscale)``, which can be added and
    multiplied, beside other kernels.

    Args:
        x, y: [..., n, D] and [..., m, D].
        lengthscale, variance: numbers, or [...] of as many kernels.
    """
    apart = squared_distances(x, y)
    length, scale = (torch.as_tensor(each, dtype=x.dtype) for each in (lengthscale, variance))
    found: Tensor = scale[..., None, None] * (-apart / (2 * length[..., None, None].square())).exp()
    return found


def covariance_factor(
    covariance: Tensor, jitter: float = 0.0, scale: Tensor | None = None
) -> Tensor:
    """The lower triangle L [..., n, n] with L L' = covariance + jitter scale I, in float64.

    Args:
        covariance: [..., n, n].
        jitter: what is added to the diagonal, in units of ``scale``.
        scale: [...]; the mean variance unless given.

    Errors:
        NumericalError: the covariance is not positive semi-definite; it names the smallest
            eigenvalue.  Within lanes and densities, values are NaN in its place.
    """
    whole = covariance.double()
    if jitter:
        scale = whole.diagonal(dim1=-2, dim2=-1).mean(-1) if scale is None else scale.double()
        whole = whole + jitter * scale[..., None, None] * torch.eye(whole.shape[-1]).to(whole)
    try:
        factor: Tensor = torch.linalg.cholesky(whole)  # NaN in place of an error in a density
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        if is_known(whole):
            raise NumericalError(_not_a_covariance(covariance)) from error
        factor, failed = torch.linalg.cholesky_ex(whole)
        factor = torch.where((failed > 0)[..., None, None], math.nan, factor)
    return factor


def _not_a_covariance(covariance: Tensor) -> str:
    least = float(torch.linalg.eigvalsh(covariance.double().nan_to_num()).min())
    what = f"a covariance is not positive semi-definite: its smallest eigenvalue is {least:.3g}"
    return located(what, hint="check the kernel, or take more jitter")


def process_law(
    covariance: Tensor,
    jitter: float = 1e-6,
    dtype: torch.dtype | None = None,
    mean: Tensor | None = None,
    scale: Tensor | None = None,
) -> Any:
    """The normal law [..., n] of a function's values, by their covariance [..., n, n].

    Its factor is computed in float64, with ``jitter`` times the mean variance on the diagonal.

    Args:
        dtype: of the law; that of the covariance unless given.
        mean: [..., n]; zero unless given.
        scale: [...]: of the jitter, in place of the mean variance.

    Errors:
        NumericalError: the covariance is not positive semi-definite; it names the smallest
            eigenvalue.  Within lanes, values are NaN in its place.
    """
    factor = covariance_factor(covariance, jitter, scale)
    factor = factor.to(covariance.dtype if dtype is None else dtype)
    loc = factor.new_zeros(factor.shape[-1]) if mean is None else mean.to(factor.dtype)
    return dist.MultivariateNormal(loc, scale_tril=factor)
