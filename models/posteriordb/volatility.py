"""GARCH(1,1): the variance of a series follows its own past (Bollerslev 1986)."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ...ppl import deterministic, observe, program, sample, scan
from .files import Built, data


@program
def garch(y: Tensor, first: Tensor) -> None:
    """v_t = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 v_{t-1} from v_1 = first; y is [n].

    mu and alpha0 are flat, (alpha1, beta1) is uniform on the triangle below alpha1 + beta1 = 1.
    """
    mu = sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    shares = sample("shares", dist.Dirichlet(torch.ones(3)))
    alpha1, beta1 = deterministic("alpha1", shares[0]), deterministic("beta1", shares[1])

    def step(v: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        v = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * v
        return v, v

    later = scan(step)(first, y[:-1])[1]
    variance = torch.cat([first[None], later])
    observe("y", dist.Normal(mu, variance.sqrt()).to_event(1), y)


def garch11() -> Built:
    """Two hundred values."""
    d = data("garch-garch11")
    return garch, (d["y"], torch.tensor(d["sigma1"] ** 2, dtype=torch.float64))
