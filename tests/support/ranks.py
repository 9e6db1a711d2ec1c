"""Staged rank tests of a kernel that should be reversible, from exact draws of its target.

A path has ``LENGTH`` states.  One of them, at a place drawn uniformly, is an exact draw; the kernel
goes on from there to both ends, which is the same both ways if the target is its law and it is
reversible.  Then all states are alike, and the rank of the exact one among them by any function is
uniform, ties broken at random.

Source: Gandy and Scott, Unit Testing for MCMC and other Monte Carlo Methods (arXiv 2001.06465),
algorithms 2 and 3.  Their chi-squared test, whose tail is not exact, is replaced by binomial ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor

from pushforward.inference.mcmc.lanes.engine import Chains, Engine, Metric, step_sizes
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.tensors.capture import capture_vector

LENGTH = 8
STAGES = 7
GROWTH = 3  # the batches after the first are so much larger

Numbers = NDArray[Any]
Draws = Callable[[np.random.Generator, int], Numbers]


@dataclass(frozen=True)
class Target:
    """A log density [d] -> [], exact draws of its law [n, d], and how NUTS is to move on it."""

    density: Callable[[Tensor], Tensor]
    draws: Draws
    step: float
    metric: Metric
    max_depth: int = 10

    @cached_property
    def function(self) -> LaneFunction:
        u = torch.full((4, len(self.metric.root)), 0.3, dtype=torch.float64)
        return LaneFunction(fold(capture_vector(self.density, u[0])), u)

    def chains(self, rng: np.random.Generator, position: Tensor) -> Chains:
        """Chains at these positions [n, d], each with a generator of its own."""
        n = len(position)
        log_density, gradient, *_ = self.function(position)
        step = torch.full((n,), self.step, dtype=torch.float64)
        random = torch.from_numpy(rng.integers(-(2**63), 2**63, (n, 4)))
        return Chains(position, log_density, gradient.contiguous(), step_sizes(step), random)


class Paths(NamedTuple):
    """States [n, LENGTH, d], of which the first is the exact draw, and their log densities."""

    states: Tensor
    log_density: Tensor


def paths(target: Target, text: str, rng: np.random.Generator, n: int) -> Paths:
    """By the engine with this code: the exact draws, then what lies before and after them."""
    engine = Engine(target.function, target.max_depth, text)
    start = torch.from_numpy(target.draws(rng, n))
    states = start[:, None].repeat(1, LENGTH, 1)
    log_density = target.function(start)[0][:, None].repeat(1, LENGTH)
    before = torch.from_numpy(rng.integers(0, LENGTH, n))
    for count in range(LENGTH):
        rows = torch.nonzero(before == count)[:, 0]
        for steps, first in ((count, 1), (LENGTH - 1 - count, 1 + count)):
            done = engine.advance(target.chains(rng, start[rows]), target.metric, steps)
            states[rows, first : first + steps] = done.draws
            log_density[rows, first : first + steps] = done.log_density
    return Paths(states, log_density)


def functions(path: Paths) -> Tensor:
    """What states are ranked by: coordinates, squares, products of neighbours, log density."""
    z = path.states
    return torch.cat([z, z.square(), z[..., 1:] * z[..., :-1], path.log_density[..., None]], -1)


def ranks(values: Tensor, rng: np.random.Generator) -> Tensor:
    """Those of the first of each row, from 0, among [n, LENGTH, functions]."""
    first, others = values[:, :1], values[:, 1:]
    ties = (others == first).sum(1)
    above = torch.from_numpy(rng.integers(0, ties.numpy() + 1))
    return (others < first).sum(1) + above


def p_value(found: Tensor, length: int = LENGTH) -> float:
    """Of the hypothesis that ranks [n, functions] are uniform; never too small, at any n.

    How many ranks lie in a run of neighbours is binomial.  All runs are counted, those round the
    end as what is left by others, for all functions, and the smallest p-value is corrected.
    """
    n = len(found)
    counts = torch.nn.functional.one_hot(found, length).sum(0)
    below = torch.nn.functional.pad(counts.cumsum(-1), (1, 0)).numpy()
    low, high = np.triu_indices(length, 1)
    inside = below[:, high] - below[:, low]
    share = (high - low) / length
    tail = np.minimum(binom.cdf(inside, n, share), binom.sf(inside - 1, n, share))
    return min(1.0, 2.0 * float(tail.min() * tail.size))


class Outcome(NamedTuple):
    """Whether a hypothesis is kept, and the p-values of the batches that were needed."""

    kept: bool
    p_values: list[float]


def staged(p_of_batch: Callable[[int], float], level: float) -> Outcome:
    """Reject with probability at most ``level`` if the p-value of each fresh batch is valid.

    A batch decides at once if its p-value is very small or not small; else a further one is
    taken.  That happens with probability at most gamma, and so the next may reject as much more
    easily: each stage adds level / STAGES at most.
    """
    beta = level / STAGES
    gamma, seen = beta ** (1 / STAGES), list[float]()
    for stage in range(STAGES):
        seen.append(p_of_batch(stage))
        if seen[-1] <= beta:
            return Outcome(False, seen)
        if seen[-1] > gamma + beta:
            break
        beta /= gamma
    return Outcome(True, seen)


def rank_test(target: Target, text: str, n: int, level: float, seed: int) -> Outcome:
    """Whether the engine with this code keeps the target's law and is reversible."""
    rng = np.random.default_rng(seed)

    def p_of_batch(stage: int) -> float:
        path = paths(target, text, rng, n if stage == 0 else GROWTH * n)
        return p_value(ranks(functions(path), rng))

    return staged(p_of_batch, level)
