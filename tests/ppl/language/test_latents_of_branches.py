"""A latent of a branch that is not taken has mass one: in lanes, scaled, and summed out."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor

from pushforward import assess, cond, marginal, observe, program, sample, switch
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language.program import Callback

pytestmark = pytest.mark.usefixtures("double")


def scaled(inside: bool, scale: float) -> Callback:
    """A coin of a real number, and a latent in each arm; all arms scaled, or what is in them."""

    def arm(name: str, sd: float) -> Any:
        def run() -> Tensor:
            with poutine.scale(scale=scale if inside else 1.0):
                x = sample(name, dist.Normal(0.0, sd))
            return x

        return run

    def model() -> None:
        m = sample("m", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=1.0 if inside else scale):
            cond(m > 0, arm("a", 1.0), arm("b", 2.0))()

    return program(model)


def mass(p: Callback, half: int) -> float:
    """Of one half of the coin: m = 1 or -1, over its density; the others by the trapezium rule."""
    density = LogDensity(p)
    x = torch.linspace(-20.0, 20.0, 401)
    a, b = torch.meshgrid(x, x, indexing="ij")
    u = torch.stack([torch.full_like(a, half), a, b], -1).reshape(-1, 3)
    total = torch.func.vmap(density)(u).exp().sum() * (x[1] - x[0]) ** 2
    return float(total / dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0)).exp())


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_scale_concerns_the_branch_that_is_taken(inside: bool, scale: float) -> None:
    """The integral of N(0, s)^k is (2 pi s^2)^((1 - k) / 2) k^(-1 / 2)."""
    for half, sd in ((1, 1.0), (-1, 2.0)):
        expected = (2 * math.pi * sd**2) ** ((1 - scale) / 2) / scale**0.5
        assert mass(scaled(inside, scale), half) == pytest.approx(expected, rel=1e-6)


def test_both_count_where_both_are_taken() -> None:
    """The negative control: so it was in the branches."""

    @program
    def both() -> None:
        sample("m", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=3.0):
            sample("a", dist.Normal(0.0, 1.0))
            sample("b", dist.Normal(0.0, 2.0))

    one, other = ((2 * math.pi * sd**2) ** -1 / 3**0.5 for sd in (1.0, 2.0))
    assert mass(both, 1) == pytest.approx(one * other, rel=1e-6)
    assert abs(other - 1) > 0.5


@program
def alternatives() -> None:
    m = sample("m", dist.Normal(0.0, 1.0))
    arms = [
        lambda: 1.0 + sample("z", dist.Bernoulli(0.3)),
        lambda: 2.0 + sample("w", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))),
        lambda: m * 0.5,
    ]
    x = switch((m > 0).long() + (m > 1).long(), *arms)()
    observe("y", dist.Normal(x, 1.0), torch.tensor(1.5))


@pytest.mark.parametrize("m", [-0.7, 0.7, 1.4])
def test_finite_latents_of_branches_that_a_kept_one_picks(m: float) -> None:
    seen = {
        -0.7: [(1.0, 0.7), (2.0, 0.3)],
        0.7: [(2.0, 0.2), (3.0, 0.3), (4.0, 0.5)],
        1.4: [(0.7, 1.0)],
    }[m]
    normal = dist.Normal(torch.tensor([x for x, _ in seen]), 1.0).log_prob(torch.tensor(1.5))
    total = (normal.exp() * torch.tensor([w for _, w in seen])).sum().log()
    expected = float(dist.Normal(0.0, 1.0).log_prob(torch.tensor(m)) + total)
    q = marginal(alternatives, exact=True)
    assert float(assess(q, {"m": torch.tensor(m)})[0]) == pytest.approx(expected, abs=1e-12)
    assert float(LogDensity(q)(torch.tensor([m]))) == pytest.approx(expected, abs=1e-12)
