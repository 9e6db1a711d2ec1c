"""Normal laws whose covariance is an inverse Hessian in factors: draws and densities in O(d m)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .inverse_hessian import InverseHessian


class LowRankNormal(NamedTuple):
    """The law of mean + D (Q L Q^T + I - Q Q^T) e for standard normal e, with D = diag(root).

    mean [d], root [d], basis Q [d, k] with orthonormal columns, factor L [k, k] lower triangular.
    """

    mean: Tensor
    root: Tensor
    basis: Tensor
    factor: Tensor

    def points(self, noise: Tensor) -> Tensor:
        """What standard normal vectors [n, d] stand for, [n, d]."""
        within = noise @ self.basis
        changed = noise + (within @ self.factor.mT - within) @ self.basis.mT
        points: Tensor = self.mean + self.root * changed
        return points

    def noise(self, points: Tensor) -> Tensor:
        """The standard normal vectors [n, d] that stand for points [n, d]."""
        scaled = (points - self.mean) / self.root
        within = scaled @ self.basis
        solved = torch.linalg.solve_triangular(self.factor, within.mT, upper=False).mT
        noise: Tensor = scaled + (solved - within) @ self.basis.mT
        return noise

    @property
    def log_determinant(self) -> Tensor:
        """That of the covariance."""
        return 2.0 * (self.root.log().sum() + self.factor.diagonal().log().sum())

    def log_density(self, points: Tensor) -> Tensor:
        """At points [n, d], [n]."""
        squares: Tensor = self.noise(points).square().sum(-1)
        return -0.5 * (squares + self.log_determinant + len(self.mean) * math.log(2.0 * math.pi))


def approximation(position: Tensor, gradient: Tensor, h: InverseHessian) -> LowRankNormal | None:
    """The normal law of covariance H that has this gradient [d] at this position [d].

    None if rounding has left H no positive definite matrix.
    """
    root = h.alpha.sqrt()
    basis, r = torch.linalg.qr(h.beta / root[:, None])
    inner = r @ h.gamma @ r.mT
    unit = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    factor, failed = torch.linalg.cholesky_ex(unit + 0.5 * (inner + inner.mT))
    mean = position + h.times(gradient)
    if int(failed) or not bool(factor.isfinite().all() & mean.isfinite().all()):
        return None
    return LowRankNormal(mean, root, basis, factor)
