"""Autoregression of order five, given the first five values."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def autoregression(past: Tensor) -> None:
    """y_t ~ Normal(alpha + past_t beta, sigma); past [n, k] has the latest value first."""
    alpha = sample("alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(torch.zeros(past.shape[1]), 10.0).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    with plate("time", len(past)):
        sample("y", dist.Normal(alpha + past @ beta, sigma))


def arK() -> Built:
    """Two hundred values."""
    d = data("arK-arK")
    order, y = d["K"], d["y"]
    past = y.unfold(0, order, 1)[:-1].flip(1)
    return condition(autoregression, {"y": y[order:]}), (past,)
