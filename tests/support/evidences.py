"""Posteriors whose evidence is known: by conjugacy, or by quadrature over one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

from pushforward.ppl import factor, observe, plate, program, sample


class Known(NamedTuple):
    """A program with its arguments, and the exact log of its evidence."""

    program: Any
    args: tuple[Tensor, ...]
    log_evidence: float


@program
def normal_mean(y: Tensor) -> None:
    mean = sample("mean", dist.Normal(y.new_tensor(0.0), 2.0))
    with plate("points", len(y)):
        observe("y", dist.Normal(mean, 1.0), y)


@program
def regression(x: Tensor, y: Tensor) -> None:
    slopes = sample("slopes", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with plate("points", len(y)):
        observe("y", dist.Normal(x @ slopes, 0.5), y)


@program
def coin(y: Tensor) -> None:
    chance = sample("chance", dist.Beta(y.new_tensor(2.0), 3.0))
    with plate("points", len(y)):
        observe("y", dist.Bernoulli(chance), y)


@program
def counts(y: Tensor) -> None:
    rate = sample("rate", dist.Gamma(y.new_tensor(2.0), 0.5))
    with plate("points", len(y)):
        observe("y", dist.Poisson(rate), y)


@program
def two_modes(y: Tensor) -> None:
    """All points are about m, or all about -m."""
    m = sample("m", dist.Normal(y.new_tensor(1.0), 5.0))
    each = [dist.Normal(sign * m, 0.5).log_prob(y).sum() for sign in (1.0, -1.0)]
    factor("either", torch.logaddexp(*each))


@program
def scaled_regression(x: Tensor, y: Tensor) -> None:
    """Wide priors, correlated columns, an unknown scale: a funnel on the way to a sharp law."""
    slopes = sample("slopes", dist.Normal(x.new_zeros(x.shape[1]), 10.0).to_event(1))
    scale = sample("scale", dist.HalfNormal(x.new_tensor(10.0)))
    with plate("points", len(y)):
        observe("y", dist.Normal(x @ slopes, scale), y)


def normal(n: int, seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def design(n: int, d: int, shared: float, seed: int) -> Tensor:
    """Columns [n, d] of which a part is common to all."""
    own, common = normal(n, seed, d), normal(n, seed + 1, 1)
    return math.sqrt(1.0 - shared) * own + math.sqrt(shared) * common


def of_regression(d: int, shared: float) -> Known:
    x = design(50, d, shared, 10 * d)
    y = x @ normal(d, d) + 0.5 * normal(50, d + 1)
    covariance = x @ x.mT + 0.25 * torch.eye(50).double()
    exact = dist.MultivariateNormal(torch.zeros(50).double(), covariance).log_prob(y)
    return Known(regression, (x, y), float(exact))


def of_normal_mean() -> Known:
    y = 1.0 + normal(10, 3)
    covariance = 4.0 * torch.ones(10, 10).double() + torch.eye(10).double()
    exact = dist.MultivariateNormal(torch.zeros(10).double(), covariance).log_prob(y)
    return Known(normal_mean, (y,), float(exact))


def of_coin() -> Known:
    y = torch.tensor([1.0] * 17 + [0.0] * 3).double()

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    return Known(coin, (y,), log_beta(19.0, 6.0) - log_beta(2.0, 3.0))


def of_counts() -> Known:
    y = torch.tensor([3.0, 7.0, 5.0, 6.0, 4.0, 9.0]).double()
    a, b, total, n = 2.0, 0.5, float(y.sum()), len(y)
    exact = a * math.log(b) - math.lgamma(a) + math.lgamma(a + total)
    exact -= (a + total) * math.log(b + n) + float(torch.lgamma(y + 1.0).sum())
    return Known(counts, (y,), exact)


def integrated(log_density: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """The log of an integral over [low, high] by the trapezoidal rule."""
    at = torch.linspace(low, high, 4001).double()
    return float(torch.logsumexp(log_density(at), 0) + (at[1] - at[0]).log())


def of_two_modes() -> Known:
    y = 3.0 + 0.5 * normal(5, 4)

    def log_joint(m: Tensor) -> Tensor:
        each = [dist.Normal(sign * m[:, None], 0.5).log_prob(y).sum(1) for sign in (1.0, -1.0)]
        return dist.Normal(1.0, 5.0).log_prob(m) + torch.logaddexp(*each)

    return Known(two_modes, (y,), integrated(log_joint, -10.0, 10.0))


def of_scaled_regression() -> Known:
    x = 10.0 * design(100, 5, 0.5, 7)
    y = x.sum(1) + normal(100, 9)

    def log_joint(log_scale: Tensor) -> Tensor:
        noise = (2.0 * log_scale).exp()[:, None, None] * torch.eye(100).double()
        law = dist.MultivariateNormal(torch.zeros(100).double(), 100.0 * x @ x.mT + noise)
        prior = dist.HalfNormal(torch.tensor(10.0).double()).log_prob(log_scale.exp())
        return law.log_prob(y) + prior + log_scale

    at = torch.linspace(math.log(0.3), math.log(4.0), 401).double()
    found = torch.cat([log_joint(part) for part in at.split(50)])
    return Known(scaled_regression, (x, y), float(found.logsumexp(0) + (at[1] - at[0]).log()))


KNOWN: dict[str, Callable[[], Known]] = {
    "normal mean": of_normal_mean,
    "1 slope": lambda: of_regression(1, 0.0),
    "5 slopes": lambda: of_regression(5, 0.0),
    "10 slopes": lambda: of_regression(10, 0.0),
    "10 correlated slopes": lambda: of_regression(10, 0.99),
    "coin": of_coin,
    "counts": of_counts,
    "two modes": of_two_modes,
    "scaled regression": of_scaled_regression,
}
