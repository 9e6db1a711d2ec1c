"""Normal targets, their densities with gradients, and paths to them along conjugate directions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pushforward.inference.runs.paths.ascent import Path
from pushforward.inference.runs.paths.inverse_hessian import InverseHessian
from pushforward.inference.runs.paths.normal import LowRankNormal

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]


def numbers(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers in double precision, which leave the global state alone."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(kind: str, d: int, seed: int = 0) -> MultivariateNormal:
    """A normal law [d] with a diagonal or a dense covariance."""
    covariance = torch.logspace(-1, 1, d, dtype=torch.float64).diag()
    if kind == "dense":
        a = numbers(seed + 1, d, d)
        covariance = a @ a.mT / d + 0.1 * torch.eye(d, dtype=torch.float64)
    return MultivariateNormal(2.0 * numbers(seed, d), covariance)


def potential(law: MultivariateNormal) -> Potential:
    """Its log density with its gradient, of vectors [n, d]."""
    precision, constant = law.precision_matrix, 0.5 * len(law.loc) * math.log(2.0 * math.pi)
    half = 0.5 * torch.logdet(law.covariance_matrix)

    def of(u: Tensor) -> tuple[Tensor, Tensor]:
        gradient = (law.loc - u) @ precision
        return 0.5 * ((u - law.loc) * gradient).sum(-1) - half - constant, gradient

    return of


def conjugate_path(law: MultivariateNormal, seed: int = 2) -> Path:
    """A path of d steps in conjugate directions, as L-BFGS takes with exact line searches."""
    d = len(law.loc)
    factor = torch.linalg.cholesky(law.precision_matrix)
    directions = torch.linalg.solve(factor.mT, torch.eye(d, dtype=torch.float64))
    steps = directions.mT * (0.5 + numbers(seed, d, 1).abs())
    start = numbers(seed + 1, 1, d)
    positions = torch.cat([start, start + steps.cumsum(0)])
    return Path(positions, *potential(law)(positions), limited=False)


def dense(h: InverseHessian) -> Tensor:
    return h.alpha.diag() + h.beta @ h.gamma @ h.beta.mT


def explicit(law: LowRankNormal) -> MultivariateNormal:
    """The same law by its covariance: what the unit vectors stand for are its columns' roots."""
    root = law.points(torch.eye(len(law.mean), dtype=law.mean.dtype)) - law.mean
    return MultivariateNormal(law.mean, root.mT @ root)
