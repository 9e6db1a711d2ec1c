"""Gradient estimators of objectives: expected value, derivative and variance, all exactly.

Expected numbers are derived by hand or by enumeration, independently of the estimators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from pushforward import dist, factor, observe, program, sample
from pushforward.inference.vi import (
    Objective,
    elbo,
    enum,
    expect,
    frozen,
    iwelbo,
    leave_one_out,
    log_density,
    marginal,
    mvd,
    normalize,
    objective,
    reinforce,
    reparam,
    sample_trace,
    vimco,
    wake_phi,
)
from pushforward.inference.vi.captured import Captured
from pushforward.inference.vi.objective import estimator
from pushforward.inference.vi.paths import path
from pushforward.semantics import check, denote

Build = Callable[[Tensor], Objective]
STRATEGIES: dict[str, Callable[[Any], Any]] = {"enum": enum, "reinforce": reinforce, "mvd": mvd}


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def replayed(build: Build, at: Tensor, order: int = 1) -> Any:
    """The program of parameters that gives estimates by replay."""
    return estimator(lambda theta: build(theta).surrogate(order=order), order)


def captured(build: Build, at: Tensor) -> Any:
    """The program of parameters that gives the estimates of the captured graph."""
    theta = at.clone().requires_grad_()
    graph = Captured(build(theta), [theta], 1, compiled=False)

    def estimate(at: Tensor) -> tuple[Tensor, Tensor]:
        found = graph.drawing([at])
        return found.values.reshape(()), found.by[0]

    return program(estimate)


BACK_ENDS = {"replay": replayed, "graph": captured}


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    return request.param


def moments(
    build: Build, at: Any, nodes: int | None = None, back_end: Any = replayed
) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of (value, gradient)."""
    law = denote(back_end(build, f(at)), f(at), quadrature=nodes)
    row = lambda e: torch.cat([part.reshape(-1) for part in e])  # noqa: E731
    mean = law.expect(row)
    return mean, law.expect(lambda e: (row(e) - mean) ** 2)


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, f(expected), rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------ a coin (order 1, 2)


def coin(strategy: Callable[[Any], Any]) -> Build:
    """E[b ? 0 : -theta / 2] for b ~ flip(theta): -theta (1 - theta) / 2."""

    def build(theta: Tensor) -> Tensor:
        @objective
        def loss() -> Tensor:
            b = sample_trace(lambda: sample("b", strategy(dist.Bernoulli(theta)))).choices["b"]
            return torch.where(b == 1, 0.0, -theta / 2)

        return loss()

    return build


def exact_coin(theta: Tensor) -> Tensor:
    return -theta * (1 - theta) / 2


@pytest.mark.parametrize(
    ("strategy", "variance"),
    [
        (enum, 0.0),
        (reinforce, 0.0066666667),
        (mvd, 0.06),
        (lambda d: reinforce(d, baseline=-0.2), 0.24),
    ],
    ids=["enum", "reinforce", "mvd", "baseline"],
)
def test_a_coin(strategy: Callable[[Any], Any], variance: float, back_end: Any) -> None:
    mean, spread = moments(coin(strategy), 0.4, back_end=back_end)
    close(mean, [-0.12, -0.1])
    assert float(spread[1]) == pytest.approx(variance, abs=1e-9)


@pytest.mark.parametrize("strategy", [*STRATEGIES.values(), lambda d: leave_one_out(d, 2)])
def test_second_derivatives_of_a_coin(strategy: Callable[[Any], Any]) -> None:
    report = check.unbiased(
        replayed(coin(strategy), f(0.4), 2), exact_coin, f(0.4), tolerance=1e-10
    )
    report.require()


def curve(theta: Tensor) -> Tensor:
    return theta * theta.sin() + (1 - theta) * (2 * theta).cos()


