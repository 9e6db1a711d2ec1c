"""Growth of thirty rats, weighed at five ages (Gelfand et al. 1990)."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def growth(rats: int, rat: Tensor, age: Tensor) -> None:
    """Every rat has its line.  rat [n] says whose weight it is, age [n] is centred."""
    mu_alpha = sample("mu_alpha", dist.Normal(0.0, 100.0))
    mu_beta = sample("mu_beta", dist.Normal(0.0, 100.0))
    scale = dist.ImproperUniform(constraints.positive, (), ())
    sigma_y, sigma_alpha = sample("sigma_y", scale), sample("sigma_alpha", scale)
    sigma_beta = sample("sigma_beta", scale)
    with plate("rat", rats):
        alpha = sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = sample("beta", dist.Normal(mu_beta, sigma_beta))
    with plate("weighing", len(rat)):
        sample("y", dist.Normal(alpha[rat] + beta[rat] * age, sigma_y))


def rats_model() -> Built:
    """A hundred and fifty weights."""
    d = data("rats_data-rats_model")
    return condition(growth, {"y": d["y"]}), (d["N"], d["rat"].long() - 1, d["x"] - d["xbar"])
