"""Laws on the whole numbers with infinite or large supports, at random parameters, and flaws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist

Draws = random.Random
Law = Callable[[Draws], Any]


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def power(draws: Draws, low: float, high: float) -> Tensor:
    """A number between two, evenly by its log."""
    return f(low * (high / low) ** draws.random())


def geometric(draws: Draws) -> Any:
    return dist.Geometric(power(draws, 1e-4, 0.99))


def negative_binomial(draws: Draws) -> Any:
    return dist.NegativeBinomial(power(draws, 0.1, 1e3), probs=f(draws.uniform(0.01, 0.99)))


def binomial(draws: Draws) -> Any:
    return dist.Binomial(int(power(draws, 1e3, 1e9)), f(draws.random()))


def zero_inflated(draws: Draws) -> Any:
    return dist.ZeroInflatedPoisson(power(draws, 0.1, 1e3), gate=f(draws.random()))


def gamma_poisson(draws: Draws) -> Any:
    return dist.GammaPoisson(power(draws, 1.0, 30.0), power(draws, 1e-3, 10.0))


def beta_binomial(draws: Draws) -> Any:
    return dist.BetaBinomial(power(draws, 1.0, 9.0), power(draws, 1.0, 9.0), 20_000)


def mixture(draws: Draws) -> Any:
    rates = torch.stack([power(draws, 0.1, 1e4) for _ in range(3)])
    return dist.MixtureSameFamily(dist.Categorical(f([0.2, 0.3, 0.5])), dist.Poisson(rates))


LAWS: dict[str, Law] = {
    "Poisson": lambda draws: dist.Poisson(power(draws, 1e-3, 1e8)),
    "geometric": geometric,
    "negative binomial": negative_binomial,
    "binomial": binomial,
    "zero-inflated": zero_inflated,
    "gamma-Poisson": gamma_poisson,
    "beta-binomial": beta_binomial,
    "mixture": mixture,
    "masked": lambda draws: dist.Poisson(power(draws, 0.1, 1e3)).mask(True),
}


class Around(dist.TorchDistribution):
    """A law with another sampler, or with a density that is off by a function of the number."""

    arg_constraints = {}
    has_rsample = False

    def __init__(self, law: Any, density: Any = None, sampler: Any = None) -> None:
        super().__init__(validate_args=False)
        self.law, self.density, self.sampler = law, density, sampler

    @property
    def support(self) -> Any:
        return self.law.support

    def log_prob(self, value: Tensor) -> Tensor:
        score: Tensor = self.law.log_prob(value)
        return score if self.density is None else score + self.density(value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        drawn: Tensor = self.law.sample(sample_shape)
        return drawn if self.sampler is None else self.sampler(drawn)


def seldom(drawn: Tensor) -> Tensor:
    return torch.rand(drawn.shape, dtype=drawn.dtype) < 1e-3


# Of the density: what is added to its log.  Of the sampler: what becomes of draws.
DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mass too large": lambda x: 0 * x + 1e-4,
    "mass too small": lambda x: 0 * x - 1e-4,
    "no even numbers": lambda x: torch.where(x % 2 == 0, -torch.inf, 0.0),
}
SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    "wide": lambda x: (2 * x + 1).round(),
    "halves": lambda x: torch.where(seldom(x), x + 0.5, x),
    "negative": lambda x: torch.where(seldom(x), -1.0 - x, x),
    "far": lambda x: torch.where(seldom(x), x + 1e12, x),
}
