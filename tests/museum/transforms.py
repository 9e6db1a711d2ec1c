"""Changes of variables: their Jacobians, and the supports that they lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample
from pushforward.inference import importance
from pushforward.semantics import check

from .exhibit import Exhibit, f
from .laws import ByHand
from .metropolis import grid

REAL, POSITIVE = dist.constraints.real, dist.constraints.positive

# ------------------------------------------------------------------------------- element by element


def log_normal_pair(jacobians: Callable[[Tensor], Tensor]) -> ByHand:
    """Two numbers whose logarithms are normal; ``jacobians`` [2] are those of the elements."""
    base = dist.Normal(f([0.2, -0.5]), f([0.7, 0.4]))

    def density(x: Tensor) -> Tensor:
        return (base.log_prob(x.log()) + jacobians(-x.log())).sum(-1)

    return ByHand(POSITIVE, density, lambda shape: base.sample(shape).exp(), 2)


def scaled_batch(times: int) -> ByHand:
    """A guide of two independent numbers, scaled; the Jacobian of an element counts so often."""
    loc, scale = f([0.3, -1.0]), f([0.5, 3.0])

    def density(x: Tensor) -> Tensor:
        base = dist.Normal(torch.zeros(2), 1.0).log_prob((x - loc) / scale).sum(-1)
        return base - times * scale.log().sum()

    return ByHand(REAL, density, lambda shape: loc + scale * torch.randn(*shape, 2), 2)


def mirrored(log_size: Callable[[Tensor], Tensor]) -> ByHand:
    """-x for x of a Gumbel law, by the log of the determinant of a matrix."""
    matrix, base = f([[-1.0]]), dist.Gumbel(f(0.0), f(1.0))

    def density(y: Tensor) -> Tensor:
        return base.log_prob(y / matrix[0, 0]) - log_size(matrix)

    return ByHand(REAL, density, lambda shape: -base.sample(shape))


# ----------------------------------------------------------------------- simplices and correlations


def shares(y: Tensor) -> Tensor:
    """The first two of three shares: one is broken off a stick, the next off what remains."""
    z = torch.sigmoid(y)
    return torch.stack([z[:, 0], (1 - z[:, 0]) * z[:, 1]], 1)


def coordinates(x: Tensor) -> Tensor:
    """The inverse of ``shares``."""
    return torch.logit(torch.stack([x[:, 0], x[:, 1] / (1 - x[:, 0])], 1))


def log_determinant(y: Tensor) -> Tensor:
    z = torch.sigmoid(y)
    return (z * (1 - z)).log().sum(1) + (1 - z[:, 0]).log()


def without_the_rest(y: Tensor) -> Tensor:
    z = torch.sigmoid(y)
    return (z * (1 - z)).log().sum(1)


def crossing(rows: Tensor) -> Tensor:
    """From coordinates, where the third number is positive, to shares, and back."""
    forth = rows[:, 2:] > 0
    back = coordinates(torch.where(forth, 0.3, rows[:, :2]))
    moved = torch.where(forth, shares(rows[:, :2]), back)
    return torch.cat([moved, -rows[:, 2:]], 1)


def log_density_of_both(rows: Tensor) -> Tensor:
    """A normal law of coordinates, and the flat Dirichlet law of shares."""
    normal = -rows[:, :2].square().sum(1) / 2 - torch.tensor(2 * torch.pi).log()
    return torch.where(rows[:, 2] > 0, normal, f(2.0).log())


def crossing_by(log_determinant: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
    """The move and its acceptance, by a determinant."""

    def acceptance(rows: Tensor) -> Tensor:
        image = crossing(rows)
        there, back = log_determinant(rows[:, :2]), -log_determinant(image[:, :2])
        size = torch.where(rows[:, 2] > 0, there, back)
        return (log_density_of_both(image) - log_density_of_both(rows) + size).exp().clamp(max=1.0)

    return crossing, acceptance


def on_both_sides() -> Tensor:
    y = grid((-1.5, 1.0), (-1.0, 1.2), n=3)
    one = torch.ones(len(y), 1, dtype=torch.float64)
    return torch.cat([torch.cat([y, one], 1), torch.cat([shares(y), -one], 1)])


def correlation(coordinates: int) -> ByHand:
    """An even correlation of two numbers, tanh y by the first of some coordinates."""

    def density(y: Tensor) -> Tensor:
        return (1 - torch.tanh(y[..., 0]) ** 2).log() - f(2.0).log()

    def sampler(shape: torch.Size) -> Tensor:
        even = 2 * torch.rand(*shape, 1) - 1
        return torch.cat([torch.atanh(even), torch.randn(*shape, coordinates - 1)], -1)

    return ByHand(REAL, density, sampler, coordinates)


def log_density_of_factor(matrix: Tensor) -> Tensor:
    """The flat law of correlation matrices of size two, by their Cholesky factors."""
    return -f(2.0).log() - matrix[..., 1, 1].log()


def of_a_factor(matrix: Tensor) -> Tensor:
    """The density, which is zero unless the matrix is lower triangular with rows of length one."""
    lower = torch.equal(matrix, matrix.tril()) and bool((matrix.diagonal() > 0).all())
    lengths = torch.allclose(matrix.square().sum(-1), torch.ones(2), rtol=0, atol=1e-9)
    return log_density_of_factor(matrix) if lower and lengths else f(-torch.inf)


FACTORS = [f([[1.0, 0.0], [0.6, 0.8]]), f([[1.0, 0.0], [0.0, 1.0]]), f([[1.0, 1.0], [1.0, 1.0]])]


@program
def factors() -> Tensor:
    """One of three matrices: of the first two the densities are 5/8 and 1/2, the third is none."""
    which = sample("which", dist.Categorical(torch.ones(3)))
    factor("density", f([15 / 8, 3 / 2, 0.0])[which].log())
    return which


def proposed(density: Callable[[Tensor], Tensor]) -> Any:
    """An even proposal of three matrices, weighted by a density."""

    def run() -> tuple[Tensor, Tensor]:
        which = draw(dist.Categorical(torch.ones(3)))
        return which, density(FACTORS[int(which)]) + f(3.0).log()

    return program(run)


# ------------------------------------------------------------------------------- supports of guides


@program
def below_a_bound() -> tuple[Tensor, Tensor]:
    """A bound of one or three, and a number below it."""
    bound = f([1.0, 3.0])[sample("bound", dist.Categorical(f([0.3, 0.7])))]
    return bound, sample("x", dist.Uniform(f(0.0), bound))


def by_a_real_guide(end: Callable[[Tensor], Tensor]) -> Any:
    """A bound from its prior, and x from an unconstrained guide, mapped to (0, end(bound))."""
    guide, unit = dist.Normal(f(0.4), f(1.2)), dist.Normal(f(0.0), f(1.0))

    def run() -> tuple[tuple[Tensor, Tensor], Tensor]:
        bound = f([1.0, 3.0])[draw(dist.Categorical(f([0.3, 0.7])))]
        u, width = draw(guide), end(bound)
        log_size = width.log() + unit.log_prob(u)
        return (bound, width * unit.cdf(u)), -bound.log() + log_size - guide.log_prob(u)

    return program(run)


@program
def waiting() -> Tensor:
    """An exponential time, seen with noise."""
    time = sample("time", dist.Exponential(f(1.0)))
    observe("seen", dist.Normal(time, f(0.5)), f(0.7))
    return time


def positive_guide() -> None:
    sample("time", dist.LogNormal(f(-0.3), f(0.8)))


def real_guide() -> None:
    sample("time", dist.Normal(f(0.7), f(0.6)))


EXHIBITS = [
    Exhibit(
        30,
        "the Jacobian of an elementwise transform is summed, and the sum added to each element",
        "pymc-devs/pymc, issue 798",
        check.density,
        log_normal_pair(lambda j: j),
        log_normal_pair(lambda j: j.sum(-1, keepdim=True)),
        options={"quadrature": 40},
    ),
    Exhibit(
        31,
        "the determinant of stick-breaking misses what remains of the stick: a flat Dirichlet law "
        "is not flat",
        "pymc-devs/pymc, issue 1297",
        check.involution,
        crossing_by(log_determinant),
        crossing_by(without_the_rest),
        against=(log_density_of_both, on_both_sides()),
    ),
    Exhibit(
        32,
        "the log of a determinant without its absolute value: NaN for maps that turn over",
        "aesara-devs/aeppl, issue 111",
        check.density,
        mirrored(lambda matrix: torch.linalg.slogdet(matrix).logabsdet),
        mirrored(lambda matrix: torch.linalg.det(matrix).log()),
        breaks="the log density is nan",
    ),
    Exhibit(
        33,
        "a guide counts the Jacobian of its scale once for each element of a batch",
        "pyro-ppl/pyro, PR 2829",
        check.density,
        scaled_batch(times=1),
        scaled_batch(times=2),
        options={"quadrature": 48},
    ),
    Exhibit(
        34,
        "a guide in unconstrained space keeps the transform of the first trace, though the support "
        "depends on a latent",
        "pyro-ppl/numpyro, issue 594",
        check.valid,
        by_a_real_guide(lambda bound: bound),
        by_a_real_guide(lambda bound: f(1.0)),
        against=(below_a_bound,),
        options={"quadrature": 64},
    ),
    Exhibit(
        35,
        "a correlation matrix has more unconstrained coordinates than degrees of freedom, along "
        "which the density is flat",
        "TuringLang/Bijectors.jl, issue 228",
        check.density,
        correlation(coordinates=1),
        correlation(coordinates=2),
    ),
    Exhibit(
        36,
        "the density of a Cholesky factor of correlations is a finite number off its support",
        "pytorch/pytorch, issue 52724",
        check.valid,
        proposed(of_a_factor),
        proposed(log_density_of_factor),
        against=(factors,),
    ),
    Exhibit(
        37,
        "a positive latent has a normal approximating family",
        "blei-lab/edward, issues 856 and 869",
        check.valid,
        importance(waiting, 1, positive_guide),
        importance(waiting, 1, real_guide),
        against=(waiting,),
        options={"quadrature": 128},
        breaks="gives it no mass",
    ),
]
