"""Scores that weigh only what depends on their choices: never biased, and of less variance."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.variational import BACK_ENDS, close, f, moments
from torch import Tensor

from pushforward import dist, plate, sample
from pushforward.inference.vi import (
    Captured,
    Constant,
    Learned,
    MovingAverage,
    objective,
    reinforce,
    sample_trace,
)
from pushforward.inference.vi.gradients import dependence
from pushforward.semantics import check


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def test_scores_of_a_plate_weigh_their_own_lanes() -> None:
    """E[sum_i c_i b_i]: each gradient has the variance of one flip, not of all."""
    cost = f([2.0, -3.0, 1.0])

    def build(theta: Tensor) -> Any:
        def guide() -> Tensor:
            with plate("n", 3):
                return sample("b", reinforce(dist.Bernoulli(theta)))

        return objective(lambda: (cost * sample_trace(guide).value).sum())()

    p = f([0.3, 0.6, 0.5])
    lanes = (cost**2) / p - cost**2  # of c b (b / p): its second moment less its square
    mean, spread = moments(build, p.tolist(), None, BACK_ENDS["graph"])
    close(mean[1:], cost)
    close(spread[1:], lanes)
    _, all_costs = moments(build, p.tolist())
    assert float(all_costs[1:].sum()) > float(spread[1:].sum()) + 10


def test_what_mixes_lanes_is_weighed_by_all() -> None:
    """E[(sum_i b_i)^2] and a permuted product: no part may be left out."""

    def build(mix: Callable[[Tensor], Tensor]) -> Any:
        def make(theta: Tensor) -> Any:
            def guide() -> Tensor:
                with plate("n", 3):
                    return sample("b", reinforce(dist.Bernoulli(theta)))

            return objective(lambda: mix(sample_trace(guide).value))()

        return make

    p = f([0.3, 0.6, 0.5])
    cases: list[Callable[[Tensor], Tensor]] = [
        lambda b: b.sum() ** 2,
        lambda b: (b * b.roll(1)).sum(),
        lambda b: (b * b.flip(0)).sum(),
        lambda b: (b[torch.tensor([2, 0, 1])] * b).sum(),
        lambda b: (b[:, None] * b).sum(),
        lambda b: b.cumsum(0).sum(),
        lambda b: (torch.eye(3, dtype=b.dtype).roll(1, 0) @ b * b).sum(),
        lambda b: b.sort().values.sum() + b.max() * b.min(),
        lambda b: (b - b.mean()).abs().sum(),
    ]
    for mix in cases:

        def exact(theta: Tensor, mix: Any = mix) -> Tensor:
            index = torch.cartesian_prod(*[f([0.0, 1.0])] * 3)
            chances = torch.where(index == 1, theta, 1 - theta).prod(1)
            return (chances * torch.stack([mix(row) for row in index])).sum()

        at = p
        estimate = BACK_ENDS["graph"](build(mix), at)
        check.unbiased(estimate, exact, at, tolerance=1e-10).require()


def test_lanes_that_are_wrongly_kept_apart_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: if no operation were known to mix, a square of a sum would be biased."""
    monkeypatch.setattr(dependence, "_keeps", lambda *_: True)

    def build(theta: Tensor) -> Any:
        def guide() -> Tensor:
            with plate("n", 3):
                return sample("b", reinforce(dist.Bernoulli(theta)))

        return objective(lambda: (lambda b: (b * b.roll(1)).sum())(sample_trace(guide).value))()

    at = f([0.3, 0.6, 0.5])
    report = check.unbiased(BACK_ENDS["graph"](build, at), lambda t: (t * t.roll(1)).sum(), at)
    assert report.verdict == "fail" and "gradient" in report.counterexample


# ---------------------------------------------------------------------------------- random costs

