"""Guides made from the type of a model: what they hold, their densities, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.inference.vi import (
    SVI,
    Amortised,
    Flow,
    FullRank,
    LowRank,
    MeanField,
    Structured,
    elbo,
    objective,
    sample_trace,
)
from pushforward.ppl.errors import GuideError, UnsupportedDistributionError

QUIET: dict[str, Any] = {"progress": False}
Y = torch.tensor([1.2, 0.4, 2.1, 1.7, 0.9, 1.4])


@program
def centred(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", len(y)):
        z = sample("z", dist.Normal(mu, 0.5))
        observe("y", dist.Normal(z, 1.0), y)


EXACT = float(
    dist.MultivariateNormal(torch.zeros(6), 1.25 * torch.eye(6) + 4 * torch.ones(6, 6)).log_prob(Y)
)


@pytest.mark.parametrize("kind", quick(1, [FullRank, Structured]))
def test_guides_that_hold_the_posterior(kind: Any) -> None:
    """A normal model: the bound rises to the log evidence, and every estimate is equal to it."""
    torch.manual_seed(0)
    guide = kind(centred, Y)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.997)
    bound = elbo(centred, guide)
    bound.check(Y)
    result = SVI(bound, optimizer, schedule, samples=8, **QUIET).run(Y, steps=1200)
    assert result.value == pytest.approx(EXACT, abs=0.01)


@pytest.mark.parametrize("kind", quick(1, [MeanField, LowRank, Flow]))
def test_guides_that_come_near(kind: Any) -> None:
    torch.manual_seed(0)
    guide = kind(centred, Y)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    result = SVI(elbo(centred, guide), optimizer, samples=8, **QUIET).run(Y, steps=800)
    assert EXACT - 1.0 < result.value < EXACT + 0.02


@pytest.mark.parametrize("kind", [MeanField, FullRank, LowRank, Flow, Structured])
def test_guides_have_their_own_density(kind: Any, double: None) -> None:
    """log q of a trace is that of the noise less the Jacobian, by automatic differentiation."""

    def model() -> None:
        sample("s", dist.Gamma(2.0, 2.0))
        p = sample("p", dist.Dirichlet(torch.ones(3)))
        sample("x", dist.Normal(p[..., :2], 1.0).to_event(1))

    torch.manual_seed(1)
    guide = kind(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    found: list[Any] = []

    @objective
    def density() -> Tensor:
        trace = sample_trace(guide)
        found.append(trace)
        return trace.log_density

    elbo(model, guide).check()
    torch.manual_seed(2)
    value = density().surrogate()
    torch.manual_seed(2)
    noise = torch.randn(5)

    def free(e: Tensor) -> Tensor:
        u, _ = guide.move(e)
        values, _ = guide.layout.unpack(u)
        return torch.cat([values["s"].reshape(1), values["p"][:2], values["x"]])

    jacobian = torch.func.jacrev(free)(noise)
    normal = dist.Normal(torch.zeros(5), 1.0).log_prob(noise).sum()
    exact = normal - torch.linalg.slogdet(jacobian)[1]
    # the last of three shares is what the first two leave: in these coordinates the density is one
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(found[0].choices["x"], free(noise)[3:])


def test_guides_of_finite_latents() -> None:
    def model(y: Tensor) -> None:
        k = sample("k", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        b = sample("b", dist.Bernoulli(0.4))
        mu = sample("mu", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(mu + k + b, 0.5), y)

    guide = MeanField(model, torch.tensor(1.5))
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    svi = SVI(elbo(model, guide), optimizer, samples=4, compiled=False, **QUIET)
    result = svi.run(torch.tensor(1.5), steps=300)
    assert result.history[-50:].mean() > result.history[:20].mean()
    assert set(result.posterior(draws=50).draws) == {"k", "b", "mu"}


def test_models_that_no_guide_is_made_for() -> None:
    with pytest.raises(UnsupportedDistributionError, match="neither continuous nor finite"):
        MeanField(lambda: sample("n", dist.Poisson(3.0)))

    def part(y: Tensor) -> None:
        with plate("n", len(y), subsample_size=2) as index:
            z = sample("z", dist.Normal(0.0, 1.0))
            observe("y", dist.Normal(z, 1.0), y[index])

    with pytest.raises(GuideError, match="takes a part of its data"):
        MeanField(part, Y)
    with pytest.raises(GuideError, match="two coordinates"):
        Flow(lambda: sample("x", dist.Normal(0.0, 1.0)))
    with pytest.raises(GuideError, match="no latents in the plate 'm' alone"):
        Amortised(centred, Y, network=torch.nn.Linear(1, 2), plate="m")
    with pytest.raises(GuideError, match=r"nothing proposes \['mu'\]"):
        Amortised(centred, Y, network=torch.nn.Linear(1, 2), plate="n")


@pytest.mark.parametrize("subsample", [None, 3])
def test_an_amortised_guide(subsample: int | None) -> None:
    """z given mu and y is normal with a mean that is linear in y: a linear network can give it."""

    @program
    def local(y: Tensor) -> None:
        with plate("n", len(y), subsample_size=subsample) as index:
            z = sample("z", dist.Normal(0.0, 1.0))
            observe("y", dist.Normal(z, 0.5), y[index])

    torch.manual_seed(0)
    network = torch.nn.Linear(1, 2)
    guide = Amortised(local, Y, network=network, plate="n", inputs=lambda y: y[:, None])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    bound = elbo(local, guide)
    bound.check(Y)
    SVI(bound, optimizer, samples=4, compiled=False, **QUIET).run(Y, steps=900)
    assert network.weight[0, 0].item() == pytest.approx(0.8, abs=0.05)  # 1 / (1 + .25)
    assert network.bias[0].item() == pytest.approx(0.0, abs=0.05)
    scale = torch.nn.functional.softplus(network.weight[1, 0] * Y.mean() + network.bias[1])
    assert scale.item() == pytest.approx(math.sqrt(0.2), abs=0.05)
