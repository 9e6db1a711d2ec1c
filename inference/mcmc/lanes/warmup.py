"""What warm-up learns from whole windows of transitions: the metric, and when.

The metric is the one of least Fisher divergence between the posterior and a normal law (Seyboldt,
Carlson and Carpenter, "Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence",
2024): of a normal posterior it is exact whatever the draws, so windows may be short and begin at
once.  It is learnt within chains, so that a chain that does not move says nothing.  It is
diagonal, and once a window has draws enough it stretches the directions that the diagonal leaves
long or short.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ....ppl import iterate
from ..hamiltonian import Parameters, Potential, State, leapfrog, refresh
from ..hmc import acceptance
from .engine import Metric, StepSizes

Form = Literal["auto", "diagonal", "dense"]

FIRST, GROWTH, LAST = 10, 1.5, 50
ENOUGH = 10  # draws of a window for each coordinate, before directions are learnt
ARRIVED = 0.04  # after this share of warm-up chains are taken to be where the posterior is
FAR, MOST = 4.0, 16  # variances so many times the diagonal's, or as much less, and so many, count
LOST = 20.0  # of the log of the mass about a chain
RESCUED = (0.15, 0.6)  # between these shares of warm-up stranded chains are moved to others
CALM, CAREFUL = 0.85, 0.95  # mean acceptances to aim at, and where transitions diverge
OFTEN = 0.005  # so many of them, once step sizes are settled
SETTLED = 0.4  # after this share of warm-up a new metric is so near the old that step sizes go on


def windows(warmup: int) -> list[int]:
    """The lengths of the windows, after each of which but the last the metric is learnt anew.

    The last, of 50 transitions or a tenth of a short warm-up, settles the step sizes.
    """
    last = min(LAST, max(warmup // 10, min(warmup, 5)))
    left, size, found = warmup - last, float(FIRST), list[int]()
    while left > 0:
        length = int(size) if left >= int(size) + int(GROWTH * size) else left
        found.append(length)
        left, size = left - length, GROWTH * size
    return [*found, last] if last else found


def first_root_mass(gradient: Tensor) -> Tensor:
    """A guess of the roots of the inverse metric [d] from gradients [chains, d] at the starts.

    A normal law of scale s has gradients of about 1 / s.
    """
    size = gradient.abs().mean(0)
    return torch.where(size > 0, size, 1.0).clamp(1e-10, 1e10).rsqrt()


def learnt_root_mass(draws: Tensor, gradients: Tensor, before: Tensor) -> Tensor:
    """The roots of the inverse metric [d] from a window [chains, draws, d].

    Its square is the ratio of the standard deviations of positions and gradients.  Coordinates that
    did not move in any chain keep what they had.
    """

    def squares(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).square().mean((0, 1))

    learnt = (squares(draws) / squares(gradients)).sqrt().sqrt()
    usable = learnt.isfinite() & (learnt > 0.0)
    return torch.where(usable, learnt, before).clamp(1e-10, 1e10)


def learnt_metric(
    draws: Tensor, gradients: Tensor, before: Tensor, share: float, form: Form = "auto"
) -> Metric:
    """The metric from a window [chains, draws, d] that ends a share of warm-up.

    ``before`` are the roots [d] until now.  ``form``: "diagonal" has no directions, "dense" all.

    In coordinates where the diagonal is one, the covariances X of positions and G of gradients give
    A^2 with A^2 G A^2 = X: its eigenvectors of eigenvalues far from one are the directions.  There
    are none early in warm-up, and with fewer than ``ENOUGH`` draws for each coordinate.
    """
    if not len(before):
        return Metric.diagonal(before)
    root = learnt_root_mass(draws, gradients, before)
    if form == "diagonal" or share < ARRIVED or draws[..., 0].numel() < ENOUGH * len(root):
        return Metric.diagonal(root)

    def covariance(x: Tensor) -> Tensor:
        centred = (x - x.mean(1, keepdim=True)).flatten(0, 1)
        return centred.mT @ centred / len(centred)

    x, g = covariance(draws / root), covariance(gradients * root)
    if not bool(x.isfinite().all() & g.isfinite().all()):
        return Metric.diagonal(root)
    ridge = 1e-5 * torch.eye(len(root), dtype=root.dtype)
    root_g = _power(g + ridge, 0.5)
    inverse = _power(g + ridge, -0.5)
    stretched = inverse @ _power(root_g @ (x + ridge) @ root_g, 0.5) @ inverse
    sizes, vectors = torch.linalg.eigh((stretched + stretched.mT) / 2)
    far = sizes.clamp(min=1e-10).log().abs()
    chosen = far.argsort(descending=True)
    if form == "auto":
        chosen = chosen[:MOST]
        chosen = chosen[far[chosen] > math.log(FAR)]
    return Metric(root, vectors[:, chosen].mT.contiguous(), sizes[chosen].sqrt() - 1.0)


def stranded(draws: Tensor, log_density: Tensor) -> Tensor:
    """Which chains are where there is next to no mass, [chains], by a window [chains, draws, d].

    The mass about a chain is taken for that of a normal law: its log is the mean log density plus
    half the log determinant of the covariance, and a constant.  So a narrow place of high density
    counts for no more than it holds.  A chain is stranded if it has less than another by a factor
    of exp(``LOST`` + sqrt(d)) at least: by the largest determinant that its standard deviations
    allow, where the other's is the one of its draws.  (Of draws that are no more than coordinates
    that is zero, and no chain is stranded.)  Modes that matter, whatever they are, are left.
    """
    d = draws.shape[-1]
    most = log_density.mean(1) + draws.std(1).log().sum(-1)
    centred = draws - draws.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (draws.shape[1] - 1)
    least = log_density.mean(1) + 0.5 * torch.linalg.slogdet(covariance).logabsdet
    if draws.shape[1] <= 2 * d:
        least = torch.full_like(least, -math.inf)
    most, least = (x.where(x.isfinite(), -math.inf) for x in (most, least))
    return most < least.max() - LOST - math.sqrt(d)


def diverging(found: Tensor, share: float) -> bool:
    """Whether transitions [chains, draws] of a window diverge too often, long after the start."""
    return share > SETTLED and float(found.double().mean()) > OFTEN


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric positive matrix."""
    sizes, vectors = torch.linalg.eigh(matrix)
    found: Tensor = vectors * sizes.clamp(min=1e-300) ** exponent @ vectors.mT
    return found


