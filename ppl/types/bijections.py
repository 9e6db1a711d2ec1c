"""Smooth bijections from unconstrained reals to supports, with their Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix

from ..errors import BranchError, UnsupportedDistributionError, located
from .half_open import PartlyBounded
from .points_of_mass import WithPoints
from .zero_sum import ZeroSumVector, zero_sum


class LowerCholeskyVector(Transform):
    """Vectors [k (k + 1) / 2] to lower triangular matrices [k, k] with a positive diagonal."""

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __init__(self, diagonal: Transform) -> None:
        super().__init__()
        self.diagonal = diagonal

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        diagonal: Tensor = self.diagonal(_diagonal(matrix))
        return matrix.tril(-1) + diagonal.diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        matrix = y.tril(-1) + self.diagonal.inv(_diagonal(y)).diag_embed()
        return tril_matrix_to_vec(matrix)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        free = _diagonal(vec_to_tril_matrix(x))
        return log_abs_det(self.diagonal, free, _diagonal(y)).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        k = (math.isqrt(8 * shape[-1] + 1) - 1) // 2
        return torch.Size((*shape[:-1], k, k))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


class UnitLowerCholeskyVector(T.CorrCholeskyTransform):
    """Vectors [k (k - 1) / 2] to lower triangular matrices [k, k] with a diagonal of ones."""

    codomain: Constraint = constraints.unit_lower_cholesky  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x, diag=-1)
        return matrix + torch.eye(matrix.shape[-1], dtype=x.dtype, device=x.device)

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y, diag=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: object = None) -> Tensor:
        return torch.zeros_like(x).sum(-1)


class CorrCholeskyVector(T.CorrCholeskyTransform):
    """Vectors [k (k - 1) / 2] to Cholesky factors [k, k] of correlation matrices.

    The log determinant is taken from ``x``: torch takes it from ``1 - cumsum(y * y)``, which rounds
    to zero or below near strong correlations and then is -inf or NaN.
    """

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: object = None) -> Tensor:
        # y[i, j] = z[i, j] prod_{m < j} sqrt(1 - z[i, m]^2) with z = tanh(x), so log(1 - z[i, m]^2)
        # counts once for z itself and half for each later y[i, j], j = m + 1 .. i - 1.
        weights = [1 + (i - 1 - m) / 2 for i in range(y.shape[-1]) for m in range(i)]
        log_sech_squared = 2 * (math.log(2.0) - x - torch.nn.functional.softplus(-2 * x))
        return (log_sech_squared * x.new_tensor(weights)).sum(-1)


class PlaneToCircle(Transform):
    """Points [..., 2] of the plane to their directions, angles from -pi to pi.

    An interval has a cut that paths cannot cross; directions have none.  It is no bijection: the
    distance r from the origin is one coordinate more, independent of the angle and with the proper
    law r^2 ~ Gamma(A, A).  If an angle has density p and r density q, the point has the density
    p q(r) / r, and what ``log_abs_det_jacobian`` gives is log(q(r) / r).  This is smooth, and zero
    at the origin, where angles are not.  The inverse of an angle is its point at distance 1.
    """

    domain = constraints.real_vector
    codomain = constraints.interval(-math.pi, math.pi)  # type: ignore[no-untyped-call]
    A = 4.0

    def _call(self, x: Tensor) -> Tensor:
        return torch.atan2(x[..., 1], x[..., 0])

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.stack((y.cos(), y.sin()), -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        square = x.square().sum(-1)
        constant = math.log(2.0) + self.A * math.log(self.A) - math.lgamma(self.A)
        return (self.A - 1) * square.log() - self.A * square + constant

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size(shape[:-1])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape, 2))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def log_abs_det(transform: Transform, x: Tensor, y: Tensor) -> Tensor:
    return cast(Tensor, transform.log_abs_det_jacobian(x, y))  # type: ignore[no-untyped-call]


def _corr_matrix() -> Transform:
    return T.ComposeTransform([CorrCholeskyVector(), T.CorrMatrixCholeskyTransform().inv])


def _positive_definite() -> Transform:
    return T.ComposeTransform([LowerCholeskyVector(T.ExpTransform()), T.CholeskyTransform().inv])


# Where torch and Pyro have no bijection, or one that loses accuracy.
_OWN: dict[type[Constraint], Callable[[], Transform]] = {
    type(constraints.corr_cholesky): CorrCholeskyVector,
    type(constraints.corr_matrix): _corr_matrix,
    type(constraints.lower_cholesky): partial(LowerCholeskyVector, T.ExpTransform()),
    type(constraints.softplus_lower_cholesky): partial(LowerCholeskyVector, T.SoftplusTransform()),
    type(constraints.unit_lower_cholesky): UnitLowerCholeskyVector,
    type(constraints.positive_definite): _positive_definite,
    type(constraints.positive_semidefinite): _positive_definite,
    type(zero_sum): ZeroSumVector,
}


def bound_values(bound: Any) -> list[float] | None:
    """The entries of a bound of a support; ``None`` if it depends on a random value."""
    if not isinstance(bound, Tensor):
        return [bound]
    try:
        return list(bound.detach().flatten().tolist())
    except (BranchError, RuntimeError):  # abstract, meta, fake and vmapped tensors
        return None


def bijection(
    constraint: Constraint, site: str | None = None, dtype: torch.dtype | None = None
) -> Transform:
    """The smooth bijection from unconstrained reals to (the interior of) ``constraint``.

    It computes with the bounds of the constraint in ``dtype``, if one is given.

    Errors:
        UnsupportedDistributionError: the constraint is discrete, its bounds depend on a random
            value, or it has no global coordinates (a sphere).
    """
    if isinstance(constraint, constraints.independent):
        inner = bijection(constraint.base_constraint, site, dtype)
        return T.IndependentTransform(inner, constraint.reinterpreted_batch_ndims)
    if isinstance(constraint, type(constraints.dependent)):
        hint = "give its distribution a `support`"
        raise unsupported("an unknown support has no unconstrained coordinates", site, hint)
    if isinstance(constraint, WithPoints):
        hint = "observe it, or sample the law that it is made of"
        raise unsupported(f"{constraint} has no unconstrained coordinates", site, hint)
    if constraint.is_discrete:
        hint = "enumerate or marginalise it, or use a kernel for discrete sites"
        raise unsupported(f"discrete values ({constraint}) cannot be unconstrained", site, hint)
    bounds = [b for name, b in vars(constraint).items() if name.endswith("_bound")]
    if any(bound_values(b) is None for b in bounds):
        hint = "write the site as an affine function of one with a fixed support"
        raise unsupported("the bounds of the support depend on a random value", site, hint)
    if dtype is not None and any(isinstance(b, Tensor) for b in bounds):
        constraint = type(constraint)(*(torch.as_tensor(b).to(dtype) for b in bounds))
    ends = [torch.as_tensor(b).isinf() for b in bounds]
    if isinstance(constraint, constraints.interval) and any(bool(end.any()) for end in ends):
        return PartlyBounded(*map(torch.as_tensor, bounds))
    if type(constraint) in _OWN:
        return _OWN[type(constraint)]()
    try:
        return cast(Transform, biject_to(constraint))
    except NotImplementedError:
        hint = "write it as a function of other sites (a normalised Normal lies on the sphere)"
        what = f"no bijection from the reals onto {constraint} is known"
        raise unsupported(what, site, hint) from None


def unsupported(what: str, site: str | None, hint: str) -> UnsupportedDistributionError:
    return UnsupportedDistributionError(located(what, site=site, hint=hint))