def flip(strategy: Callable[[Any], Any]) -> Build:
    """E[b ? sin(theta) : cos(2 theta)] for b ~ flip(theta)."""

    def build(theta: Tensor) -> Tensor:
        @objective
        def loss() -> Tensor:
            b = sample_trace(lambda: sample("b", strategy(dist.Bernoulli(theta)))).choices["b"]
            return torch.where(b == 1, theta.sin(), (2 * theta).cos())

        return loss()

    return build


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_derivatives_to_the_third_order(strategy: Callable[[Any], Any]) -> None:
    law = denote(replayed(flip(strategy), f(0.4), 3), f(0.4))
    mean = law.expect(lambda e: torch.stack(e))
    close(mean[:3], [0.5737913625, -0.7996912785, 2.8836829122])
    check.unbiased(replayed(flip(strategy), f(0.4), 3), curve, f(0.4), tolerance=1e-10).require()


def test_the_plain_score_is_rejected_at_the_second_order() -> None:
    def build(theta: Tensor) -> Tensor:
        @objective
        def loss() -> Tensor:
            b = sample_trace(lambda: sample("b", dist.Bernoulli(theta.detach()))).choices["b"]
            cost = torch.where(b == 1, theta.sin(), (2 * theta).cos())
            return cost + dist.Bernoulli(theta).log_prob(b) * cost.detach()

        return loss()

    def first_two(at: Tensor) -> tuple[Tensor, ...]:
        _, *rest = replayed(build, at, 2)(at)
        return (torch.zeros(()), *rest)  # its value is none of the objective

    mean = denote(replayed(build, f(0.4), 2), f(0.4)).expect(lambda e: torch.stack(e))
    close(mean[1:], [-0.7996912785, -3.9625871440])
    report = check.unbiased(first_two, curve, f(0.4))
    assert report.verdict == "fail" and "second derivative" in report.counterexample


# ------------------------------------------------------------------------------ a flip and a normal


def mixed(strategy: Callable[[Any], Any]) -> Build:
    """A flip that says which normal follows; the parameters are p and the two means."""

    def model() -> None:
        v = sample("v", dist.Bernoulli(f(0.8)))
        x = sample(
            "x", dist.Normal(torch.where(v == 1, f(2.0), f(3.0)), torch.where(v == 1, 1.0, 0.5))
        )
        observe("y", dist.Normal(x**2, f(0.1)), f(4.0))

    def build(theta: Tensor) -> Tensor:
        def guide() -> None:
            v = sample("v", strategy(dist.Bernoulli(theta[0])))
            sample("x", reparam(dist.Normal(torch.where(v == 1, theta[1], theta[2]), 1.0)))

        return elbo(model, guide)

    return build


@pytest.mark.parametrize(
    ("strategy", "variance"), [(reinforce, 2.585e7), (enum, 3.171e5)], ids=["reinforce", "enum"]
)
def test_a_flip_and_a_normal(
    strategy: Callable[[Any], Any], variance: float, back_end: Any
) -> None:
    mean, spread = moments(mixed(strategy), [0.6, 1.9, 2.1], 60, back_end)
    close(mean, [-936.6197441967, 244.2026820, -595.02, -571.44], 1e-6)
    assert float(spread[1]) == pytest.approx(variance, rel=1e-3)


# ----------------------------------------------------------------------- importance weighted bounds

LOGITS = [0.2, -0.3, 0.5]
JOINT = f([0.10, 0.25, 0.05])


def three() -> None:
    z = sample("z", dist.Categorical(logits=torch.zeros(3, dtype=torch.float64)))
    factor("joint", (3 * JOINT)[z].log())


def guided(make: Callable[[Callable[[], None]], Any], strategy: Callable[[Any], Any]) -> Build:
    """A surrogate of ``make(guide)``, the guide categorical by logits."""

    def build(logits: Tensor) -> Tensor:
        def guide() -> None:
            sample("z", strategy(dist.Categorical(logits=logits)))

        return make(guide)  # type: ignore[no-any-return]

    return build


def exact_bound(particles: int) -> Callable[[Tensor], Tensor]:
    """By enumeration of all particles."""

    def bound(logits: Tensor) -> Tensor:
        q = logits.softmax(0)
        index = torch.cartesian_prod(*[torch.arange(3)] * particles).reshape(-1, particles)
        log_w = (JOINT.log() - q.log())[index]
        return (q[index].prod(1) * (log_w.logsumexp(1) - math.log(particles))).sum()

    return bound


