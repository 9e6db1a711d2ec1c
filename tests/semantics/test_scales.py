"""Verdicts do not depend on the scale of the measure: a model with many data has a tiny mass.

The class: checks that compare measures, or expectations, by an absolute tolerance.  Members are
random models and algorithms, right and wrong, whose weights are multiplied by exp(s) for s from
-20 000 to 20 000; the verdict at each scale is that at s = 0.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, fix, program, sample
from pushforward.semantics import Measure, check, denote
from pushforward.semantics.checks.orbit import Orbit

pytestmark = pytest.mark.usefixtures("double")

SCALES = (-20_000.0, -400.0, -30.0, 5.0, 300.0, 20_000.0)
Draws = random.Random


def weights(draws: Draws, n: int) -> Tensor:
    return torch.tensor([draws.uniform(0.1, 1.0) for _ in range(n)])


def model_of(prior: Tensor, likelihood: Tensor, s: float) -> Callable[..., Any]:
    @program
    def model() -> Tensor:
        x = sample("x", dist.Categorical(prior))
        factor("y", likelihood.log()[x] + s)
        return x

    return model


def importance_of(
    proposal: Tensor, prior: Tensor, likelihood: Tensor, s: float, off: float
) -> Callable[..., Any]:
    """Importance sampling; ``off`` is added to the log weight of the first value."""
    ratio = (prior / prior.sum()).log() + likelihood.log() - (proposal / proposal.sum()).log()

    def algorithm() -> tuple[Tensor, Tensor]:
        x = draw(dist.Categorical(proposal))
        return x, ratio[x] + s + torch.where(x == 0, off, 0.0)

    return algorithm


def metropolis(target: Tensor, off: float) -> Callable[[Tensor], Tensor]:
    """Proposes the next or the previous value; ``off`` spoils the ratio for the first."""
    n = len(target)

    def kernel(x: Tensor) -> Tensor:
        y = (x + torch.where(draw(dist.Bernoulli(0.5)) == 1, 1, n - 1)) % n
        ratio = target[y] / target[x] * torch.where(x == 0, math.exp(off), 1.0)
        return torch.where(draw(dist.Bernoulli(ratio.clamp(max=1.0))) == 1, y, x)

    return kernel


@pytest.mark.parametrize("count", quick(1, [6, 20]))
@pytest.mark.parametrize("s", SCALES)
def test_verdicts_are_those_of_a_mass_about_one(s: float, count: int) -> None:
    for number in range(count):
        draws = Draws(number)
        n = draws.choice([2, 3, 4])
        prior, likelihood, proposal = (weights(draws, n) for _ in range(3))
        model, target = model_of(prior, likelihood, s), prior * likelihood
        for off, verdict in ((0.0, "pass"), (draws.choice([-0.3, 1e-3, 0.5]), "fail")):
            algorithm = importance_of(proposal, prior, likelihood, s, off)
            assert check.valid(algorithm, model).verdict == verdict, (number, off)
            kernel = metropolis(target, 0.0 if verdict == "pass" else -6.0)
            assert check.invariant(kernel, model).verdict == verdict, (number, off)
            assert check.reversible(kernel, model).verdict == verdict, (number, off)


def test_a_counterexample_shows_masses_that_no_number_holds() -> None:
    prior, likelihood = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.5])
    algorithm = importance_of(prior, prior, likelihood, -1_000.0, math.log(2.0))
    report = check.valid(algorithm, model_of(prior, likelihood, -1_000.0))
    assert f"mass exp({math.log(0.5) - 1_000:.10g}) under" in report.counterexample
    assert f"and exp({-1_000.0:.10g}) in" in report.counterexample
    assert report.deviation == pytest.approx(0.5 / 1.25)


@pytest.mark.parametrize("s", SCALES)
def test_what_was_cut_is_seen_at_every_scale(s: float) -> None:
    """A recursion of which exp(s) / 2^depth is missing is never said to be whole."""

    def build() -> Callable[..., Any]:
        def step(again: Callable[[], Tensor]) -> Tensor:
            return torch.tensor(0.0) if sample("stop", dist.Bernoulli(0.5)) == 1 else again()

        @program
        def p() -> Tensor:
            factor("scale", torch.tensor(s))
            return fix(step)()

        return p

    measure = denote(build(), depth=10, bound=1.0)
    assert measure.log_rest == pytest.approx(s - 10 * math.log(2.0), abs=1.0)
    report = check.valid(lambda: (torch.tensor(0.0), torch.tensor(s)), build(), depth=10, bound=1.0)
    assert report.verdict == "unknown"
    with pytest.raises(Exception, match="cut away"):
        denote(build(), depth=2, bound=1.0).normalize()


@pytest.mark.parametrize("s", SCALES)
def test_errors_of_quadrature_keep_their_share(s: float) -> None:
    def build(shift: float) -> Callable[..., Any]:
        @program
        def p() -> Tensor:
            x = sample("x", dist.Normal(0.0, 1.0))
            factor("scale", shift + torch.sin(2 * x))
            return x

        return p

    plain, scaled = (denote(build(shift), quadrature=24) for shift in (0.0, s))
    assert plain.log_error > -math.inf
    assert scaled.log_error - s == pytest.approx(plain.log_error, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_estimates_are_compared_by_their_size(scale: float) -> None:
    at = torch.tensor([0.3, -0.2])

    def objective(u: Tensor) -> Tensor:
        return scale * (u.sigmoid()[0] + u.sin()[1])

    def estimator(u: Tensor, off: float) -> Tensor:
        p = u.sigmoid()[0]
        x = draw(dist.Bernoulli(p))
        return scale * torch.stack([x - p + p * (1 - p) + off, u.cos()[1]])

    assert check.unbiased(lambda u: estimator(u, 0.0), objective, at).verdict == "pass"
    assert check.unbiased(lambda u: estimator(u, 1e-4), objective, at).verdict == "fail"


def test_a_gradient_of_zero_may_be_rounded() -> None:
    at = torch.tensor([0.0])
    objective = lambda u: 1.0 + (u**2).sum()  # noqa: E731
    assert check.unbiased(lambda u: u + 1e-17, objective, at).verdict == "pass"
    assert check.unbiased(lambda u: u + 1e-7, objective, at).verdict == "fail"


def test_values_are_equal_whatever_holds_them() -> None:
    """Numbers by number, lists as tuples; not by dtype, and not beyond what a double holds."""
    same = [0.0, 0, False, torch.tensor(0.0), torch.tensor(0), torch.tensor(0.0).float()]
    assert len(Measure.of((value, 0.0) for value in same)) == 1
    rows = [torch.tensor([1, 2]), torch.tensor([1.0, 2.0])]
    assert len(Measure.of((row, 0.0) for row in rows)) == 1
    assert len(Measure.of((pair, 0.0) for pair in [(1, 2.0), [1.0, torch.tensor(2)]])) == 1
    apart = [2**60, 2**60 + 1, torch.tensor(2**60 + 2), torch.tensor([0.0]), 1e-300, "0", None]
    assert len(Measure.of((value, 0.0) for value in apart)) == len(apart)
    assert len(Measure.of([(math.nan, 0.0), (torch.tensor(math.nan), 0.0)])) == 1


def test_numbers_that_print_alike_are_told_with_more_digits() -> None:
    third = torch.tensor(1 / 3)
    model = model_of(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), 0.0)
    algorithm = lambda: (draw(dist.Bernoulli(0.5)), third * 0 + 1e-12)  # noqa: E731
    report = check.valid(algorithm, model, tolerance=1e-14)
    assert report.verdict == "fail"
    assert "mass 0.5 under the model, and 0.5000000000005" in report.counterexample


def test_values_too_rare_to_be_checked_are_told() -> None:
    """The check of a kernel says where it cannot see: here the second state holds 1e-20."""
    model = model_of(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1e-20]), 0.0)
    report = check.invariant(lambda x: torch.zeros_like(x), model)
    assert report.verdict == "pass"
    assert any("1 of 2 values hold no more than 1e-10" in note for note in report.notes)


def test_an_orbit_with_weights_that_are_no_numbers_fails() -> None:
    n = 9
    orbit = Orbit(torch.zeros(n, 1), torch.full((n,), math.nan))
    stay = lambda start, leapfrog: start  # noqa: E731
    assert check.orbit(stay, orbit, 2).verdict == "fail"
