"""Tempering, annealing and rejection: checks 18 and 19, exactly."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from pushforward import dist, factor, sample
from pushforward.errors import ProgramError
from pushforward.inference import annealed, multinomial, powered, rejection, spaced_powers
from pushforward.inference.kernels import TraceKernel, gibbs, single_site
from pushforward.inference.kernels.kernel import Moved
from pushforward.semantics import Measure, check, denote

pytestmark = pytest.mark.usefixtures("double")


def exactly(fraction: str) -> Any:
    return pytest.approx(float(Fraction(fraction)), abs=1e-12)


def pair(weights: list[float]) -> Any:
    x, y = sample("x", dist.Bernoulli(1 / 3)), sample("y", dist.Bernoulli(1 / 2))
    factor("score", torch.tensor(weights).log()[(x + y).long()])
    return x, y


def target() -> Any:
    return pair([1 / 16, 1 / 4, 1.0])


def coin() -> Any:
    return pair([0.1, 0.5, 0.9])


def variance(outputs: Measure) -> float:
    z = outputs.map(lambda population: population.log_evidence().exp())
    mean = float(z.expect())
    return float(z.expect(lambda v: (v - mean) ** 2))


def test_check_18_powers_of_the_scores() -> None:
    assert denote(target).mass() == exactly("5/16")
    assert denote(powered(target, 0.5)).mass() == exactly("1/2")
    assert denote(powered(target, 0.0)).mass() == exactly("1")
    masses = denote(target).pmf()
    wanted = {(1.0, 1.0): 1 / 6, (1.0, 0.0): 1 / 24, (0.0, 1.0): 1 / 12, (0.0, 0.0): 1 / 48}
    total = sum(wanted.values())
    assert masses == pytest.approx(wanted) or masses == pytest.approx(
        {k: v / total for k, v in wanted.items()}
    )


def test_check_18_annealed_importance_sampling() -> None:
    algorithm = annealed(target, single_site(), [0.5, 1.0], 1)
    check.valid(algorithm, target).require()
    assert variance(denote(algorithm)) == exactly("251/3072")
    assert variance(denote(annealed(target, single_site(), [1.0], 1))) == exactly("13/128")


def test_check_18_tempered_smc() -> None:
    algorithm = annealed(target, single_site(), [0.5, 1.0], 2, multinomial)
    check.valid(algorithm, target).require()
    assert variance(denote(algorithm)) == exactly("3085/73728")


@pytest.mark.parametrize("powers", [[1.0], [0.3, 1.0], [0.2, 0.7, 1.0]])
@pytest.mark.parametrize("kernel", [single_site(), gibbs("x")])
def test_any_schedule_and_kernel_is_valid(powers: list[float], kernel: TraceKernel) -> None:
    check.valid(annealed(coin, kernel, powers, 1), coin).require()
    check.valid(annealed(coin, kernel, powers[-2:], 2, ess=0.6, scheme=multinomial), coin).require()


def test_a_kernel_for_another_power_is_rejected() -> None:
    """Moves that leave the model itself invariant spoil the weights of the powers before it."""
    right = single_site()

    def ahead(run: Any, p: Any, *args: Any) -> Moved:
        return right.step(right.init(target, run.point), target)

    report = check.valid(annealed(target, TraceKernel(ahead, "ahead"), [0.5, 1.0], 1), target)
    assert report.verdict == "fail"


def test_impossible_scores_leave_nothing_to_move() -> None:
    def half() -> Any:
        x = sample("x", dist.Bernoulli(1 / 2))
        factor("f", x.log())
        return x

    check.valid(annealed(half, single_site(), [0.5, 1.0], 2, multinomial), half).require()


@pytest.mark.parametrize("powers", [[], [0.5], [0.5, 0.5, 1.0], [0.7, 0.3, 1.0], [0.0, 1.0]])
def test_powers_must_increase_to_one(powers: list[float]) -> None:
    with pytest.raises(ProgramError, match="powers must increase to exactly 1"):
        annealed(coin, single_site(), powers, 1)


def test_powers_are_spaced_by_the_effective_sample_size() -> None:
    """Groups with scores 0 and s keep (1 + e)^2 / (2 + 2 e^2) of a step b, where e = exp(bs)."""
    scores = torch.tensor([0.0, -30.0])
    powers = spaced_powers(scores, ess=0.7)
    e = math.exp(-30.0 * powers[0])
    assert (1 + e) ** 2 / (2 + 2 * e**2) == pytest.approx(0.7, abs=1e-9)
    assert powers == sorted(powers) and powers[-1] == 1.0
    assert spaced_powers(torch.zeros(5)) == [1.0]
    with pytest.raises(ProgramError, match="between 0 and 1"):
        spaced_powers(scores, ess=1.0)


# ---------------------------------------------------------------------------------------- rejection


def test_check_19_rejection() -> None:
    measure = denote(rejection(coin, 0.9), depth=40, bound=1.0)
    accepted = denote(rejection(coin, 0.9), depth=1, bound=1.0)
    assert accepted.mass() == exactly("13/27")
    assert float(measure.expect(lambda v: v[1])) == pytest.approx(27 / 13, abs=1e-9)
    five = denote(rejection(coin, 0.9), depth=5, bound=1.0)
    assert 1 - five.mass() == exactly("537824/14348907")
    posterior = measure.map(lambda v: v[0])
    assert posterior.deviation(denote(coin).normalize())[0] < (14 / 27) ** 40
    low, high = five.interval()
    assert low < 1.0 <= high + 1e-12


def test_check_19_a_bound_that_is_too_small_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"a run of weight 0\.9, beyond the bound 0\.5"):
        denote(rejection(coin, 0.5), depth=3)
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ProgramError, match="needs a positive bound"):
            rejection(coin, bound)
