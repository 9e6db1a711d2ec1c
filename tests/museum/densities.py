"""Log densities, divergences, and what their parameters mean."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .laws import ByHand

REAL = dist.constraints.real
FROM_TWO = type(dist.constraints.nonnegative_integer)(2)

# -------------------------------------------------------------------------------------- normal laws


def wide_normal(log_density: Callable[[Tensor, float], Tensor]) -> ByHand:
    """Of scale ten, by a function of z and of the log of the scale."""
    return ByHand(
        REAL, lambda x: log_density(x / 10, log(10)), lambda shape: 10 * torch.randn(shape)
    )


def mixture(log_weights: Callable[[Tensor], Tensor]) -> ByHand:
    """Two normals of logits one, one."""
    logits = f([1.0, 1.0])
    parts = dist.Normal(f([-1.0, 2.0]), f([1.0, 0.5]))

    def density(x: Tensor) -> Tensor:
        return (log_weights(logits) + parts.log_prob(x[..., None])).logsumexp(-1)

    def sampler(shape: torch.Size) -> Tensor:
        return parts.sample(shape).gather(-1, torch.randint(2, (*shape, 1)))[..., 0]

    return ByHand(REAL, density, sampler)


def zero_sum(scale: float) -> ByHand:
    """Two normals of scale two less their mean, by the coordinate along their line."""
    along = f([1.0, -1.0]) / 2**0.5

    def sampler(shape: torch.Size) -> Tensor:
        x = 2 * torch.randn(*shape, 2)
        return (x - x.mean(-1, keepdim=True)) @ along

    return ByHand(REAL, dist.Normal(f(0.0), f(scale)).log_prob, sampler)


@program
def seen_with_variance() -> Tensor:
    """A function value of minus or plus a tenth, seen with the variance one hundredth."""
    value = f([-0.1, 0.1])[sample("value", dist.Categorical(f([0.5, 0.5])))]
    observe("y", dist.Normal(value, f(0.1)), f(0.05))
    return value


def regression(scale: Callable[[Tensor], Tensor]) -> Any:
    """The value from its prior, and its likelihood by the scale that a variance is given to."""

    def run() -> tuple[Tensor, Tensor]:
        value = f([-0.1, 0.1])[draw(dist.Categorical(f([0.5, 0.5])))]
        return value, dist.Normal(value, scale(f(0.01))).log_prob(f(0.05))

    return program(run)


@program
def seen_normal() -> Tensor:
    """A normal of mean one and variance four, seen as three with the variance one half."""
    x = sample("x", dist.Normal(f(1.0), f(2.0)))
    observe("y", dist.Normal(x, f(0.5).sqrt()), f(3.0))
    return x


def product(constant: bool) -> Any:
    """The sum of two log densities as one Gaussian: precisions add, means by precision."""
    (m, v), (n, w) = (f([1.0, 4.0]), f([3.0, 0.5]))
    precision = 1 / v + 1 / w
    law = dist.Normal((m / v + n / w) / precision, precision**-0.5)
    left = dist.Normal(m, (v + w).sqrt()).log_prob(n) if constant else f(0.0)
    return program(lambda: (sample("x", law), left))


# ----------------------------------------------------------------------------------- ends and atoms


@program
def one_or_two() -> Tensor:
    """A number that is seen to be one."""
    x = 1 + sample("x", dist.Bernoulli(f(0.5)))
    factor("atom", torch.where(x == 1, 0.0, -torch.inf))
    return x


def at_an_atom(elsewhere: float) -> Any:
    """An even choice, weighted by the log density of an atom at one."""

    def run() -> tuple[Tensor, Tensor]:
        x = 1 + draw(dist.Bernoulli(f(0.5)))
        return x, torch.where(x == 1, 0.0, elsewhere)

    return program(run)


@program
def at_the_edge() -> Tensor:
    """Zero, seen under Beta(1, 8) or Beta(1, 2): densities 8 and 2."""
    b = f([8.0, 2.0])[sample("b", dist.Categorical(f([0.5, 0.5])))]
    factor("beta", b.log())
    return b


def beta_at_zero(times_log: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The same by the formula, with (a - 1) log x by a function."""

    def run() -> tuple[Tensor, Tensor]:
        a, x, b = f(1.0), f(0.0), f([8.0, 2.0])[draw(dist.Categorical(f([0.5, 0.5])))]
        constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return b, times_log(a - 1, x) + times_log(b - 1, 1 - x) + constant

    return program(run)


def plain(factor: Tensor, x: Tensor) -> Tensor:
    return factor * x.log()


# ------------------------------------------------------------------------------------------- counts


def truncated_poisson(rate: Callable[[Tensor], Tensor]) -> ByHand:
    """Counts from two on, of log rate 0.7; the normaliser is that of a rate made from it."""
    eta = f(0.7)
    small = torch.arange(2.0, dtype=torch.float64)

    def density(y: Tensor) -> Tensor:
        beyond = -dist.Poisson(rate(eta)).log_prob(small).exp().sum()
        return dist.Poisson(eta.exp()).log_prob(y) - torch.log1p(beyond)

    def sampler(shape: torch.Size) -> Tensor:
        y = dist.Poisson(eta.exp()).sample(shape)
        while bool((y < 2).any()):
            y = torch.where(y < 2, dist.Poisson(eta.exp()).sample(shape), y)
        return y

    return ByHand(FROM_TWO, density, sampler)


