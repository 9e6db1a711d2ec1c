"""Modules with random parameters: as programs, under NUTS, variational inference and exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward import (
    condition,
    dist,
    normal_prior,
    observe,
    plate,
    program,
    random_module,
    sample,
)
from pushforward.inference import MCMC, SVI, nuts
from pushforward.inference.vi import FullRank, elbo
from pushforward.nn.activations import SELU, lecun_normal_
from pushforward.ppl import assess, simulate
from pushforward.ppl.errors import ProgramError

X = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.8], [0.1, 1.2], [2.0, -0.4]])
Y = torch.tensor([0.9, 2.1, -0.6, 1.0, 2.2])
NOISE = 0.5


def linear() -> Any:
    net = random_module(nn.Linear(2, 1), normal_prior(2.0))

    @program
    def regression(x: Tensor, y: Tensor) -> None:
        out = net(x)[:, 0]
        with plate("n", len(x)):
            observe("y", dist.Normal(out, NOISE), y)

    return regression


def exact() -> tuple[Tensor, Tensor]:
    """The posterior of weights and bias, by the normal equations."""
    design = torch.cat([X, torch.ones(5, 1)], 1).double()
    precision = design.T @ design / NOISE**2 + torch.eye(3, dtype=torch.float64) / 4
    covariance = torch.linalg.inv(precision)
    return covariance @ design.T @ Y.double() / NOISE**2, covariance


def test_it_is_a_program() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    net = random_module(module)
    names = [name for name, _ in module.named_parameters()]
    before = {name: p.clone() for name, p in module.named_parameters()}
    x = torch.randn(5, 3)
    trace = simulate(net, x, seed=1)
    assert list(trace.choices) == names
    assert "0.weight: Real[4,3]" in repr(net.type(x)).replace(" ", "").replace(":", ": ")
    log_density, value = assess(net, trace.choices, x)
    expected = sum(dist.Normal(0.0, 1.0).log_prob(w).sum() for w in trace.choices.values())
    torch.testing.assert_close(log_density, expected)
    module.eval()
    again = torch.func.functional_call(module, trace.choices, (x,))
    assert again.shape == value.shape
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_some_parameters_may_be_fixed() -> None:
    module = nn.Linear(2, 1)
    net = random_module(module, lambda name, p: normal_prior()(name, p) if name == "bias" else None)
    assert list(simulate(net, X, seed=0).choices) == ["bias"]
    trace = simulate(net, X, seed=0)
    expected = X @ module.weight.T + trace.choices["bias"]
    torch.testing.assert_close(trace.value, expected)


def test_errors() -> None:
    with pytest.raises(ProgramError, match=r"shape \[\], the parameter \[1, 2\].*expand the prior"):
        random_module(nn.Linear(2, 1), lambda name, p: dist.Normal(0.0, 1.0))(X)
    with pytest.raises(ProgramError, match="call it before the plate"), plate("n", 5):
        random_module(nn.Linear(2, 1))(X)
    with pytest.raises(ProgramError, match="no parameter of Tanh is random"):
        random_module(nn.Tanh())(X)


def test_nuts_on_a_linear_module() -> None:
    """Means and standard deviations of the posterior, within 5 standard errors."""
    fit = MCMC(nuts(), chains=4, draws=1000, warmup=500, progress=False).run(linear(), X, Y, seed=0)
    mean, covariance = exact()
    found = torch.cat([fit["weight"].flatten(2), fit["bias"].flatten(2)], -1).double()
    table = fit.summary()
    error = torch.tensor(table["mcse_mean"].to_numpy())
    assert bool(((found.mean((0, 1)) - mean).abs() < 5 * error).all())
    torch.testing.assert_close(found.std((0, 1)), covariance.diag().sqrt(), rtol=0.1, atol=0)


def test_variational_inference_on_a_linear_module() -> None:
    """A full-rank guide holds the posterior, and its bound is the evidence."""
    torch.manual_seed(0)
    model = linear()
    guide = FullRank(model, X, Y)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)
    svi = SVI(elbo(model, guide), optimizer, schedule, samples=8, compiled=False, progress=False)
    result = svi.run(X, Y, steps=1200)
    design = torch.cat([X, torch.ones(5, 1)], 1)
    covariance = 4 * design @ design.T + NOISE**2 * torch.eye(5)
    evidence = float(dist.MultivariateNormal(torch.zeros(5), covariance).log_prob(Y))
    assert result.value == pytest.approx(evidence, abs=0.02)
    mean, _ = exact()
    draws = result.posterior(draws=4000)
    found = torch.cat([draws["weight"].flatten(2), draws["bias"].flatten(2)], -1).mean((0, 1))
    torch.testing.assert_close(found.double(), mean, atol=0.03, rtol=0)


@pytest.mark.slow
def test_a_bayesian_network_with_selu_layers() -> None:
    """Its predictions follow a curve that no line does."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 40)[:, None]
    y = torch.sin(2 * x[:, 0])
    module = nn.Sequential(nn.Linear(1, 16), SELU(), nn.Linear(16, 1))

    def prior(name: str, p: Tensor) -> Any:
        return normal_prior(1.5 if p.ndim == 1 else 1.5 * p.shape[-1] ** -0.5)(name, p)

    net = random_module(module, prior)

    @program
    def curve(x: Tensor) -> None:
        out = net(x)[:, 0]
        with plate("n", len(x)):
            sample("y", dist.Normal(out, 0.2))

    model = condition(curve, {"y": y})
    guide = FullRank(model, x)
    with torch.no_grad():
        start = [lecun_normal_(torch.empty(16, 1)).flatten(), torch.randn(16)]
        guide.loc[:32] = torch.cat(start)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    svi = SVI(elbo(model, guide), optimizer, samples=4, compiled=False, progress=False)
    svi.run(x, steps=1500)
    with torch.no_grad():
        u, _ = guide.move(torch.zeros(guide.layout.size))
        weights, _ = guide.layout.unpack(u)
        error = torch.func.functional_call(module, weights, (x,))[:, 0] - y
    assert float((error**2).mean().sqrt()) < 0.3  # a line leaves 0.7
