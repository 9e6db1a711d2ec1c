"""Choices of every strategy below choices of every other: value and gradient are never biased.

The class: objectives in which what follows a choice is combined with weights, values or parameters
that depend on an earlier one.  Members are drawn: two or three Bernoulli choices, single or in a
plate of two, each with one of seven strategies, whose laws depend on parameters and on any earlier
choices; costs of any of them, alone, in products or through parameters only; as an objective of its
own, as an ELBO or IWELBO, alone or over rows.  The expected value is the sum over all outcomes in
plain torch; that of the estimator is enumerated, on both back ends.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.sizes import quick
from support.variational import BACK_ENDS, f, moments
from torch import Tensor

from pushforward import dist, factor, sample
from pushforward.inference.vi import (
    elbo,
    enum,
    importance,
    iwelbo,
    leave_one_out,
    mvd,
    objective,
    over,
    reinforce,
    sample_trace,
)
from pushforward.inference.vi.gradients import dependence

STRATEGIES: dict[str, Callable[[Any], Any]] = {
    "reinforce": reinforce,
    "reinforce with baseline": lambda d: reinforce(d, baseline=0.5),
    "enum": enum,
    "mvd": mvd,
    "leave one out": lambda d: leave_one_out(d, 2),
    "importance": lambda d: importance(d, dist.Bernoulli(torch.full(d.batch_shape, 0.4))),
}
MOST_PATHS = 10_000  # of a triple; above, the pair that it begins with stands for it
FORMS = ("cost", "elbo", "iwelbo", "over")


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


@dataclass(frozen=True)
class Member:
    """An objective: strategy, parents and plate of each choice, and the choices of each cost."""

    strategies: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    lanes: tuple[int, ...]
    costs: tuple[tuple[int, ...], ...]
    form: str
    seed: int

    @property
    def numbers(self) -> random.Random:
        return random.Random(self.seed)

    def logits(self, i: int, theta: Tensor, xs: list[Tensor]) -> Tensor:
        """Those of choice i given the choices before it."""
        numbers = random.Random(f"{self.seed} {i}")
        found = theta[i] + numbers.uniform(-1, 1)
        for j in self.parents[i]:
            found = found + numbers.uniform(-2, 2) * (xs[j].sum() if self.lanes[j] else xs[j])
        if self.lanes[i]:
            return found + f([numbers.uniform(-1, 1) for _ in range(self.lanes[i])])
        return found

    def cost(self, theta: Tensor, xs: list[Tensor]) -> Tensor:
        numbers = random.Random(f"{self.seed} cost")
        total = numbers.uniform(-1, 1) * theta.sum()
        for members in self.costs:
            weight = numbers.uniform(-2, 2)
            each = torch.ones(())
            for i in members:
                each = each * (xs[i] * f([1.0, -0.5])).sum() if self.lanes[i] else each * xs[i]
            total = total + weight * each * (1 + 0.3 * theta[len(members) % len(theta)])
        return total

    def log_joint(self, xs: list[Tensor]) -> Tensor:
        """An unnormalised model of the choices."""
        numbers = random.Random(f"{self.seed} model")
        total = torch.zeros(())
        for x in xs:
            total = total + numbers.uniform(-1, 1) * x.sum()
        return total + numbers.uniform(-1, 1) * xs[0].sum() * xs[-1].sum()

    @property
    def paths(self) -> int:
        """How many ways its randomness may turn out at most, where what follows is run again."""
        found = 1
        for name, n in zip(reversed(self.strategies), reversed(self.lanes), strict=True):
            outcomes = 2 ** max(n, 1)
            found = {"enum": found**outcomes, "leave one out": (outcomes * found) ** 2,
                     "mvd": outcomes * found**2}.get(name, outcomes * found)  # fmt: skip
        return found

    # ------------------------------------------------------------------------ as an objective

    def guide(self, theta: Tensor) -> list[Tensor]:
        xs: list[Tensor] = []
        for i, name in enumerate(self.strategies):
            law = dist.Bernoulli(logits=self.logits(i, theta, xs))
            xs.append(sample(f"x{i}", STRATEGIES[name](law)))
        return xs

    def model(self) -> None:
        xs = [
            sample(f"x{i}", dist.Bernoulli(torch.full((n,) if n else (), 0.5)))
            for i, n in enumerate(self.lanes)
        ]
        factor("joint", self.log_joint(xs))

    def build(self, theta: Tensor) -> Any:
        if self.form == "elbo":
            return elbo(self.model, lambda: self.guide(theta))
        if self.form == "iwelbo":
            return iwelbo(self.model, lambda: self.guide(theta), 2)

        @objective
        def alone(shift: Tensor) -> Tensor:
            xs = sample_trace(lambda: self.guide(theta)).value
            return self.cost(theta, xs) * (1 + shift)

        if self.form == "over":
            return objective(lambda: over(lambda row: alone(row), f([0.0, 0.5])))()
        return alone(f(0.0))

    # ------------------------------------------------------------------- by summing all outcomes

    def expected(self, theta: Tensor) -> Tensor:
        """The exact value."""
        outcomes = self.outcomes(theta)
        if self.form == "iwelbo":
            pairs = itertools.product(outcomes, repeat=2)
            values = (
                p.exp() * q.exp() * (torch.logaddexp(a - p, b - q) - torch.log(f(2.0)))
                for (p, _, a), (q, _, b) in pairs
            )
            return sum(values, torch.zeros(()))
        if self.form == "elbo":
            return sum((p.exp() * (a - p) for p, _, a in outcomes), torch.zeros(()))
        scale = 2.5 if self.form == "over" else 1.0
        return scale * sum((p.exp() * c for p, c, _ in outcomes), torch.zeros(()))

    def outcomes(self, theta: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The log probability of each joint outcome, its cost, and its log joint in the model."""
        found = []
        sizes = [2 ** max(n, 1) for n in self.lanes]
        for joint in itertools.product(*map(range, sizes)):
            xs: list[Tensor] = []
            log_q = torch.zeros(())
            for i, code in enumerate(joint):
                n = self.lanes[i]
                x = f([float(code >> k & 1) for k in range(n)]) if n else f(float(code))
                log_q = log_q + dist.Bernoulli(logits=self.logits(i, theta, xs)).log_prob(x).sum()
                xs.append(x)
            prior = sum(max(n, 1) for n in self.lanes) * torch.log(f(0.5))
            found.append((log_q, self.cost(theta, xs), self.log_joint(xs) + prior))
        return found


