"""A run of tempered SMC that finds powers and moves as it goes, to be fixed in later runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..mcmc.hamiltonian import Potential
from .population import Population
from .powers import conditional_size, next_power
from .resampling import resample
from .stage_kernels import Metric, Particles, Stage, at_power, metric_of, transition

SHARE = 0.9  # of the particles' effective size, that a step of the power leaves
TARGET = 0.9  # mean acceptance of the group of particles where it is least
GROUP = 50  # particles of similar likelihood
CLOSE = 0.1  # correlation of particles with where they started, or less
MOST_MOVES = 30
MOST_LEAPFROGS = 128
MOST_STAGES = 500
TRIALS = 10  # changes of the number of leapfrogs at a power
STEEPEST = 4.0  # by how much it changes at once


class Moved(NamedTuple):
    """What happened at a power.

    ``share``: of the particles' effective size, that the weights left.  ``acceptance``: its mean.
    ``correlation``: of particles with their start, the largest of those of coordinates and of the
    log likelihood.  ``local``: the same within regions that no move leaves, or NaN where it was not
    looked at.
    """

    share: float
    acceptance: float
    correlation: float
    local: float = math.nan

    def forgot(self, close: float, noise: float) -> bool:
        """Whether correlations are this close to zero, if they are as uncertain as ``noise``."""
        return self.correlation <= close + noise or self.local <= close + 1.5 * noise


class Pilot(NamedTuple):
    """The stages that a pilot run has found, what its moves did, and its estimate."""

    stages: tuple[Stage, ...]
    moved: tuple[Moved, ...]
    population: Population


def pilot(
    start: Particles,
    potential: Potential,
    powers: Sequence[float] | None,
    moves: int | None,
    watch: Callable[..., None],
) -> Pilot:
    """Tempered SMC that adapts to its own particles; its evidence is consistent, but biased.

    Args:
        start: from the prior.
        powers: given, increasing to 1; else the next leaves the share ``SHARE``.
        moves: at each power; else as many as particles need to forget where they were.
        watch: is told the power of each stage and the share that it left.
    """
    n = len(start.first)
    population = Population(start, torch.full((n,), -math.log(n), dtype=torch.float64))
    stages, done, leapfrogs, before = list[Stage](), list[Moved](), 1, 0.0
    while before < 1.0:
        log_likelihood = population.values.log_likelihood
        power = _following(before, log_likelihood, powers, len(stages))
        increments = (power - before) * log_likelihood
        population = Population(population.values, population.log_weights + increments)
        population.require_weights()
        share = conditional_size(increments)
        watch(1, power=power, ess=share * n)
        if share == 0.0:
            break
        population = resample(population)[0]
        particles = at_power(population.values, potential, power)
        metric = metric_of(particles.points, share * n)
        particles, leapfrogs = settled(particles, potential, power, metric, leapfrogs)
        stage = Stage(power, metric, leapfrogs, 0)
        particles, stage, found = forgetting(particles, potential, stage, moves)
        population = Population(particles, population.log_weights)
        stages.append(stage)
        done.append(found._replace(share=share))
        before = power
    return Pilot(tuple(stages), tuple(done), population)


def _following(
    before: float, log_likelihood: Tensor, powers: Sequence[float] | None, stages: int
) -> float:
    if powers is not None:
        return powers[stages]
    return 1.0 if stages + 1 >= MOST_STAGES else next_power(before, log_likelihood, SHARE)


def settled(
    particles: Particles, potential: Potential, power: float, metric: Metric, leapfrogs: int
) -> tuple[Particles, int]:
    """Particles moved until the number of leapfrogs is the least that is accepted often enough."""
    tried = set[int]()
    while leapfrogs not in tried and len(tried) < TRIALS:
        tried.add(leapfrogs)
        stage, likelihood = Stage(power, metric, leapfrogs, 1), particles.log_likelihood
        particles, probability = transition(particles, potential, stage)
        leapfrogs = enough(leapfrogs, worst_rate(probability, likelihood))
    return particles, leapfrogs


def worst_rate(probability: Tensor, log_likelihood: Tensor) -> float:
    """The least mean acceptance of groups of particles of similar likelihoods.

    Where steps are too long for a part of the law, as in the neck of a funnel, the mean hides it.
    """
    groups = probability[log_likelihood.argsort()].split(max(GROUP, len(probability) // 20))
    full = groups if len(groups) == 1 else [g for g in groups if len(g) == len(groups[0])]
    return min(float(g.mean()) for g in full)


def enough(leapfrogs: int, rate: float) -> int:
    """How many are accepted at the target rate, if these are accepted at this one.

    The acceptance is 2 Phi(-c / leapfrogs^2) for some c, in the limit of many dimensions (Beskos,
    Pillai, Roberts, Sanz-Serna and Stuart, arXiv 1001.4460).
    """
    rate = min(max(rate, 1e-9), 1.0 - 1e-9)
    aimed, got = (torch.special.ndtri(torch.tensor(x / 2.0)).item() for x in (TARGET, rate))
    factor = min(max(math.sqrt(got / aimed), 1.0 / STEEPEST), STEEPEST)
    return min(max(math.ceil(leapfrogs * factor), 1), MOST_LEAPFROGS)


def forgetting(
    particles: Particles, potential: Potential, stage: Stage, moves: int | None
) -> tuple[Particles, Stage, Moved]:
    """Particles after as many moves as they need to forget, or as are given; and how many."""
    start, uncertain, rates = columns(particles), noise(particles), list[float]()
    path = deque([start])  # from halfway back on
    found = Moved(0.0, 0.0, 1.0)
    while len(rates) < (moves or MOST_MOVES):
        particles, probability = transition(particles, potential, stage)
        path.append(columns(particles))
        rates.append(float(probability.mean()))
        k, local = len(rates), math.nan
        if k % 2 == 0:
            path.popleft()
            local = correlation_within(start, path[0], path[-1])
        found = Moved(0.0, sum(rates) / k, correlation(start, path[-1]), local)
        if moves is None and found.forgot(CLOSE, uncertain):
            break
    return particles, stage._replace(moves=len(rates)), found


def noise(particles: Particles) -> float:
    """About what the largest of their correlations would be if they had forgotten all."""
    n, d = particles.points.shape
    return math.sqrt(2.0 * math.log(2.0 * (d + 1)) / n)


def columns(particles: Particles) -> Tensor:
    """Coordinates and log likelihood, [n, d + 1]."""
    return torch.cat([particles.points.double(), particles.log_likelihood[:, None]], 1)


def correlation(start: Tensor, end: Tensor) -> float:
    """Of ``columns`` with what they were at the start: the largest.

    It is 1 where all particles are copies of one, and none has moved.
    """
    if _are_copies(start, end):
        return 1.0
    return float(_cosines(start - start.mean(0), end - end.mean(0)).abs().max())


def correlation_within(start: Tensor, middle: Tensor, end: Tensor) -> float:
    """That of ``columns`` with the start at the middle, about the centres of where they stay.

    As many moves lie on both sides of the middle.  If the correlation after k moves is rho, then
    that of the two displacements is (rho - 1) / 2; a part of the values that no move changes, as
    which of two modes it is, is in neither.
    """
    if _are_copies(start, end):
        return 1.0
    varies = ~torch.stack([x == start[0] for x in (start, middle, end)]).all(0).all(0)
    turns = _cosines(middle - start, end - middle)
    return float(torch.where(varies, 1.0 + 2.0 * turns, 0.0).max())


def _are_copies(x: Tensor, y: Tensor) -> bool:
    """Whether these values of many particles, and those, are all of one place."""
    several = len(x) > 1 and x.shape[1] > 1
    return several and bool((x == x[0]).all()) and bool((y == x[0]).all())


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    """Of the angles between columns [n, k], and 0 where there is none."""
    size = (x.square().sum(0) * y.square().sum(0)).sqrt()
    return torch.where(size > 0.0, (x * y).sum(0) / size, 0.0)
