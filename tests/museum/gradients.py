"""Stochastic gradients, surrogate losses, and the values that are reported with them."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, factor, program, sample
from pushforward.inference import Population
from pushforward.semantics import check

from .exhibit import Exhibit, f

AT = f([0.4, -0.7])


def log_q(value: Tensor, logit: Tensor) -> Tensor:
    """Of a coin with a log odds."""
    return dist.Bernoulli(logits=logit).log_prob(value)


def score(value: Tensor, logit: Tensor) -> Tensor:
    """The derivative of ``log_q`` by the log odds."""
    return value - torch.sigmoid(logit)


def expected(function: Callable[..., Tensor], *logits: Tensor) -> Tensor:
    """The mean of a function of independent coins, by their log odds."""
    if not logits:
        return function()
    p = torch.sigmoid(logits[0])
    one, zero = (
        expected(lambda *rest, x=x: function(x, *rest), *logits[1:]) for x in (f(1.0), f(0.0))
    )
    return p * one + (1 - p) * zero


# -------------------------------------------------------------------------------------- subsampling

DATA = f([[-0.3, -1.8], [-2.0, -0.2], [-0.9, -1.1]])  # log p(x_i, z_i | g), by z_i, for g = 0


def log_local(i: Any, z: Tensor, g: Tensor) -> Tensor:
    return DATA[i, z.long()] + 0.4 * g * z


def log_global(g: Tensor) -> Tensor:
    return dist.Bernoulli(f(0.3)).log_prob(g)


def bound_of_all(at: Tensor) -> Tensor:
    """The evidence lower bound of a global coin and of three local ones."""

    def of_coins(g: Tensor, *z: Tensor) -> Tensor:
        local = sum(log_local(i, z[i], g) - log_q(z[i], at[1]) for i in range(3))
        return log_global(g) - log_q(g, at[0]) + local

    return expected(of_coins, at[0], *[at[1]] * 3)


def subsampled(times: float) -> Any:
    """Its gradient by scores from one datum of three, whose local term counts so often."""

    def estimator(at: Tensor) -> Tensor:
        i = draw(dist.Categorical(torch.ones(3)))
        g, z = draw(dist.Bernoulli(logits=at[0])), draw(dist.Bernoulli(logits=at[1]))
        local = log_local(i, z, g) - log_q(z, at[1])
        whole = log_global(g) - log_q(g, at[0]) + 3 * local
        return torch.stack([score(g, at[0]) * whole, score(z, at[1]) * times * local])

    return estimator


# -------------------------------------------------------------------------------- scores and values


def integrand(z: Tensor, theta: Tensor) -> Tensor:
    return (theta * z - 1) ** 2 + theta * (1 - z)


def mean_integrand(at: Tensor) -> Tensor:
    return expected(lambda z: integrand(z, at[1]), at[0])


def by_scores(direct: bool) -> Any:
    """By the score of the coin, and the derivative of the integrand in its parameter."""

    def estimator(at: Tensor) -> Tensor:
        z = draw(dist.Bernoulli(logits=at[0]))
        own = torch.func.grad(lambda theta: integrand(z, theta))(at[1])
        return torch.stack([score(z, at[0]) * integrand(z, at[1]), own if direct else 0 * own])

    return estimator


def reported(sign: int) -> Any:
    """The value of the loss with a sign, and its gradient."""

    def estimator(at: Tensor) -> tuple[Tensor, Tensor]:
        z = draw(dist.Bernoulli(logits=at[0]))
        value = integrand(z, at[1])
        own = torch.func.grad(lambda theta: integrand(z, theta))(at[1])
        return sign * value, torch.stack([score(z, at[0]) * value, own])

    return estimator


def of_two_particles(pooled: Callable[[Tensor], Tensor]) -> Any:
    """The value from two draws, pooled, and the gradient, likewise."""

    def estimator(at: Tensor) -> tuple[Tensor, Tensor]:
        z = draw(dist.Bernoulli(logits=at[0]), (2,))
        values = integrand(z, at[1])
        own = torch.func.vmap(torch.func.grad(integrand, argnums=1), (0, None))(z, at[1])
        gradients = torch.stack([score(z, at[0]) * values, own], 1)
        return pooled(values), pooled(gradients)

    return estimator


# ------------------------------------------------------------------------------------------ weights

WEIGHTS = f([0.1, 0.4, 0.2, 0.8])


@program
def four() -> Tensor:
    """Of 0.1, 0.4, 0.2, 0.8 so many are as large: 4, 2, 3, 1; the weights are one over that."""
    masses = f([1 / 4, 1 / 2, 1 / 3, 1.0])
    factor("mass", masses.sum().log())
    return sample("i", dist.Categorical(masses))


def tail_adaptive(counted: Callable[[Tensor], Tensor]) -> Any:
    return lambda: Population(torch.arange(4), -counted(WEIGHTS).double().log())


# -------------------------------------------------------------------------------- Langevin dynamics

STEP = 0.4


def stationary(at: Tensor) -> Tensor:
    """Half the variance v of x' = (1 - h / 2) x + sqrt(h) z: v = (1 - h / 2)^2 v + h."""
    return (at**2).sum() / 2 / (1 - STEP / 4)


