"""Missing data: entries that are NaN and masked count for nothing, in density and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import condition, dist, plate, sample
from pushforward.errors import DataError
from pushforward.inference import MCMC, nuts
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")
NAN = math.nan
Y = torch.tensor([1.2, NAN, 0.3, NAN, 2.2], dtype=torch.float64)
THERE = [1.2, 0.3, 2.2]


def by_handler() -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", 5), pyro.poutine.mask(mask=~Y.isnan()):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y)


def by_law() -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", 5):
        pyro.sample("y", dist.Normal(mu, 1.0).expand([5]).mask(~Y.isnan()), obs=Y)


def within_an_event() -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    pyro.sample("y", dist.Normal(mu, 1.0).expand([5]).mask(~Y.isnan()).to_event(1), obs=Y)


def made_for_nan() -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", 5):
        pyro.sample("y", dist.NanMaskedNormal(mu, 1.0), obs=Y)


def open_site() -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", 5), pyro.poutine.mask(mask=~Y.isnan()):
        sample("y", dist.Normal(mu, 1.0))


CASES = {
    "handler": by_handler,
    "law": by_law,
    "event": within_an_event,
    "nan": made_for_nan,
    "condition": condition(open_site, {"y": Y}),
}


def normal(x: float, mu: float, sd: float) -> float:
    return -0.5 * ((x - mu) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("p", CASES.values(), ids=CASES.keys())
def test_density_and_gradient_are_those_of_the_entries_that_are_there(
    p: Callable[[], None],
) -> None:
    mu = torch.tensor([[0.7], [-1.1]])
    value, gradient = Potential(LogDensity(p), mu, compiled=False)(mu)
    for i, m in enumerate(mu.flatten().tolist()):
        by_hand = normal(m, 0.0, 2.0) + sum(normal(y, m, 1.0) for y in THERE)
        assert math.isclose(float(value[i]), by_hand, rel_tol=1e-12)
        assert math.isclose(float(gradient[i]), -m / 4 + sum(y - m for y in THERE), rel_tol=1e-12)


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_the_posterior_with_missing_data_and_their_log_likelihood(compiled: bool) -> None:
    fit = MCMC(nuts(), 4, 500, 200, compiled=compiled, progress=False).run(by_handler)
    sd = 1 / math.sqrt(3.25)
    assert abs(float(fit["mu"].mean()) - 3.7 / 3.25) < 5 * sd / math.sqrt(500)
    assert bool((fit.log_likelihood["y"][..., [1, 3]] == 0).all())


POSITIVE = torch.tensor([[0.4, 2.0], [NAN, NAN], [1.5, 0.1]], dtype=torch.float64)


@pytest.mark.parametrize(
    "law",
    [
        lambda a: dist.Gamma(a, 1.0).expand([2]).to_event(1),
        lambda a: dist.LogNormal(torch.zeros(2), a).to_event(1),
        lambda a: dist.MultivariateNormal(torch.zeros(2), a * torch.eye(2)),
    ],
)
def test_whole_events_may_be_missing(law: Callable[[Tensor], dist.Distribution]) -> None:
    def model(y: Tensor, there: Tensor) -> None:
        a = sample("a", dist.LogNormal(0.0, 1.0))
        with plate("n", len(y)), pyro.poutine.mask(mask=there):
            pyro.sample("y", law(a), obs=y)

    u = torch.tensor([[0.3], [-0.8]])
    there = torch.tensor([True, False, True])
    found = Potential(LogDensity(model, POSITIVE, there), u, compiled=False)(u)
    without = LogDensity(model, POSITIVE[there], there[there])
    for one, other in zip(found, Potential(without, u, compiled=False)(u), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_events_that_are_missing_in_part_are_scored_by_what_is_there() -> None:
    y = torch.tensor([[0.1, 0.2, 3.4], [0.5, NAN, 0.1], [NAN, NAN, NAN], [NAN, 0.5, NAN]])
    cov = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.4], [0.1, -0.4, 1.5]])

    def model() -> None:
        mu = sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with plate("n", 4):
            pyro.sample("y", dist.NanMaskedMultivariateNormal(mu, cov), obs=y)

    u = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.0, -1.0]])
    value, gradient = Potential(LogDensity(model), u, compiled=False)(u)
    for i in range(2):
        mu = u[i].clone().requires_grad_()
        theirs = dist.NanMaskedMultivariateNormal(mu, cov).log_prob(y).sum()
        prior = dist.Normal(torch.zeros(3), 1.0).log_prob(mu).sum()
        (slope,) = torch.autograd.grad(theirs + prior, mu)
        assert math.isclose(float(value[i]), float((theirs + prior).detach()), rel_tol=1e-10)
        assert torch.allclose(gradient[i], slope, rtol=1e-10)


def test_nan_that_no_mask_drops_are_refused_and_counted() -> None:
    def half_masked() -> None:
        with plate("n", 5), pyro.poutine.mask(mask=torch.arange(5) != 1):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=Y)

    with pytest.raises(DataError, match=r"hold 1 NaN.*'y'"):
        LogDensity(half_masked)
    with pytest.raises(DataError, match=r"hold 2 NaN.*'y'"):
        LogDensity(lambda: pyro.sample("y", dist.Normal(torch.zeros(5), 1.0).to_event(1), obs=Y))
