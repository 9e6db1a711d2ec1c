"""Verdicts on programs that may not end: what is cut away is unknown, and said to be."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import pytest
import torch
from support.sizes import quick

from pushforward import dist, draw, factor, fix, sample, untraced, weighted
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def tosses(penalty: float) -> Callable[..., Any]:
    """How often a coin that stops with 1/3 is tossed; every toss more scores ``penalty``."""

    def count(again: Any, n: torch.Tensor) -> torch.Tensor:
        if sample("stop", dist.Bernoulli(torch.tensor(1 / 3))) == 1:
            return n
        factor("penalty", torch.tensor(penalty).log())
        return again(n + 1)

    recursive = fix(count)
    return lambda: recursive(torch.tensor(0.0))


HALF = tosses(0.5)


def test_the_mass_is_an_interval_with_the_truth_inside() -> None:
    for depth in (1, 4, 10):
        low, high = denote(HALF, depth=depth, bound=1.0).interval()
        assert low == pytest.approx(float((1 - F(1, 3) ** depth) / 2), abs=1e-14)
        assert high == pytest.approx(low + 3.0**-depth, abs=1e-14)


def test_a_deep_run_passes() -> None:
    report = check.valid(untraced(weighted(HALF)), HALF, depth=60, bound=1.0)  # (2 / 3)^60 = 3e-11
    assert report.verdict == "pass"


@pytest.mark.parametrize(
    "limits", quick(2, [{"depth": 10, "bound": 1.0}, {"depth": 40}, {}]), ids=str
)
def test_what_was_cut_leaves_the_verdict_open(limits: dict[str, Any]) -> None:
    report = check.valid(untraced(weighted(HALF)), HALF, **limits)
    assert report.verdict == "unknown"
    assert "of the mass was cut: raise depth=, or say bound=" in str(report)
    with pytest.raises(AssertionError, match="UNKNOWN"):
        report.require()


def test_a_difference_beyond_what_was_cut_fails() -> None:
    report = check.valid(untraced(weighted(tosses(0.25))), HALF, depth=10, bound=1.0)
    assert report.verdict == "fail"
    assert "the value 1.0 has mass 0.1111" in report.counterexample


def test_a_difference_within_what_was_cut_is_open() -> None:
    report = check.valid(untraced(weighted(tosses(0.25))), HALF, depth=1, bound=1.0)
    assert report.verdict == "unknown"


def bit() -> torch.Tensor:
    return sample("x", dist.Bernoulli(0.25))


def until_accepted(again: Any, x: torch.Tensor) -> torch.Tensor:
    """An independence kernel by rejection: propose evenly, accept with p(y) / (3/4)."""
    y = draw(dist.Bernoulli(0.5))
    accept = draw(dist.Bernoulli(torch.where(y == 1, 1 / 3, 1.0)))
    return y if accept == 1 else again(x)


def stubborn(again: Any, x: torch.Tensor) -> torch.Tensor:
    """A wrong one: it accepts whatever it proposes, half of the time."""
    y = draw(dist.Bernoulli(0.5))
    return y if draw(dist.Bernoulli(0.5)) == 1 else again(x)


@pytest.mark.parametrize("judge", [check.invariant, check.reversible])
def test_a_kernel_that_recurs(judge: Any) -> None:
    """A round is accepted with 2/3: after d rounds 3^-d is missing."""
    assert judge(fix(until_accepted), bit, depth=30, bound=1.0).verdict == "pass"
    assert judge(fix(until_accepted), bit, depth=5, bound=1.0).verdict == "unknown"
    assert judge(fix(until_accepted), bit, depth=30).verdict == "unknown"
    assert judge(fix(stubborn), bit, depth=20, bound=1.0).verdict == "fail"


def test_an_estimator_that_was_cut_is_unknown() -> None:
    def estimate(at: torch.Tensor) -> torch.Tensor:
        again = fix(lambda again: at if draw(dist.Bernoulli(0.5)) == 1 else again())
        return again()

    report = check.unbiased(estimate, lambda at: (at**2 / 2).sum(), torch.tensor([1.0]))
    assert report.verdict == "unknown"
