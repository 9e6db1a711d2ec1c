"""The eight posteriors as programs of this library."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from peers import posteriors
from peers.posteriors import LV_STEPS, POSTERIORS, data
from pushforward import condition, deterministic, factor, plate, program, sample, scan
from pushforward.models import posteriordb
from pushforward.models.posteriordb import Built


@program
def radon(counties: int, county: Tensor, uranium: Tensor, floor: Tensor) -> None:
    """Radon in houses, by county, floor and the uranium of the soil (Gelman and Hill 2006)."""
    mu = sample("mu_alpha", dist.Normal(0.0, 10.0))
    beta = sample("beta", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    spread = sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma = sample("sigma_y", dist.HalfNormal(1.0))
    with plate("county", counties):
        z = sample("z", dist.Normal(0.0, 1.0))
        alpha = deterministic("alpha", mu + spread * z)
    with plate("house", len(county)):
        mean = alpha[county] + uranium * beta[0] + floor * beta[1]
        sample("y", dist.Normal(mean, sigma))


@program
def wells(X: Tensor) -> None:
    """Whether a household changes to another well (Gelman and Hill 2006)."""
    alpha = sample("alpha", dist.ImproperUniform(constraints.real, (), ()))
    beta = sample("beta", dist.ImproperUniform(constraints.real_vector, (), (4,)))
    with plate("household", len(X)):
        sample("y", dist.Bernoulli(logits=alpha + X @ beta))


def slope(x: Tensor, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    return (theta[0] - theta[1] * y) * x, (theta[3] * x - theta[2]) * y


@program
def lv(years: int) -> None:
    """Hares and lynxes, by Lotka's and Volterra's equations (Carpenter 2018)."""
    mean, sd = torch.tensor([1.0, 0.05, 1.0, 0.05]), torch.tensor([0.5, 0.05, 0.5, 0.05])
    theta = sample("theta", dist.ImproperUniform(constraints.positive, (), (4,)))
    factor("prior of theta", dist.Normal(mean, sd).log_prob(theta).sum())
    first = sample("z_init", dist.LogNormal(math.log(10.0) * torch.ones(2), 1.0).to_event(1))
    sigma = sample("sigma", dist.LogNormal(-torch.ones(2), 1.0).to_event(1))
    h = 1 / LV_STEPS

    def step(z: tuple[Tensor, Tensor], _: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        x, y = z
        k1, l1 = slope(x, y, theta)
        k2, l2 = slope(x + h / 2 * k1, y + h / 2 * l1, theta)
        k3, l3 = slope(x + h / 2 * k2, y + h / 2 * l2, theta)
        k4, l4 = slope(x + h * k3, y + h * l3, theta)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        y = y + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
        return (x, y), torch.stack([x, y])

    path = scan(step)((first[0], first[1]), torch.zeros(years * LV_STEPS))[1]
    z = path[LV_STEPS - 1 :: LV_STEPS]
    sample("first", dist.LogNormal(first.log(), sigma).to_event(1))
    sample("y", dist.LogNormal(z.log(), sigma).to_event(2))


def content(name: str) -> dict[str, Any]:
    """The file of a posterior with either name."""
    return posteriors.content(name) if name in POSTERIORS else posteriordb.files.content(name)


def built(name: str) -> Built:
    """The program of a posterior, conditioned on its data, and its arguments.

    The name is one of ours, ``ark``, or one of posteriordb, ``nes2000-nes``.
    """
    full = POSTERIORS[name].file if name in POSTERIORS else name
    if full in posteriordb.POSTERIORS:
        return posteriordb.POSTERIORS[full]()
    d: dict[str, Any] = {
        k: x if isinstance(x, int) else torch.as_tensor(x) for k, x in vars(data(name)).items()
    }
    if name == "radon":
        counties = int(d["county"].max()) + 1
        args = (counties, d["county"].long(), d["uranium"], d["floor"])
        return condition(radon, {"y": d["y"]}), args
    if name == "wells":
        return condition(wells, {"y": d["y"]}), (d["X"],)
    return condition(lv, {"first": d["first"].exp(), "y": d["y"].exp()}), (d["years"],)
