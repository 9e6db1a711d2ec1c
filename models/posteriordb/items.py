"""Item response theory: the chance that a person solves a task, by two parameters of the task."""

from __future__ import annotations

import pyro.distributions as dist

from ...ppl import condition, deterministic, plate, program, sample
from .files import Built, data


@program
def two_parameters(items: int, persons: int) -> None:
    """Person j solves task i with log odds a_i (theta_j - b_i).

    Standard normals stand for theta.  The density of log a has no bound where sigma_a is near 0,
    and a chain may stay there; standard normals in its place would depend on sigma_a, as the
    answers tell of a.  So log a is sigma_a^(1/2) times a normal of that scale, half-way between.
    """
    sigma_theta = sample("sigma_theta", dist.HalfCauchy(2.0))
    sigma_a = sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = sample("sigma_b", dist.HalfCauchy(2.0))
    with plate("person", persons):
        theta = deterministic("theta", sigma_theta * sample("able", dist.Normal(0.0, 1.0)))
    with plate("task", items):
        half = sigma_a.sqrt()
        a = deterministic("a", (half * sample("telling", dist.Normal(0.0, half))).exp())
        b = sample("b", dist.Normal(mu_b, sigma_b))
    log_odds = a[:, None] * (theta - b[:, None])
    with plate("row", items, dim=-2), plate("column", persons, dim=-1):
        sample("y", dist.Bernoulli(logits=log_odds))


def irt_2pl() -> Built:
    """A hundred persons, twenty tasks."""
    d = data("irt_2pl-irt_2pl")
    return condition(two_parameters, {"y": d["y"]}), (d["I"], d["J"])
