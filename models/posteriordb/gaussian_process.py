"""Counts whose logarithmic rate is a Gaussian process."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import condition, deterministic, plate, program, sample
from .files import Built, data


@program
def poisson_process(x: Tensor) -> None:
    """k ~ Poisson(exp f), f ~ GP(0, alpha^2 exp(-(x - x')^2 / (2 rho^2))); x is [n].

    The diagonal of the covariance is raised by 1e-10, which needs float64.
    """
    rho = sample("rho", dist.Gamma(25.0, 4.0))
    alpha = sample("alpha", dist.HalfNormal(2.0))
    z = sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    apart = (x[:, None] - x) / rho
    C = alpha**2 * torch.exp(-0.5 * apart**2) + 1e-10 * torch.eye(len(x))
    f = deterministic("f", torch.linalg.cholesky(C) @ z)
    with plate("point", len(x)):
        sample("k", dist.Poisson(f.exp()))


def gp_pois_regr() -> Built:
    """Eleven counts."""
    d = data("gp_pois_regr-gp_pois_regr")
    return condition(poisson_process, {"k": d["k"]}), (d["x"],)
