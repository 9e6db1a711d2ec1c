"""The front of a loop in lanes: measures are those of one state at a time, or lanes are refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import (
    dist,
    draw,
    factor,
    iterate,
    memo,
    observe,
    plate,
    program,
    sample,
    scan,
    vmap,
)
from pushforward.inference.smc import (
    importance,
    multinomial,
    particle_filter,
    pseudo_marginal,
    residual,
    smc,
    stratified,
    systematic,
)
from pushforward.ppl.errors import ImpureProgramError, PushforwardError
from pushforward.ppl.tensors.hidden import is_hidden
from pushforward.semantics import Measure, check, denote
from pushforward.semantics.evaluation import exact, fronts

pytestmark = pytest.mark.usefixtures("double")


@contextmanager
def lanes_from(many: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lanes are tried from so many states on; how many states were taken together, each time."""
    taken: list[int] = []

    def spied(fn: Any, before: Any, *rest: Any) -> Any:
        found = fronts.advanced(fn, before, *rest)
        if found is not None:
            taken.append(len(before))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(exact, "MANY", many)
        patch.setattr(exact, "advanced", spied)
        yield taken


def both_ways(run: Callable[[], Measure], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compare the measures by lanes and one by one; how many states were taken together."""
    with lanes_from(10**9, monkeypatch):
        expected = run()
    with lanes_from(2, monkeypatch) as taken:
        found = run()
    assert found.deviation(expected)[0] < 1e-12
    assert len(found) == len(expected)
    return taken


class Chain:
    """A hidden Markov chain drawn at random: its states, its data, what a step says of them."""

    def __init__(self, seed: int, small: bool = False) -> None:
        rng = random.Random(seed)
        self.k, self.steps = (2, 2) if small else rng.choice([(2, 2), (2, 3), (3, 2)])
        g = torch.Generator().manual_seed(seed)
        self.moves = torch.rand(self.k, self.k, generator=g) + 0.1
        self.seen = torch.rand(self.k, 2, generator=g) + 0.1
        if rng.random() < 0.5:
            self.moves[-1, 0] = 0.0
        if rng.random() < 0.3:
            self.seen[0, 0] = 0.0
        self.ys = torch.randint(2, (self.steps,), generator=g).double()
        self.kind = rng.choice(["plain", "two scores", "plate", "history"])

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        x = sample("x", dist.Categorical(self.moves[x]))
        observe("y", dist.Categorical(self.seen[x]), y)
        if self.kind == "two scores":
            factor("more", torch.where(x == 0, 0.3, -0.2))
        if self.kind == "plate":
            with plate("both", 2):
                sample("z", dist.Bernoulli((1.0 + x) / (2.0 + self.k)))
        return x, x if self.kind == "history" else None

    def __call__(self) -> Any:
        found = scan(self.step)(torch.tensor(0), self.ys)
        return found if self.kind == "history" else found[0]


SCHEMES = multinomial, systematic, stratified, residual


@pytest.mark.parametrize("count", quick(1, [4, 60]))
def test_particles_on_random_chains(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    together = 0
    for seed in range(count):
        chain, scheme = Chain(seed, small=count < 10), SCHEMES[seed % 4]
        p = program(chain)
        ess = 0.6 if seed % 3 == 0 else 1.0
        together += sum(both_ways(lambda: denote(smc(p, 2, scheme, ess)), monkeypatch))  # noqa: B023
        if chain.kind != "plate" and seed % 2:
            filtered = particle_filter(p, 2, scheme)
            together += sum(both_ways(lambda: denote(filtered), monkeypatch))  # noqa: B023
    assert together > 5 * count


@pytest.mark.parametrize("seed", quick(2, [3, 5, 0, 1, 2, 4]))
def test_the_algorithm_is_still_valid(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = program(Chain(seed))
    with lanes_from(2, monkeypatch):
        check.valid(smc(p, 2, SCHEMES[seed % 4]), p).require()
        wrong = smc(p, 2, lambda w: draw(dist.Categorical(torch.ones(2)), (2,)))
        if math.isfinite(denote(p).log_mass()):
            assert check.valid(wrong, p).verdict == "fail"


def test_targets_of_speed() -> None:
    """Two particles in six steps: 90 000 paths, of which nearly all are lanes."""
    moves, seen = torch.tensor([[0.7, 0.3], [0.2, 0.8]]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Categorical(moves[x]))
        observe("y", dist.Categorical(seen[x]), y)
        return x, None

    p = program(lambda: scan(step)(torch.tensor(0), torch.tensor([0.0, 1, 1, 0, 1]))[0])
    check.valid(smc(p, 2, multinomial), p).require()


def theta() -> Tensor:
    return (1 + sample("theta", dist.Bernoulli(3 / 4))) / 3


def pair(p: Tensor) -> Any:
    x = sample("x", dist.Bernoulli(p))
    factor("first", torch.where(x == 1, 0.3, -0.4))
    y = sample("y", dist.Bernoulli(torch.where(x == 1, 2 / 3, 1 / 3)))
    factor("second", torch.where(y == 1, -0.7, -2.1))
    return x, y


@pytest.mark.parametrize("n", quick(1, [1, 2]))
def test_handlers_that_hold_entries_of_all_lanes(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded draws of a whole population were given to each of its particles."""
    inner = pseudo_marginal(theta, smc(pair, n, multinomial, evidence="z"), pushed=True)
    both_ways(lambda: denote(smc(inner, 1, multinomial)), monkeypatch)


# ------------------------------------------------------------------------------- what lanes are not

Step = Callable[[Tensor], Tensor]


def walk(step: Step, n: int = 4) -> Callable[[], Measure]:
    return lambda: denote(program(lambda: iterate(step, n)(torch.tensor(0.0))))


def flip(p: float = 0.3) -> Tensor:
    return draw(dist.Bernoulli(torch.tensor(p)))


def test_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(both_ways(walk(lambda x: x + flip() - 2 * flip()), monkeypatch)) > 10


def hidden_otherwise(x: Tensor) -> Tensor:
    return x + flip() + (1.0 if is_hidden(x) else 0.0)


def test_what_knows_that_it_is_a_lane_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both_ways(walk(hidden_otherwise), monkeypatch) == []
    monkeypatch.setattr(fronts, "ALIKE", math.inf)
    with pytest.raises(AssertionError):
        both_ways(walk(hidden_otherwise), monkeypatch)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x + flip() if x < 1 else x,  # a branch in Python
        lambda x: x + (flip() if float(x) > 0 else flip(0.6)),
        lambda x: x + vmap(lambda i: flip() * i)(torch.arange(2.0)).sum(),
        lambda x: (x + flip()) % 3,
        lambda x: x.clone().add_(flip()),
    ],
)
def test_steps_of_all_sorts(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(walk(step), monkeypatch)


def test_derivatives_within_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda y: (y**2).sum())(x)
        return slope / 2 + flip()

    assert sum(both_ways(walk(step), monkeypatch)) > 5


