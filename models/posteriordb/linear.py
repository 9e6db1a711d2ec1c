"""Linear regressions with flat priors on the coefficients, from Gelman and Hill (2006).

Earnings on height, scores of children on their mothers', leaves of mesquite bushes, party
identification.  The columns stand as they are, so that the coefficients of some are strongly
correlated, or of very different size.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def linear(X: Tensor) -> None:
    """y ~ Normal(X beta, sigma); beta and sigma are flat.  X is [n, k]."""
    beta = sample("beta", dist.ImproperUniform(constraints.real_vector, (), X.shape[1:]))
    sigma = sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with plate("row", len(X)):
        sample("y", dist.Normal(X @ beta, sigma))


@program
def linear_half_cauchy(X: Tensor) -> None:
    """The same with sigma ~ HalfCauchy(2.5)."""
    beta = sample("beta", dist.ImproperUniform(constraints.real_vector, (), X.shape[1:]))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    with plate("row", len(X)):
        sample("y", dist.Normal(X @ beta, sigma))


def columns(*x: Tensor) -> Tensor:
    """A design matrix [n, 1 + k]: a constant, and the columns x of [n]."""
    return torch.stack([torch.ones_like(x[0]), *x], 1)


def earn_height() -> Built:
    """Earnings on height."""
    d = data("earnings-earn_height")
    return condition(linear, {"y": d["earn"]}), (columns(d["height"]),)


def logearn_interaction() -> Built:
    """Logarithm of earnings on height, sex and their product."""
    d = data("earnings-logearn_interaction")
    X = columns(d["height"], d["male"], d["height"] * d["male"])
    return condition(linear, {"y": d["earn"].log()}), (X,)


def kidscore_interaction() -> Built:
    """Scores of children on schooling and IQ of their mothers, and the product."""
    d = data("kidiq-kidscore_interaction")
    X = columns(d["mom_hs"], d["mom_iq"], d["mom_hs"] * d["mom_iq"])
    return condition(linear_half_cauchy, {"y": d["kid_score"]}), (X,)


def kidscore_interaction_c2() -> Built:
    """The same, both centred at conventional values."""
    d = data("kidiq_with_mom_work-kidscore_interaction_c2")
    school, iq = d["mom_hs"] - 0.5, d["mom_iq"] - 100
    return condition(linear, {"y": d["kid_score"]}), (columns(school, iq, school * iq),)


def logmesquite() -> Built:
    """Logarithm of the weight of leaves on those of what is easily measured of a bush."""
    d = data("mesquite-logmesquite")
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    X = columns(*(d[name].log() for name in sizes), d["group"])
    return condition(linear, {"y": d["weight"].log()}), (X,)


def nes() -> Built:
    """Party identification, on a scale of seven points, on answers to a survey."""
    d = data("nes2000-nes")
    ages = [(d["age_discrete"] == group).double() for group in (2, 3, 4)]
    X = columns(d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"])
    return condition(linear, {"y": d["partyid7"]}), (X,)
