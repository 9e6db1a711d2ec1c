"""The moves of tempering leave their power's law as it is, in any metric."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from pushforward.inference.mcmc.hamiltonian import State, init, with_momentum
from pushforward.inference.smc.stage_kernels import (
    Metric,
    Particles,
    Stage,
    at_power,
    maps,
    metric_of,
    proposed,
    transition,
)
from pushforward.ppl import observe, sample, seeded
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")


def model() -> None:
    """A normal prior and likelihood, so that each power of it is normal."""
    x = sample("x", dist.Normal(torch.zeros(2), torch.tensor([1.0, 3.0])).to_event(1))
    observe("y", dist.Normal(x.sum(), 0.5), torch.tensor(2.0))


def posterior(power: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    precision = torch.diag(torch.tensor([1.0, 1.0 / 9.0])) + power / 0.25 * torch.ones(2, 2)
    covariance = torch.linalg.inv(precision)
    return covariance @ torch.full((2,), power * 2.0 / 0.25), covariance


def potential(n: int) -> Potential:
    density = LogDensity(model)
    example = torch.ones(n, 3)
    return Potential(lambda v: density.tempered(v[:-1], v[-1]), example, compiled=False)


def exact(n: int, power: float, energy: Potential) -> Particles:
    """Independent particles of the law of a power."""
    points = dist.MultivariateNormal(*posterior(power)).sample((n,))
    state = init(torch.cat([points, torch.ones(n, 1)], 1), energy)
    return at_power(Particles(state, torch.arange(n)), energy, power)


METRICS = {
    "diagonal": Metric(torch.tensor([0.7, 2.0])),
    "dense": metric_of(torch.tensor([[1.0, 2.0], [0.0, 0.5], [2.0, 3.5], [-1.0, 0.5]]), 100.0),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_moves_leave_the_law_of_their_power(metric: Metric) -> None:
    """Level 1e-6: means and second moments of 40000 exact draws, moved, in 5 standard errors."""
    n, power = 40_000, 0.3
    energy = potential(n)
    with torch.no_grad(), seeded(1):
        particles, rates = exact(n, power, energy), []
        for _ in range(2):
            particles, probability = transition(particles, energy, Stage(power, metric, 4, 2))
            rates.append(float(probability.mean()))
    assert 0.2 < min(rates) < 0.999  # some are rejected
    mean, covariance = posterior(power)
    standard = (particles.points - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).mT
    assert float(standard.mean(0).abs().max()) < 5 / math.sqrt(n)
    found = standard.mT @ standard / n
    assert float((found - torch.eye(2)).abs().max()) < 5 * math.sqrt(2 / n)
    assert torch.equal(particles.state.position[:, -1], torch.full((n,), power))


def test_moves_of_another_power_are_rejected() -> None:
    """Negative control: the test above sees moves at the power 0.4."""
    n = 40_000
    energy = potential(n)
    with torch.no_grad(), seeded(1):
        particles = at_power(exact(n, 0.3, energy), energy, 0.4)
        particles, _ = transition(particles, energy, Stage(0.4, METRICS["diagonal"], 2, 1))
    mean, covariance = posterior(0.3)
    standard = (particles.points - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).mT
    found = standard.mT @ standard / n
    assert float((found - torch.eye(2)).abs().max()) > 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_proposal_is_an_involution_that_preserves_volume(metric: Metric) -> None:
    energy = potential(1)
    of_metric, step = maps(metric, torch.zeros(1)), torch.tensor([[0.4]])

    def there(z: Tensor) -> Tensor:
        position = torch.cat([z[:2], torch.tensor([0.3])])[None]
        phase = with_momentum(
            State(position, *energy(position)), torch.cat([z[2:], torch.ones(1)])[None]
        )
        phase = proposed(phase, energy, of_metric, step, 3)
        return torch.cat([phase.position[0, :2], phase.momentum[0, :2]])

    z = torch.tensor([0.3, -0.8, 1.1, 0.2])
    torch.testing.assert_close(there(there(z)), z)
    h = 1e-5
    columns = [(there(z + h * e) - there(z - h * e)) / (2 * h) for e in torch.eye(4)]
    assert abs(float(torch.linalg.det(torch.stack(columns)))) == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_derivative_by_the_power_is_the_log_likelihood(compiled: bool) -> None:
    density = LogDensity(model)
    u = torch.tensor([[0.3, -0.8], [2.0, 1.0], [0.0, 5.0]])
    example = torch.ones(3, 3)
    energy = Potential(lambda v: density.tempered(v[:-1], v[-1]), example, compiled=compiled)
    for power in (1.0, 0.2):
        state = init(torch.cat([u, torch.full((3, 1), power)], 1), energy)
        parts = [density.prior_and_likelihood(each) for each in u]
        torch.testing.assert_close(
            Particles(state, torch.arange(3)).log_likelihood, torch.stack([b for _, b in parts])
        )
        torch.testing.assert_close(
            state.log_density, torch.stack([a + power * b for a, b in parts])
        )


def test_no_density_is_no_likelihood() -> None:
    """Where the density is zero the derivative by the power may say anything."""
    state = State(torch.ones(2, 2), torch.tensor([-math.inf, -3.0]), torch.zeros(2, 2))
    assert Particles(state, torch.arange(2)).log_likelihood.tolist() == [-math.inf, 0.0]


def test_the_metric_is_the_covariance_of_many_points_and_variances_of_few() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.1, 0.0], [0.0, 5.0, 20.0]]
    )
    dense = metric_of(points, 50.0)
    assert dense.root is not None
    found = dense.scale[:, None] * (dense.root @ dense.root) * dense.scale
    torch.testing.assert_close(found, points.T.cov())
    assert metric_of(points, 3.0).root is None
    half = metric_of(points, 7.5)
    assert half.root is not None
    correlation, shrunk = points.T.corrcoef(), half.root @ half.root
    torch.testing.assert_close(shrunk[0, 1], 0.5 * correlation[0, 1])
    torch.testing.assert_close(shrunk.diagonal(), torch.ones(3))
    assert metric_of(points[:1], 1.0).scale.tolist() == [1.0, 1.0, 1.0]
    assert metric_of(points[:, :0], 50.0).scale.shape == (0,)
