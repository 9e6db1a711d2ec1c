"""Truncated and censored laws: scipy, mpmath in the tails, quadrature, their samplers, faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from support.sizes import quick
from torch import Tensor

from pushforward import assess, dist, observe, plate, program, sample, simulate, vmap
from pushforward.errors import BudgetError, ProgramError, UnsupportedDistributionError
from pushforward.ppl.distributions.laws import Censored, Truncated
from pushforward.ppl.distributions.laws.tails import log_above, log_below, quantile
from pushforward.ppl.types import space_of
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def t(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# Laws, and the same of scipy.
CONTINUOUS: dict[str, tuple[Callable[[], Any], Any]] = {
    "Normal": (lambda: dist.Normal(t(0.3), t(1.2)), stats.norm(0.3, 1.2)),
    "LogNormal": (lambda: dist.LogNormal(t(0.3), t(0.7)), stats.lognorm(0.7, scale=math.exp(0.3))),
    "Cauchy": (lambda: dist.Cauchy(t(0.3), t(1.2)), stats.cauchy(0.3, 1.2)),
    "Logistic": (lambda: dist.Logistic(t(0.3), t(1.2)), stats.logistic(0.3, 1.2)),
    "Laplace": (lambda: dist.Laplace(t(0.3), t(1.2)), stats.laplace(0.3, 1.2)),
    "Gumbel": (lambda: dist.Gumbel(t(0.3), t(1.2)), stats.gumbel_r(0.3, 1.2)),
    "HalfNormal": (lambda: dist.HalfNormal(t(1.2)), stats.halfnorm(scale=1.2)),
    "HalfCauchy": (lambda: dist.HalfCauchy(t(1.2)), stats.halfcauchy(scale=1.2)),
    "Exponential": (lambda: dist.Exponential(t(0.8)), stats.expon(scale=1.25)),
    "Weibull": (lambda: dist.Weibull(t(1.2), t(1.7)), stats.weibull_min(1.7, scale=1.2)),
    "Pareto": (lambda: dist.Pareto(t(0.4), t(1.7)), stats.pareto(1.7, scale=0.4)),
    "Uniform": (lambda: dist.Uniform(t(-0.5), t(3.0)), stats.uniform(-0.5, 3.5)),
    "Gamma": (lambda: dist.Gamma(t(2.3), t(1.1)), stats.gamma(2.3, scale=1 / 1.1)),
}
WHOLE: dict[str, tuple[Callable[[], Any], Any]] = {
    "Poisson": (lambda: dist.Poisson(t(2.5)), stats.poisson(2.5)),
    "NegativeBinomial": (lambda: dist.NegativeBinomial(t(3.5), t(0.4)), stats.nbinom(3.5, 0.6)),
    "Geometric": (lambda: dist.Geometric(t(0.3)), stats.geom(0.3, loc=-1)),
    "Binomial": (lambda: dist.Binomial(9, t(0.3)), stats.binom(9, 0.3)),
}
BASES = CONTINUOUS | WHOLE
ENDS = [(0.6, 2.5), (0.9, None), (None, 1.5)]


def within(theirs: Any, low: float | None, high: float | None) -> tuple[float, float]:
    return (-math.inf if low is None else low), (math.inf if high is None else high)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_both_tails_and_their_inverses_are_those_of_scipy(name: str) -> None:
    make, theirs = CONTINUOUS[name]
    law, x = make(), t(theirs.ppf([1e-5, 0.01, 0.3, 0.7, 0.99, 1 - 1e-5]))
    np.testing.assert_allclose(log_below(law, x), theirs.logcdf(x.numpy()), rtol=1e-9)
    np.testing.assert_allclose(log_above(law, x), theirs.logsf(x.numpy()), rtol=1e-9)
    if name != "Gamma":
        back = quantile(law, log_below(law, x), log_above(law, x))
        np.testing.assert_allclose(back, x, rtol=1e-10)
    ends = t([-math.inf, math.inf])
    assert log_below(law, ends).tolist() == [-math.inf, 0.0]
    assert log_above(law, ends).tolist() == [0.0, -math.inf]


@pytest.mark.parametrize("name", BASES)
def test_the_density_is_that_of_scipy_over_the_mass_inside(name: str) -> None:
    make, theirs = BASES[name]
    for low, high in [*ENDS, (2.0, 5.0)]:
        a, b = within(theirs, low, high)
        law = Truncated(make(), low, high, validate_args=False)
        if name in WHOLE:
            x = np.arange(0.0, 12.0)
            mass = theirs.cdf(b) - theirs.cdf(math.ceil(a) - 1 if a > -math.inf else -1)
            exact = theirs.logpmf(x) - np.log(mass)
        else:
            x = np.linspace(0.5, 2.9, 9)
            exact = theirs.logpdf(x) - np.log(theirs.cdf(b) - theirs.cdf(a))
        exact = np.where((x >= a) & (x <= b), exact, -np.inf)
        np.testing.assert_allclose(law.log_prob(t(x)), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", quick(3, ["Normal", "Poisson", "Gumbel", *BASES]))
def test_the_sampler_has_the_density(name: str) -> None:
    law = Truncated(BASES[name][0](), *((1, None) if name in WHOLE else (0.6, 2.5)))
    if name == "Gamma":  # torch has no quantiles of it
        with pytest.raises(NotImplementedError):
            law.sample()
        return
    check.density(law, draws=20_000).require()


class Unnormed(Truncated):
    """A fault: the density is that of the law, as if nothing were cut."""

    @property
    def log_mass(self) -> Tensor:
        return torch.zeros_like(self.low)


class Clamped(Truncated):
    """A fault: draws beyond an end are put on it."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.base_dist.sample(torch.Size(sample_shape)).clamp(self.low, self.high)  # type: ignore[no-any-return]