def member(number: int, strategies: tuple[str, ...] | None = None) -> Member:
    """A member of the class; every ordered pair of strategies comes up within 36 numbers."""
    draw = random.Random(number)
    names = list(STRATEGIES)
    if strategies is None:
        pair = names[number % 6], names[number // 6 % 6]
        strategies = (*pair, draw.choice(names)) if draw.random() < 0.3 else pair
    n = len(strategies)
    parents = tuple(tuple(j for j in range(i) if draw.random() < 0.7) for i in range(n))
    wide = draw.randrange(n) if draw.random() < 0.25 else -1
    lanes = tuple(2 if i == wide else 0 for i in range(n))
    subsets = [c for r in (1, 2) for c in itertools.combinations(range(n), r)]
    costs = tuple(draw.sample(subsets, draw.randint(1, 2)))
    cheap = n == 2 and wide < 0 and "leave one out" not in strategies
    form = draw.choice(FORMS if cheap else ("cost", "elbo"))
    found = Member(strategies, parents, lanes, costs, form, number)
    if n > 2 and found.paths > MOST_PATHS:
        return member(number, strategies[:2])
    return found


def require_unbiased(each: Member) -> None:
    at = [0.4, -0.3, 0.2][: len(each.strategies)]
    theta = f(at).requires_grad_()
    value = each.expected(theta)
    (slope,) = torch.autograd.grad(value, theta)
    exact = torch.cat([value.detach().reshape(1), slope])
    for name, back_end in BACK_ENDS.items():
        mean, _ = moments(each.build, at, None, back_end)
        torch.testing.assert_close(
            mean, exact, rtol=0, atol=1e-9, msg=lambda text, n=name: f"{n} of {each}: {text}"
        )


@pytest.mark.parametrize("shift", quick(2, [1, 3, 0, 2, 4, 5]))
def test_no_order_of_strategies_is_biased(shift: int) -> None:
    """Every strategy is first once, and second once."""
    for first in range(6):
        require_unbiased(member(first + 6 * ((first + shift) % 6)))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_a_thousand_orders_of_strategies(block: int) -> None:
    for number in range(100 + 60 * block, 160 + 60 * block):
        require_unbiased(member(number))


def test_a_dropped_score_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: parts of mean zero subtracted from what is then weighted."""
    monkeypatch.setattr(dependence, "_is_steady", lambda *args: True)
    each = Member(("reinforce", "enum"), ((), (0,)), (0, 0), ((1,),), "cost", 3)
    with pytest.raises(AssertionError, match="graph of"):
        require_unbiased(each)
