"""Data for a site inside a branch count where the branch is taken, and nowhere else.

The class: programs whose branches (``cond``, ``switch``, loops with ``until``) hold sites that
become observations further out, by ``condition`` or Pyro's handler, so that the branch itself sees
a latent.  Members are random trees of branches; weights by hand follow the path that is taken.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import (
    assess,
    cond,
    condition,
    dist,
    iterate,
    marginal,
    observe,
    sample,
    simulate,
    switch,
    vmap,
    weighted,
)
from pushforward.inference import MCMC, Exact, importance, nuts
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language import effects
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


@dataclass(frozen=True)
class Node:
    """A choice with its chance of a one, and what follows a zero and a one; leaves score."""

    name: str
    chance: float
    then: tuple[Node | None, Node | None]
    scores: tuple[float, float]

    def nodes(self) -> Iterator[Node]:
        yield self
        for branch in self.then:
            if branch is not None:
                yield from branch.nodes()

    def run(self, by_switch: bool) -> Tensor:
        x = sample(self.name, dist.Bernoulli(self.chance))
        branches = [self.branch(i, by_switch) for i in (0, 1)]
        if by_switch:
            return switch(x, *branches)()  # type: ignore[no-any-return]
        return cond(x == 1, branches[1], branches[0])()  # type: ignore[no-any-return]

    def branch(self, i: int, by_switch: bool) -> Any:
        def leaf() -> Tensor:
            observe(f"y_{self.name}_{i}", dist.Bernoulli(self.scores[i]), torch.tensor(1.0))
            return torch.tensor(float(i))

        following = self.then[i]
        return leaf if following is None else lambda: following.run(by_switch)

    def weight(self, values: dict[str, int]) -> float:
        """The product along the path that the values take."""
        x = values[self.name]
        own = self.chance if x else 1 - self.chance
        following = self.then[x]
        return own * (self.scores[x] if following is None else following.weight(values))


def tree(draws: random.Random, names: Iterator[str], depth: int) -> Node:
    name = next(names)
    then = tuple(
        tree(draws, names, depth - 1) if depth > 1 and draws.random() < 0.7 else None
        for _ in range(2)
    )
    chances = [draws.uniform(0.1, 0.9) for _ in range(3)]
    return Node(name, chances[0], then, (chances[1], chances[2]))  # type: ignore[arg-type]


class Member:
    def __init__(self, number: int) -> None:
        draws = random.Random(number)
        self.root = tree(draws, (f"x{i}" for i in itertools.count()), draws.choice([2, 3]))
        self.names = [node.name for node in self.root.nodes()]
        given = {n: draws.randint(0, 1) for n in self.names if draws.random() < 0.4}
        self.data = {n: x for n, x in given.items() if n in set(self.met(given))}
        self.by_switch, self.by_pyro = draws.random() < 0.5, draws.random() < 0.3

    def program(self, data: dict[str, Any] | None = None) -> Any:
        data = {n: torch.tensor(float(x)) for n, x in self.data.items()} if data is None else data
        p = lambda: self.root.run(self.by_switch)  # noqa: E731
        return pyro.condition(p, data) if self.by_pyro else condition(p, data)

    def mass(self) -> float:
        """Over the choices of each path: those that are not met sum to one."""
        total = 0.0
        for bits in itertools.product((0, 1), repeat=len(self.names)):
            values = {**dict(zip(self.names, bits, strict=True))}
            if any(values[n] != x for n, x in self.data.items()):
                continue
            met = set(self.path(values))
            unmet = [n for n in self.names if n not in met and n not in self.data]
            total += self.root.weight(values) / 2 ** len(unmet)
        return total

    def met(self, given: dict[str, int]) -> Iterator[str]:
        """The sites of all paths that agree with some values."""
        for bits in itertools.product((0, 1), repeat=len(self.names)):
            yield from self.path({**dict(zip(self.names, bits, strict=True)), **given})

    def path(self, values: dict[str, int]) -> Iterator[str]:
        node: Node | None = self.root
        while node is not None:
            yield node.name
            node = node.then[values[node.name]]

    def __repr__(self) -> str:
        return f"{self.root} with {self.data}"


def require_paths(member: Member) -> None:
    p, mass = member.program(), member.mass()
    assert denote(p).mass() == pytest.approx(mass, rel=1e-9), f"denote of {member}"
    if set(member.met(member.data)) - member.data.keys():
        evidence = Exact(draws=2).run(p).log_evidence or 0.0
        assert math.exp(evidence) == pytest.approx(mass, rel=1e-9), f"Exact on {member}"
        summed, _ = assess(marginal(p, exact=True), {})
        assert math.exp(summed) == pytest.approx(mass, rel=1e-9), f"marginal of {member}"
    require_lanes(member)


def require_lanes(member: Member) -> None:
    """All values at once, given as data: each lane weighs its own path."""
    rows = list(itertools.product((0, 1), repeat=len(member.names)))

    def lane(*values: Tensor) -> Tensor:
        given = dict(zip(member.names, values, strict=True))
        return weighted(member.program(given))()[1]

    columns = torch.tensor(rows, dtype=torch.float64).unbind(1)
    found = simulate(vmap(lane), *columns).value.exp().tolist()
    for bits, weight in zip(rows, found, strict=True):
        expected = member.root.weight(dict(zip(member.names, bits, strict=True)))
        assert weight == pytest.approx(expected, rel=1e-9), f"a lane of {member} at {bits}"


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_data_count_where_the_branch_is_taken(block: int) -> None:
    for number in range(15 * block, 15 * block + 15):
        require_paths(Member(number))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_a_thousand_trees_of_branches(block: int) -> None:
    for number in range(1_000 + 50 * block, 1_050 + 50 * block):
        require_paths(Member(number))


def test_the_members_have_data_that_are_not_met() -> None:
    members = list(map(Member, range(200)))
    inner = [m for m in members if m.data.keys() - {m.root.name}]
    assert len(inner) > 90
    assert sum(m.by_pyro for m in inner) > 20


def test_data_that_count_everywhere_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: scores that do not ask whether their branch is taken."""
    monkeypatch.setattr(effects, "taken_by", lambda message: None)
    wrong = 0
    for number in range(20):
        try:
            require_paths(Member(number))
        except AssertionError:
            wrong += 1
    assert wrong > 10