class OpenEnd(Truncated):
    """A fault: the low end of whole numbers is left out of the mass."""

    @property
    def log_mass(self) -> Tensor:
        return Truncated(self.base_dist, self.low + 1, self.high).log_mass


@pytest.mark.parametrize(
    ("fault", "name"),
    [(Unnormed, "Normal"), (Unnormed, "Poisson"), (Clamped, "Normal"), (OpenEnd, "Poisson")],
)
def test_a_fault_is_found(fault: Any, name: str) -> None:
    law = fault(BASES[name][0](), 1, 4, validate_args=False)
    assert check.density(law, draws=20_000).verdict == "fail"


@pytest.mark.parametrize("low", [5.0, 40.0, 300.0])
def test_a_normal_tail_and_its_derivatives_have_their_digits(low: float) -> None:
    """mpmath, in 60 digits, by Phi's complement; also mirrored, and in single precision."""
    mpmath.mp.dps = 60

    def score(loc: Any, scale: Any) -> Any:
        z = (mpmath.mpf(low) - loc) / scale
        mass = mpmath.erfc(z / mpmath.sqrt(2)) / 2
        return mpmath.log(mpmath.npdf(mpmath.mpf(low) + 0.1, loc, scale) / mass)

    point = mpmath.mpf("0.25"), mpmath.mpf("1.5")
    exact = [float(score(*point)), *(float(mpmath.diff(score, point, n)) for n in ((1, 0), (0, 1)))]
    for sign in (1.0, -1.0):
        for dtype, digits in ((torch.float64, 1e-9), (torch.float32, 2e-4)):
            loc, scale = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (0.25, 1.5))
            ends = (low, None) if sign > 0 else (None, -low)
            law = Truncated(dist.Normal(sign * loc, scale), *ends, validate_args=False)
            found = law.log_prob(sign * torch.tensor(low + 0.1, dtype=dtype))
            slopes = torch.autograd.grad(found, (loc, scale))
            off = 1.0 if dtype == torch.float64 else 1 + low * low / 100
            values = [float(x) for x in (found.detach(), *slopes)]
            np.testing.assert_allclose(values, exact, rtol=digits * off, atol=digits * off)