# -------------------------------------------------------------------------------------- divergences


def weighted_divergence(at: Tensor) -> Tensor:
    """KL(N(m, 1), N(0, 1)) = m^2 / 2, summed over the event, for two laws of unlike weight."""
    m = at.reshape(2, 3)
    return 2 * (m[0] ** 2 / 2).sum() + 5 * (m[1] ** 2 / 2).sum()


def by_a_divergence(kl: Callable[[Tensor], Tensor]) -> Any:
    """The gradient of the weighted sum of the divergences of a batch, by autograd."""

    def estimator(at: Tensor) -> tuple[Tensor, Tensor]:
        def total(at: Tensor) -> Tensor:
            return (f([2.0, 5.0]) * kl(at.reshape(2, 3) ** 2 / 2)).sum()

        return total(at), torch.func.grad(total)(at)

    return estimator


def divergence_of_uniform(at: Tensor) -> Tensor:
    """KL(Uniform(0, 1), Beta(a, b)) = log B(a, b) + a + b - 2, from E log x = -1."""
    a, b = at
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b) + a + b - 2


def by_antiderivative(x_log_x: Callable[[Tensor], Tensor]) -> Any:
    """The same on (0, 1) from x log x - x, the antiderivative of the logarithm, at its ends."""
    low, high = f(0.0), f(1.0)

    def estimator(at: Tensor) -> tuple[Tensor, Tensor]:
        def value(at: Tensor) -> Tensor:
            a, b = at
            mean = x_log_x(high) - high - (x_log_x(low) - low)
            constant = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
            return constant - (a - 1) * mean - (b - 1) * mean

        return value(at), torch.func.grad(value)(at)

    return estimator


EXHIBITS = [
    Exhibit(
        38,
        "the normal log density has its brackets wrong, which shows unless the scale is one",
        "genjax-community/genjax, issue 430",
        check.density,
        wide_normal(lambda z, log_s: -(z**2 + log(2 * pi)) / 2 - log_s),
        wide_normal(lambda z, log_s: -(z**2 + log(2 * pi)) / (2 - log_s)),
    ),
    Exhibit(
        39,
        "a mixture adds logits that are not normalised",
        "pyro-ppl/numpyro, issue 1489",
        check.density,
        mixture(lambda logits: logits.log_softmax(-1)),
        mixture(lambda logits: logits),
    ),
    Exhibit(
        40,
        "sampler and density of a zero-sum normal differ by a factor of the variance",
        "pymc-devs/pymc, issue 6871",
        check.density,
        zero_sum(2.0),
        zero_sum(2.0 * 0.5**0.5),
    ),
    Exhibit(
        41,
        "the log density of an atom is a large finite number elsewhere",
        "pyro-ppl/pyro, issue 321",
        check.valid,
        at_an_atom(-torch.inf),
        at_an_atom(2.55e8),
        against=(one_or_two,),
    ),
    Exhibit(
        42,
        "a likelihood takes a variance for its scale",
        "pyro-ppl/pyro, PR 1643",
        check.valid,
        regression(torch.sqrt),
        regression(lambda v: v),
        against=(seen_with_variance,),
    ),
    Exhibit(
        43,
        "the normaliser of a truncated count is that of another parametrisation",
        "stan-dev/stan, issue 2015",
        check.density,
        truncated_poisson(torch.exp),
        truncated_poisson(lambda eta: eta),
    ),
    Exhibit(
        44,
        "the sum of two Gaussian log densities loses its constant",
        "pyro-ppl/funsor, issue 6",
        check.valid,
        product(constant=True),
        product(constant=False),
        against=(seen_normal,),
        options={"quadrature": 128},
    ),
    Exhibit(
        45,
        "the divergence of a batch of laws is summed over the batch",
        "pytorch/pytorch, issue 34859",
        check.unbiased,
        by_a_divergence(lambda kl: kl.sum(-1)),
        by_a_divergence(lambda kl: kl.sum()),
        against=(weighted_divergence, f([0.1, -0.4, 0.3, 1.0, 0.2, -0.7])),
    ),
    Exhibit(
        46,
        "the density of Beta(1, b) at zero is NaN, from zero times the logarithm of zero",
        "pyro-ppl/numpyro, issue 2088",
        check.valid,
        beta_at_zero(torch.xlogy),
        beta_at_zero(plain),
        against=(at_the_edge,),
        breaks="is NaN",
    ),
    Exhibit(
        47,
        "a divergence from Uniform(0, 1) is NaN, from x log x at zero",
        "pytorch/pytorch, issue 144279",
        check.unbiased,
        by_antiderivative(lambda x: torch.xlogy(x, x)),
        by_antiderivative(lambda x: x * x.log()),
        against=(divergence_of_uniform, f([1.0, 1.0])),
    ),
]