@pytest.mark.parametrize(
    ("particles", "value"),
    [(1, -1.3815125799), (2, -1.2007059675), (3, -1.1169388294), (5, -1.0389464535)],
)
def test_values_of_importance_weighted_bounds(particles: int, value: float, back_end: Any) -> None:
    assert float(exact_bound(particles)(f(LOGITS))) == pytest.approx(value, abs=1e-9)
    build = guided(lambda guide: iwelbo(three, guide, particles), reinforce)
    at = f(LOGITS)
    check.unbiased(back_end(build, at), exact_bound(particles), at, tolerance=1e-9).require()


IW2 = [-0.0270294291, 0.2734662906, -0.2464368615]


@pytest.mark.parametrize(
    ("make", "variance"),
    [
        (lambda guide: iwelbo(three, guide, 2), [1.6205, 0.7299, 2.1274]),
        (lambda guide: vimco(three, guide, 2), [0.11854, 0.11502, 0.18316]),
    ],
    ids=["score", "vimco"],
)
def test_variances_of_importance_weighted_bounds(
    make: Any, variance: list[float], back_end: Any
) -> None:
    mean, spread = moments(guided(make, reinforce), LOGITS, None, back_end)
    close(mean[1:], IW2)
    torch.testing.assert_close(spread[1:], f(variance), rtol=0, atol=5e-5)


def test_a_path_without_scores_is_rejected(back_end: Any) -> None:
    def build(logits: Tensor) -> Tensor:
        @objective
        def without() -> Tensor:
            terms = []
            for _ in range(2):
                z = sample_trace(lambda: sample("z", dist.Categorical(logits=logits.detach())))
                z = z.choices["z"]
                terms.append(JOINT.log()[z] - logits.log_softmax(0)[z])
            return torch.stack(terms).logsumexp(0) - math.log(2)

        return without()

    mean, _ = moments(build, LOGITS, None, back_end)
    close(mean[1:], [-0.0286562, -0.1205231, 0.1491792], 1e-7)
    assert check.unbiased(back_end(build, f(LOGITS)), exact_bound(2), f(LOGITS)).verdict == "fail"


# -------------------------------------------------------------------------------- pathwise families


def implied(
    parameter: float, cdf: Callable[[float], np.ndarray], density: np.ndarray
) -> np.ndarray:
    """dx = -dF(x) / p(x), by differences of the distribution function in its parameter."""
    h = 1e-3 * parameter
    low, high = (
        cdf(parameter - h) - cdf(parameter + h),
        cdf(parameter - 2 * h) - cdf(parameter + 2 * h),
    )
    return -(high - 8 * low) / (12 * h) / density


def path_derivative(law: Callable[[Tensor], Any], at: float, values: Tensor) -> np.ndarray:
    """The derivative of each value that the path of a law gives."""
    parameter = f(at).expand(len(values)).clone().requires_grad_()
    found = path(law(parameter)).function(values)
    torch.testing.assert_close(found.detach(), values)
    (slope,) = torch.autograd.grad(found.sum(), parameter)
    return slope.numpy()


QUANTILES = np.linspace(0.005, 0.995, 199)
PRECISION = 5e-4  # relative: of torch's derivatives of gamma and Dirichlet laws (measured: 3e-4)


@pytest.mark.parametrize("a", [0.3, 1.7, 9.0, 60.0])
def test_the_path_of_a_gamma(a: float) -> None:
    x = special.gammaincinv(a, QUANTILES)
    exact = implied(a, lambda a: special.gammainc(a, x), stats.gamma.pdf(x, a))
    found = path_derivative(lambda a: dist.Gamma(a, f(1.0)), a, f(x))
    np.testing.assert_allclose(found, exact, rtol=PRECISION)
    assert (
        np.abs(path_derivative(lambda a: dist.Gamma(2 * a, f(1.0)), a, f(x)) / exact - 1).max()
        > 0.1
    )


