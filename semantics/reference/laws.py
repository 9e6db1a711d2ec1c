"""The primitive distributions of the calculus: support, density, quantile and quadrature rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

from ...ppl.calculus.errors import CalculusError
from .values import Number

CONTINUOUS = ("uniform", "normal", "exponential", "gamma", "beta")
_ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class LawValue:
    """A primitive distribution with its parameters."""

    name: str
    args: tuple[Any, ...]
    at: object = None

    def __post_init__(self) -> None:
        """Errors: CalculusError if the parameters lie outside their range."""
        positive = {
            "normal": self.args[1:],
            "exponential": self.args,
            "gamma": self.args,
            "beta": self.args,
        }
        if any(not x > 0 for x in positive.get(self.name, ())):
            raise CalculusError(f"{self} needs positive parameters", self.at)
        if self.name == "uniform" and not self.args[0] < self.args[1]:
            raise CalculusError(f"{self} has no interval", self.at)
        if self.name == "categorical" and not sum(self.args) > 0:
            raise CalculusError(f"{self} has no positive weight", self.at)
        if self.name == "geometric" and not self.args[0] > 0:
            raise CalculusError(f"{self} never ends", self.at)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})"

    @property
    def continuous(self) -> bool:
        return self.name in CONTINUOUS

    def masses(self, terms: int) -> tuple[list[tuple[Any, Number]], Number]:
        """The support with its masses, and the mass beyond the first ``terms`` of an infinite one.

        Errors:
            CalculusError: the law is continuous.
        """
        pairs: list[tuple[Any, Number]]
        match self.name, self.args:
            case "flip", (p,):
                pairs = [(True, p), (False, 1 - p)]
            case "categorical", weights:
                total = sum(weights)
                pairs = [(Fraction(i), w / total) for i, w in enumerate(weights)]
            case "discrete", (n,):
                pairs = [(Fraction(i), Fraction(1) / n) for i in range(int(n))]
            case "binomial", (n, p):
                pairs = [(Fraction(i), self.density(Fraction(i))) for i in range(int(n) + 1)]
            case (("poisson" | "geometric"), _):
                pairs = [(Fraction(i), self.density(Fraction(i))) for i in range(terms)]
                rest = max(1 - sum(w for _, w in pairs), Fraction(0))
                return [(x, w) for x, w in pairs if w > 0], rest
            case _:
                raise CalculusError(
                    f"{self.name} is continuous", self.at, "pass nodes= for a quadrature"
                )
        return [(x, w) for x, w in pairs if w > 0], Fraction(0)

    def density(self, x: Any) -> Number:
        """The density at x: of counting measure where discrete, of length where continuous."""
        match self.name, self.args:
            case "flip", (p,):
                return p if x else 1 - p  # type: ignore[no-any-return]
            case "categorical", weights:
                return weights[int(x)] / sum(weights)  # type: ignore[no-any-return]
            case "discrete", (n,):
                return Fraction(1) / int(n)
            case "binomial", (n, p):
                k, n = int(x), int(n)
                return math.comb(n, k) * p**k * (1 - p) ** (n - k)  # type: ignore[no-any-return]
            case "geometric", (p,):
                return p * (1 - p) ** int(x)  # type: ignore[no-any-return]
            case "poisson", (rate,):
                if rate == 0:
                    return Fraction(int(x == 0))
                return math.exp(int(x) * math.log(rate) - rate - math.lgamma(int(x) + 1))
            case "uniform", (low, high):
                return _ONE / (high - low) if low <= x <= high else Fraction(0)
            case "normal", (mean, sd):
                z = (x - mean) / sd
                return math.exp(-z * z / 2) / (sd * math.sqrt(2 * math.pi))  # type: ignore[no-any-return]
            case "exponential", (rate,):
                return float(rate * math.exp(-rate * x)) if x >= 0 else 0.0  # type: ignore[no-any-return]
            case "gamma", (shape, rate):
                return float(scipy.stats.gamma.pdf(float(x), float(shape), scale=1 / float(rate)))
            case "beta", (a, b):
                return float(scipy.stats.beta.pdf(float(x), float(a), float(b)))
        raise TypeError(f"not a distribution: {self.name}")

    def quantile(self, u: Number) -> Any:
        """The value whose distribution function first exceeds u, for u in [0, 1)."""
        if self.continuous:
            return float(self._frozen().ppf(float(u)))
        total: Number = Fraction(0)
        for x, mass in self.masses(10_000)[0]:
            last, total = x, total + mass
            if u < total:
                return x
        return last

    def nodes(self, n: int) -> list[tuple[Any, float]]:
        """A Gauss rule of n nodes for a continuous law: values and weights of sum one."""
        match self.name, tuple(map(float, self.args)):
            case "uniform", (low, high):
                x, w = np.polynomial.legendre.leggauss(n)
                x, w = low + (high - low) * (x + 1) / 2, w / 2
            case "normal", (mean, sd):
                x, w = scipy.special.roots_hermitenorm(n)
                x, w = mean + sd * x, w / math.sqrt(2 * math.pi)
            case "exponential", (rate,):
                x, w = scipy.special.roots_laguerre(n)
                x = x / rate
            case "gamma", (shape, rate):
                x, w = scipy.special.roots_genlaguerre(n, shape - 1)
                x, w = x / rate, w / math.gamma(shape)
            case "beta", (a, b):
                x, w = scipy.special.roots_jacobi(n, b - 1, a - 1)
                x, w = (x + 1) / 2, w / w.sum()
            case _:
                raise TypeError(f"{self.name} is not continuous")
        return [(a, b) for a, b in zip(x.tolist(), w.tolist(), strict=True) if b > 0]

    def nodes_about(self, n: int, centre: float, scale: float) -> list[tuple[Any, float]]:
        """n nodes for a normal law where its mass times a likelihood is: about ``centre``.

        The rule is that of N(centre, scale^2) with each weight times the ratio of the densities.
        """
        guide = LawValue("normal", (centre, scale))
        return [(x, w * float(self.density(x)) / guide.density(x)) for x, w in guide.nodes(n)]

    def _frozen(self) -> Any:
        args = tuple(map(float, self.args))
        match self.name:
            case "uniform":
                return scipy.stats.uniform(args[0], args[1] - args[0])
            case "normal":
                return scipy.stats.norm(*args)
            case "exponential":
                return scipy.stats.expon(scale=1 / args[0])
            case "gamma":
                return scipy.stats.gamma(args[0], scale=1 / args[1])
        return scipy.stats.beta(*args)