Map = Callable[[Tensor], Tensor]
UNARY: list[Map] = [
    lambda x: 2 * x,
    lambda x: -x,
    torch.exp,
    lambda x: x.roll(1),
    lambda x: x.flip(0),
    lambda x: x.cumsum(0),
    lambda x: x + x.sum(),
    lambda x: x - x.mean(),
    lambda x: x[torch.tensor([2, 0, 1])],
    lambda x: x.sort().values,
    lambda x: (x[:, None] * x).sum(1),
    lambda x: torch.eye(3, dtype=x.dtype).roll(1, 0) @ x,
    lambda x: x.reshape(3, 1).expand(3, 2).sum(1),
    lambda x: x.reshape(3, 1).expand(3, 3).T.sum(0),
    lambda x: torch.where(x > 0.5, x, 2 * x),
    lambda x: x.softmax(0),
    lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
    lambda x: torch.cat([x[1:], x[:1]]),
    lambda x: torch.stack([x, x.flip(0)]).sum(0),
    lambda x: x.repeat(2)[:3],
    lambda x: x.gather(0, torch.tensor([1, 1, 0])),
    lambda x: x.masked_fill(torch.tensor([True, False, False]), 1.0),
    lambda x: torch.outer(x, x).diagonal(),
    lambda x: x.clamp(0.0, 0.7),
    lambda x: x.scatter(0, torch.tensor([2, 1, 0]), x.clone()),
    lambda x: torch.nn.functional.pad(x[:-1], (1, 0)),
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    lambda a, b: a * b.sum(),
    lambda a, b: a.dot(b) + 0 * a,
]
Cost = Callable[[Tensor, Tensor], Tensor]


def expression(rng: random.Random, depth: int, both: bool = True) -> Cost:
    """A random function of two vectors [3] to one."""
    if depth == 0:
        leaves: list[Cost] = [lambda b, c: b, lambda b, c: c, lambda b, c: f([1.0, -2.0, 0.5])]
        return rng.choice(leaves) if both else leaves[0]
    if rng.random() < 0.5:
        unary, inner = rng.choice(UNARY), expression(rng, depth - 1, both)
        return lambda b, c: unary(inner(b, c))
    binary = rng.choice(BINARY)
    left, right = (expression(rng, depth - 1, both) for _ in range(2))
    return lambda b, c: binary(left(b, c), right(b, c))


@pytest.mark.parametrize("seed", range(40))
def test_random_costs(seed: int) -> None:
    """Two plates of flips, the second by chances that depend on the first, and a sum of costs."""
    rng = random.Random(seed)
    link = expression(rng, rng.randint(0, 2), both=False)
    costs = [expression(rng, rng.randint(1, 4)) for _ in range(3)]

    def chances(t: Tensor, b: Tensor) -> Tensor:
        return (t + (0.7 * link(b, b) - 0.2).sigmoid()) / 2

    def total(b: Tensor, c: Tensor) -> Tensor:
        first, second, third = (cost(b, c) for cost in costs)
        return first.sum() - 2 * second.sum() + third.sum() / 3 + 1.5

    def build(t: Tensor) -> Any:
        def guide() -> tuple[Tensor, Tensor]:
            with plate("n", 3):
                b = sample("b", reinforce(dist.Bernoulli(t)))
                c = sample("c", reinforce(dist.Bernoulli(chances(t, b))))
            return b, c

        return objective(lambda: total(*sample_trace(guide).value))()

    def exact(t: Tensor) -> Tensor:
        terms = []
        for row in torch.cartesian_prod(*[f([0.0, 1.0])] * 6):
            b, c = row[:3], row[3:]
            p, q = torch.where(b == 1, t, 1 - t), chances(t, b)
            terms.append(p.prod() * torch.where(c == 1, q, 1 - q).prod() * total(b, c))
        return torch.stack(terms).sum()

    at = f([0.3, 0.6, 0.5])
    size = float(exact(at).abs()) + 1.0
    estimate = BACK_ENDS["graph"](build, at)
    check.unbiased(estimate, exact, at, tolerance=1e-9 * size**2).require()


# ---------------------------------------------------------------------------------------- baselines

BEFORE = 100.0  # a part that no choice moves


def learned(mean: float) -> MovingAverage:
    """An average that has come to a number."""
    average = MovingAverage()
    average.learn(f(mean))
    return average


