"""A mixture of two normals, told apart by the order of their means.

Source: Betancourt, Identifying Bayesian Mixture Models (2017), by way of Stan's benchmarks.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from ...ppl import condition, factor, plate, program, sample
from .files import Built, data


@program
def two_normals(n: int) -> None:
    """Of n points each is of the first component with probability theta."""
    mu = sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    factor("prior of mu", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2.0 * torch.ones(2)).to_event(1))
    theta = sample("theta", dist.Beta(5.0, 5.0))
    component = dist.Categorical(torch.stack([theta, 1 - theta]))
    with plate("point", n):
        sample("y", dist.MixtureSameFamily(component, dist.Normal(mu, sigma)))


def low_dim_gauss_mix() -> Built:
    """A thousand points."""
    d = data("low_dim_gauss_mix-low_dim_gauss_mix")
    return condition(two_normals, {"y": d["y"]}), (d["N"],)
