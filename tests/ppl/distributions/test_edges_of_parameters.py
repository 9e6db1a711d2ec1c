"""Laws of counts at the edge of their parameters: density and slope are finite and right.

torch 2.13 gives Poisson(0) the slope NaN at zero, and clamps the probabilities of others so that
it is zero; what is made of such a law (mixtures, zero inflation, masks) would inherit that.  Slopes
are by hand: each law has the density (1 - n r + ...) at zero, for its n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference import MCMC, nuts
from pushforward.ppl.distributions.densities import log_density

pytestmark = pytest.mark.usefixtures("double")

Family = Callable[[Tensor], Any]
# By r, which is 0: the law, and n.
EDGES: dict[str, tuple[Family, float]] = {
    "Poisson": (lambda r: dist.Poisson(r, validate_args=False), 1.0),
    "Bernoulli": (lambda r: dist.Bernoulli(r), 1.0),
    "Binomial": (lambda r: dist.Binomial(3, r), 3.0),
    "Geometric": (lambda r: dist.Geometric(1 - r), 1.0),
    "NegativeBinomial": (lambda r: dist.NegativeBinomial(torch.tensor(4.0), r), 4.0),
}
GATE, SHARE, OTHER = 0.3, 0.6, 0.25


def beside(family: Family, r: Tensor) -> Any:
    """A mixture with a law that gives zero the mass e^-1/4, or by the family itself at 1/4."""
    inner = family(torch.stack([r, torch.tensor(OTHER)]))
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([SHARE, 1 - SHARE])), inner)


def of_mixture(family: Family, n: float) -> float:
    other = math.exp(float(family(torch.tensor(OTHER)).log_prob(torch.tensor(0.0))))
    return -n * SHARE / (SHARE + (1 - SHARE) * other)


def logit(p: float) -> Tensor:
    return torch.tensor(math.log(p / (1 - p)))


AROUND: dict[str, tuple[Callable[[Family, Tensor], Any], Callable[[Family, float], float]]] = {
    "plain": (lambda f, r: f(r), lambda f, n: -n),
    "independent": (lambda f, r: f(r[None]).to_event(1), lambda f, n: -n),
    "expanded": (lambda f, r: f(r).expand([3]).to_event(1), lambda f, n: -3 * n),
    "masked": (lambda f, r: f(r).mask(torch.tensor(True)), lambda f, n: -n),
    "mixture": (beside, of_mixture),
    "zero inflated": (
        lambda f, r: dist.ZeroInflatedDistribution(f(r), gate=torch.tensor(GATE)),
        lambda f, n: -n * (1 - GATE),
    ),
    "zero inflated by logits": (
        lambda f, r: dist.ZeroInflatedDistribution(f(r), gate_logits=logit(GATE)),
        lambda f, n: -n * (1 - GATE),
    ),
    "one of two": (
        lambda f, r: dist.MaskedMixture(torch.tensor(True), f(torch.tensor(0.5)), f(r)),
        lambda f, n: -n,
    ),
    "inflated, one of two": (
        lambda f, r: dist.ZeroInflatedDistribution(
            dist.MaskedMixture(torch.tensor(False), f(r), f(torch.tensor(0.5))),
            gate=torch.tensor(GATE),
        ),
        lambda f, n: -n * (1 - GATE),
    ),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("around", AROUND)
def test_slopes_at_the_edge(name: str, around: str) -> None:
    family, n = EDGES[name]
    make, slope_of = AROUND[around]
    r = torch.tensor(0.0, requires_grad=True)
    law = make(family, r)
    log_prob = log_density(law, torch.zeros(law.batch_shape + law.event_shape)).sum()
    (slope,) = torch.autograd.grad(log_prob, r)
    assert float(slope) == pytest.approx(slope_of(family, n), rel=1e-12)


@pytest.mark.parametrize("name", ["Poisson", "Binomial", "NegativeBinomial"])
@pytest.mark.parametrize("around", [name for name in AROUND if "two" not in name])
def test_what_is_impossible_there_has_no_mass_and_no_nan(name: str, around: str) -> None:
    family, _ = EDGES[name]
    r = torch.tensor(0.0, requires_grad=True)
    law = AROUND[around][0](family, r)
    log_prob = log_density(law, torch.full(law.batch_shape + law.event_shape, 2.0)).sum()
    assert (float(log_prob.detach()) == -math.inf) == (around != "mixture")
    (slope,) = torch.autograd.grad(log_prob, r)
    assert not math.isnan(float(slope))


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0])
def test_one_of_two_does_not_see_what_the_other_scores(value: float) -> None:
    """A normal and a gamma: outside the gamma's support its slope would be NaN."""
    shape = torch.tensor(2.5, requires_grad=True)
    inner = dist.Gamma(shape, torch.tensor(1.0))
    law = dist.MaskedMixture(torch.tensor([False, True]), dist.Normal(0.0, 1.0), inner)
    log_prob = log_density(law, torch.tensor([value, 2.0]))
    normal = -0.5 * value**2 - 0.5 * math.log(2 * math.pi)
    gamma = 1.5 * math.log(2.0) - 2.0 - math.lgamma(2.5)
    assert log_prob.tolist() == pytest.approx([normal, gamma], rel=1e-12)
    (slope,) = torch.autograd.grad(log_prob.sum(), shape)
    assert float(slope) == pytest.approx(math.log(2.0) - float(torch.digamma(torch.tensor(2.5))))


def test_torch_alone_gives_nan_or_nothing() -> None:
    """What the table is about."""
    r = torch.tensor(0.0, requires_grad=True)
    own = dist.Poisson(r, validate_args=False).log_prob(torch.tensor(0.0))
    assert math.isnan(float(torch.autograd.grad(own, r)[0]))
    own = dist.NegativeBinomial(torch.tensor(4.0), r).log_prob(torch.tensor(0.0))
    assert float(torch.autograd.grad(own, r)[0]) == 0.0


@pytest.mark.parametrize("inflated", [False, True])
def test_nuts_starts_and_moves_where_a_rate_is_zero(inflated: bool) -> None:
    """x is normal, and nothing was counted at the rate max(x, 0).

    The density is normal below zero and normal times e^-x, or .3 + .7 e^-x, above it.
    """

    def model() -> None:
        x = sample("x", dist.Normal(torch.tensor(0.0), 1.0))
        law: Any = dist.Poisson(torch.relu(x), validate_args=False)
        law = dist.ZeroInflatedDistribution(law, gate=torch.tensor(GATE)) if inflated else law
        observe("n", law, torch.tensor(0.0))

    fit = MCMC(nuts(), chains=4, draws=1000, warmup=300, progress=False).run(model, seed=0)
    x = torch.linspace(-9, 9, 200_001)
    seen = (-torch.relu(x)).exp()
    weights = (-0.5 * x**2).exp() * (GATE + (1 - GATE) * seen if inflated else seen)
    mean = float((weights * x).sum() / weights.sum())
    table = fit.summary()
    assert fit.divergences == 0
    # five standard errors: a level below 1e-6
    assert abs(float(table["mean"].iloc[0]) - mean) < 5 * float(table["mcse_mean"].iloc[0])
