"""Densities on whole numbers without end: right ones pass whatever their rounding, flaws are found.

The class: laws on infinite or large supports at any parameters, and densities of infinite mass.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.whole_numbers import DENSITIES, LAWS, SAMPLERS, Around, f
from torch import Tensor

from pushforward import dist
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")
C = dist.constraints


@pytest.mark.parametrize("name", LAWS)
def test_right_ones_pass(name: str) -> None:
    for number in range(4):
        law = LAWS[name](random.Random(f"{name} {number}"))
        report = check.density(law, draws=4000, seed=number)
        assert report.verdict == "pass", (vars(law), report)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("flaw", DENSITIES)
def test_flaws_of_densities_are_found(name: str, flaw: str) -> None:
    law = LAWS[name](random.Random(name))
    report = check.density(Around(law, density=DENSITIES[flaw]), draws=4000)
    assert report.verdict == "fail" and report.counterexample, report


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("flaw", SAMPLERS)
def test_flaws_of_samplers_are_found(name: str, flaw: str) -> None:
    law = LAWS[name](random.Random(name))
    report = check.density(Around(law, sampler=SAMPLERS[flaw]), draws=40_000)
    assert report.verdict == "fail" and report.counterexample, report


def test_a_fault_far_from_the_draws_is_in_the_mass() -> None:
    bump = Around(dist.Poisson(f(3.0)), density=lambda x: torch.where(x == 9999, 8.0e4, 0.0))
    assert check.density(bump, draws=1000).verdict == "fail"


class HeavyTail(dist.TorchDistribution):
    """The mass 1 / (n + 1) - 1 / (n + 2) of n = 0, 1, ..."""

    arg_constraints, support, has_rsample = {}, C.nonnegative_integer, False

    def log_prob(self, x: Tensor) -> Tensor:
        return -torch.log1p(x) - torch.log(x + 2.0)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return (1.0 / torch.rand(sample_shape) - 1.0).floor()


def test_a_heavy_tail_is_bounded_and_a_short_list_leaves_it_open() -> None:
    check.density(HeavyTail(), draws=10_000).require()
    short = check.density(HeavyTail(), draws=10_000, depth=5)
    assert short.verdict == "unknown" and "raise depth=" in str(short)


# ------------------------------------------------------------------------------- infinite integrals


class Unbounded(dist.TorchDistribution):
    arg_constraints, has_rsample = {}, False

    def __init__(self, support: Any, score: Callable[[Tensor], Tensor], size: int) -> None:
        super().__init__(event_shape=torch.Size([size] * bool(size)), validate_args=False)
        self.where, self.score = support, score

    @property
    def support(self) -> Any:
        return self.where

    def log_prob(self, x: Tensor) -> Tensor:
        return self.score(x)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return torch.full((*sample_shape, *self.event_shape), 1.0) * (0.5 if self.narrow() else 1)

    def narrow(self) -> bool:
        return self.where is C.unit_interval


ENDLESS: dict[str, tuple[Any, Callable[[Tensor], Tensor], int]] = {
    "flat": (C.real, lambda x: 0 * x, 0),
    "grows": (C.real, lambda x: (x / 10) ** 2 / 0.6, 0),
    "grows slowly": (C.real, lambda x: 0.01 * x, 0),
    "1 / |x|": (C.real, lambda x: -x.abs().log1p(), 0),
    "1 / x, both ends": (C.positive, lambda x: -x.log(), 0),
    "1 / (1 + x)": (C.positive, lambda x: -x.log1p(), 0),
    "1 / x at zero": (C.unit_interval, lambda x: -x.log(), 0),
    "1 / x^2 at zero": (C.unit_interval, lambda x: -2 * x.log(), 0),
    "flat plane": (C.real_vector, lambda x: 0 * x.sum(-1), 2),
    "1 / r^2 in the plane": (C.real_vector, lambda x: -x.square().sum(-1).log1p(), 2),
    "flat numbers": (C.nonnegative_integer, lambda x: 0 * x, 0),
    "harmonic": (C.nonnegative_integer, lambda x: -x.log1p(), 0),
    "growing numbers": (C.nonnegative_integer, lambda x: x * x.log1p(), 0),
    "all integers": (C.integer, lambda x: -x.abs().log1p(), 0),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_infinite_mass_fails_and_says_so(name: str) -> None:
    report = check.density(Unbounded(*ENDLESS[name]), draws=100)
    assert report.verdict == "fail" and "infinite mass" in report.counterexample, report


PROPER = {
    "heavy": lambda: dist.StudentT(f(0.5)),
    "Cauchy": lambda: dist.Cauchy(f(0.0), f(3.0)),
    "near zero": lambda: dist.Gamma(f(0.05), f(1.0)),
    "both ends": lambda: dist.Beta(f(0.05), f(0.05)),
    "slow": lambda: dist.LogNormal(f(0.0), f(4.0)),
    "modes far apart": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(f([-50.0, 50.0]), 1.0)
    ),
}


@pytest.mark.parametrize("name", PROPER)
def test_finite_mass_is_not_said_to_be_infinite(name: str) -> None:
    assert check.density(PROPER[name](), draws=2000).verdict != "fail"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_log_mass_that_is_no_number_is_named(value: float) -> None:
    flawed = Around(dist.Poisson(f(3.0)), density=lambda x: torch.where(x == 700, value, 0.0))
    report = check.density(flawed, draws=100)
    assert report.verdict == "fail"
    assert f"the log density is {value} at 700" in report.counterexample
