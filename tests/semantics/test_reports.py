"""What the reports of checks say: verdicts, counterexamples and HTML."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.ppl import program, sample
from pushforward.semantics import CheckFailed, Report, check
from pushforward.semantics.judging.report import decide

P = torch.tensor(0.25, dtype=torch.float64)


@program
def coin() -> Tensor:
    return sample("x", dist.Bernoulli(P))


def test_unknown_is_not_a_pass() -> None:
    report = Report("a limit", "unknown", 0.0, 1e-10, "for float64 rounding")
    with pytest.raises(CheckFailed, match="UNKNOWN: a limit"):
        report.require()


@pytest.mark.parametrize("deviation", [1.0, math.inf, math.nan])
def test_a_failure_prints_its_counterexample(deviation: float) -> None:
    report = decide("s", deviation, 0.5, "by hand", "x = <1>", 0.0)
    assert report.verdict == "fail"
    with pytest.raises(CheckFailed, match="counterexample: x = <1>"):
        report.require()
    assert "x = &lt;1&gt;" in report._repr_html_()


def test_a_deviation_equal_to_the_tolerance_passes() -> None:
    report = decide("s", 0.5, 0.5, "by hand", "x", 0.0)
    assert report.require() is report and report.counterexample == ""


def test_failures_of_each_check_name_a_case() -> None:
    flipped = check.invariant(lambda x: 1 - x, coin)
    assert flipped.verdict == "fail" and "the state" in flipped.counterexample
    one_way = check.reversible(lambda x: torch.ones_like(x), coin)
    assert one_way.verdict == "fail" and "the flow from" in one_way.counterexample
