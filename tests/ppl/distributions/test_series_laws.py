"""Pyro's laws of series, whose steps are all alike: they score series of any length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pushforward import assess, dist, observe, plate, sample
from pushforward.errors import DataError
from pushforward.inference import MCMC, nuts
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")
STEP = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
FIRST = torch.tensor([0.5, 0.5], dtype=torch.float64)
SERIES = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def forward(p: Tensor, y: Tensor) -> Tensor:
    """The forward algorithm in probabilities: a transition before each datum."""
    alpha = FIRST
    for v in y:
        alpha = (alpha @ STEP) * torch.where(v == 1, p, 1 - p)
    return alpha.sum().log()


def switching(y: Tensor) -> None:
    p = sample("p", dist.Beta(2.0, 3.0).expand([2]).to_event(1))
    with plate("n", len(y)):
        observe("y", dist.DiscreteHMM(FIRST.log(), STEP.log(), dist.Bernoulli(p)), y)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_discrete_chain_scores_series_of_any_length(length: int) -> None:
    y, p = SERIES[:, :length], torch.tensor([0.1, 0.6])
    prior = dist.Beta(2.0, 3.0).log_prob(p).sum()
    by_hand = prior + forward(p, y[0]) + forward(p, y[1])
    assert math.isclose(float(assess(switching, {"p": p}, y)[0]), float(by_hand), rel_tol=1e-12)


def test_a_discrete_chain_has_a_gradient_in_lanes() -> None:
    u = torch.tensor([[0.3, -0.2], [1.0, -1.5]])
    value, gradient = Potential(LogDensity(switching, SERIES), u, compiled=False)(u)
    for i in range(2):
        free = u[i].clone().requires_grad_()
        p = free.sigmoid()
        jacobian = (p * (1 - p)).log().sum()
        total = dist.Beta(2.0, 3.0).log_prob(p).sum() + jacobian
        total = total + forward(p, SERIES[0]) + forward(p, SERIES[1])
        (slope,) = torch.autograd.grad(total, free)
        assert math.isclose(float(value[i]), float(total.detach()), rel_tol=1e-10)
        assert torch.allclose(gradient[i], slope, rtol=1e-9)


def test_a_gaussian_chain_scores_series_of_any_length() -> None:
    """A random walk of variance 2 from variance 1, seen with variance s^2: jointly normal."""

    def walk(y: Tensor) -> None:
        s = sample("s", dist.LogNormal(0.0, 1.0))
        one = torch.eye(1)
        start, noise = (dist.MultivariateNormal(torch.zeros(1), v * one) for v in (1.0, 2.0))
        seen = dist.MultivariateNormal(torch.zeros(1), s**2 * one)
        observe("y", dist.GaussianHMM(start, one, noise, one, seen), y)

    y = torch.tensor([[0.5], [-0.2], [1.0]])
    s = torch.tensor(0.7)
    times = 1.0 + 2.0 * torch.arange(1, 4)
    covariance = torch.minimum(times[:, None], times) + s**2 * torch.eye(3)
    by_hand = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(y[:, 0])
    by_hand = by_hand + dist.LogNormal(0.0, 1.0).log_prob(s)
    assert math.isclose(float(assess(walk, {"s": s}, y)[0]), float(by_hand), rel_tol=1e-8)
    fit = MCMC(nuts(3), 2, 5, 5, compiled=False, progress=False).run(walk, y)
    assert fit.log_likelihood["y"].shape == (2, 5)


def test_a_length_that_is_said_is_held_to() -> None:
    law = dist.DiscreteHMM(FIRST.log(), STEP.log(), dist.Bernoulli(FIRST), duration=3)
    with pytest.raises(DataError, match=r"shape \(5,\) do not fit the shape \(3,\)"):
        assess(lambda: observe("y", law, SERIES[0]), {})