def variance(a: float, b: float) -> float:
    """Of Normal(0.3, 1.2) within a and b; that of scipy 1.17 loses digits far out."""
    mpmath.mp.dps = 60
    z = [(mpmath.mpf(x) - mpmath.mpf("0.3")) / mpmath.mpf("1.2") for x in (a, b)]
    mass = (
        mpmath.ncdf(z[1]) - mpmath.ncdf(z[0]) if a < 0 else mpmath.ncdf(-z[0]) - mpmath.ncdf(-z[1])
    )
    at = [mpmath.npdf(x) / mass for x in z]
    second = sum(s * x * p for s, x, p in zip((1, -1), z, at, strict=True) if mpmath.isfinite(x))
    return float(1.44 * (1 + second - (at[0] - at[1]) ** 2))


def test_moments_and_quantiles_are_those_of_scipy() -> None:
    for low, high in [(-1.0, 2.0), (3.0, None), (None, -35.0), (10.0, 11.0)]:
        a, b = within(None, low, high)
        theirs = stats.truncnorm((a - 0.3) / 1.2, (b - 0.3) / 1.2, loc=0.3, scale=1.2)
        law = Truncated(dist.Normal(t(0.3), t(1.2)), low, high)
        assert float(law.mean) == pytest.approx(theirs.mean(), rel=1e-12)
        assert float(law.variance) == pytest.approx(variance(a, b), rel=1e-9)
        u = t([1e-6, 0.2, 0.5, 0.9])
        np.testing.assert_allclose(law.icdf(u), theirs.ppf(u.numpy()), rtol=1e-12)
        torch.testing.assert_close(law.cdf(law.icdf(u)), u, rtol=1e-9, atol=0)
    uniform = Truncated(dist.Uniform(t(0.0), t(4.0)), 1.0)
    assert float(uniform.mean) == 2.5 and float(uniform.variance) == 0.75
    with pytest.raises(NotImplementedError, match="moments of a truncated Gumbel"):
        _ = Truncated(dist.Gumbel(t(0.0), t(1.0)), 0.0).mean


@pytest.mark.parametrize("name", WHOLE)
def test_moments_of_whole_numbers_are_sums(name: str) -> None:
    make, theirs = BASES[name]
    for low, high in ((1, None), (2, 6), (None, 4)):
        x = np.arange(low or 0, (high or 400) + 1)
        weights = theirs.pmf(x) / theirs.pmf(x).sum()
        mean = (x * weights).sum()
        law = Truncated(make(), low, high)
        assert float(law.mean) == pytest.approx(mean, rel=1e-10)
        assert float(law.variance) == pytest.approx(((x - mean) ** 2 * weights).sum(), rel=1e-10)
        censored = Censored(make(), low, high)
        x = np.arange(0, 400)
        at = np.clip(x, low or 0, high or 400)
        mean = (at * theirs.pmf(x)).sum()
        assert float(censored.mean) == pytest.approx(mean, rel=1e-10)
        exact = ((at - mean) ** 2 * theirs.pmf(x)).sum()
        assert float(censored.variance) == pytest.approx(exact, rel=1e-10)


def test_far_tails_of_counts_have_their_digits() -> None:
    """P(X >= 20) of Poisson laws by mpmath's incomplete gamma function, and its derivative."""
    for rate in (1e-3, 0.5, 8.0, 19.0):
        exact = mpmath.log(mpmath.gammainc(20, 0, rate, regularized=True))
        slope = mpmath.exp(19 * mpmath.log(rate) - rate - mpmath.loggamma(20) - exact)
        leaf = t(rate).requires_grad_()
        found = Truncated(dist.Poisson(leaf), 20).log_mass
        (by_rate,) = torch.autograd.grad(found, leaf)
        assert float(found.detach()) == pytest.approx(float(exact), rel=1e-11)
        assert float(by_rate) == pytest.approx(float(slope), rel=1e-9)