def langevin(scale: float) -> Any:
    """x'^2 after a step from the stationary law, with noise of a scale."""

    def estimator(at: Tensor) -> Tensor:
        x = (1 - STEP / 4) ** -0.5 * draw(dist.Normal(f(0.0), f(1.0)))
        after = x - STEP / 2 * x + scale * draw(dist.Normal(f(0.0), f(1.0)))
        return after**2 * at

    return estimator


# --------------------------------------------------------------------------------- truncated normal


def log_truncated(at: Tensor) -> Tensor:
    """The log density at 0.5 of a normal that is positive, by its mean."""
    normaliser = torch.special.log_ndtr(at).sum()
    return -((0.5 - at) ** 2).sum() / 2 - log(2 * torch.pi) / 2 - normaliser


def with_gradient(hazard: Callable[[Tensor], Tensor]) -> Any:
    """The same with a gradient by hand, from which the derivative of the normaliser is taken."""
    return lambda at: (log_truncated(at), 0.5 - at - hazard(at))


def hazard(m: Tensor) -> Tensor:
    return dist.Normal(f(0.0), f(1.0)).log_prob(m).exp() / torch.special.ndtr(m)


EXHIBITS = [
    Exhibit(
        52,
        "the scale of a subsample counts twice in the score-function term",
        "pyro-ppl/pyro, issue 531",
        check.unbiased,
        subsampled(times=3.0),
        subsampled(times=9.0),
        against=(bound_of_all, AT),
    ),
    Exhibit(
        53,
        "the surrogate of a choice without a path misses the derivative of the integrand itself",
        "pyro-ppl/pyro, PR 2894",
        check.unbiased,
        by_scores(direct=True),
        by_scores(direct=False),
        against=(mean_integrand, AT),
    ),
    Exhibit(
        54,
        "tail-adaptive weights are ranked from the wrong end",
        "pyro-ppl/pyro, issue 3170",
        check.valid,
        tail_adaptive(lambda w: (w >= w[:, None]).sum(1)),
        tail_adaptive(lambda w: (w <= w[:, None]).sum(1)),
        against=(four,),
    ),
    Exhibit(
        55,
        "some estimators report the bound where the others report the loss",
        "pyro-ppl/pyro, issues 1982 and 2798",
        check.unbiased,
        reported(sign=1),
        reported(sign=-1),
        against=(mean_integrand, AT),
    ),
    Exhibit(
        56,
        "the bound of several particles is their sum",
        "pyro-ppl/numpyro, issue 1724",
        check.unbiased,
        of_two_particles(lambda x: x.mean(0)),
        of_two_particles(lambda x: x.sum(0)),
        against=(mean_integrand, AT),
    ),
    Exhibit(
        57,
        "the noise of Langevin dynamics has the step for its scale, not the root of that",
        "blei-lab/edward, issue 722",
        check.unbiased,
        langevin(STEP**0.5),
        langevin(STEP),
        against=(stationary, f([0.8])),
        options={"quadrature": 8},
    ),
    Exhibit(
        58,
        "a truncated density is right, and its gradient lacks the normaliser",
        "pymc-devs/pymc, issue 4417",
        check.unbiased,
        with_gradient(hazard),
        with_gradient(torch.zeros_like),
        against=(log_truncated, f([-0.6])),
    ),
]
