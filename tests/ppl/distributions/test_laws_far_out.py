"""Laws where others lose their digits, or rows have ends of their own: scipy and mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward import dist
from pushforward.errors import ProgramError, UnsupportedDistributionError
from pushforward.laws import (
    ICAR,
    Censored,
    GeneralizedExtremeValue,
    SkewNormal,
    Truncated,
    ZeroInflatedBinomial,
    ZeroSumNormal,
)

pytestmark = pytest.mark.usefixtures("double")
INF = math.inf


def t(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_a_tail_of_a_gamma_law_has_its_digits() -> None:
    theirs = stats.gamma(2.0)
    for low in (30.0, 60.0, 300.0):
        found = Truncated(dist.Gamma(t(2.0), t(1.0)), low).log_prob(t(low + 1))
        assert float(found) == pytest.approx(theirs.logpdf(low + 1) - theirs.logsf(low), rel=1e-10)
    found = Censored(dist.Gamma(t(2.0), t(1.0)), None, 60.0).log_prob(t(60.0))
    assert float(found) == pytest.approx(theirs.logsf(60.0), rel=1e-10)


def test_no_density_is_infinite_where_a_tail_has_no_digits() -> None:
    law = Truncated(SkewNormal(t(0.0), t(1.0), t(-3.0)), t([-1.0, 4.0]))
    found = law.log_prob(t([0.0, 4.5])).tolist()
    theirs = stats.skewnorm(-3.0)
    assert found[0] == pytest.approx(theirs.logpdf(0.0) - theirs.logsf(-1.0), rel=1e-9)
    assert math.isnan(found[1])


def test_a_law_truncated_twice_is_truncated_once_as_far() -> None:
    twice, theirs = (
        Truncated(Truncated(dist.Normal(t(0.0), t(1.0)), 10.0), 20.0, 21.0),
        stats.truncnorm(20.0, 21.0),
    )
    x, p = np.array([20.01, 20.5]), np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(twice.log_prob(t(x)), theirs.logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(twice.cdf(t(x)), theirs.cdf(x), rtol=1e-9)
    np.testing.assert_allclose(twice.icdf(t(p)), theirs.ppf(p), rtol=1e-9)
    censored = Censored(Truncated(dist.Normal(t(0.0), t(1.0)), 0.0), None, 12.0)
    assert float(censored.log_prob(t(12.0))) == pytest.approx(
        stats.truncnorm(0.0, INF).logsf(12.0), rel=1e-10
    )


class Moved(dist.Normal):  # type: ignore[misc]
    """Normal(loc + 1, scale)."""

    def log_prob(self, value: Tensor) -> Tensor:
        found: Tensor = super().log_prob(value - 1)
        return found


class MovedWhole(Moved):
    def cdf(self, value: Tensor) -> Tensor:
        found: Tensor = super().cdf(value - 1)
        return found

    def icdf(self, value: Tensor) -> Tensor:
        found: Tensor = super().icdf(value) + 1
        return found


def test_laws_that_derive_from_known_ones_have_their_own_tails() -> None:
    law = Truncated(MovedWhole(t(0.0), t(1.0)), 0.0)
    expected = stats.norm(1.0).logpdf(0.5) - stats.norm(1.0).logsf(0.0)
    assert float(law.log_prob(t(0.5))) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(NotImplementedError, match="moments of a truncated MovedWhole"):
        _ = law.mean
    with pytest.raises(UnsupportedDistributionError, match="Moved has no distribution function"):
        Truncated(Moved(t(0.0), t(1.0)), 0.0)


HEAVY = [(0.01, 0.99), (0.05, 0.999), (3.5, 0.4)]


@pytest.mark.parametrize(("count", "p"), HEAVY)
def test_moments_of_counts_reach_the_end_of_their_tail(count: float, p: float) -> None:
    law = Truncated(dist.NegativeBinomial(t(count), t(p)), 1)
    theirs = stats.nbinom(count, 1 - p)
    rest = -np.expm1(theirs.logpmf(0))
    mean = theirs.mean() / rest
    square = (theirs.var() + theirs.mean() ** 2) / rest
    assert float(law.mean) == pytest.approx(mean, rel=1e-8)
    assert float(law.variance) == pytest.approx(square - mean**2, rel=1e-8)


@pytest.mark.parametrize("low", [1, 2, 5, 30])
@pytest.mark.parametrize(("count", "p"), [(1e-4, 0.9999), (1e-6, 0.999), (2.0, 0.1)])
def test_masses_of_counts_reach_the_end_of_their_tail(count: float, p: float, low: int) -> None:
    found = Truncated(dist.NegativeBinomial(t(count), t(p)), low).log_mass.exp()
    exact = stats.nbinom(count, 1 - p).sf(low - 1)
    assert float(found) == pytest.approx(exact, rel=1e-7)


ENDS: list[tuple[list[float], list[float]]] = [
    ([-INF, -INF], [INF, 4.0]),
    ([10.0, -INF], [INF, 4.0]),
    ([2.0, 0.0], [INF, INF]),
    ([2.0, 1.0], [9.0, INF]),
]


@pytest.mark.parametrize(("low", "high"), ENDS)
def test_each_row_of_counts_has_ends_of_its_own(low: list[float], high: list[float]) -> None:
    theirs = stats.poisson(3.0)
    truncated = Truncated(dist.Poisson(t(3.0)), t(low), t(high))
    censored = Censored(dist.Poisson(t(3.0)), t(low), t(high))
    for row, (a, b) in enumerate(zip(low, high, strict=True)):
        n = np.arange(max(a, 0), min(b, 90) + 1)
        at = t(n)[:, None].expand(-1, 2).clamp(t(low), t(high))
        masses = theirs.pmf(n)
        np.testing.assert_allclose(
            truncated.log_prob(at)[:, row].exp(), masses / masses.sum(), rtol=1e-9, atol=1e-30
        )
        masses[0], below = (theirs.cdf(a), True) if a >= 0 else (masses[0], False)
        if np.isfinite(b):
            masses[-1] = theirs.sf(b - 1)
        assert below == (a >= 0)
        np.testing.assert_allclose(
            censored.log_prob(at)[:, row].exp(), masses, rtol=1e-9, atol=1e-30
        )


def test_ends_beyond_a_law_of_counts_censor_nothing() -> None:
    law = Censored(dist.Binomial(5, t(0.5)), -1, 9)
    n = np.arange(6)
    np.testing.assert_allclose(law.log_prob(t(n * 1.0)).exp(), stats.binom(5, 0.5).pmf(n))
    with pytest.raises(ProgramError, match="takes the values of its ends"):
        Censored(dist.Poisson(t(3.0)), None, 4.5)


@pytest.mark.parametrize("c", [0.0, 2e-6, 1e-4, -1e-4, 0.03, -0.09, 0.099, 0.101, 0.3])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-11), (torch.float32, 3e-5)])
def test_moments_near_gumbels_law_have_their_digits(
    c: float, dtype: torch.dtype, rel: float
) -> None:
    mpmath.mp.dps = 40
    law = GeneralizedExtremeValue(torch.tensor(0.0, dtype=dtype), 1.0, torch.tensor(c, dtype=dtype))
    exact: tuple[Any, Any] = (mpmath.euler, mpmath.pi**2 / 6)
    if c:
        shape = mpmath.mpf(float(law.concentration))
        first, second = (mpmath.gamma(1 - k * shape) for k in (1, 2))
        exact = ((first - 1) / shape, (second - first**2) / shape**2)
    assert float(law.mean) == pytest.approx(float(exact[0]), rel=rel)
    assert float(law.variance) == pytest.approx(float(exact[1]), rel=rel)


@pytest.mark.parametrize("skew", [0.9, 1.1, 50.0, 1e4, -50.0, -1e4])
def test_a_steep_skew_normal_law_has_a_distribution_function(skew: float) -> None:
    x = np.array([-3.0, -0.5, -0.01, 0.0, 0.01, 0.3, 2.0])
    exact = [_owens(z, skew) for z in x]
    found = SkewNormal(t(0.0), t(1.0), t(skew)).cdf(t(x))
    np.testing.assert_allclose(found, exact, atol=1e-10)


def _owens(z: float, skew: float) -> float:
    from scipy.special import owens_t

    return float(stats.norm.cdf(z) - 2 * owens_t(z, skew))


NUMBERS: list[tuple[Callable[[], Any], float]] = [
    (lambda: ZeroSumNormal(2, 4), 3.0),
    (lambda: ICAR(1, [[0, 1], [1, 0]]), 0.25),
    (lambda: ZeroInflatedBinomial(4, t(0.5), gate=0.2), 1.44),
    (lambda: ZeroInflatedBinomial(4, t(0.5), gate_logits=0.0), 1.5),
]


@pytest.mark.parametrize(("law", "variance"), NUMBERS)
def test_parameters_may_be_plain_numbers(law: Callable[[], Any], variance: float) -> None:
    made = law()
    assert float(made.variance.flatten()[0]) == pytest.approx(variance)
    assert made.sample().isfinite().all()
