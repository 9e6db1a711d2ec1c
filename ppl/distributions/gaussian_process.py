"""Gaussian processes at points: the law of a function's values there."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..errors import NumericalError, located
from ..tensors.hidden import is_known


def rbf(
    x: Tensor, y: Tensor, lengthscale: Tensor | float = 1.0, variance: Tensor | float = 1.0
) -> Tensor:
    """variance exp(-|x_i - y_j|^2 / (2 lengthscale^2)) [..., n, m] of points [n, D] and [m, D].

    Args:
        lengthscale, variance: numbers, or [...] of as many kernels.
    """
    apart = (x[:, None] - y).square().sum(-1)
    length, scale = (torch.as_tensor(each, dtype=x.dtype) for each in (lengthscale, variance))
    return scale[..., None, None] * (-apart / (2 * length[..., None, None].square())).exp()


def process_law(covariance: Tensor, jitter: float = 1e-6, dtype: torch.dtype | None = None) -> Any:
    """The normal law [..., n] of mean zero of a function's values, by their covariance [..., n, n].

    Its factor is computed in float64, with ``jitter`` times the mean variance on the diagonal.

    Args:
        dtype: of the law; that of the covariance unless given.

    Errors:
        NumericalError: the covariance is not positive semi-definite; it names the smallest
            eigenvalue.  Within lanes, values are NaN in its place.
    """
    whole = covariance.double()
    scale = whole.diagonal(dim1=-2, dim2=-1).mean(-1)
    noise = jitter * scale[..., None, None] * torch.eye(whole.shape[-1]).to(whole)
    factor, failed = torch.linalg.cholesky_ex(whole + noise)
    if is_known(factor) and (bool((failed > 0).any()) or math.isnan(float(scale.sum()))):
        least = float(torch.linalg.eigvalsh(whole.nan_to_num()).min())
        what = f"a covariance is not positive semi-definite: its smallest eigenvalue is {least:.3g}"
        raise NumericalError(located(what, hint="check the kernel, or take more jitter"))
    factor = factor.to(covariance.dtype if dtype is None else dtype)
    return dist.MultivariateNormal(factor.new_zeros(factor.shape[-1]), scale_tril=factor)
