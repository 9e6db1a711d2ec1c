"""Kernels of any code, by bets on draws: level by martingales, power by mistaken kernels."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.continuous_kernels import MISTAKEN, RIGHT, UNIT, conditioned, normal
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample
from pushforward.ppl.errors import ProgramError, ZeroMassError
from pushforward.semantics import check
from pushforward.semantics.judging.betting import STAKES, Bets

pytestmark = pytest.mark.usefixtures("double")

standard = program(lambda: sample("x", normal(0.0, 1.0)))


# ------------------------------------------------------------------------------------- the level


@pytest.mark.parametrize("values", [(1.0, -1.0), (0.5, -0.25), (0.75, -0.5, -0.5)])
def test_wealth_is_a_martingale(values: tuple[float, ...]) -> None:
    """Of numbers whose mean is zero, all sequences of five are listed."""
    weights = {  # of each value, so that the mean is zero
        (1.0, -1.0): (0.5, 0.5),
        (0.5, -0.25): (1 / 3, 2 / 3),
        (0.75, -0.5, -0.5): (0.4, 0.3, 0.3),
    }[values]
    expected = 0.0
    for sequence in itertools.product(range(len(values)), repeat=5):
        bets = Bets(1)
        bets.place(torch.tensor([[values[i]] for i in sequence], dtype=torch.float64))
        chance = math.prod(weights[i] for i in sequence)
        expected += chance * math.exp(bets.log_evidence())
    assert expected == pytest.approx(1.0, abs=1e-12)


def test_wealth_is_an_average_over_gamblers() -> None:
    bets = Bets(2)
    bets.place(torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    worth = sum(1 + 0.5 * stake for stake in STAKES) / len(STAKES)
    assert math.exp(bets.log_evidence()) == pytest.approx((worth + 1.0) / 2, abs=1e-14)


def test_right_kernels_seldom_fail() -> None:
    """At level 0.05, 30 runs: more than 9 failures have a probability below 2e-6."""
    kernel = RIGHT["branchless"](normal(0.0, 1.0).log_prob)
    failures = sum(
        check.stationary(kernel, standard, draws=40, level=0.05, seed=seed).verdict == "fail"
        for seed in range(30)
    )
    assert failures <= 9


# ------------------------------------------------------------------------------------- the verdict


@pytest.mark.parametrize("name", quick(2, RIGHT))
def test_right_kernels_pass(name: str) -> None:
    model, log_density = conditioned(0.0, 0.7, 4.0)
    # the density of a t law of scale 0.7 and 4 degrees of freedom is at most 3/8 / 0.7
    report = check.stationary(RIGHT[name](log_density), model, draws=2500, bound=0.536)
    report.require()
    assert report.tolerance < 0.1


FOUND = ["MALA without correction", "Barker, correction inverted", "SGLD"]


@pytest.mark.parametrize("name", quick(2, FOUND))
def test_mistaken_kernels_fail(name: str) -> None:
    kernel = MISTAKEN[name](normal(0.0, 0.5).log_prob)
    narrow = program(lambda: sample("x", normal(0.0, 0.5)))
    assert check.stationary(kernel, narrow, draws=40_000).verdict == "fail"


def slices(down: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A slice sampler (Neal 2003) on N(0, 1), whose level lies so far below the log density."""

    def log_density(x: Tensor) -> Tensor:
        return -x * x / 2

    def kernel(x: Tensor) -> Tensor:
        level = log_density(x) + down(draw(UNIT))
        low = x - 1.5 * draw(UNIT)
        high = low + 1.5
        while log_density(low) > level:
            low = low - 1.5
        while log_density(high) > level:
            high = high + 1.5
        while True:
            y = low + (high - low) * draw(UNIT)
            if log_density(y) > level:
                return y
            low, high = (y, high) if y < x else (low, y)

    return kernel


def test_loops_of_unknown_length() -> None:
    check.stationary(slices(torch.log), standard, draws=1500).require()
    assert check.stationary(slices(torch.neg), standard, draws=20_000).verdict == "fail"


def foreign(rng: Callable[[], float], noise: Callable[[], float], power: float) -> Any:
    def kernel(x: Tensor) -> float:
        y = float(x) + noise()
        return y if math.log(rng()) < power * (float(x) ** 2 - y**2) / 2 else float(x)

    return kernel


