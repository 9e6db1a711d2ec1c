"""Sources of private randomness, which no effect sees, and candidates of every check that use one.

A source makes a function that gives a number in [0, 1), each time another.  ``told`` is what a
verdict must say of it, where it can be told at all.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward import dist, draw, factor, program, sample
from pushforward.semantics import Report, check
from pushforward.semantics.checks.orbit import Orbit

Uniform = Callable[[], float]
Event = Callable[[], bool]


@dataclass(frozen=True)
class Source:
    """How a uniform number is made, and what is told of where it comes from."""

    make: Callable[[], Uniform]
    told: str = ""


class Holder:
    """Holds a generator in a slot, as an attribute of the class, or as its own."""

    __slots__ = ("inner",)
    shared = random.Random(3)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def slotted(self) -> float:
        return float(self.inner.random())

    def of_class(self) -> float:
        return self.shared.random()


def own_torch() -> Uniform:
    generator = torch.Generator().manual_seed(1)
    return lambda: float(torch.rand((), generator=generator))


def own_numpy() -> Uniform:
    rng = np.random.default_rng(1)
    return lambda: rng.random()


def spawning() -> Uniform:
    rng = np.random.default_rng(1)
    return lambda: rng.spawn(1)[0].random()


def forked() -> Uniform:
    def number() -> float:
        with torch.random.fork_rng():
            return float(torch.rand(()))

    return number


def counting() -> Uniform:
    counter = itertools.count()
    return lambda: next(counter) % 10 / 10


def counting_in_a_closure() -> Uniform:
    n = 0

    def number() -> float:
        nonlocal n
        n += 1
        return n % 10 / 10

    return number


def by_default() -> Uniform:
    def number(rng: random.Random = random.Random(5)) -> float:  # noqa: B008
        return rng.random()

    return number


GENERATORS: dict[str, Source] = {
    "numpy": Source(lambda: lambda: np.random.rand(), "numpy's global generator"),
    "gauss of random": Source(lambda: lambda: abs(random.gauss(0.0, 1.0)) % 1, "random's global"),
    "random": Source(lambda: random.random, "random's global generator"),
    "torch": Source(lambda: lambda: float(torch.rand(())), "torch's global generator"),
    "own numpy": Source(own_numpy, "the numpy Generator 'rng'"),
    "bound method": Source(lambda: np.random.default_rng(2).random, "the numpy Generator"),
    "spawned": Source(spawning, "the numpy Generator 'rng'"),
    "own RandomState": Source(
        lambda: Holder(np.random.RandomState(1)).slotted, "RandomState 'inner'"
    ),
    "own random": Source(lambda: Holder(None).of_class, "the random Random 'shared'"),
    "default": Source(by_default, "the random Random"),
    "own torch": Source(own_torch, "the torch Generator 'generator'"),
}
OTHERS: dict[str, Source] = {
    "forked torch": Source(forked),
    "fresh numpy": Source(lambda: lambda: float(np.random.default_rng().random())),
    "fresh random": Source(lambda: lambda: random.Random().random()),
    "system": Source(lambda: lambda: int.from_bytes(os.urandom(2), "big") / 65536),
    "clock": Source(lambda: lambda: time.perf_counter_ns() // 100 % 997 / 997),
    "counter": Source(counting),
    "counter in a closure": Source(counting_in_a_closure),
}


def happening(number: Uniform, chance: float) -> Event:
    """An event of such a chance; the number is always asked for."""
    return lambda: number() < chance


# ------------------------------------------------------------------------------------- candidates

MASSES = torch.tensor([1.0, 2.0, 4.0, 2.5, 0.5], dtype=torch.float64)


@program
def five() -> Tensor:
    x = sample("x", dist.Categorical(torch.ones(5).double()))
    factor("pi", MASSES[x].log())
    return x


def invariant(event: Event) -> Report:
    return check.invariant(lambda x: (x + 1) % 5 if event() else x, five)


def reversible(event: Event) -> Report:
    return check.reversible(lambda x: (x + 1) % 5 if event() else x, five)


def valid(event: Event) -> Report:
    def algorithm() -> Any:
        x = draw(dist.Categorical(torch.ones(5).double()))
        return (x + 1 if event() else x), MASSES[x].log()

    return check.valid(algorithm, five)


def integrated(event: Event) -> Report:
    """By quadrature, of an algorithm whose density is static."""

    @program
    def model() -> Tensor:
        return sample("x", dist.Normal(0.0, 1.0))

    def algorithm() -> Any:
        return sample("x", dist.Normal(0.0, 1.0)) + (1.0 if event() else 0.0), torch.zeros(())

    return check.valid(algorithm, model, quadrature=64)


def unbiased(event: Event) -> Report:
    def estimator(at: Tensor) -> Tensor:
        sign = 2 * draw(dist.Bernoulli(torch.tensor(0.5).double())) - 1
        return 2 * at + sign + (1.0 if event() else 0.0)

    at = torch.tensor([0.3], dtype=torch.float64)
    return check.unbiased(estimator, lambda u: (u**2).sum(), at)


def _flip(rows: Tensor, event: Event) -> Tensor:
    return torch.cat([rows[:, :1], -rows[:, 1:]], 1) + (1.0 if event() else 0.0)


def involution(event: Event) -> Report:
    points = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(10, 2)
    ones = lambda rows: torch.ones(len(rows), dtype=torch.float64)  # noqa: E731
    normal = lambda rows: -rows.square().sum(1) / 2  # noqa: E731
    return check.involution(lambda rows: _flip(rows, event), ones, normal, points)


def acceptance(event: Event) -> Report:
    points = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(10, 2)

    def accept(rows: Tensor) -> Tensor:
        return torch.full((len(rows),), 0.5 if event() else 1.0, dtype=torch.float64)

    normal = lambda rows: -rows.square().sum(1) / 2  # noqa: E731
    return check.involution(lambda rows: _flip(rows, lambda: False), accept, normal, points)


def orbit(event: Event) -> Report:
    window = Orbit(torch.zeros(9, 1), torch.zeros(9, dtype=torch.float64))
    ahead = torch.tensor([1])

    def trajectory(start: Any, leapfrog: Any) -> Any:
        return leapfrog(start, -ahead if event() else ahead)

    return check.orbit(trajectory, window, 2)


class Flawed(dist.Normal):
    """A normal law whose density has more mass when something happens."""

    def __init__(self, event: Event) -> None:
        super().__init__(torch.zeros((), dtype=torch.float64), 1.0, validate_args=False)
        self.event = event

    def log_prob(self, value: Tensor) -> Tensor:
        score: Tensor = super().log_prob(value) + (0.1 if self.event() else 0.0)
        return score


def density(event: Event) -> Report:
    return check.density(Flawed(event), draws=1000, quadrature=64)


CHECKS: dict[str, Callable[[Event], Report]] = {
    "invariant": invariant,
    "reversible": reversible,
    "valid": valid,
    "valid by quadrature": integrated,
    "unbiased": unbiased,
    "involution": involution,
    "acceptance": acceptance,
    "orbit": orbit,
    "density": density,
}
