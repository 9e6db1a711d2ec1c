"""Estimators that stop at random: their series, chances, signs and weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, fix

Estimator = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Roulette:
    """The sum of all ratio ** k, times a function of the parameters, by Russian roulette.

    A term is added with chance ``chance`` of the one before and weighted by 1 / chance; ``off``
    spoils that weight.  With ``tail`` only the last term counts, weighted by 1 / (1 - chance).
    """

    ratio: float
    chance: float
    tail: bool
    off: float = 1.0

    def __call__(self, at: Tensor) -> Tensor:
        def step(again: Any, total: Tensor, term: Tensor) -> Tensor:
            if draw(dist.Bernoulli(torch.tensor(self.chance))) == 1:
                return again(total + term, term * self.ratio / self.chance * self.off)
            return term / (1 - self.chance) if self.tail else total + term

        one = torch.ones((), dtype=torch.float64)
        return fix(step)(0 * one, one) * at

    def objective(self, at: Tensor) -> Tensor:
        """Its gradient is the series."""
        return (at**2).sum() / 2 / (1 - self.ratio)

    def bound(self) -> float:
        """Of the size of an estimate, where all parameters are at most one."""
        growth = abs(self.ratio / self.chance * self.off)
        return 1 / (1 - self.chance) / (1 - growth)


def of_number(number: int) -> Roulette:
    """One with terms of one sign or of alternating ones, whose estimates are bounded."""
    draws = random.Random(number)
    chance = draws.uniform(0.2, 0.4)
    ratio = draws.choice([-1, 1]) * chance * draws.uniform(0.2, 0.8)
    return Roulette(ratio, chance, draws.random() < 0.5)


@dataclass(frozen=True)
class Counted:
    """A sum over all counts of a Poisson law, by one of its numbers: of alternating sign."""

    rate: float
    off: float = 0.0

    def __call__(self, at: Tensor) -> Tensor:
        k = draw(dist.Poisson(torch.tensor(self.rate, dtype=torch.float64)))
        return (1 - 2 * (k % 2)) * at + self.off

    def objective(self, at: Tensor) -> Tensor:
        return (at**2).sum() / 2 * torch.exp(torch.tensor(-2 * self.rate, dtype=torch.float64))
