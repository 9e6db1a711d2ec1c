"""Tempered sequential Monte Carlo: through powers of the likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ppl import scan
from ...ppl.language.program import Callback, Program
from .population import Population
from .powers import increases_to_one
from .resampling import Scheme, resample, systematic


def tempered(
    prior: Callback,
    log_likelihood: Callable[[Any], Tensor],
    move: Callable[[Any, Tensor], Any],
    betas: Sequence[float],
    particles: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
) -> Program:
    """Tempered SMC as a program; it returns a ``Population``.

    Invariant: E[sum_i w_i delta_{x_i}] is prior times likelihood, for any moves that leave
    prior * likelihood ** beta invariant at their beta, and any schedule that ends in 1, where both
    are fixed beforehand.

    Args:
        prior: a program that returns ``particles`` values, stacked.
        log_likelihood: log densities [particles] of stacked values.
        move: a program from stacked values and beta to stacked values.
        betas: the powers after 0, increasing to 1.
        ess: resample when the effective sample size is at most this fraction.
    """
    resampled = Program(lambda population: resample(population, scheme)[0])
    moved = Program(move)

    def stage(population: Population, beta: Tensor) -> Population:
        if population.is_uneven(ess):
            population = resampled(population)
        return Population(moved(population.values, beta), population.log_weights)

    name = f"tempered({particles})"
    return through_powers(prior, log_likelihood, stage, betas, particles, name)


def through_powers(
    prior: Callback,
    log_likelihood: Callable[[Any], Tensor],
    stage: Callable[[Population, Tensor], Population],
    betas: Sequence[float],
    particles: int,
    name: str,
) -> Program:
    """Particles from the prior, weighted by each step of the power, and then put through a stage.

    ``stage(population, beta)`` keeps, in expectation, what a population of prior * likelihood **
    beta stands for.

    Errors:
        ValueError: betas do not increase to 1.
    """
    if not increases_to_one(betas):
        raise ValueError(f"{name}: betas must increase from above 0 to exactly 1")
    powers = torch.tensor([0.0, *betas], dtype=torch.float64)

    def weighted(population: Population, power: Tensor) -> tuple[Population, None]:
        before, beta = power[0], power[1]
        log_weights = population.log_weights + (beta - before) * log_likelihood(population.values)
        population = Population(population.values, log_weights)
        if float(population.log_evidence()) == -math.inf:
            return population, None  # nothing is left to move
        return stage(population, beta), None

    def run(*args: Any) -> Population:
        start = Population(prior(*args), torch.zeros(particles, dtype=torch.float64))
        steps = torch.stack([powers[:-1], powers[1:]], 1)
        population, _ = scan(weighted)(start, steps)
        return Population(population.values, population.log_weights - math.log(particles))

    run.__name__ = run.__qualname__ = name
    return Program(run)
