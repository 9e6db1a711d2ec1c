"""Eight schools that coached their pupils for a test (Rubin 1981)."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ...ppl import condition, deterministic, plate, program, sample
from .files import Built, data


@program
def noncentered(sigma: Tensor) -> None:
    """Effects theta scatter by tau around mu, and what a school found by sigma [n] around its."""
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("z", dist.Normal(0.0, 1.0))
        theta = deterministic("theta", mu + tau * z)
        sample("y", dist.Normal(theta, sigma))


def eight_schools_noncentered() -> Built:
    """With standard normals in place of the effects."""
    d = data("eight_schools-eight_schools_noncentered")
    return condition(noncentered, {"y": d["y"]}), (d["sigma"],)