def test_values_that_derivatives_follow_are_taken_one_by_one() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    before = [(scale * i, 0.0) for i in range(3)]
    assert fronts.advanced(lambda x: x + 1, before, lambda x: [(x + 1, 0.0)], 100) is None
    free = [(x.detach(), log_weight) for x, log_weight in before]
    found = fronts.advanced(lambda x: x + 1, free, lambda x: [(x + 1, 0.0)], 100)
    assert found is not None and [float(x) for x, _ in found[0]] == [1.0, 1.5, 2.0]
    assert fronts.advanced(lambda x: x + scale, free, lambda x: [(x + scale, 0.0)], 100) is None


def test_impossible_values_are_told_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(x: Tensor) -> Tensor:
        return x + draw(dist.Bernoulli(0.5 + 0.2 * x))

    for many in (2, 10**9):
        with lanes_from(many, monkeypatch), pytest.raises(ValueError, match="probs"):
            walk(step)()


def test_importance_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(lambda: denote(importance(program(Chain(3)), 2)), monkeypatch)


# ------------------------------------------------- what only states that are not taken alone show


def uniform(n: int) -> Tensor:
    return draw(dist.Categorical(torch.ones(n)))


def first(start: Callable[[], Any], then: Callable[[Any], Any]) -> Callable[[Any, Tensor], Any]:
    """A loop whose first step goes to many states, and the others on from there."""
    return lambda c, t: ((start() if int(t) == 0 else then(c)), None)