@pytest.mark.parametrize(("a", "b"), [(0.7, 1.3), (2.0, 5.0), (30.0, 10.0)])
def test_the_path_of_a_beta(a: float, b: float) -> None:
    x = special.betaincinv(a, b, QUANTILES)
    exact = implied(a, lambda a: special.betainc(a, b, x), stats.beta.pdf(x, a, b))
    found = path_derivative(lambda a: dist.Beta(a, f(b)), a, f(x))
    np.testing.assert_allclose(found, exact, rtol=2e-3)


def test_moments_of_a_gamma() -> None:
    """E of the derivatives of x, x^2 and log x, over midpoints of quantiles."""
    midpoints = (np.arange(20_000) + 0.5) / 20_000
    x = special.gammaincinv(1.7, midpoints)
    slope = path_derivative(lambda a: dist.Gamma(a, f(1.0)), 1.7, f(x))
    found = [slope.mean(), (2 * x * slope).mean(), (slope / x).mean()]
    np.testing.assert_allclose(found, [1.0, 4.4, special.polygamma(1, 1.7)], rtol=PRECISION)


def mean_of(law: Callable[[Tensor], Any], function: Callable[[Tensor], Tensor]) -> Build:
    """E[function(x)] for x by a law with a strategy."""

    def build(theta: Tensor) -> Tensor:
        @objective
        def mean() -> Tensor:
            return function(sample_trace(lambda: sample("x", law(theta))).choices["x"])

        return mean()

    return build


def test_the_path_of_a_normal_on_two(back_end: Any) -> None:
    """exp(.3 x - .5 y): E = exp(a'm + a'Ca / 2), dm = a E, dC = a a' E / 2."""

    def law(theta: Tensor) -> Any:
        m, c = theta[:2], theta[2:].reshape(2, 2)
        return reparam(dist.MultivariateNormal(m, (c + c.T) / 2))

    a = f([0.3, -0.5])
    build = mean_of(law, lambda x: (a @ x).exp())
    mean, _ = moments(build, [0.1, 0.2, 1.0, 0.4, 0.4, 2.0], 30, back_end)
    expected = [1.1793931187, 0.3538179356, -0.5896965594]
    close(mean, [*expected, 0.0530726903, -0.0884544839, -0.0884544839, 0.1474241398])


def shape_of(law: Callable[[Tensor], Any], moment: Callable[[Tensor], Tensor]) -> Any:
    return pytest.param(law, moment, id=type(law(f([0.5, 0.5]))).__name__)


@pytest.mark.parametrize(
    ("law", "moment"),
    [
        shape_of(lambda t: dist.Normal(t[0], t[1]), lambda t: t[0] ** 2 + t[1] ** 2),
        shape_of(
            lambda t: dist.LogNormal(t[0], t[1]), lambda t: torch.exp(2 * t[0] + 2 * t[1] ** 2)
        ),
        shape_of(lambda t: dist.HalfNormal(t[1]), lambda t: t[1] ** 2),
        shape_of(lambda t: dist.Exponential(t[1]), lambda t: 2 / t[1] ** 2),
        shape_of(
            lambda t: dist.Uniform(t[0], 2 + t[1]),
            lambda t: (t[0] ** 2 + t[0] * (2 + t[1]) + (2 + t[1]) ** 2) / 3,
        ),
        shape_of(lambda t: dist.Delta(t[0] * t[1]), lambda t: (t[0] * t[1]) ** 2),
        shape_of(lambda t: dist.Normal(t, 1.0).to_event(1), lambda t: (t**2).sum() + 2),
        shape_of(
            lambda t: dist.LowRankMultivariateNormal(t, t[:, None], t**2),
            lambda t: 3 * (t**2).sum(),
        ),
    ],
)
def test_paths_by_second_moments(law: Any, moment: Any) -> None:
    build = mean_of(lambda t: reparam(law(t)), lambda x: (x**2).sum())
    nodes = {"Delta": None, "Normal": 6, "Independent": 6}.get(
        type(law(f([0.5, 0.5]))).__name__, 40
    )
    nodes = 8 if "LowRank" in type(law(f([0.5, 0.5]))).__name__ else nodes
    at, tolerance = f([0.4, 0.7]), 2e-6
    check.unbiased(
        replayed(build, at, 2), moment, at, quadrature=nodes, tolerance=tolerance
    ).require()