def about(baseline: Any, cost: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Flips in a plate, and a flip after them that looks at them; each about a baseline."""

    def build(theta: Tensor) -> Any:
        def guide() -> tuple[Tensor, Tensor]:
            with plate("n", 2):
                b = sample("b", reinforce(dist.Bernoulli(theta[:2]), baseline=baseline))
            chance = theta[2] * (0.5 + 0.4 * b.mean())
            return b, sample("c", reinforce(dist.Bernoulli(chance), baseline=baseline))

        @objective
        def total() -> Tensor:
            return cost(*sample_trace(guide).value) + torch.full((), BEFORE)

        return total()

    return build


COSTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "apart": lambda b, c: (f([2.0, -3.0]) * b).sum() + c,
    "mixed": lambda b, c: (b.sum() - c) ** 2,
    "after": lambda b, c: 4.0 * c - b.sum(),
    "before": lambda b, c: 7.0 * b.sum(),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize(
    "baseline",
    [lambda: learned(30.0), lambda: Constant(f(3.0)), lambda: Learned(lambda x: x.sum(), f([2.0]))],
    ids=["average", "constant", "learned"],
)
def test_no_baseline_moves_the_mean(name: str, baseline: Any) -> None:
    """Whatever it says; over all flips, by the sum that is written out."""
    cost, at = COSTS[name], f([0.3, 0.6, 0.5])

    def exact(theta: Tensor) -> Tensor:
        total = torch.zeros(())
        for i, j, k in itertools.product((0.0, 1.0), repeat=3):
            b, c = f([i, j]), f(k)
            last = theta[2] * (0.5 + 0.4 * b.mean())
            chance = torch.where(b == 1, theta[:2], 1 - theta[:2]).prod()
            chance = chance * torch.where(c == 1, last, 1 - last)
            total = total + chance * (cost(b, c) + BEFORE)
        return total

    graph = BACK_ENDS["graph"](about(baseline(), cost), at)
    check.unbiased(graph, exact, at, tolerance=1e-9).require()


def test_a_baseline_learns_what_its_score_weighs() -> None:
    """Of the flips of a plate the mean of their own costs; and nothing of what no choice moves."""
    theta, average = f([0.3, 0.6, 0.5]).requires_grad_(), MovingAverage()
    graph = Captured(about(average, COSTS["before"])(theta), [theta], 1, compiled=False)
    for seed in range(10):
        torch.manual_seed(seed)
        found = graph()
        value = float(found.values) - BEFORE
        told = {site: float(cost) for site, _, cost in found.costs}
        assert told["b"] == pytest.approx(value / 2, abs=1e-9)
        assert told["c"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["apart", "before"])
def test_a_baseline_that_has_learnt_lowers_the_variance(name: str) -> None:
    """Below that of the graph without one: it was that of the part that no choice moves."""
    at = f([0.3, 0.6, 0.5]).requires_grad_()
    average = MovingAverage(0.99)
    graph = Captured(about(average, COSTS[name])(at), [at], 1, compiled=False)

    def spread(of: Captured, learns: bool) -> float:
        torch.manual_seed(0)
        rows = []
        for _ in range(400):
            found = of()
            rows.append(found.by[0])
            for _, baseline, cost in found.costs if learns else ():
                baseline.learn(cost)
        return float(torch.stack(rows[100:]).var(0).sum())

    plain = Captured(about(None, COSTS[name])(at), [at], 1, compiled=False)
    assert spread(graph, learns=True) < 1.05 * spread(plain, learns=False)
    average.learn(f(1e6))  # the control: an average of another cost
    assert spread(graph, learns=False) > 10 * spread(plain, learns=False)


def test_a_number_stays_a_baseline_of_the_whole() -> None:
    """The variance is that of replay, where the number is near the cost."""
    build = about(Constant(f(BEFORE)), COSTS["apart"])
    mean, variance = moments(build, [0.3, 0.6, 0.5])
    same, by_graph = moments(build, [0.3, 0.6, 0.5], None, BACK_ENDS["graph"])
    close(mean, same)
    close(variance, by_graph)