def found_step_sizes(
    state: State, potential: Potential, root_mass: Tensor, target: float
) -> Tensor:
    """For each chain, 1 doubled or halved until the acceptance of a leapfrog crosses the target."""
    inverse_mass = root_mass.square()

    def accepts(step: Tensor) -> Tensor:
        before = refresh(state)
        after = leapfrog(before, potential, Parameters(step, inverse_mass).scale)
        return acceptance(before, after) > target

    start = torch.ones_like(state.log_density)
    small = accepts(start)
    factor = torch.where(small, 2.0, 0.5).to(start.dtype)

    def step(search: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        size, crossed = search
        size = torch.where(crossed, size, size * factor)
        return size, crossed | (accepts(size) != small)

    search = iterate(step, 50, until=lambda search: search[1])
    found: Tensor = search((start, torch.zeros_like(small)))[0]
    return found


def restarted(step_sizes: StepSizes) -> StepSizes:
    """The search begun anew from where it is, shrinking towards twice as much."""
    zero = torch.zeros_like(step_sizes.log_step)
    log_step = step_sizes.log_step
    return StepSizes(log_step, zero, zero, log_step + math.log(2.0), zero)


def settled(step_sizes: StepSizes) -> Tensor:
    """The step size to sample with: the median of what the chains found, [chains]."""
    log_step = step_sizes.log_average
    return log_step.quantile(0.5).exp().expand(len(log_step)).clone()
