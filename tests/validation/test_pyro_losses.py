"""Pyro's losses of SVI against exact objectives: whose gradients are unbiased, and whose not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import Tensor

from pushforward.semantics import check
from pushforward.validation.foreign import pyro_loss

pytestmark = pytest.mark.usefixtures("double")
AT = [0.3, -0.5]


def model(t: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.4)))
    seen = torch.where(z == 1, t[1].sigmoid(), torch.tensor(0.2))
    pyro.sample("x", dist.Bernoulli(seen), obs=torch.tensor(1.0))


def guide(t: Tensor) -> None:
    pyro.sample("z", dist.Bernoulli(t[0].sigmoid()))


def enumerated(t: Tensor) -> None:
    pyro.sample("z", dist.Bernoulli(t[0].sigmoid()), infer={"enumerate": "parallel"})


def with_baseline(t: Tensor) -> None:
    baseline = {"use_decaying_avg_baseline": True}
    pyro.sample("z", dist.Bernoulli(t[0].sigmoid()), infer={"baseline": baseline})


def log_ratios(t: Tensor) -> tuple[Tensor, Tensor]:
    """The law of the guide [2], and log p(x, z) - log q(z) [2]."""
    q = torch.stack([1 - t[0].sigmoid(), t[0].sigmoid()])
    joint = torch.stack([torch.tensor(0.6 * 0.2), 0.4 * t[1].sigmoid()])
    return q, joint.log() - q.log()


def elbo(t: Tensor) -> Tensor:
    q, ratios = log_ratios(t)
    return -(q * ratios).sum()


def renyi(alpha: float, k: int) -> Callable[[Tensor], Tensor]:
    """Of k particles: the mean over all that they can be, by hand."""

    def bound(t: Tensor) -> Tensor:
        q, ratios = log_ratios(t)
        total = torch.zeros(())
        for zs in itertools.product((0, 1), repeat=k):
            places = list(zs)
            mean = torch.logsumexp((1 - alpha) * ratios[places], 0) - torch.tensor(float(k)).log()
            total = total + q[places].prod() * mean / (1 - alpha)
        return -total

    return bound


@pytest.mark.parametrize(
    ("make", "g"),
    [
        (Trace_ELBO, guide),
        (lambda: Trace_ELBO(num_particles=2), guide),
        (TraceGraph_ELBO, guide),
        (TraceGraph_ELBO, with_baseline),
        (lambda: TraceEnum_ELBO(max_plate_nesting=0), guide),
        (lambda: TraceEnum_ELBO(max_plate_nesting=0), enumerated),
    ],
)
def test_losses_of_a_discrete_guide_are_unbiased(make: Any, g: Any) -> None:
    check.unbiased(pyro_loss(make, model, g), elbo, torch.tensor(AT)).require()


def test_a_flipped_guide_is_told() -> None:
    def other(t: Tensor) -> None:
        pyro.sample("z", dist.Bernoulli(t[0].sigmoid().detach()))

    report = check.unbiased(pyro_loss(Trace_ELBO, model, other), elbo, torch.tensor(AT))
    assert report.verdict == "fail" and "gradient 0: expectation 0," in report.counterexample


@pytest.mark.parametrize(("alpha", "k"), [(0.0, 2), (0.5, 2), (2.0, 2), (0.0, 3)])
def test_the_renyi_bound_of_a_discrete_guide_is_biased(alpha: float, k: int) -> None:
    """Pyro 1.9.2; ``findings/pyro_renyi_discrete.sh``."""
    made = pyro_loss(lambda: RenyiELBO(alpha=alpha, num_particles=k), model, guide)
    report = check.unbiased(made, renyi(alpha, k), torch.tensor(AT))
    assert report.verdict == "fail" and "gradient 0" in report.counterexample


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_renyi_bound_of_a_reparameterised_guide_is_unbiased(alpha: float) -> None:
    def normal(t: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.7))

    def moved(t: Tensor) -> None:
        pyro.sample("z", dist.Normal(t[0], t[1].exp()))

    nodes, weights = map(torch.from_numpy, hermegauss(48))
    shares = weights / weights.sum()

    def bound(t: Tensor) -> Tensor:
        """By Gauss's rule of 48 nodes for each of two particles."""
        z = t[0] + t[1].exp() * nodes
        prior, seen = dist.Normal(0.0, 1.0), dist.Normal(z, 1.0)
        ratios = prior.log_prob(z) + seen.log_prob(torch.tensor(0.7))
        ratios = (1 - alpha) * (ratios - dist.Normal(t[0], t[1].exp()).log_prob(z))
        pairs = torch.logaddexp(ratios[:, None], ratios) - torch.tensor(2.0).log()
        return -(shares[:, None] * shares * pairs).sum() / (1 - alpha)

    made = pyro_loss(lambda: RenyiELBO(alpha=alpha, num_particles=2), normal, moved)
    report = check.unbiased(made, bound, torch.tensor([0.2, -0.3]), quadrature=24, tolerance=1e-6)
    assert report.verdict == "pass", report


def test_handlers_stand_where_they_stood() -> None:
    pyro_loss(Trace_ELBO, model, guide)(torch.tensor(AT))
    assert not pyro.poutine.runtime._PYRO_STACK
    assert "parameters" not in pyro.get_param_store()
