"""Waste-free sequential Monte Carlo: all states of the chains that move particles are particles.

Dau and Chopin, arXiv 2011.02328.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import draw
from ...ppl.language.program import Callback, Program
from .population import Population
from .resampling import Scheme, resample, systematic
from .tempering import through_powers


def waste_free(
    prior: Callback,
    log_likelihood: Callable[[Any], Tensor],
    move: Callable[[Any, Tensor], Any],
    betas: Sequence[float],
    particles: int,
    length: int,
    scheme: Scheme = systematic,
) -> Program:
    """Tempered SMC as a program that keeps each move; it returns a ``Population``.

    At each power particles / length of them are drawn by weight.  Each begins a chain of ``length``
    states, itself the first, and all states of all chains are the next particles, side by side.

    Invariant: E[sum_i w_i delta_{x_i}] is prior times likelihood, for any moves that leave
    prior * likelihood ** beta invariant at their beta, and any schedule that ends in 1, where both
    are fixed beforehand.

    Args:
        prior: a program that returns ``particles`` values, stacked.
        log_likelihood: log densities [particles] of stacked values.
        move: a program from stacked values and beta to stacked values: one step of the chains.
        betas: the powers after 0, increasing to 1.
        length: of a chain; a divisor of ``particles``.

    Errors:
        ValueError: betas do not increase to 1, or the length is no divisor.
    """
    if length < 1 or particles % length:
        raise ValueError(f"waste_free: {length} states do not divide {particles} particles")
    begun = Program(lambda population: starts(population, length, scheme))
    moved = Program(move)

    def stage(population: Population, beta: Tensor) -> Population:
        population = begun(population)
        states = [population.values]
        for _ in range(length - 1):
            states.append(moved(states[-1], beta))
        return Population(tree_map(_side_by_side, *states), population.log_weights)

    name = f"waste_free({particles}, {length})"
    return through_powers(prior, log_likelihood, stage, betas, particles, name)


def starts(population: Population, length: int, scheme: Scheme) -> Population:
    """One in ``length`` of the particles that a scheme gives, with all of its n equal weights.

    It is every ``length``-th from one that is uniform among the first, so that each particle is
    drawn n w / length times in expectation.
    """
    log_weights = population.log_weights
    n = len(log_weights)
    equal, _ = resample(population, scheme)
    weights = torch.ones(length, dtype=torch.float64, device=log_weights.device)
    first = draw(dist.Categorical(weights), label="start")
    chosen = first + length * torch.arange(n // length, device=log_weights.device)
    return Population(equal.values_at(chosen), equal.log_weights)


def _side_by_side(*states: Tensor) -> Tensor:
    """The states [chains, ...] of chains at each step, as [chains * steps, ...]."""
    return torch.stack(states, 1).flatten(0, 1)
