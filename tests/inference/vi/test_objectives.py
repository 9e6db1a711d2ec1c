"""Gradient estimators of objectives: expected value, derivative and variance, all exactly.

Expected numbers are derived by hand or by enumeration, independently of the estimators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick
from support.variational import (
    BACK_ENDS,
    JOINT,
    LOGITS,
    STRATEGIES,
    Build,
    close,
    f,
    guided,
    moments,
    three,
)
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference.vi import (
    Objective,
    elbo,
    enum,
    frozen,
    iwelbo,
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
from pushforward.inference.vi.gradients.paths import path
from pushforward.semantics import check, denote


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


@pytest.fixture(params=BACK_ENDS.values(), ids=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    return request.param


# ------------------------------------------------------------------------------ a flip and a normal


def mixed(strategy: Callable[[Any], Any]) -> Build:
    """A flip that says which normal follows; the parameters are p and the two means."""

    def model() -> None:
        v = sample("v", dist.Bernoulli(f(0.8)))
        x = sample(
            "x", dist.Normal(torch.where(v == 1, f(2.0), f(3.0)), torch.where(v == 1, 1.0, 0.5))
        )
        observe("y", dist.Normal(x**2, f(0.1)), f(4.0))

    def build(theta: Tensor) -> Objective:
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
    def build(logits: Tensor) -> Objective:
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
    def build(theta: Tensor) -> Objective:
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


@pytest.mark.parametrize("strategy", quick(1, [enum, mvd]))
def test_several_traces_have_noise_of_their_own(back_end: Any, strategy: Any) -> None:
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
        def of(theta: Tensor) -> Objective:
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
    check.unbiased(
        back_end(build(strategy), at),
        lambda t: (1 + t[0]) * bound(t),
        at,
        quadrature=24,  # of a smooth function: good to 1e-4
        tolerance=2e-4,
    ).require()
