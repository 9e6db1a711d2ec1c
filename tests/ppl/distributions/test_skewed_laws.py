"""Skew normal, extreme value and ordered logistic laws: scipy, mpmath, draws, faults."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from support.sizes import quick
from torch import Tensor

from pushforward import dist
from pushforward.laws import GeneralizedExtremeValue, OrderedLogistic, SkewNormal
from pushforward.ppl.distributions.densities import log_density
from pushforward.ppl.types import space_of
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def t(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


SHAPES = [-3.0, 0.0, 0.5, 8.0]
CONCENTRATIONS = [-0.6, -1e-5, 0.0, 1e-9, 0.2, 0.4, 0.7, 1.3]


@pytest.mark.parametrize("skew", SHAPES)
def test_the_skew_normal_law_is_that_of_scipy(skew: float) -> None:
    law, theirs = SkewNormal(t(0.3), t(1.2), t(skew)), stats.skewnorm(skew, 0.3, 1.2)
    x = np.linspace(-4.0, 5.0, 13)
    np.testing.assert_allclose(law.log_prob(t(x)), theirs.logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(law.cdf(t(x)), theirs.cdf(x), atol=1e-10)
    assert float(law.mean) == pytest.approx(theirs.mean(), rel=1e-12)
    assert float(law.variance) == pytest.approx(theirs.var(), rel=1e-12)


@pytest.mark.parametrize("x", [-30.0, 30.0])
def test_its_tails_and_their_derivatives_have_their_digits(x: float) -> None:
    mpmath.mp.dps = 40

    def score(loc: Any, skew: Any) -> Any:
        z = mpmath.mpf(x) - loc
        return mpmath.log(2 * mpmath.npdf(z) * mpmath.erfc(-skew * z / mpmath.sqrt(2)) / 2)

    leaves = [t(0.25).requires_grad_(), t(2.0).requires_grad_()]
    found = SkewNormal(leaves[0], 1.0, leaves[1]).log_prob(t(x))
    slopes = torch.autograd.grad(found, leaves)
    at = mpmath.mpf("0.25"), mpmath.mpf(2)
    exact = [float(score(*at)), *(float(mpmath.diff(score, at, n)) for n in ((1, 0), (0, 1)))]
    values = [float(v.detach()) for v in (found, *slopes)]
    np.testing.assert_allclose(values, exact, rtol=1e-11, atol=1e-150)


@pytest.mark.parametrize("c", CONCENTRATIONS)
def test_the_extreme_value_law_is_that_of_scipy(c: float) -> None:
    law, theirs = GeneralizedExtremeValue(t(0.3), t(1.2), t(c)), stats.genextreme(-c, 0.3, 1.2)
    u = t([1e-4, 0.1, 0.5, 0.9, 0.999])
    x = theirs.ppf(u.numpy())
    exact = 1e-9 if abs(c) != 1e-9 else 1e-6  # where scipy's quotients lose digits
    np.testing.assert_allclose(law.icdf(u), x, rtol=exact)
    np.testing.assert_allclose(law.cdf(t(x)), u, rtol=max(exact, 1e-7))
    np.testing.assert_allclose(law.log_prob(t(x)), theirs.logpdf(x), rtol=max(exact, 1e-8))
    if c < 1 and abs(c) != 1e-9:
        assert float(law.mean) == pytest.approx(theirs.mean(), rel=1e-9)
    if c < 0.5 and abs(c) > 1e-4:
        assert float(law.variance) == pytest.approx(theirs.var(), rel=1e-9)
    assert bool(law.mean.isinf()) == (c >= 1) and bool(law.variance.isinf()) == (c >= 0.5)


def test_the_law_and_its_derivative_pass_through_concentration_zero() -> None:
    """mpmath, on both sides of the series and at zero, where the derivative is z^2 / 2 (1 - ...)"""
    mpmath.mp.dps = 40
    for c in (-2e-3, -5e-4, 1e-8, 0.0, 9.9e-4, 1.1e-3):

        def score(c: Any) -> Any:
            z = (mpmath.mpf("1.7") - mpmath.mpf("0.3")) / mpmath.mpf("1.2")
            w = mpmath.log1p(c * z) / c if c else z
            return -(1 + c) * w - mpmath.exp(-w) - mpmath.log(mpmath.mpf("1.2"))

        leaf = t(c).requires_grad_()
        found = GeneralizedExtremeValue(t(0.3), t(1.2), leaf).log_prob(t(1.7))
        (slope,) = torch.autograd.grad(found, leaf)
        h = mpmath.mpf("1e-12")
        exact = float((score(mpmath.mpf(c) + h) - score(mpmath.mpf(c) - h)) / (2 * h))
        assert float(found.detach()) == pytest.approx(float(score(mpmath.mpf(c))), rel=1e-13)
        assert float(slope) == pytest.approx(exact, rel=1e-10)


def test_extreme_values_have_their_ends() -> None:
    law = GeneralizedExtremeValue(t(0.0), t(1.0), t([0.5, -0.5, 0.0]))
    assert law.support.lower_bound.tolist() == [-2.0, -math.inf, -math.inf]
    assert law.support.upper_bound.tolist() == [math.inf, 2.0, math.inf]
    names = [
        repr(space_of(GeneralizedExtremeValue(t(0.0), t(1.0), t(c)))) for c in (0.5, -0.5, 0.0)
    ]
    assert names == ["GreaterThan(-2)", "LessThan(2)", "Real"]
    outside = law.expand((3,))
    leaf = t(0.5).requires_grad_()
    found = log_density(GeneralizedExtremeValue(t(0.0), t(1.0), leaf), t(-3.0))
    assert float(found.detach()) == -math.inf
    assert outside.cdf(t([-3.0, 3.0, 0.0])).tolist()[:2] == [0.0, 1.0]


class Halved(SkewNormal):
    """A fault: the sign of the first normal is kept, so that draws are normal."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return dist.Normal(self.loc, self.scale).rsample(sample_shape)  # type: ignore[no-any-return]