# ----------------------------------------------------------------------- measure-valued derivatives


def test_a_poisson(back_end: Any) -> None:
    """E[r N] = r^2, whose derivative needs that of the cost too."""

    def build(rate: Tensor) -> Tensor:
        @objective
        def mean() -> Tensor:
            return rate * sample_trace(lambda: sample("n", mvd(dist.Poisson(rate)))).choices["n"]

        return mean()

    law = denote(back_end(build, f(1.3)), f(1.3), depth=60)
    close(law.expect(lambda e: torch.stack(e)), [1.69, 2.6])


def test_a_normal_by_differences(back_end: Any) -> None:
    """E[x^4], by loc and by scale."""
    loc, scale = f(0.3), f(0.7)

    def exact(m: Tensor, s: Tensor) -> Tensor:
        return m**4 + 6 * m**2 * s**2 + 3 * s**4

    by_loc = mean_of(lambda m: mvd(dist.Normal(m, scale)), lambda x: x**4)
    by_scale = mean_of(lambda s: mvd(dist.Normal(loc, s)), lambda x: x**4)
    # the trapezoidal rule of the Weibull law is good to 3e-5
    check.unbiased(
        back_end(by_loc, loc), lambda m: exact(m, scale), loc, quadrature=60, tolerance=1e-4
    ).require()
    check.unbiased(
        back_end(by_scale, scale), lambda s: exact(loc, s), scale, quadrature=12, tolerance=1e-9
    ).require()


def test_a_kink_by_differences(back_end: Any) -> None:
    """E|x| for x ~ Normal(.3, .7): by draws, since a kink spoils a quadrature."""
    build = mean_of(lambda t: mvd(dist.Normal(t[0], t[1])), torch.abs)
    torch.manual_seed(0)
    estimate = back_end(build, f([0.3, 0.7]))
    draws = torch.stack([estimate(f([0.3, 0.7]))[1] for _ in range(3000)])
    error = draws.std(0) / math.sqrt(len(draws))
    z = (draws.mean(0) - f([0.3317648582, 0.7278734434])) / error
    assert float(z.abs().max()) < 4.5  # level 1e-5


def test_a_step_by_score_and_differences(back_end: Any) -> None:
    """P(x > 0) for x ~ Normal(m, 1): its derivative is the density at -m."""
    exact = math.exp(-0.045) / math.sqrt(2 * math.pi)
    assert exact == pytest.approx(0.3813878155, abs=1e-9)
    for strategy in (reinforce, mvd):
        torch.manual_seed(0)
        build = mean_of(
            lambda m, s=strategy: s(dist.Normal(m, 1.0)),
            lambda x: torch.where(x > 0, 1.0, 0.0),
        )
        estimate = back_end(build, f(0.3))
        draws = torch.stack([estimate(f(0.3))[1] for _ in range(4000)])
        error = float(draws.std()) / math.sqrt(len(draws))
        assert abs(float(draws.mean()) - exact) < 4.5 * error  # level 7e-6
        assert abs(float(draws.mean())) > 10 * error  # the derivative along the path is zero


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_several_elements(strategy: Callable[[Any], Any], back_end: Any) -> None:
    """Three flips at once, each in its own way."""
    cost = f([1.0, -2.0, 0.5])
    build = mean_of(
        lambda t: strategy(dist.Bernoulli(t)), lambda b: (cost * b).sum() ** 2 + b.prod()
    )

    def exact(t: Tensor) -> Tensor:
        index = torch.cartesian_prod(*[f([0.0, 1.0])] * 3)
        probs = torch.where(index == 1, t, 1 - t).prod(1)
        return (probs * ((index @ cost) ** 2 + index.prod(1))).sum()

    check.unbiased(
        back_end(build, f([0.3, 0.6, 0.8])), exact, f([0.3, 0.6, 0.8]), tolerance=1e-12
    ).require()