SOURCES: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
    "torch": (lambda: float(torch.rand(())), lambda: float(torch.randn(()))),
    "numpy": (lambda: float(np.random.rand()), lambda: float(np.random.randn())),
    "random": (random.random, lambda: random.gauss(0.0, 1.0)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_code_that_draws_from_global_generators(name: str) -> None:
    first = check.stationary(foreign(*SOURCES[name], 1.0), standard, draws=1500)
    assert (
        first.require().deviation
        == check.stationary(foreign(*SOURCES[name], 1.0), standard, draws=1500).deviation
    )
    assert check.stationary(foreign(*SOURCES[name], 2.0), standard, draws=8000).verdict == "fail"


def test_scores_weigh_draws() -> None:
    @program
    def seen() -> Tensor:
        x = sample("x", normal(0.0, 1.0))
        observe("y", dist.Bernoulli(logits=2 * x), torch.tensor(1.0))
        return x

    def log_density(x: Tensor) -> Tensor:
        return -x * x / 2 + torch.nn.functional.logsigmoid(2 * x)

    check.stationary(RIGHT["random walk"](log_density), seen, draws=2500).require()
    prior = RIGHT["random walk"](normal(0.0, 1.0).log_prob)
    assert check.stationary(prior, seen, draws=8000).verdict == "fail"


def test_a_score_beyond_its_bound_is_told_of() -> None:
    @program
    def loud() -> Tensor:
        x = sample("x", normal(0.0, 1.0))
        factor("f", x)
        return x

    with pytest.raises(ProgramError, match="bound="):
        check.stationary(lambda x: x, loud, draws=10)


def test_too_few_draws_leave_it_open() -> None:
    report = check.stationary(RIGHT["random walk"](normal(0.0, 1.0).log_prob), standard, draws=60)
    assert report.verdict == "unknown"
    assert "raise draws=" in report.notes[0]


@program
def positive() -> Tensor:
    x = sample("x", normal(0.0, 1.0))
    factor("half", torch.where(x > 0, 0.0, -math.inf))
    return x


def in_place(x: Tensor) -> Tensor:
    x += 1.0
    return x


WRONG_IN_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "always NaN": (lambda x: x * math.nan, "NaN"),
    "NaN somewhere": (lambda x: torch.where(x > 1, math.nan, x), "NaN"),
    "in place": (in_place, "half the change"),
    "wider": (lambda x: torch.stack([x, x]), "another form"),
}


@pytest.mark.parametrize("name", WRONG_IN_NUMBERS)
def test_states_that_cannot_be_right(name: str) -> None:
    kernel, told = WRONG_IN_NUMBERS[name]
    report = check.stationary(kernel, standard, draws=2000)
    assert report.verdict == "fail"
    assert told in report.counterexample


def test_no_step_is_taken_from_where_there_is_no_mass() -> None:
    def kernel(x: Tensor) -> Tensor:
        assert x > 0
        y = x + draw(normal(0.0, 1.0))
        return y if y > 0 and draw(UNIT).log() < (x * x - y * y) / 2 else x

    check.stationary(kernel, positive, draws=3000).require()


def test_what_few_weights_cannot_show_is_left_open() -> None:
    """Ten data at one: the posterior does not keep x to -x, and prior draws seldom see it."""

    @program
    def far() -> Tensor:
        x = sample("x", normal(0.0, 1.0))
        for i in range(10):
            observe(f"y{i}", normal(x, 1.0), torch.tensor(1.0))
        return x

    assert check.stationary(lambda x: -x, far, draws=300).verdict != "pass"

    @program
    def impossible() -> Tensor:
        x = sample("x", normal(0.0, 1.0))
        factor("none", torch.tensor(-math.inf))
        return x

    with pytest.raises(ZeroMassError):
        check.stationary(lambda x: x, impossible, draws=100)


def test_a_spike_hides_nothing() -> None:
    """Most of the mass is at one value, and the rest is moved elsewhere."""

    @program
    def spike_and_slab() -> Tensor:
        there = sample("there", dist.Bernoulli(0.2))
        return there * sample("x", normal(1.0, 0.1))

    def kernel(x: Tensor) -> Tensor:
        return x if x == 0 else draw(normal(3.0, 0.5))

    assert check.stationary(kernel, spike_and_slab, draws=4000).verdict == "fail"


def test_a_kernel_that_breaks_fails() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no step")

    report = check.stationary(broken, standard, draws=10)
    assert report.verdict == "fail"
    assert "no step" in report.counterexample


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="level"):
        check.stationary(lambda x: x, standard, level=0.0)