class Mirrored(GeneralizedExtremeValue):
    """A fault: the sign of the concentration is that of scipy."""

    def icdf(self, value: Tensor) -> Tensor:
        return GeneralizedExtremeValue(self.loc, self.scale, -self.concentration).icdf(value)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.icdf(torch.rand(sample_shape, dtype=torch.float64))


GOOD = {
    "skew normal": lambda: SkewNormal(t(0.3), t(1.2), t(2.0)),
    "heavy": lambda: GeneralizedExtremeValue(t(0.3), t(1.2), t(0.2)),
    "bounded": lambda: GeneralizedExtremeValue(t(0.3), t(1.2), t(-0.3)),
    "ordered": lambda: OrderedLogistic(t(0.4), t([-1.0, 0.5, 2.0])),
}


@pytest.mark.parametrize("name", quick(2, GOOD))
def test_the_sampler_has_the_density(name: str) -> None:
    check.density(GOOD[name](), draws=20_000).require()


@pytest.mark.parametrize("fault", [Halved, Mirrored])
def test_a_fault_is_found(fault: Any) -> None:
    assert check.density(fault(t(0.3), t(1.2), t(0.3)), draws=20_000).verdict == "fail"


def test_ordered_categories_keep_their_digits_far_out() -> None:
    """mpmath's differences of logistic functions; Pyro's probabilities are zero there."""
    mpmath.mp.dps = 500
    cuts = [-1.0, 0.5, 2.0]
    for predictor in (0.4, 60.0, -800.0):
        law = OrderedLogistic(t(predictor), t(cuts))
        s = [mpmath.mpf(1) / (1 + mpmath.exp(predictor - mpmath.mpf(c))) for c in cuts]
        masses = [s[0], s[1] - s[0], s[2] - s[1], 1 / (1 + mpmath.exp(2 - mpmath.mpf(predictor)))]
        exact = [float(mpmath.log(p)) for p in masses]
        np.testing.assert_allclose(
            law.log_prob(t([0.0, 1.0, 2.0, 3.0])), exact, rtol=1e-9, atol=1e-12
        )
    wide = OrderedLogistic(torch.zeros(3, 2), t(cuts))
    assert wide.batch_shape == (3, 2) and wide.expand((4, 3, 2)).sample().shape == (4, 3, 2)
    pyro = dist.OrderedLogistic(t(0.4), t(cuts)).log_prob(t([0, 1, 2, 3]))
    torch.testing.assert_close(OrderedLogistic(t(0.4), t(cuts)).log_prob(t([0, 1, 2, 3])), pyro)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SkewNormal(t(0.0), t(-1.0), t(0.0)), "scale"),
        (lambda: SkewNormal(t(0.0), t(1.0), t(math.nan)), "skew"),
        (lambda: GeneralizedExtremeValue(t(0.0), t(0.0), t(0.1)), "scale"),
        (lambda: OrderedLogistic(t(0.0), t([1.0, 0.0])), "cutpoints"),
    ],
)
def test_parameters_out_of_range_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_single_precision() -> None:
    for c in (0.2, 1e-6, -0.3):
        single = GeneralizedExtremeValue(torch.tensor(0.3), torch.tensor(1.2), torch.tensor(c))
        double = GeneralizedExtremeValue(t(0.3), t(1.2), t(c))
        x = torch.tensor(1.7, dtype=torch.float32)
        args = [p.float() for p in (single.loc, single.scale, single.concentration)]
        found = GeneralizedExtremeValue(*args).log_prob(x)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(double.log_prob(x.double())), rel=1e-5)