@pytest.mark.parametrize("first", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("second", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("third", STRATEGIES.values(), ids=STRATEGIES)
def test_a_chain_by_all_strategies(first: Any, second: Any, third: Any) -> None:
    """Three flips, each of which depends on those before it, and on the parameter."""

    def chances(t: Tensor, a: Any, b: Any) -> tuple[Tensor, Tensor, Tensor]:
        return t, (t + 0.3 * a) / 1.5, (t * t + 0.2 * a + 0.3 * b) / 1.7

    def cost(t: Tensor, a: Any, b: Any, c: Any) -> Tensor:
        return (1 + a * t) * (2 + b * t.sin()) + c * t.exp() * (1 + a * b)

    def exact(t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=t.dtype)
        for a, b, c in itertools.product((0, 1), repeat=3):
            p = [x if on else 1 - x for x, on in zip(chances(t, a, b), (a, b, c), strict=True)]
            total = total + p[0] * p[1] * p[2] * cost(t, a, b, c)
        return total

    def build(t: Tensor) -> Tensor:
        def flips() -> None:
            a = sample("a", first(dist.Bernoulli(chances(t, 0, 0)[0])))
            b = sample("b", second(dist.Bernoulli(chances(t, a, 0)[1])))
            sample("c", third(dist.Bernoulli(chances(t, a, b)[2])))

        @objective
        def loss() -> Tensor:
            at = sample_trace(flips).choices
            return cost(t, at["a"], at["b"], at["c"])

        return loss()

    check.unbiased(replayed(build, f(0.4), 2), exact, f(0.4), tolerance=1e-9).require()


# ------------------------------------------------------------------------ what a score has to weigh


def two_costs(theta: Tensor, nested: bool) -> Tensor:
    """f(b1) + g(b2), the second in an expected value of its own or not."""

    def flip(name: str, i: int) -> Tensor:
        return sample_trace(lambda: sample(name, reinforce(dist.Bernoulli(theta[i])))).choices[name]

    @objective
    def loss() -> Any:
        own = 1 + 2 * flip("a", 0)
        if nested:
            return expect(lambda: -2 + 7 * flip("b", 1)) + own
        return own - 2 + 7 * flip("b", 1)

    return loss()


@pytest.mark.parametrize(
    ("nested", "variance"),
    [(False, [156.7619047619, 27.5]), (True, [156.7619047619, 2.6666666667])],
    ids=["all costs", "later costs"],
)
def test_nested_expectations_weigh_less(nested: bool, variance: list[float], back_end: Any) -> None:
    mean, spread = moments(lambda t: two_costs(t, nested), [0.3, 0.6], None, back_end)
    close(mean[1:], [2.0, 7.0])
    close(spread[1:], variance, 1e-8)


def test_leave_one_out(back_end: Any) -> None:
    cost = f([2.0, -1.0, 4.0])

    def build(logits: Tensor) -> Tensor:
        z = lambda: sample("z", leave_one_out(dist.Categorical(logits=logits), 3))  # noqa: E731
        return objective(lambda: cost[sample_trace(z).choices["z"]])()

    mean, spread = moments(build, LOGITS, None, back_end)
    gradient = [-0.1006981237, -0.6765542635, 0.7772523872]
    close(mean[1:], gradient)
    torch.testing.assert_close(spread[1:], f([0.27195, 0.50995, 0.33489]), rtol=0, atol=5e-5)

    def own_mean(logits: Tensor) -> Tensor:  # a baseline that looks at the draw itself
        @objective
        def loss() -> Tensor:
            traces = [
                sample_trace(lambda: sample("z", reinforce(dist.Categorical(logits=logits))))
                for _ in range(3)
            ]
            mean = torch.stack([cost[t.choices["z"]] for t in traces]).mean()
            for trace in traces:
                trace.subtract(mean)
            return mean

        return loss()

    # each score weighs the mean, a third of which is its own cost: all of it is subtracted
    report = check.unbiased(
        back_end(own_mean, f(LOGITS)), lambda t: (t.softmax(0) * cost).sum(), f(LOGITS)
    )
    assert report.verdict == "fail"


# ------------------------------------------------------------------------------ estimated densities

HIERARCHY = [0.3, 0.2, -0.3, 0.5, -1.0, 0.4, 0.1]


def hierarchy(theta: Tensor, strategy: Callable[[Any], Any]) -> tuple[Any, Any]:
    """u ~ flip(sigmoid(a)), z ~ row u of a table; u is proposed from where it comes."""

    def guide() -> None:
        u = sample("u", strategy(dist.Bernoulli(theta[0].sigmoid())))
        sample("z", strategy(dist.Categorical(logits=theta[1:].reshape(2, 3)[u.long()])))

    def reverse(kept: dict[str, Tensor]) -> None:
        sample("u", strategy(dist.Bernoulli(theta[0].sigmoid())))

    return guide, reverse


def hierarchical(
    auxiliaries: int, particles: int, strategy: Callable[[Any], Any] = reinforce
) -> Build:
    def build(theta: Tensor) -> Tensor:
        guide, reverse = hierarchy(theta, strategy)
        law = marginal(guide, "z", reverse, auxiliaries)
        return iwelbo(three, law, particles)

    return build


@pytest.mark.parametrize(
    ("auxiliaries", "value"), [(1, -1.2356200706), (2, -1.2061674623), (3, -1.1962209032)]
)
def test_hierarchical_bounds(auxiliaries: int, value: float, back_end: Any) -> None:
    mean, _ = moments(hierarchical(auxiliaries, 1), HIERARCHY, None, back_end)
    assert float(mean[0]) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_gradient_of_a_hierarchical_bound(strategy: Callable[[Any], Any], back_end: Any) -> None:
    mean, _ = moments(hierarchical(2, 1, strategy), HIERARCHY, None, back_end)
    first = [0.0577005965, 0.0499034103, 0.1074471873, -0.1573505976]
    close(mean[1:], [*first, 0.0443032363, 0.1595752857, -0.2038785220])


def test_a_doubly_weighted_bound(back_end: Any) -> None:
    mean, _ = moments(hierarchical(2, 2), HIERARCHY, None, back_end)
    assert float(mean[0]) == pytest.approx(-1.0638806774, abs=1e-9)


PROPOSAL = f(LOGITS).softmax(0)


def proposal() -> None:
    sample("z", dist.Categorical(PROPOSAL))


def test_resampled_proposals() -> None:
    """The law of the choice, by enumeration of two proposals; the density's mean is that law."""
    law = normalize(three, proposal, 2)

    @objective
    def chosen(z: int) -> Tensor:
        return torch.where(sample_trace(law).choices["z"] == z, 1.0, 0.0)

    @objective
    def density(z: int) -> Tensor:
        return log_density(law, {"z": torch.tensor(z)}).exp()

    @objective
    def inverse() -> Tensor:
        return (-sample_trace(law).log_density).exp()

    values = [0.3669065866, 0.3256823399, 0.3074110734]
    for z, expected in enumerate(values):
        for part in (chosen(z), density(z)):
            assert float(denote(part.value).expect()) == pytest.approx(expected, abs=1e-9)
    assert float(denote(inverse().value).expect()) == pytest.approx(3.0, abs=1e-9)


WAKE = {
    2: [-0.0286561595, -0.1205230852, 0.1491792447],
    5: [0.0133319956, -0.2785173088, 0.2651853132],
}


@pytest.mark.parametrize("particles", WAKE)
def test_wake_phi(particles: int, back_end: Any) -> None:
    build = guided(lambda guide: wake_phi(three, guide, particles), reinforce)
    mean, _ = moments(build, LOGITS, None, back_end)
    close(mean[1:], [-g for g in WAKE[particles]])


def test_a_sampler_that_is_not_frozen(back_end: Any) -> None:
    """The loss -E[log q(z)] also moves by what z is."""

    def thawed(guide: Any) -> Any:
        @objective
        def loss() -> Tensor:
            z = sample_trace(normalize(three, guide, 2)).choices
            return -log_density(guide, z)

        return loss()

    mean, _ = moments(guided(thawed, reinforce), LOGITS, None, back_end)
    close(mean[1:], [-0.0530025685, 0.0075101435, 0.0454924250])
    with_frozen = guided(lambda guide: wake_phi(three, guide, 2), reinforce)
    assert float((moments(with_frozen, LOGITS)[0][1:] + mean[1:]).abs().max()) > 0.02


def test_frozen_modules_keep_the_path_through_the_choices() -> None:
    """log q(z) with q frozen and z = m + e s: "sticking the landing"."""

    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = torch.nn.Parameter(f(0.4))

        def forward(self) -> None:
            sample("z", reparam(dist.Normal(self.m, f(0.5))))

    guide = Guide()

    @objective
    def landing() -> Tensor:
        return log_density(frozen(guide), sample_trace(guide).choices)

    torch.manual_seed(1)
    surrogate = landing().surrogate()
    (slope,) = torch.autograd.grad(surrogate, guide.m)
    torch.manual_seed(1)
    noise = torch.randn((), dtype=torch.float64)
    close(slope, float(-noise / 0.5))


@pytest.mark.parametrize(
    "law",
    [
        lambda t: dist.Laplace(t[0], t[1]),
        lambda t: dist.Gumbel(t[0], t[1]),
        lambda t: dist.Logistic(t[0], t[1]),
        lambda t: dist.Cauchy(t[0], t[1]),
        lambda t: dist.Weibull(t[0], t[1]),
        lambda t: dist.Pareto(t[0], t[1]),
        lambda t: dist.Kumaraswamy(t[0], t[1]),
        lambda t: dist.HalfCauchy(t[1]),
    ],
)
def test_paths_give_the_derivative_of_the_distribution_function(law: Any) -> None:
    """dx = -dF(x) / p(x) is the only smooth path in one dimension that increases with its noise."""
    theta = f([1.3, 0.7])
    whole = path(law(theta))
    noise = whole.noise[0].sample((20,))
    x = whole.function(noise).detach()
    slopes = torch.stack(
        [torch.func.jacrev(lambda t, e=e: path(law(t)).function(e))(theta) for e in noise]
    )

    def cdf(t: Tensor) -> Tensor:
        return law(t).cdf(x)

    h = 1e-5
    steps = torch.eye(2) * h
    exact = torch.stack([(cdf(theta - e) - cdf(theta + e)) / (2 * h) for e in steps], -1)
    exact = exact / law(theta).log_prob(x).exp()[:, None]
    torch.testing.assert_close(slopes, exact, rtol=1e-5, atol=1e-5)


def test_several_traces_have_noise_of_their_own(back_end: Any) -> None:
    """The bound of two particles along paths, and a flip that forks before them."""

    def model() -> None:
        x = sample("x", dist.Normal(f(0.0), 1.0))
        observe("y", dist.Normal(x, f(0.5)), f(0.8))

    def bound(theta: Tensor) -> Tensor:
        """By a grid in both noises."""
        e = torch.linspace(-9, 9, 181, dtype=torch.float64)
        x = theta[0] + theta[1] * e
        prior, guide = dist.Normal(f(0.0), 1.0), dist.Normal(theta[0], theta[1])
        log_w = prior.log_prob(x) + dist.Normal(x, 0.5).log_prob(f(0.8)) - guide.log_prob(x)
        both = torch.logsumexp(
            torch.stack([log_w[:, None] + 0 * log_w, log_w + 0 * log_w[:, None]]), 0
        )
        w = dist.Normal(f(0.0), 1.0).log_prob(e).exp() * 0.1
        return (w[:, None] * w * (both - math.log(2))).sum()

    def build(strategy: Any) -> Build:
        def of(theta: Tensor) -> Tensor:
            def guide() -> None:
                sample("x", reparam(dist.Normal(theta[0], theta[1])))

            @objective
            def loss() -> Any:
                b = sample_trace(lambda: sample("b", strategy(dist.Bernoulli(theta[0])))).choices[
                    "b"
                ]
                return (1 + b) * iwelbo(model, guide, 2)

            return loss()

        return of

    at = f([0.4, 0.7])
    for strategy in (enum, mvd):
        check.unbiased(
            back_end(build(strategy), at),
            lambda t: (1 + t[0]) * bound(t),
            at,
            quadrature=24,  # of a smooth function: good to 1e-4
            tolerance=2e-4,
        ).require()
