"""Markov kernels on continuous states, right ones and mistaken ones, for targets that are given.

A target has the log density of a state; a kernel is made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pushforward import dist, draw, observe, program, sample

Kernel = Callable[[Tensor], Tensor]
Make = Callable[[Callable[[Tensor], Tensor]], Kernel]
UNIT = dist.Uniform(torch.tensor(0.0).double(), torch.tensor(1.0).double())


class Target(NamedTuple):
    """A program that returns its state, and its log density."""

    program: Callable[[], Any]
    log_density: Callable[[Tensor], Tensor]


def conditioned(mean: float, scale: float, freedom: float) -> Target:
    """A normal latent that is observed with heavy tails."""
    seen = torch.tensor(1.2).double()

    @program
    def model() -> Tensor:
        x = sample("x", normal(mean, 1.0))
        observe("y", dist.StudentT(freedom, x, scale), seen)
        return x

    def log_density(x: Tensor) -> Tensor:
        law = dist.StudentT(freedom, x, scale, validate_args=False)
        return normal(mean, 1.0).log_prob(x) + law.log_prob(seen)

    return Target(model, log_density)


def normal(mean: Any, scale: Any) -> Any:
    loc, spread = torch.as_tensor(mean).double(), torch.as_tensor(scale).double()
    return dist.Normal(loc, spread, validate_args=False)


def accepted(log_ratio: Tensor) -> Tensor:
    return draw(UNIT).log() < log_ratio


def walk(log_density: Callable[[Tensor], Tensor]) -> Kernel:
    def random_walk(x: Tensor) -> Tensor:
        y = x + 1.3 * draw(normal(0.0, 1.0))
        return y if accepted(log_density(y) - log_density(x)) else x

    return random_walk


def branchless(log_density: Callable[[Tensor], Tensor]) -> Kernel:
    def chosen(x: Tensor) -> Tensor:
        y = draw(normal(x, 1.0))
        ratio = (log_density(y) - log_density(x)).exp().clamp(max=1.0)
        accept = draw(dist.Bernoulli(ratio, validate_args=False))
        return torch.where(accept == 1, y, x)

    return chosen


def mala(step: float = 0.8, correction: float = 1.0) -> Make:
    def make(log_density: Callable[[Tensor], Tensor]) -> Kernel:
        gradient = torch.func.grad(log_density)

        def from_(x: Tensor) -> Any:
            return normal(x + step * step / 2 * gradient(x), step)

        def langevin(x: Tensor) -> Tensor:
            y = draw(from_(x))
            back, forth = from_(y).log_prob(x), from_(x).log_prob(y)
            ratio = log_density(y) - log_density(x) + correction * (back - forth)
            return y if accepted(ratio) else x

        return langevin

    return make


def hmc(first: float = 0.5) -> Make:
    """Of one to three steps, a number that is drawn; the first half step of momentum is given."""

    def make(log_density: Callable[[Tensor], Tensor]) -> Kernel:
        gradient = torch.func.grad(log_density)

        def hamiltonian(x: Tensor) -> Tensor:
            p = draw(normal(0.0, 1.0))
            q, r = x, p
            for _ in range(1 + int(draw(dist.Categorical(torch.ones(3).double())))):
                r = r + first * 0.5 * gradient(q)
                q = q + 0.5 * r
                r = r + 0.5 * 0.5 * gradient(q)
            ratio = log_density(q) - log_density(x) + (p * p - r * r) / 2
            return q if accepted(ratio) else x

        return hamiltonian

    return make


def barker(sign: float = 1.0) -> Make:
    """Barker's proposal (Livingstone and Zanella, arXiv 1908.11812)."""

    def make(log_density: Callable[[Tensor], Tensor]) -> Kernel:
        gradient = torch.func.grad(log_density)

        def robust(x: Tensor) -> Tensor:
            z = 1.2 * draw(normal(0.0, 1.0))
            w = z if draw(UNIT) < torch.sigmoid(z * gradient(x)) else -z
            y = x + w
            ratio = log_density(y) - log_density(x)
            ratio = ratio + sign * (softplus(-w * gradient(x)) - softplus(w * gradient(y)))
            return y if accepted(ratio) else x

        return robust

    return make


def autoregressive(log_density: Callable[[Tensor], Tensor]) -> Kernel:
    """A proposal that shrinks, without Hastings' correction."""

    def shrinking(x: Tensor) -> Tensor:
        y = draw(normal(0.8 * x, 1.0))
        return y if accepted(log_density(y) - log_density(x)) else x

    return shrinking


def sgld(step: float) -> Make:
    """Langevin steps without an accept step: biased."""

    def make(log_density: Callable[[Tensor], Tensor]) -> Kernel:
        gradient = torch.func.grad(log_density)

        def unadjusted(x: Tensor) -> Tensor:
            return draw(normal(x + step * step / 2 * gradient(x), step))

        return unadjusted

    return make


RIGHT: dict[str, Make] = {
    "random walk": walk,
    "branchless": branchless,
    "MALA": mala(),
    "HMC": hmc(),
    "Barker": barker(),
}
MISTAKEN: dict[str, Make] = {
    "no Hastings": autoregressive,
    "MALA without correction": mala(correction=0.0),
    "MALA, correction inverted": mala(correction=-1.0),
    "HMC, whole first step": hmc(first=1.0),
    "Barker, correction inverted": barker(sign=-1.0),
    "SGLD": sgld(0.4),
}
