"""The moves of tempered SMC at one power: HMC in a metric, on vectors that end in the power."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.compile.potential import by_columns
from ..mcmc.hamiltonian import (
    Phase,
    Potential,
    State,
    coin,
    energy_weight,
    init,
    refresh,
    select,
)
from ..mcmc.hmc import acceptance

DURATION = 0.5 * math.pi  # of a trajectory: it makes a normal law of the metric's shape forget
JITTER = 0.25  # relative: half the width of the uniform law of durations
DENSE = 4.0  # particles for each coordinate from which on all correlations are taken as they are


class Metric(NamedTuple):
    """The covariance S R S that momenta stand for: S = diag(scale) [d], root = R^(1/2) [d, d].

    Without a root R is the identity.
    """

    scale: Tensor
    root: Tensor | None = None


class Stage(NamedTuple):
    """A power, and the moves that leave prior * likelihood ** power invariant."""

    power: float
    metric: Metric
    leapfrogs: int
    moves: int


class Particles(NamedTuple):
    """Particles of tempering, n of them.

    ``state``: of HMC at positions [n, d + 1] whose last coordinate is the power.  The density is
    log prior + power * log likelihood, so that the last entry of its gradient is the log
    likelihood.  ``first`` [n]: from which draw of the prior each descends.
    """

    state: State
    first: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """In float64, [n]; -inf where there is no density."""
        found = self.state.gradient[:, -1].double()
        return torch.where(self.state.log_density == -math.inf, -math.inf, found)

    @property
    def points(self) -> Tensor:
        """The unconstrained vectors, [n, d]."""
        return self.state.position[:, :-1]


def metric_of(points: Tensor, size: float) -> Metric:
    """The sample covariance of points [n, d] that are worth ``size`` independent ones.

    Correlations count in full from 4 d on; below they shrink linearly, to none at d.
    """
    n, d = points.shape
    points = points.double()
    scale = points.std(0) if min(n - 1, d) > 0 else torch.ones_like(points[0])
    scale = torch.where(scale > 0.0, scale, 1.0)
    share = min(max((size / max(d, 1) - 1.0) / (DENSE - 1.0), 0.0), 1.0)
    if share == 0.0 or d < 2:
        return Metric(scale)
    standard = (points - points.mean(0)) / scale
    correlation = share * (standard.mT @ standard) / (n - 1)
    correlation.diagonal().fill_(1.0)
    values, vectors = torch.linalg.eigh(correlation)
    return Metric(scale, vectors * values.clamp(min=1e-12).sqrt() @ vectors.mT)


def at_power(particles: Particles, potential: Potential, power: float) -> Particles:
    """The same particles with their densities and gradients at another power."""
    position = by_columns(particles.state.position.clone())
    position[:, -1] = power
    return particles._replace(state=init(position, potential))


class Maps(NamedTuple):
    """B x and B' x for vectors [n, d + 1] that end in the power, where B = S R^(1/2).

    Momenta w give velocities B w, and gradients g give forces B' g on them.  The power stands
    still, as a coordinate of scale zero.
    """

    velocity: Callable[[Tensor], Tensor]
    force: Callable[[Tensor], Tensor]


def maps(metric: Metric, like: Tensor) -> Maps:
    """Of a metric, in the precision and place of ``like``."""
    scale = torch.cat([metric.scale, metric.scale.new_zeros(1)]).to(like)
    if metric.root is None:
        return Maps(lambda x: x * scale, lambda x: x * scale)
    root = torch.block_diag(metric.root, metric.root.new_zeros(1, 1)).to(like)
    b = scale[:, None] * root
    return Maps(lambda x: (b @ x.mT).mT, lambda x: (b.mT @ x.mT).mT)


def proposed(
    before: Phase, potential: Potential, maps: Maps, step: Tensor, leapfrogs: int
) -> Phase:
    """Leapfrogs of steps [n, 1], then a flip: an involution that preserves volume.

    The half kicks between two drifts are made as one.
    """
    position, momentum, gradient, log_density, _ = before
    momentum = torch.addcmul(momentum, step, maps.force(gradient), value=0.5)
    for left in reversed(range(leapfrogs)):
        position = torch.addcmul(position, step, maps.velocity(momentum))
        log_density, gradient = potential(position)
        kick = 1.0 if left else 0.5
        momentum = torch.addcmul(momentum, step, maps.force(gradient), value=kick)
    weight = energy_weight(log_density, momentum)
    return Phase(position, -momentum, gradient, log_density, weight)


def transition(
    particles: Particles, potential: Potential, stage: Stage
) -> tuple[Particles, Tensor]:
    """One HMC transition of each particle, and their acceptance probabilities [n].

    The steps of each make a trajectory of ``DURATION`` times a factor that is uniform about 1, and
    drawn anew.
    """
    state = particles.state
    n, like = len(state.position), state.position
    before = refresh(state)
    before = before._replace(momentum=by_columns(before.momentum))
    ends = like.new_tensor(1.0 - JITTER), like.new_tensor(1.0 + JITTER)
    factors = draw(dist.Uniform(*ends, validate_args=False), (n, 1), label="duration")
    step = DURATION / stage.leapfrogs * factors
    after = proposed(before, potential, maps(stage.metric, like), step, stage.leapfrogs)
    probability = acceptance(before, after)
    moved = select(coin(probability), after.state, state)
    return particles._replace(state=moved), probability
