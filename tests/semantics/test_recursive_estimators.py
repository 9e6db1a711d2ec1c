"""Estimators that were cut: unknown as long as what is missing could turn the verdict, then not.

The class: Russian roulette with terms of either sign, and noise of infinite support.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.recursive_estimators import Counted, of_number
from torch import Tensor

from pushforward import dist, draw, factor
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")

AT = torch.tensor([0.7, -0.4], dtype=torch.float64)


@pytest.mark.parametrize("number", range(3))
def test_depth_and_bound_decide(number: int) -> None:
    right = of_number(number)
    enough = {"depth": 25, "bound": right.bound()}
    check.unbiased(right, right.objective, AT, **enough).require()
    assert check.unbiased(right, right.objective, AT, depth=25).verdict == "unknown"
    few = check.unbiased(right, right.objective, AT, depth=3, bound=right.bound())
    assert few.verdict == "unknown"
    assert "raise depth=, or say bound=" in str(few) and "without what was cut" in str(few)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("off", [0.9, 1.05, -1.0])
def test_wrong_weights_fail(number: int, off: float) -> None:
    right = of_number(number)
    wrong = replace(right, off=off)
    report = check.unbiased(wrong, right.objective, AT, depth=18, bound=2 * right.bound() + 20)
    assert report.verdict == "fail" and "expectation" in report.counterexample


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0, 2.5])
def test_infinite_supports(rate: float) -> None:
    right = Counted(rate)
    assert check.unbiased(right, right.objective, AT, depth=40, bound=1.0).verdict == "pass"
    wrong = Counted(rate, off=1e-3)
    assert check.unbiased(wrong, right.objective, AT, depth=40, bound=1.1).verdict == "fail"


def test_a_bound_that_is_too_small_is_the_users_word() -> None:
    """The verdict depends on it: so it is unknown without one."""
    right = of_number(0)
    report = check.unbiased(right, right.objective, AT, depth=2, bound=0.0)
    assert report.verdict == "fail"


def test_weights_by_scores_count() -> None:
    """An estimator may weight its estimates by factor, instead of by itself."""

    def estimator(at: Tensor) -> Tensor:
        x = draw(dist.Bernoulli(0.25))
        factor("w", torch.where(x == 1, 2.0, 2 / 3).log())
        return (3 * x - 1) * at

    check.unbiased(estimator, lambda u: (u**2).sum() / 4, AT).require()
    assert check.unbiased(estimator, lambda u: (u**2).sum() / 3, AT).verdict == "fail"


def test_numbers_that_print_alike_are_told_with_more_digits() -> None:
    report = check.unbiased(
        lambda u: u + 1e-12, lambda u: (u**2).sum() / 2, torch.ones(1), tolerance=1e-14
    )
    assert "expectation 1.0000000000010001, exact 1" in report.counterexample
