"""Kernels on continuous states: right ones pass, mistaken ones fail, by quadrature at all states.

That lanes and single paths tell the same is asked of the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.continuous_kernels import (
    MISTAKEN,
    RIGHT,
    UNIT,
    accepted,
    conditioned,
    normal,
    sgld,
    walk,
)
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, program, sample
from pushforward.ppl.errors import BudgetError, ProgramError
from pushforward.semantics import check, denote
from pushforward.semantics.evaluation.shifted import nodes
from pushforward.semantics.judging.at_once import steps

pytestmark = pytest.mark.usefixtures("double")

TARGETS = [(0.0, 0.7, 4.0), (0.5, 1.5, 10.0), (-1.0, 1.0, 3.0)]
CASES = [(name, target) for target in TARGETS for name in RIGHT]


@pytest.mark.parametrize(("name", "target"), quick(5, CASES))
def test_right_kernels_pass(name: str, target: tuple[float, float, float]) -> None:
    model, log_density = conditioned(*target)
    kernel = RIGHT[name](log_density)
    for check_it in check.invariant, check.reversible:
        reports = (check_it(kernel, model, quadrature=n) for n in (96, 128, 160, 200))
        report = next(report for report in reports if report.verdict != "unknown").require()
        assert report.tolerance < 2e-3
        assert "at once" in report.notes[-1]


@pytest.mark.parametrize("name", MISTAKEN)
def test_mistaken_kernels_fail(name: str) -> None:
    model, log_density = conditioned(*TARGETS[0])
    report = check.invariant(MISTAKEN[name](log_density), model, quadrature=64)
    assert report.verdict == "fail"
    assert "before the step" in report.counterexample


def test_the_size_of_a_bias_is_told() -> None:
    # x' = x - e^2/2 x + e z on N(0, 1) has variance (1 - e^2/2)^2 + e^2 = 1 + e^4/4
    standard = program(lambda: sample("x", normal(0.0, 1.0)))
    report = check.invariant(sgld(1.0)(normal(0.0, 1.0).log_prob), standard, quadrature=64)
    assert report.verdict == "fail"
    assert f"{math.sqrt(1.25):.6g} after it" in report.counterexample


def test_a_kernel_that_keeps_the_measure_may_not_be_reversible() -> None:
    """Two sweeps in a fixed order: each is reversible, their composition is not."""

    @program
    def pair() -> Tensor:
        x = sample("x", normal(0.0, 1.0))
        return torch.stack([x, sample("y", normal(0.8 * x, 0.6))])

    def sweep(state: Tensor) -> Tensor:
        x = draw(normal(0.8 * state[1], 0.6))
        return torch.stack([x, draw(normal(0.8 * x, 0.6))])

    check.invariant(sweep, pair, quadrature=24).require()
    assert check.reversible(sweep, pair, quadrature=24).verdict == "fail"


def tempered(ratio: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def swap(state: Tensor) -> Tensor:
        x, y = state
        return torch.stack([y, x]) if accepted(ratio(x, y)) else state

    return swap


@program
def two_temperatures() -> Tensor:
    cold, hot = sample("cold", normal(0.0, 1.0)), sample("hot", normal(0.0, 2.0))
    return torch.stack([cold, hot])


def test_swaps_of_parallel_tempering() -> None:
    right = tempered(lambda x, y: (x * x - y * y) * (0.5 - 0.125))
    wrong = tempered(lambda x, y: (x * x - y * y) * 0.5)
    check.invariant(right, two_temperatures, quadrature=40).require()
    assert check.invariant(wrong, two_temperatures, quadrature=40).verdict == "fail"


def test_lanes_and_paths_tell_the_same() -> None:
    """By the same nodes, which gamma laws have in both."""
    model, log_density = conditioned(*TARGETS[1])

    def jumping(x: Tensor) -> Tensor:
        y = x + draw(dist.Gamma(torch.tensor(2.0), torch.tensor(1.0))) - 2.0
        if accepted(log_density(y) - log_density(x)):
            return y
        return x - draw(UNIT) if draw(dist.Bernoulli(0.3)) == 1 else x

    before = denote(model, quadrature=12)
    cloud = steps(jumping, before, 10, kept=False, budget=200_000)
    assert cloud is not None

    def alone(x: Tensor) -> Tensor:
        float(x)  # which a lane cannot tell
        return jumping(x)

    assert steps(alone, before, 10, kept=False, budget=200_000) is None
    after = before.then(lambda x: denote(alone, x, quadrature=10))
    by_paths = after.expect(lambda y: y.square())
    by_lanes = cloud.shares(0.0) @ cloud.rows[:, 0].square()
    # the ten nodes of the uniform number differ
    assert float(by_lanes) == pytest.approx(float(by_paths), abs=1e-5)


def test_a_kernel_that_looks_at_numbers_is_run_path_by_path() -> None:
    model, log_density = conditioned(*TARGETS[1])

    def looking(x: Tensor) -> Tensor:
        y = draw(normal(x, 1.0))
        return y if math.log(1e-9 + float(UNIT.high)) > -1 and accepted_by(y, x) else x

    def accepted_by(y: Tensor, x: Tensor) -> bool:
        return bool(draw(UNIT) < float((log_density(y) - log_density(x)).exp()))

    report = check.invariant(looking, model, quadrature=24)
    assert "one by one" in report.notes[-1]
    assert report.verdict != "fail"

    def forgetful(x: Tensor) -> Tensor:
        y = draw(normal(0.5 * x, 1.0))
        return y if accepted_by(y, x) else x

    assert check.invariant(forgetful, model, quadrature=24).verdict == "fail"


def impure(source: Callable[[], float]) -> Callable[[Tensor], Tensor]:
    right = walk(normal(0.0, 1.0).log_prob)

    def kernel(x: Tensor) -> Tensor:
        return right(x) + (0.5 if source() < 0.5 else 0.0)

    return kernel


def test_private_randomness_is_found_in_lanes() -> None:
    import random

    standard = program(lambda: sample("x", normal(0.0, 1.0)))
    report = check.invariant(impure(random.Random().random), standard, quadrature=16)
    assert report.verdict == "fail"
    assert "Impure" in report.counterexample


def test_a_state_of_another_form_is_told_of() -> None:
    standard = program(lambda: sample("x", normal(0.0, 1.0)))

    def wider(x: Tensor) -> Tensor:
        return torch.stack([x, draw(normal(x, 1.0))])

    with pytest.raises(ProgramError, match="another form"):
        check.invariant(wider, standard, quadrature=8)


def test_too_many_lanes_are_told_of() -> None:
    def heavy(x: Tensor) -> Tensor:
        return x + 0 * draw(normal(torch.zeros(4), torch.ones(4))).sum()

    standard = program(lambda: sample("x", normal(0.0, 1.0)))
    with pytest.raises(BudgetError, match="joint nodes"):
        check.invariant(heavy, standard, quadrature=64)


LAWS: dict[str, Any] = {
    "normal": dist.Normal(1.0, 2.0),
    "uniform": dist.Uniform(-1.0, 3.0),
    "two normals": dist.Normal(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])).to_event(1),
    "multivariate": dist.MultivariateNormal(
        torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    ),
    "gamma": dist.Gamma(3.0, 2.0),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.99])
def test_shifted_rules_have_mass_mean_and_variance(name: str, shift: float) -> None:
    law = LAWS[name]
    values, logs = nodes(LAWS[name], 40, torch.tensor(shift, dtype=torch.float64))
    weights = logs.exp()
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    mean = torch.tensordot(weights, values.double(), 1)
    square = torch.tensordot(weights, (values.double() - mean).square(), 1)
    assert torch.allclose(mean, law.mean.double(), atol=1e-7)
    assert torch.allclose(square, law.variance.double(), atol=1e-6)


standard = program(lambda: sample("x", normal(0.0, 1.0)))


def now_and_then(branch: str) -> Callable[[Tensor], Tensor]:
    """An autoregressive step, or none: the branches make different numbers of choices."""

    def kernel(x: Tensor) -> Tensor:
        if branch == "coin":
            stays = bool(draw(dist.Bernoulli(0.5)) == 1)
        elif branch == "coin, exchanged":
            stays = bool(draw(dist.Bernoulli(0.5)) == 0)
        else:
            stays = bool(draw(UNIT) > 0.5)
        return x if stays else 0.6 * x + 0.8 * draw(normal(0.0, 1.0))

    return kernel


@pytest.mark.parametrize("branch", ["coin", "coin, exchanged", "uniform"])
def test_branches_with_fewer_choices(branch: str) -> None:
    check.invariant(now_and_then(branch), standard, quadrature=64).require()


IMPOSSIBLE: dict[str, Callable[[Tensor], Tensor]] = {
    "negative scale": lambda x: draw(dist.Normal(0.6 * x, torch.tensor(-0.8))),
    "somewhere": lambda x: draw(dist.Normal(0.6 * x, torch.where(x > 1, -0.8, 0.8))),
    "NaN": lambda x: x * math.nan + draw(normal(0.0, 1.0)),
    "no mass": lambda x: killed(x),
    "a name twice": lambda x: 0.6 * x + 0.8 * (sample("z", normal(0, 1)) + 0 * twice()),
}


def twice() -> Tensor:
    return sample("z", normal(0.0, 1.0))


def killed(x: Tensor) -> Tensor:
    factor("none", torch.tensor(-math.inf))
    return x


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_would_raise_in_a_run_fails(name: str) -> None:
    assert check.invariant(IMPOSSIBLE[name], standard, quadrature=16).verdict == "fail"


@program
def spike_and_slab() -> Tensor:
    return sample("there", dist.Bernoulli(0.2)) * sample("x", normal(0.0, 1.0))


def test_a_spike_hides_nothing() -> None:
    def wider() -> tuple[Tensor, Tensor]:
        there = draw(dist.Bernoulli(0.2))
        return there * draw(normal(0.0, 5.0)), torch.zeros(())

    def right() -> tuple[Tensor, Tensor]:
        return draw(dist.Bernoulli(0.2)) * draw(normal(0.0, 1.0)), torch.zeros(())

    assert check.valid(wider, spike_and_slab, quadrature=32).verdict == "fail"
    check.valid(right, spike_and_slab, quadrature=32).require()


def test_the_order_of_names_is_no_part_of_a_state() -> None:
    @program
    def named() -> dict[str, Tensor]:
        return {"x": sample("x", normal(0.0, 1.0)), "y": sample("y", normal(3.0, 1.0))}

    def right(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": state["y"], "x": -state["x"]}

    def wrong(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": state["x"], "x": state["y"]}

    check.invariant(right, named, quadrature=32).require()

    @program
    def backward() -> dict[str, Tensor]:
        return {"y": sample("y", normal(3.0, 1.0)), "x": sample("x", normal(0.0, 1.0))}

    def mirrored(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": state["y"], "x": -state["x"]}

    report = check.reversible(mirrored, backward, quadrature=48).require()
    assert "at once" in report.notes[-1]
    assert check.invariant(wrong, named, quadrature=16).verdict == "fail"


def test_slices_of_unknown_length_are_told_of() -> None:
    """What quadrature cannot do ends in an error, not in a verdict."""

    def endless(x: Tensor) -> Tensor:
        y = x
        while not accepted(torch.tensor(-0.7)):
            y = draw(normal(y, 1.0))
        return y

    standard = program(lambda: sample("x", normal(0.0, 1.0)))
    with pytest.raises(BudgetError):
        check.invariant(endless, standard, quadrature=4, budget=300)
