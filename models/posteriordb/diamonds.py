"""Logarithm of the price of diamonds on twenty-four columns, as brms writes it."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import condition, plate, program, sample
from .files import Built, data


@program
def priced(X: Tensor) -> None:
    """Y ~ Normal(Intercept + X b, sigma).  X is [n, k], its columns centred."""
    b = sample("b", dist.Normal(torch.zeros(X.shape[1]), 1.0).to_event(1))
    intercept = sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    with plate("diamond", len(X)):
        sample("Y", dist.Normal(intercept + X @ b, sigma))


def diamonds() -> Built:
    """Five thousand diamonds; the constant column is left out."""
    d = data("diamonds-diamonds")
    X = d["X"][:, 1:]
    return condition(priced, {"Y": d["Y"]}), (X - X.mean(0),)
