"""Scores that weigh only what depends on their choices: never biased, and of less variance."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.variational import BACK_ENDS, close, f, moments
from torch import Tensor

from pushforward import dist, plate, sample
from pushforward.inference.vi import objective, reinforce, sample_trace
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
