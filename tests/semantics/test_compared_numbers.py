"""Uniform numbers that are compared are enumerated exactly, whatever monotone way they go.

The expected probabilities come from bisection of the same functions on floats, and by hand.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, program, sample
from pushforward.ppl.errors import BudgetError, InfiniteSupportError, ProgramError
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")

Step = tuple[str, Callable[[Any], Any], Callable[[float], float]]

# name, on what may be undecided, on floats; each is monotone on all numbers that it can meet
STEPS: list[Step] = [
    ("log", lambda x: x.log(), lambda x: math.log(x) if x > 0 else -math.inf),
    ("torch.log", torch.log, lambda x: math.log(x) if x > 0 else -math.inf),
    ("np.log", np.log, lambda x: math.log(x) if x > 0 else -math.inf),
    ("exp", torch.exp, lambda x: math.exp(min(x, 700.0))),
    ("negative", lambda x: -x, lambda x: -x),
    ("1 - x", lambda x: 1 - x, lambda x: 1 - x),
    ("x + 2", lambda x: x + 2, lambda x: x + 2),
    ("tensor + x", lambda x: torch.tensor(0.5) + x, lambda x: 0.5 + x),
    ("tensor - x", lambda x: torch.tensor(0.5) - x, lambda x: 0.5 - x),
    ("x - 3", lambda x: x - 3, lambda x: x - 3),
    ("3 x", lambda x: 3 * x, lambda x: 3 * x),
    ("x * -2", lambda x: x * -2.0, lambda x: x * -2.0),
    ("tensor * x", lambda x: torch.tensor(-0.7) * x, lambda x: -0.7 * x),
    ("x / 4", lambda x: x / 4, lambda x: x / 4),
    ("expm1", torch.expm1, lambda x: math.expm1(min(x, 700.0))),
    ("np.float64 * x", lambda x: np.float64(1.5) * x, lambda x: 1.5 * x),
    ("detach", lambda x: x.detach(), lambda x: x),
]
COMPARISONS: list[tuple[str, Callable[[Any, float], Any]]] = [
    ("x < t", lambda x, t: x < t),
    ("x <= tensor", lambda x, t: x <= torch.tensor(t)),
    ("tensor > x", lambda x, t: torch.tensor(t) > x),
    ("np t > x", lambda x, t: np.float64(t) > x),
    ("torch.lt", lambda x, t: torch.lt(x, torch.tensor(t))),
    ("np.less", lambda x, t: np.less(x, t)),
    ("not x >= t", lambda x, t: not bool(x >= t)),
    ("not x > t", lambda x, t: not bool(torch.gt(x, t))),
]


def chance_below(maps: list[Step], t: float) -> float:
    """The length of {u in (0, 1): g(u) < t}, by bisection of the composition g on floats."""

    def holds(u: float) -> bool:
        for _, _, on_floats in maps:
            u = on_floats(u)
        return u < t

    first, low, high = holds(1e-300), 1e-300, 1.0
    if holds(1.0) == first:
        return float(first)
    for _ in range(2000):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) == first else (low, middle)
    return low if first else 1.0 - low


@pytest.mark.parametrize("seed", quick(100, range(600)))
def test_a_comparison_has_the_probability_of_its_interval(seed: int) -> None:
    rng = random.Random(seed)
    maps: list[Step] = []
    for _ in range(rng.randrange(5)):
        at_zero, at_one = chance_below(maps, 0.0), chance_below(maps, 600.0)
        allowed = [
            step
            for step in STEPS
            if not ("log" in step[0] and at_zero > 0) and not ("exp" in step[0] and at_one < 1)
        ]
        maps.append(rng.choice(allowed))
    t = rng.choice([rng.uniform(-3, 3), rng.uniform(0, 1), -math.inf, math.inf])
    name, compare = rng.choice(COMPARISONS)

    def program_of_it() -> bool:
        x: Any = draw(dist.Uniform(0.0, 1.0))
        for _, on_numbers, _ in maps:
            x = on_numbers(x)
        return bool(compare(x, t))

    found = denote(program_of_it).pmf()
    expected = chance_below(maps, t)
    names = [step[0] for step in maps]
    assert found.get(True, 0.0) == pytest.approx(expected, abs=1e-12), (names, name, t)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-15)


def test_comparisons_of_one_number_are_one_number() -> None:
    def third() -> int:
        u = draw(dist.Uniform(2.0, 5.0))
        if u < 3.0:
            return 0 if u > 2.5 else 1
        return 2 if (5.0 - u).log() < 0.0 else 3

    found = denote(third).pmf()
    assert found == pytest.approx({0: 0.5 / 3, 1: 0.5 / 3, 2: 1 / 3, 3: 1 / 3}, abs=1e-15)


def test_nothing_is_less_or_more_than_nan() -> None:
    def never() -> tuple[bool, ...]:
        u = draw(dist.Uniform(0.0, 1.0))
        nan = torch.tensor(math.nan)
        return bool(u < nan), bool(u > nan), bool(-u >= nan), bool((1 - u) <= nan)

    assert denote(never).pmf() == {(False,) * 4: 1.0}


CUMULATED = torch.tensor([0.1, 0.4, 0.6, 1.0], dtype=torch.float64)
PICKS: dict[str, Callable[[Any], Any]] = {
    "searchsorted": lambda u: torch.searchsorted(CUMULATED, u),
    "bucketize": lambda u: torch.bucketize(u, CUMULATED),
    "numpy": lambda u: int(np.searchsorted(CUMULATED.numpy(), u)),
    "sum": lambda u: (u > CUMULATED).sum(),
    "sum of a complement": lambda u: (1 - u < 1 - CUMULATED).sum(),
    "loop": lambda u: next(i for i in range(4) if u < CUMULATED[i]),
}


@pytest.mark.parametrize("name", PICKS)
def test_a_table_is_inverted_exactly(name: str) -> None:
    found = denote(lambda: PICKS[name](draw(dist.Uniform(0.0, 1.0)))).pmf()
    assert found == pytest.approx({0: 0.1, 1: 0.3, 2: 0.2, 3: 0.4}, abs=1e-15)


def test_its_integral_part_is_exact() -> None:
    def die() -> int:
        return 1 + int(6 * draw(dist.Uniform(0.0, 1.0)))

    assert denote(die).pmf() == pytest.approx({i: 1 / 6 for i in range(1, 7)}, abs=1e-15)


def test_systematic_resampling_copies_as_often_as_it_says() -> None:
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

    def copies() -> Tensor:
        places = (torch.arange(3) + draw(dist.Uniform(0.0, 1.0))) / 3
        picked = (weights.cumsum(0)[:, None] < places).sum(0).clamp(max=2)
        return torch.bincount(picked, minlength=3).double()

    assert denote(copies).expect().tolist() == pytest.approx([1.5, 0.6, 0.9], abs=1e-12)


def test_as_a_number_it_needs_nodes_in_what_is_left() -> None:
    def squared() -> Tensor:
        u = draw(dist.Uniform(0.0, 1.0))
        return u * u if u < 0.5 else torch.zeros(())

    with pytest.raises(InfiniteSupportError, match="quadrature"):
        denote(squared)
    # the integral of u^2 from 0 to 1/2
    assert denote(squared, quadrature=8).expect() == pytest.approx(1 / 24, abs=1e-15)


def in_place(x: Any, change: str) -> Any:
    if change == "log_":
        x.log_()
    elif change == "torch.log_":
        torch.log_(x)
    elif change == "mul_":
        x.mul_(2.0).log_()
        x.sub_(math.log(2.0))
    else:
        y = x
        y += 1.0
        x -= 1.0
        y.log_()
    return x


CHANCES: dict[str, tuple[Callable[[Any], Any], float]] = {
    "copied": (lambda u: copy.deepcopy(u) < 0.3, 0.3),
    "copied, and another": (lambda u: bool(copy.copy(u) < 0.3) and bool(u < 0.6), 0.3),
    "log_": (lambda u: in_place(u, "log_") < -1.0, math.exp(-1)),
    "torch.log_": (lambda u: in_place(u, "torch.log_") < -1.0, math.exp(-1)),
    "mul_": (lambda u: in_place(u, "mul_") < -1.0, math.exp(-1)),
    "+=": (lambda u: in_place(u, "+=") < -1.0, math.exp(-1)),
    "cloned": (lambda u: bool(in_place(u.clone(), "log_") < -1.0) and bool(u < 0.3), 0.3),
    "added to a tensor": (lambda u: torch.ones(()).add_(u < 0.3) == 2.0, 0.3),
    "equal": (lambda u: u == 0.5, 0.0),
    "unequal": (lambda u: u != 0.5, 1.0),
    "log of less than zero": (lambda u: (u - 0.5).log() < -1.0, math.exp(-1)),
    "root of less than zero": (lambda u: (u - 0.5).sqrt() < 0.3, 0.09),
    "log1p of less than -1": (lambda u: torch.log1p(-2 * u) < -0.5, 0.5 - (1 - math.exp(-0.5)) / 2),
    "not more than a NaN": (lambda u: not bool((u - 0.5).log() > -1.0), 0.5 + math.exp(-1)),
    "plus NaN": (lambda u: u + math.nan < 0.3, 0.0),
    "times NaN": (lambda u: u * torch.tensor(math.nan) < 0.3, 0.0),
    "plus inf": (lambda u: u + math.inf > 1e300, 1.0),
    "inf minus": (lambda u: math.inf - u < math.inf, 0.0),
    "log minus inf": (lambda u: u.log() - math.inf < 0, 1.0),
    "item": (lambda u: u.item() < 0.3, 0.3),
    "view": (lambda u: u.reshape(1).view(1, 1).squeeze() < 0.3, 0.3),
    "first": (lambda u: u.reshape(1)[0] < 0.3, 0.3),
    "to": (lambda u: u.to(torch.float64) < 0.3, 0.3),
    "floor": (lambda u: (4 * u - 2).floor() == -1.0, 0.25),
    "ceil": (lambda u: (4 * u).ceil() == 2.0, 0.25),
    "long": (lambda u: (4 * u).long() == 3, 0.25),
}


@pytest.mark.parametrize("name", CHANCES)
def test_what_is_done_to_tensors(name: str) -> None:
    function, expected = CHANCES[name]
    found = denote(lambda: bool(function(draw(dist.Uniform(0.0, 1.0))))).pmf()
    assert found.get(True, 0.0) == pytest.approx(expected, abs=1e-12)
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-15)


def test_positions_in_a_table() -> None:
    """Systematic resampling by one search: each weight is met as often as it says."""
    cumulated = np.cumsum([0.5, 0.2, 0.3])

    def copies() -> tuple[int, ...]:
        places = (draw(dist.Uniform(0.0, 1.0)) + np.arange(4)) / 4
        return tuple(np.bincount(np.searchsorted(cumulated, places), minlength=3).tolist())

    measure = denote(copies)
    means = [measure.expect(lambda v: float(v[i])) for i in range(3)]  # noqa: B023
    assert [float(x) for x in means] == pytest.approx([2.0, 0.8, 1.2], abs=1e-12)


def test_added_in_place_to_a_tensor() -> None:
    assert denote(
        lambda: torch.ones(()).add_(draw(dist.Uniform(0.0, 1.0))), quadrature=4
    ).expect() == (pytest.approx(1.5, abs=1e-14))


def test_scores_of_numbers() -> None:
    def weighed() -> Tensor:
        factor("u", draw(dist.Uniform(0.0, 1.0)).log())
        return torch.zeros(())

    assert denote(weighed, quadrature=16).mass() == pytest.approx(0.5, abs=1e-12)


def test_what_it_cannot_be_is_told_of() -> None:
    with pytest.raises(TypeError, match="use it as it is"):
        denote(lambda: torch.as_tensor(draw(dist.Uniform(0.0, 1.0))))
    with pytest.raises(ProgramError, match="changed in place, by clamp_"):
        denote(lambda: draw(dist.Uniform(0.0, 1.0)).clamp_(max=0.25))


def test_parameters_that_carry_derivatives() -> None:
    """The number does not move with a threshold, and what is made of it moves with its factors."""
    scale = torch.tensor(0.5, requires_grad=True)

    def estimator(at: Tensor) -> Tensor:
        u = draw(dist.Uniform(0.0, 1.0))
        return (u * at).sum() if u < at.sum() else torch.zeros(())

    def value_of(at: Tensor) -> Tensor:
        measure = denote(lambda: estimator(at), quadrature=8)
        return measure.expect()

    # the integral of u s from 0 to s
    assert float(value_of(scale.reshape(1))) == pytest.approx(0.5**3 / 2, abs=1e-14)


def test_it_passes_through_calls_loops_and_results() -> None:
    @program
    def inner(u: Tensor) -> Tensor:
        return u + draw(dist.Bernoulli(0.5))

    def outer() -> tuple[Tensor, bool]:
        u = draw(dist.Uniform(0.0, 1.0))
        known = bool(u < 0.25)
        return inner(u), known

    measure = denote(outer, quadrature=6)
    assert measure.expect(lambda v: v[0]) == pytest.approx(1.0, abs=1e-14)
    assert measure.expect(lambda v: float(v[1])) == pytest.approx(0.25, abs=1e-14)


def test_a_loop_without_end_is_told_of() -> None:
    def waiting() -> Tensor:
        while draw(dist.Bernoulli(0.5)) == 0:
            pass
        return torch.zeros(())

    with pytest.raises(BudgetError, match="one path makes more than 500 choices"):
        denote(waiting, budget=500)


MASSES = torch.tensor([1.0, 2.0, 4.0, 0.0, 3.0], dtype=torch.float64)


@program
def five() -> Tensor:
    x = sample("x", dist.Categorical(torch.ones(5)))
    factor("pi", MASSES[x].log())
    return x


def metropolis(accept: Callable[[Any, Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def kernel(x: Tensor) -> Tensor:
        y = (x + 1 + draw(dist.Categorical(torch.ones(4)))) % 5
        return y if accept(draw(dist.Uniform(0.0, 1.0)), MASSES[y] / MASSES[x]) else x

    return kernel


ACCEPTED: dict[str, Callable[[Any, Tensor], Any]] = {
    "u < r": lambda u, r: u < r,
    "log u < log r": lambda u, r: u.log() < r.log(),
    "-log u > -log r": lambda u, r: -u.log() > -r.log(),
    "min": lambda u, r: min(1.0, float(r)) >= u,
    "numpy": lambda u, r: np.log(u) <= np.log(np.maximum(r.numpy(), 1e-300)),
}
MISTAKEN: dict[str, Callable[[Any, Tensor], Any]] = {
    "u < log r": lambda u, r: u < r.log(),
    "log u < r": lambda u, r: u.log() < r,
    "u > r": lambda u, r: u > r,
    "u < sqrt r": lambda u, r: u < r.sqrt(),
    "always": lambda u, r: u < 2.0,
    "a little off": lambda u, r: u < 1.0001 * r,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accept_steps_as_they_are_written(name: str) -> None:
    kernel = metropolis(ACCEPTED[name])
    check.invariant(kernel, five).require()
    check.reversible(kernel, five).require()


@pytest.mark.parametrize("name", MISTAKEN)
def test_mistaken_accept_steps_fail(name: str) -> None:
    assert check.invariant(metropolis(MISTAKEN[name]), five).verdict == "fail"