@pytest.mark.parametrize("name", BASES)
def test_censored_ends_have_the_mass_beyond_and_the_inside_its_density(name: str) -> None:
    make, theirs = BASES[name]
    low, high = (2, 4) if name in WHOLE else (0.6, 2.5)
    law = Censored(make(), low, high)
    ends = law.log_prob(t([low, high])).exp()
    over = theirs.sf(high - 1) if name in WHOLE else theirs.sf(high)
    np.testing.assert_allclose(ends, [theirs.cdf(low), over], rtol=1e-9)
    if name in WHOLE:
        assert float(law.log_prob(t([2.0, 3.0, 4.0])).exp().sum()) == pytest.approx(1, abs=1e-12)
    else:
        inside = quad(lambda x: math.exp(law.log_prob(t(x))), low, high, epsabs=1e-12)[0]
        assert float(ends.sum()) + inside == pytest.approx(1, abs=1e-9)
    free = Censored(make(), low, high, validate_args=False)
    assert free.log_prob(t([low - 0.5, high + 0.5])).tolist() == [-math.inf] * 2


class DensityAtEnds(Censored):
    """A fault: an end has the density of the law in place of the mass beyond."""

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value)  # type: ignore[no-any-return]


class Redrawn(Censored):
    """A fault: what lies beyond an end is drawn again, so that the ends have no mass."""

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self._inner.sample(sample_shape)


def agrees(law: Censored, n: int = 20_000) -> bool:
    """Whether the shares of ends are within their bounds and the rest follows the cdf, level 1e-6.

    By Hoeffding's bound twice, and by that of Dvoretzky, Kiefer and Wolfowitz.
    """
    torch.manual_seed(0)
    drawn = law.sample((n,))
    bound = math.sqrt(math.log(2 * 3 / 1e-6) / (2 * n))
    for end in (law.low, law.high):
        share = (drawn == end).double().mean()
        if abs(float(share - law.log_prob(end).exp())) > bound:
            return False
    x = torch.linspace(0.0, 0.49, 200)
    shares = (drawn[:, None] <= x).double().mean(0)
    return float((shares - law.cdf(x)).abs().max()) < bound


def test_censored_draws_have_that_law_and_faults_are_found() -> None:
    args = dist.Normal(t(0.3), t(1.2)), 0.0, 0.5
    assert agrees(Censored(*args))
    assert not agrees(DensityAtEnds(*args))
    assert not agrees(Redrawn(*args))
    law = Censored(dist.Normal(t(0.3), t(1.2)), -0.5, 1.0)
    drawn = law.sample((20_000,))
    off = 5 * float(law.variance / 20_000) ** 0.5
    assert abs(float(drawn.mean() - law.mean)) < off  # level 1e-6
    u = t([0.1, 0.5, 0.9])
    assert law.icdf(u).tolist() == pytest.approx([-0.5, 0.3, 1.0])


def test_counts_censored_are_a_law_that_is_listed() -> None:
    law = Censored(dist.Poisson(t(2.0)), high=4)
    assert repr(space_of(law)) == "Fin(5)"
    check.density(law, draws=20_000).require()
    exact = stats.poisson(2.0).pmf([0, 1, 2, 3]).tolist()
    measure = denote(program(lambda: sample("x", law)))
    assert [float(w) for _, w in sorted(measure.items(), key=lambda x: float(x[0]))] == (
        pytest.approx([*exact, 1 - sum(exact)], abs=1e-12)
    )


def test_spaces_shapes_and_lanes() -> None:
    law = Truncated(dist.Normal(torch.zeros(3, 1), 1.0), t([0.0, 1.0]), 2.0)
    assert law.batch_shape == (3, 2) and law.sample((4,)).shape == (4, 3, 2)
    assert law.expand((5, 3, 2)).log_prob(t(1.5)).shape == (5, 3, 2)
    shown = [Truncated(dist.Normal(t(0.0), t(1.0)), *e) for e in ((0, 1), (1, None), (None, None))]
    assert [repr(space_of(x)) for x in shown] == ["UnitInterval", "GreaterThan(1)", "Real"]
    assert repr(space_of(Truncated(dist.HalfNormal(t(1.0)), high=2.0))) == "Interval(0, 2)"
    assert repr(space_of(Truncated(dist.Binomial(6, t(0.5)), 2))) == "IntInterval(2, 6)"
    assert repr(space_of(Truncated(dist.Poisson(t(0.5)), 2.5))) == "IntAtLeast(3)"
    counts = Truncated(dist.Poisson(t([0.5, 3.0])), t([1.0, 2.0]))
    assert counts.sample((50,)).amin(0).tolist() == [1.0, 2.0]
    lanes = vmap(lambda s: sample("x", Truncated(dist.Normal(t(0.0), s), 1.0)))
    assert len(set(simulate(program(lambda: lanes(t([1.0, 1.0, 2.0])))).value.tolist())) == 3


