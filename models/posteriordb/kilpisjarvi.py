"""Summer temperatures at Kilpisjärvi on the year, which is not centred.

Intercept and slope have a posterior correlation close to -1.
"""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def trend(x: Tensor, prior_alpha: tuple[float, float], prior_beta: tuple[float, float]) -> None:
    """y ~ Normal(alpha + beta x, sigma), with mean and sd of the priors given.  x is [n]."""
    alpha = sample("alpha", dist.Normal(*prior_alpha))
    beta = sample("beta", dist.Normal(*prior_beta))
    sigma = sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with plate("year", len(x)):
        sample("y", dist.Normal(alpha + beta * x, sigma))


def kilpisjarvi() -> Built:
    """Sixty-two years."""
    d = data("kilpisjarvi_mod-kilpisjarvi")
    priors = (d["pmualpha"], d["psalpha"]), (d["pmubeta"], d["psbeta"])
    return condition(trend, {"y": d["y"]}), (d["x"], *priors)
