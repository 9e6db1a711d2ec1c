"""Gradient estimators of single choices: expected value, derivative and variance, all exactly.

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
from support.sizes import quick
from support.variational import (
    BACK_ENDS,
    LOGITS,
    STRATEGIES,
    Build,
    captured,
    close,
    f,
    mean_of,
    moments,
    replayed,
)
from torch import Tensor

from pushforward import dist, sample
from pushforward.inference.vi import (
    Objective,
    enum,
    expect,
    leave_one_out,
    mvd,
    objective,
    reinforce,
    reparam,
    sample_trace,
)
from pushforward.inference.vi.gradients.paths import path
from pushforward.semantics import check, denote


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    return request.param


# ------------------------------------------------------------------------------ a coin (order 1, 2)


def coin(strategy: Callable[[Any], Any]) -> Build:
    """E[b ? 0 : -theta / 2] for b ~ flip(theta): -theta (1 - theta) / 2."""

    def build(theta: Tensor) -> Objective:
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

    def build(theta: Tensor) -> Objective:
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
    def build(theta: Tensor) -> Objective:
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

    def build(rate: Tensor) -> Objective:
        @objective
        def mean() -> Tensor:
            return rate * sample_trace(lambda: sample("n", mvd(dist.Poisson(rate)))).choices["n"]

        return mean()

    law = denote(back_end(build, f(1.3)), f(1.3), depth=60)
    close(law.expect(lambda e: torch.stack(e)), [1.69, 2.6])


@pytest.mark.parametrize("back_end", quick(1, [captured, replayed]))
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


@pytest.mark.parametrize("n", quick(1, [1_000, 3_000]))
def test_a_kink_by_differences(n: int, back_end: Any) -> None:
    """E|x| for x ~ Normal(.3, .7): by draws, since a kink spoils a quadrature."""
    build = mean_of(lambda t: mvd(dist.Normal(t[0], t[1])), torch.abs)
    torch.manual_seed(0)
    estimate = back_end(build, f([0.3, 0.7]))
    draws = torch.stack([estimate(f([0.3, 0.7]))[1] for _ in range(n)])
    error = draws.std(0) / math.sqrt(len(draws))
    z = (draws.mean(0) - f([0.3317648582, 0.7278734434])) / error
    assert float(z.abs().max()) < 4.5  # level 1e-5


@pytest.mark.parametrize("n", quick(1, [1_000, 4_000]))
def test_a_step_by_score_and_differences(n: int, back_end: Any) -> None:
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
        draws = torch.stack([estimate(f(0.3))[1] for _ in range(n)])
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

    def build(t: Tensor) -> Objective:
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


def two_costs(theta: Tensor, nested: bool) -> Objective:
    """f(b1) + g(b2), the second in an expected value of its own or not."""

    def flip(name: str, i: int) -> Tensor:
        return sample_trace(lambda: sample(name, reinforce(dist.Bernoulli(theta[i])))).choices[name]

    @objective
    def loss() -> Any:
        own = 1 + 2 * flip("a", 0)
        if nested:
            return expect(lambda: -2 + 7 * flip("b", 1)) + own
        return own + (-2 + 7 * flip("b", 1))

    return loss()


@pytest.mark.parametrize(
    ("nested", "graph", "variance"),
    [
        (False, False, [156.7619047619, 27.5]),
        (True, False, [156.7619047619, 2.6666666667]),
        (False, True, [27.4285714286, 2.6666666667]),
        (True, True, [27.4285714286, 2.6666666667]),
    ],
    ids=["all costs", "later costs", "dependent costs", "dependent and later costs"],
)
def test_what_scores_weigh(nested: bool, graph: bool, variance: list[float]) -> None:
    back_end = captured if graph else replayed
    mean, spread = moments(lambda t: two_costs(t, nested), [0.3, 0.6], None, back_end)
    close(mean[1:], [2.0, 7.0])
    close(spread[1:], variance, 1e-8)


def test_leave_one_out(back_end: Any) -> None:
    cost = f([2.0, -1.0, 4.0])

    def build(logits: Tensor) -> Objective:
        z = lambda: sample("z", leave_one_out(dist.Categorical(logits=logits), 3))  # noqa: E731
        return objective(lambda: cost[sample_trace(z).choices["z"]])()

    mean, spread = moments(build, LOGITS, None, back_end)
    gradient = [-0.1006981237, -0.6765542635, 0.7772523872]
    close(mean[1:], gradient)
    torch.testing.assert_close(spread[1:], f([0.27195, 0.50995, 0.33489]), rtol=0, atol=5e-5)

    def own_mean(logits: Tensor) -> Objective:  # a baseline that looks at the draw itself
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
