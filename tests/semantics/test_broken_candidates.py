"""A candidate that raises an error fails with its reason; what the judge or a model lacks does not.

The class: every check, with every kind of error, raised always or at some states and choices only.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pyro.poutine as poutine
import pytest
import torch
from support.impurities import CHECKS, five
from torch import Tensor

from pushforward import dist, draw, fix, program, sample
from pushforward.errors import (
    BudgetError,
    InfiniteSupportError,
    ProgramError,
    UnsupportedHandlerError,
)
from pushforward.semantics import CheckFailed, Report, check

pytestmark = pytest.mark.usefixtures("double")

ERRORS = [
    KeyError("no such key"),
    ZeroDivisionError("division by zero"),
    AssertionError(""),
    IndexError("index 7 is out of bounds"),
    TypeError("a float is needed"),
    NotImplementedError("later"),
    RuntimeError("two\nlines"),
    ProgramError("the program is wrong"),
]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_a_failure_with_its_reason(name: str, error: Exception) -> None:
    def event() -> bool:
        raise error

    report = CHECKS[name](event)
    assert report.verdict == "fail" and report.deviation == math.inf
    words = " ".join(str(error).split())
    assert type(error).__name__ in report.counterexample and words in report.counterexample, report
    if not isinstance(error, ProgramError):
        assert re.search(r"test_broken_candidates\.py:\d+", report.counterexample), report
    with pytest.raises(CheckFailed):
        report.require()


def test_the_state_and_the_choices_are_named() -> None:
    def kernel(x: Tensor) -> Tensor:
        up = draw(dist.Bernoulli(0.5))
        if x == 3 and up == 1:
            raise KeyError("three")
        return x

    for judge in (check.invariant, check.reversible):
        told = judge(kernel, five).counterexample
        assert told.startswith("at the state 3: KeyError: 'three' (")
        assert told.endswith("after the choices 1.0")


def test_the_row_is_named() -> None:
    def mapping(rows: Tensor) -> Tensor:
        if bool((rows > 0.8).any()):
            raise ValueError("too large")
        return -rows

    points = torch.tensor([[0.1], [0.9], [0.5]])
    ones = lambda rows: torch.ones(len(rows))  # noqa: E731
    report = check.involution(mapping, ones, lambda rows: -(rows[:, 0] ** 2), points)
    assert report.counterexample.startswith("the map at x = [0.9]: ValueError: too large (")


def flat_kernel(x: Tensor) -> Tensor:
    return x.zero_()


def nan_weight() -> Any:
    x = draw(dist.Categorical(torch.ones(5)))
    return x, torch.where(x == 2, torch.nan, 0.0)


def loose(again: Any) -> Tensor:
    return again()


class NoShape(dist.Normal):
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return torch.zeros(())


WRONG_OUTPUTS: dict[str, tuple[Any, str]] = {
    "changes its argument": (lambda: check.reversible(flat_kernel, five), "in place|run again"),
    "no meaning": (lambda: check.valid(lambda: torch.ones(()), five), "has no meaning"),
    "NaN weight": (lambda: check.valid(nan_weight, five), "weight of the value 2 is NaN"),
    "arguments": (lambda: check.invariant(lambda: 0, five), "TypeError"),
    "too many": (
        lambda: check.unbiased(lambda u: torch.ones(2), lambda u: u.sum(), torch.ones(1)),
        "estimates 2 numbers, and the objective has 1",
    ),
    "no estimate": (
        lambda: check.unbiased(lambda u: "one", lambda u: u.sum(), torch.ones(1)),
        "in|TypeError",
    ),
    "shape of draws": (lambda: check.density(NoShape(0.0, 1.0)), r"shape \[\], not \[100000\]"),
}


@pytest.mark.parametrize("name", WRONG_OUTPUTS)
def test_outputs_that_mean_nothing_fail(name: str) -> None:
    judge, told = WRONG_OUTPUTS[name]
    report: Report = judge()
    assert report.verdict == "fail"
    assert re.search(told, report.counterexample), report


def test_a_method_that_raises_is_not_calibrated() -> None:
    def fit(posterior: Any) -> Any:
        raise FloatingPointError("diverged")

    @program
    def model() -> None:
        sample("y", dist.Normal(sample("x", dist.Normal(0.0, 1.0)), 1.0))

    report = check.sbc(model, fit, ["y"], simulations=3, seed=7, progress=False)
    assert report.verdict == "fail" and report.ranks == {}
    told = "in the fit of simulation 0, seed 70000000: FloatingPointError: diverged"
    assert report.counterexample.startswith(told)


def test_limits_of_the_judge_say_nothing_of_a_candidate() -> None:
    with pytest.raises(InfiniteSupportError):
        check.invariant(lambda x: draw(dist.Normal(0.0, 1.0)), five)
    with pytest.raises(UnsupportedHandlerError):
        check.invariant(poutine.trace(lambda x: sample("y", dist.Bernoulli(0.5))), five)
    with pytest.raises(BudgetError):
        check.invariant(lambda x: draw(dist.Categorical(torch.ones(50))), five, budget=20)


def test_an_error_of_the_model_is_no_verdict() -> None:
    def broken() -> Tensor:
        raise KeyError("of the model")

    with pytest.raises(KeyError, match="of the model"):
        check.valid(lambda: (torch.zeros(()), 0.0), broken)


def test_a_recursion_without_end_is_cut_and_not_an_error() -> None:
    report = check.invariant(lambda x: fix(loose)(), five, depth=3, bound=1.0)
    assert report.verdict == "unknown"
