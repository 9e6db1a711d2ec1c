"""Samplers held against densities by a Stein identity: it is exact, and finds what is mistaken."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick

from pushforward import dist, factor, observe, plate, program, sample
from pushforward.ppl.errors import UnsupportedDistributionError
from pushforward.semantics import check
from pushforward.semantics.checks.stein import _Moves

pytestmark = pytest.mark.usefixtures("double")
Y = torch.tensor([0.3, 1.0, -0.2], dtype=torch.float64)
Sampler = Callable[[], dict[str, Any]]


@program
def posterior() -> None:
    m = sample("m", dist.Normal(0.0, 1.0))
    with plate("row", 3):
        observe("y", dist.Normal(m, 0.7), Y)


def conjugate(scale: float = 1.0, shift: float = 0.0) -> Sampler:
    precision = 1 + 3 / 0.49
    mean = float(Y.sum() / 0.49) / precision
    law = dist.Normal(mean + shift, scale * precision**-0.5)
    return lambda: {"m": law.sample()}


@program
def mixed() -> None:
    """Of k the masses are .7 / 4 and .3 / 8, and given k the scored x is Gamma(2 + k, 2)."""
    k = sample("k", dist.Bernoulli(0.3))
    x = sample("x", dist.Gamma(2.0 + k, 1.0))
    factor("tilt", -x)


def allocated(p: float = 0.3 / 1.7, rate: float = 2.0) -> Sampler:
    def drawn() -> dict[str, Any]:
        k = torch.bernoulli(torch.tensor(p))
        return {"x": dist.Gamma(2.0 + k, rate).sample(), "k": k}

    return drawn


@program
def finite() -> None:
    a = sample("a", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    b = sample("b", dist.Bernoulli(0.25))
    factor("tilt", a * b * 0.4)


def listed(tilt: float = 0.4) -> Sampler:
    pairs = list(itertools.product(range(3), range(2)))
    masses = [(0.5, 0.3, 0.2)[a] * (0.75, 0.25)[b] * 2.718281828459045 ** (a * b * tilt)
              for a, b in pairs]  # fmt: skip
    law = dist.Categorical(torch.tensor(masses))

    def drawn() -> dict[str, Any]:
        a, b = pairs[int(law.sample())]
        return {"a": torch.tensor(a), "b": torch.tensor(float(b))}

    return drawn


def test_moves_between_whole_numbers_are_symmetric() -> None:
    """From each of six states every other of the same a or b is met as often: by counts, 4 sd."""
    moves, n = _Moves(torch.zeros(0), [3, 2]), 12_000
    for a, b in itertools.product(range(3), range(2)):
        found = Counter(map(tuple, moves(torch.tensor([[a, b]] * n).double()).long().tolist()))
        expected = Counter[tuple[int, ...]]()
        for other in range(3):
            expected[(other, b)] += n // 6
        for other in range(2):
            expected[(a, other)] += n // 4
        assert found.keys() == expected.keys()
        assert all(abs(found[z] - expected[z]) < 4 * expected[z] ** 0.5 for z in expected)


def test_moves_of_both_kinds_are_made() -> None:
    x = torch.zeros(200, 3)
    z = _Moves(torch.ones(2), [2])(x)
    real, whole = (z[:, :2] != 0).all(1), z[:, 2] != 0
    assert bool(real.any() and whole.any()) and not bool((real & whole).any())


RIGHT = {
    "finite": (listed(), finite),
    "conjugate": (conjugate(), posterior),
    "mixed": (allocated(), mixed),
}
MISTAKEN = {
    "too wide": (conjugate(1.25), posterior),
    "masses": (allocated(0.3), mixed),
    "tilt left out": (listed(0.0), finite),
    "shifted": (conjugate(1.0, 0.1), posterior),
    "scores left out": (allocated(rate=1.0), mixed),
    "a tenth too wide": (conjugate(1.1), posterior),
}


@pytest.mark.parametrize("name", quick(2, RIGHT))
def test_right_samplers_pass(name: str) -> None:
    report = check.stein(*RIGHT[name], draws=4000)
    report.require()
    assert report.tolerance < 0.1


@pytest.mark.parametrize("name", quick(4, MISTAKEN))
def test_mistaken_samplers_are_found(name: str) -> None:
    report = check.stein(*MISTAKEN[name], draws=40_000)
    assert report.verdict == "fail"
    assert "the mean Stein residual" in report.counterexample


def test_right_samplers_seldom_fail() -> None:
    """At level 0.05, 30 runs: more than 9 failures have a probability below 2e-6."""
    failures = sum(
        check.stein(listed(), finite, draws=200, level=0.05, seed=seed).verdict == "fail"
        for seed in range(30)
    )
    assert failures <= 9


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        ({"k": 2.0, "x": 1.0}, "outside the support"),
        ({"k": 0.5, "x": 1.0}, "outside the support"),
        ({"k": 1.0, "x": -1.0}, "not in the interior"),
        ({"x": 1.0}, r"has no ['k']"),
        ({"k": 1.0, "x": 1.0, "w": 1.0}, "'w'"),
        ({"k": [1.0, 0.0], "x": 1.0}, "shape"),
    ],
)
def test_draws_of_another_form_fail(drawn: dict[str, Any], told: str) -> None:
    report = check.stein(lambda: {n: torch.tensor(x) for n, x in drawn.items()}, mixed)
    assert report.verdict == "fail"
    assert told in report.counterexample


def test_a_sampler_may_take_a_seed() -> None:
    seeds: list[int] = []

    def own(seed: int) -> dict[str, Any]:
        seeds.append(seed)
        return listed()()

    check.stein(own, finite, draws=100)
    assert len(set(seeds)) == len(seeds) == 300


def test_a_draw_without_density_fails() -> None:
    @program
    def never_two() -> None:
        a = sample("a", dist.Categorical(torch.ones(3)))
        factor("not two", torch.where(a == 2, -torch.inf, 0.0))

    law = dist.Categorical(torch.ones(3))
    report = check.stein(lambda: {"a": law.sample()}, never_two)
    assert report.verdict == "fail"
    assert "no density" in report.counterexample


def test_what_has_no_finite_values_is_refused() -> None:
    @program
    def counted() -> None:
        sample("n", dist.Poisson(2.0))

    with pytest.raises(UnsupportedDistributionError, match="n"):
        check.stein(lambda: {"n": torch.tensor(1.0)}, counted)


@pytest.mark.parametrize("settings", [{"draws": 0}, {"level": 0.0}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        check.stein(listed(), finite, **settings)
