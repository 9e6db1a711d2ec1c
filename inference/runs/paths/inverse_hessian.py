"""Inverse Hessians along a path, as a diagonal and a few directions.

With steps s and differences z of gradients of -log p, the last m of them the columns of S and Z,
R = triu(S^T Z) and eta = diag(R), the update of Broyden, Fletcher, Goldfarb and Shanno from
diag(alpha) on gives

    H = diag(alpha) + beta gamma beta^T,    beta = [diag(alpha) Z, S],

    gamma = [[0,        -R^-1                                     ],
             [-R^-T,     R^-T (eta + Z^T diag(alpha) Z) R^-1      ]]

(Byrd, Nocedal and Schnabel 1994; algorithm 3 of arXiv 2108.03782).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .ascent import Path

CURVATURE = 1e-12


class InverseHessian(NamedTuple):
    """diag(alpha) + beta gamma beta^T: alpha [d], beta [d, 2 m], gamma [2 m, 2 m]."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor

    def times(self, v: Tensor) -> Tensor:
        """Its product with a vector [d]."""
        return self.alpha * v + self.beta @ (self.gamma @ (self.beta.mT @ v))


def inverse_hessians(path: Path, history: int) -> Iterator[InverseHessian | None]:
    """The estimate at each point after the start; None before the path has met any curvature."""
    alpha = torch.ones_like(path.positions[0])
    pairs: list[tuple[Tensor, Tensor]] = []
    estimate: InverseHessian | None = None
    places = zip(pairwise(path.positions), pairwise(path.gradients), strict=True)
    for (before, after), (gradient_before, gradient_after) in places:
        s, z = after - before, gradient_before - gradient_after
        if curved(s, z):
            alpha, pairs = diagonal(alpha, s, z), [*pairs, (s, z)][-history:]
            steps, differences = (torch.stack(each, 1) for each in zip(*pairs, strict=True))
            estimate = factored(alpha, steps, differences)
        yield estimate


def curved(s: Tensor, z: Tensor) -> bool:
    """Whether the log density is concave over a step s [d], by a margin for rounding."""
    return bool(s @ z > CURVATURE * (z @ z))


def diagonal(alpha: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """The diagonal [d] after one more pair (Gilbert and Lemaréchal 1989).

    An entry of which rounding leaves nothing positive stays as it was.
    """
    a, b, c = z @ (alpha * z), z @ s, s @ (s / alpha)
    updated = 1.0 / (a / (b * alpha) + z.square() / b - a * s.square() / (b * c * alpha.square()))
    return torch.where(updated.isfinite() & (updated > 0.0), updated, alpha)


def factored(alpha: Tensor, steps: Tensor, differences: Tensor) -> InverseHessian:
    """H from the diagonal [d] that the updates begin with, and pairs S and Z [d, m]."""
    r = (steps.mT @ differences).triu()
    unit = torch.eye(len(r), dtype=r.dtype, device=r.device)
    inverse = torch.linalg.solve_triangular(r, unit, upper=True)
    scaled = alpha[:, None] * differences
    middle = r.diagonal().diag() + differences.mT @ scaled
    upper = torch.cat([torch.zeros_like(r), -inverse], 1)
    lower = torch.cat([-inverse.mT, inverse.mT @ middle @ inverse], 1)
    return InverseHessian(alpha, torch.cat([scaled, steps], 1), torch.cat([upper, lower]))