def test_data_of_steps_after_the_end_of_a_loop() -> None:
    step = lambda c: c + sample("h", dist.Bernoulli(0.4))  # noqa: E731
    loop = lambda: iterate(step, 3, until=lambda c: c >= 1)(torch.tensor(0.0))  # noqa: E731
    p = condition(loop, {"h[2]": 0.0})
    mass = 0.4 + 0.6 * 0.4 + 0.36 * 0.6
    assert denote(p).mass() == pytest.approx(mass)
    report = check.valid(importance(p, 1), p)
    assert report.verdict == "pass", report
    population = simulate(importance(p, 64), seed=0).value
    weights = 64 * population.log_weights.exp()
    expected = torch.where(population.values >= 1, 1.0, 0.6)  # the last step is met by the rest
    torch.testing.assert_close(weights, expected.to(weights.dtype))


def branching() -> tuple[Callable[[], None], float]:
    """A real number, and data that are met where it is positive; P(x > 0 | u) by hand."""

    def p() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        cond(x > 0, lambda: sample("u", dist.Normal(0.0, 1.0)), lambda: torch.zeros(()))()

    q = math.exp(-0.5) / math.sqrt(2 * math.pi)
    return condition(p, {"u": 1.0}), q / (1 + q)


def test_the_density_of_reals_counts_data_of_its_branch() -> None:
    """By the midpoint rule."""
    p, expected = branching()
    x = torch.linspace(-8.0, 8.0, 16_001, dtype=torch.float64)[1::2]
    weights = torch.func.vmap(LogDensity(p))(x[:, None]).softmax(0)
    assert float(weights[x > 0].sum()) == pytest.approx(expected, abs=1e-6)
    assert abs(expected - 0.5) > 0.1, "data that count in both branches would give a half"


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_draws_of_reals_count_data_of_their_branch(compiled: bool) -> None:
    """At the level 1e-6, for 400 nearly independent draws of 8 000."""
    p, expected = branching()
    method = MCMC(nuts(), chains=4, draws=2000, warmup=500, compiled=compiled, progress=False)
    share = float((method.run(p, seed=0)["x"] > 0).double().mean())
    assert share == pytest.approx(expected, abs=4.9 * math.sqrt(expected * (1 - expected) / 400))
