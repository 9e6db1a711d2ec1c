"""Linear regression on strongly correlated columns, with proper priors."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def correlated(X: Tensor) -> None:
    """y ~ Normal(X beta, sigma), without intercept.  X is [n, k]."""
    beta = sample("beta", dist.Normal(torch.zeros(X.shape[1]), 10.0).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(10.0))
    with plate("row", len(X)):
        sample("y", dist.Normal(X @ beta, sigma))


def blr() -> Built:
    """A hundred synthetic rows, five columns."""
    d = data("sblrc-blr")
    return condition(correlated, {"y": d["y"]}), (d["X"],)