@dataclass(frozen=True)
class Tag:
    """Equal to all others, and not the same."""

    name: Any = field(compare=False)


def tagged() -> Any:
    i = uniform(70)
    return i, Tag(1.0 if int(i) == 63 else 0.0)


def last(c: Tensor, there: float, elsewhere: float) -> Tensor:
    """A number that is another one at state 63."""
    return torch.where(c == 63, there, elsewhere)


def in_place(c: Tensor) -> Tensor:
    return c.clamp_(max=70.0)


SAME: dict[str, Any] = {
    "large whole numbers": first(lambda: 2**44 + uniform(70), lambda c: c + uniform(2)),
    "whole numbers beyond double": first(lambda: 2**60 + uniform(70), lambda c: c + uniform(2)),
    "promotion": first(
        lambda: (uniform(70).float().expand(2).clone(), torch.tensor(0.1)),
        lambda c: (torch.where(c[0] == 63, c[1], c[0]), c[1]),
    ),
    "drawn points": first(
        lambda: uniform(70),
        lambda c: c + draw(dist.Delta(torch.tensor(1.0), last(c, -3.0, 0.0))) * uniform(2),
    ),
    "tags": first(tagged, lambda c: (c[0] + c[1].name * uniform(2), c[1])),
    "not a number": first(
        lambda: (uniform(70), torch.tensor(math.nan)), lambda c: ((c[0] + uniform(2)) % 70, c[1])
    ),
    "many lanes": first(lambda: uniform(70).double().expand(9), lambda c: c + uniform(9)),
}
BROKEN: dict[str, Any] = {
    "an empty interval": lambda c: c + (draw(dist.Uniform(0.0, last(c, 0.0, 1.0))) < 0.3),
    "a scale": lambda c: c + 0 * observed(dist.Normal(0.0, last(c, -0.5, 1.0))),
    "a masked law": lambda c: c + 0 * observed(dist.Gamma(last(c, -0.5, 1.0), 1.0).mask(True)),
    "a law of another": lambda c: c + 0 * observed(dist.InverseGamma(last(c, -0.5, 1.0), 1.0)),
    "a law in a law": lambda c: c + 0 * observed(dist.Beta(last(c, -0.5, 1.0), 1.0)),
    "a law that derives": lambda c: c + 0 * observed(dist.Chi2(last(c, -0.5, 1.0))),
}


def observed(law: Any) -> Tensor:
    observe("y", law, torch.tensor(0.5))
    return torch.tensor(0.0)


def looped(step: Any, n: int, budget: int = 200_000) -> Measure:
    start = torch.tensor(0)
    return denote(program(lambda: scan(step)(start, torch.arange(n))[0]), budget=budget)


@pytest.mark.parametrize("name", SAME)
def test_states_of_all_sorts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lanes_from(10**9, monkeypatch):
        expected = looped(SAME[name], 3, 2_000)
    with lanes_from(64, monkeypatch):
        found = looped(SAME[name], 3, 2_000)
    assert found.deviation(expected)[0] < 1e-12 and len(found) == len(expected)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("many", [64, 10**9])
def test_a_law_that_is_wrong_at_one_state(
    name: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lanes_from(many, monkeypatch), pytest.raises((PushforwardError, ValueError)):
        looped(first(lambda: uniform(64), BROKEN[name]), 2)


@pytest.mark.parametrize("many", [2, 10**9])
def test_states_that_are_changed_in_place_are_told(
    many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lanes_from(many, monkeypatch), pytest.raises(ImpureProgramError, match="in place"):
        looped(first(lambda: uniform(80).double(), in_place), 2)


@pytest.mark.parametrize("many", [2, 10**9])
def test_random_functions_around_loops(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their tables are told apart by keys, and not by ==."""

    def p() -> Tensor:
        f = memo(lambda i: torch.stack([flip(), flip()]))
        return iterate(lambda c: c + f(torch.tensor(0)).sum(), 3)(torch.tensor(0.0))

    with lanes_from(many, monkeypatch):
        assert denote(program(p)).pmf() == pytest.approx({0.0: 0.49, 3.0: 0.42, 6.0: 0.09})
