"""Measures of continuous choices: the stated error covers values too, and verdicts are right.

The classes: results that jump in a continuous choice, whose probabilities are off while the mass is
exact; and algorithms with continuous results, whose nodes are others than those of their model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from pushforward import dist, draw, observe, program, sample
from pushforward.inference import importance
from pushforward.ppl.errors import ConvergenceError
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("nodes", [8, 16, 33, 64])
@pytest.mark.parametrize("how", ["draw", "sample", "branch"])
def test_the_error_covers_the_weights_of_values_that_jump(how: str, nodes: int) -> None:
    for number in range(6):
        draws = random.Random(number)
        edge = draws.uniform(-1.5, 1.5)

        def p(edge: float = edge) -> Any:
            law = dist.Normal(0.0, 1.0)
            x = draw(law) if how == "draw" else sample("x", law)
            if how == "branch":
                return 1.0 if x > edge else 0.0
            return (x > edge).double()

        measure = denote(p, quadrature=nodes)
        gap = abs(float(measure.expect()) - float(scipy.stats.norm.sf(edge)))
        assert gap <= measure.error, f"{how} at {edge}: off by {gap}, stated {measure.error}"
        assert measure.mass() == pytest.approx(1.0, abs=1e-9)


def test_smooth_results_have_small_errors() -> None:
    def p() -> Tensor:
        return sample("b", dist.Bernoulli(torch.sigmoid(sample("x", dist.Normal(0.0, 1.0)))))

    measure = denote(p, quadrature=64)
    assert measure.error < 1e-6
    assert measure.pmf()[1.0] == pytest.approx(0.5, abs=measure.error + 1e-12)


Model = Callable[[], Any]


def normal(y: float, sd: float) -> Model:
    def model() -> Tensor:
        x = sample("x", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(x, sd), torch.tensor(y))
        return x

    return program(model)


def rate(k: float) -> Model:
    def model() -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Gamma(2.0, 1.0))
        observe("k", dist.Poisson(x), torch.tensor(k))
        return x, 1.0 / (1.0 + x)

    return program(model)


RIGHT: dict[str, tuple[Model, Any]] = {
    "prior": (normal(0.7, 1.0), None),
    "guide": (normal(0.7, 1.0), lambda: sample("x", dist.Normal(0.3, 1.2))),
    "far guide": (normal(-1.0, 1.5), lambda: sample("x", dist.Normal(1.0, 2.0))),
    "rate": (rate(2.0), None),
    "rate by guide": (rate(2.0), lambda: sample("x", dist.Gamma(4.0, 2.0))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_algorithms_do_not_fail_and_pass_with_enough_nodes(name: str) -> None:
    model, guide = RIGHT[name]
    reports = [check.valid(importance(model, 1, guide), model, quadrature=n) for n in (24, 64, 192)]
    assert [report.verdict for report in reports].count("fail") == 0, reports
    assert reports[-1].verdict == "pass", reports[-1]


def weighed(result: Callable[[Tensor], Tensor], off: Callable[[Tensor], Tensor]) -> Model:
    """Importance sampling of ``normal(0.7, 1)`` whose result, or weight, is off."""

    def algorithm() -> tuple[Tensor, Tensor]:
        proposal = dist.Normal(0.3, 1.2)
        x = draw(proposal)
        target = dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(x, 1.0).log_prob(torch.tensor(0.7))
        return result(x), target - proposal.log_prob(x) + off(x)

    return algorithm


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "result too wide": (lambda x: 1.1 * x, lambda x: 0 * x),
    "result moved": (lambda x: x + 0.05, lambda x: 0 * x),
    "result folded": (lambda x: x.abs(), lambda x: 0 * x),
    "mass": (lambda x: x, lambda x: 0 * x + math.log(1.01)),
    "tilted weight": (lambda x: x, lambda x: 0.05 * x),
    "even weight": (lambda x: x, lambda x: 0.05 * x**2),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_algorithms_fail(name: str) -> None:
    right = check.valid(weighed(lambda x: x, lambda x: 0 * x), normal(0.7, 1.0), quadrature=128)
    assert right.verdict == "pass", right
    report = check.valid(weighed(*WRONG[name]), normal(0.7, 1.0), quadrature=128)
    assert report.verdict == "fail", report
    assert "under the model, and" in report.counterexample


@pytest.mark.parametrize("sd", [0.2, 0.1, 0.01])
def test_what_has_not_converged_gets_no_verdict(sd: float) -> None:
    """A spike that few of the proposal's nodes meet."""
    model = normal(0.7, sd)
    try:
        verdict = check.valid(importance(model, 1), model, quadrature=24).verdict
    except ConvergenceError:
        verdict = "unknown"
    assert verdict == "unknown"