def test_draws_have_derivatives_by_the_ends_and_the_law() -> None:
    """Of the quantile at u: by finite differences of scipy's."""
    u, h = 0.3, 1e-5
    leaves = [t(x).requires_grad_() for x in (0.3, 1.2, -0.5, 2.0)]
    loc, scale, low, high = leaves
    found = Truncated(dist.Normal(loc, scale), low, high).icdf(t(u))
    slopes = torch.autograd.grad(found, leaves)

    def exact(m: float, s: float, a: float, b: float) -> float:
        return float(stats.truncnorm((a - m) / s, (b - m) / s, loc=m, scale=s).ppf(u))

    at = (0.3, 1.2, -0.5, 2.0)
    for k, slope in enumerate(slopes):
        up, down = ([x + d * (j == k) for j, x in enumerate(at)] for d in (h, -h))
        assert float(slope) == pytest.approx((exact(*up) - exact(*down)) / (2 * h), abs=1e-6)


@pytest.mark.parametrize("kind", [Truncated, Censored])
@pytest.mark.parametrize(
    ("make", "ends", "error", "says"),
    [
        (BASES["Normal"][0], (2.0, 1.0), ProgramError, "low is below high"),
        (BASES["Normal"][0], (math.nan, 1.0), ProgramError, "low is below high"),
        (BASES["Exponential"][0], (None, -1.0), ProgramError, "high is above the support"),
        (BASES["Binomial"][0], (10, None), ProgramError, "no numbers between"),
        (BASES["Poisson"][0], (2.2, 2.8), ProgramError, "no numbers between"),
        (BASES["Poisson"][0], (None, 1e9), BudgetError, "numbers to sum over"),
        (lambda: dist.Beta(t(1.0), t(2.0)), (0.1, None), UnsupportedDistributionError, "no dist"),
        (
            lambda: dist.Dirichlet(t([1.0, 2.0])),
            (0.1, None),
            UnsupportedDistributionError,
            "no dist",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(
    kind: Any, make: Any, ends: Any, error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        kind(make(), *ends)


def test_ends_of_counts_are_known_numbers() -> None:
    def random_end() -> Tensor:
        end = sample("end", dist.Poisson(3.0))
        return sample("x", Truncated(dist.Poisson(2.0), end))

    with pytest.raises(ProgramError, match="depend on a choice"):
        program(random_end).type()


@program
def survival(times: Tensor, ended: Tensor) -> Tensor:
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    with plate("person", len(times)):
        observe("time", Censored(dist.Exponential(rate), high=ended), times)
    return rate


def test_censored_times_count_as_survival() -> None:
    """rate^d exp(-rate sum of times), d the deaths: the prior's Gamma(2, 1) times that."""
    times, ended = t([0.5, 2.0, 1.0, 3.0]), t([5.0, 2.0, 5.0, 3.0])
    for rate in (0.4, 1.3):
        score, _ = assess(survival, {"rate": t(rate)}, times, ended)
        exact = stats.gamma(2.0).logpdf(rate) + 2 * math.log(rate) - rate * 6.5
        assert float(score) == pytest.approx(exact, abs=1e-12)
    mass = denote(survival, times, ended, quadrature=64)
    assert float(mass.normalize().expect()) == pytest.approx(4 / 7.5, abs=1e-9)
