"""Stable laws: closed forms, scipy's density where Pyro's is trusted, a warning where it is not."""

from __future__ import annotations

import math
import warnings

import pytest
import scipy.stats
import torch

from pushforward import assess, dist, sample
from pushforward.errors import InaccurateDensityWarning
from pushforward.ppl.distributions.densities import log_density

pytestmark = pytest.mark.usefixtures("double")

X = torch.tensor([-200.0, -7.0, -0.5, 0.0, 0.3, 4.0, 50.0, 900.0], dtype=torch.float64)


def t(value: float) -> torch.Tensor:
    return torch.tensor(value)


@pytest.mark.parametrize("kind", [dist.Stable, dist.StableWithLogProb])
def test_closed_forms(kind: type) -> None:
    """At stability 2 the law is normal of variance 2 scale^2, and at 1 without skew Cauchy."""
    normal = log_density(kind(t(2.0), t(0.0), t(3.0), t(1.0)), X)
    exact = dist.Normal(1.0, 3 * math.sqrt(2)).log_prob(X)
    torch.testing.assert_close(normal, exact, rtol=1e-13, atol=1e-13)
    cauchy = log_density(kind(t(1.0), t(0.0), t(3.0), t(1.0)), X)
    exact = dist.Cauchy(1.0, 3.0).log_prob(X)
    torch.testing.assert_close(cauchy, exact, rtol=1e-13, atol=1e-13)


def test_pyros_own_is_off_there() -> None:
    law = dist.Stable(t(2.0), t(0.0), t(1.0), t(0.0))
    assert float(law.log_prob(t(50.0)) - dist.Normal(0.0, math.sqrt(2)).log_prob(t(50.0))) > 300


@pytest.mark.parametrize("stability", [1.1, 1.5, 1.9])
@pytest.mark.parametrize("skew", [0.0, 0.7])
def test_where_it_is_trusted_it_is_that_of_scipy(stability: float, skew: float) -> None:
    x = torch.tensor([-3.0, -0.4, 0.0, 0.9, 5.0, 20.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_density(dist.Stable(t(stability), t(skew), t(1.0), t(0.0)), x)
    law = scipy.stats.levy_stable
    before, law.parameterization = law.parameterization, "S0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = torch.from_numpy(law.logpdf(x.numpy(), stability, skew))
    law.parameterization = before
    assert float((found - exact).abs().max()) < 0.011


@pytest.mark.parametrize(("stability", "skew"), [(0.8, 0.0), (1.0, 0.1), (1.02, 0.0), (1.95, 0.5)])
def test_elsewhere_it_warns_by_name(stability: float, skew: float) -> None:
    def model() -> None:
        sample("x", dist.Stable(t(stability), t(skew), t(1.0), t(0.0)))

    with pytest.warns(InaccurateDensityWarning, match=r"below 1\.1 or above 1\.9.*reparam"):
        assess(model, {"x": t(0.5)})


def test_only_the_rough_ones_of_a_batch_are_told() -> None:
    """A derivative by the stability is that of Pyro's quadrature, also at the closed forms."""
    law = dist.Stable(torch.tensor([2.0, 1.5, 1.0]), torch.zeros(3), torch.ones(3), torch.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_density(law, torch.ones(3))
    stability = t(2.0).requires_grad_()
    with pytest.warns(InaccurateDensityWarning):
        log_prob = log_density(dist.Stable(stability, t(0.0), t(1.0), t(0.0)), t(1.0))
    assert math.isfinite(float(torch.autograd.grad(log_prob, stability)[0]))
