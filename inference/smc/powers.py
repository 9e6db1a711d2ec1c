"""The powers of tempering: spaced by the effective size that each step leaves, or given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

HALVINGS = 100  # of the interval in which the next power lies: to the precision of float64


def conditional_size(log_increments: Tensor) -> float:
    """(sum w)^2 / (n sum w^2), from 1/n to 1: the share of n equal particles that weights leave.

    It is the conditional effective sample size of Zhou, Johansen and Aston, arXiv 1303.3123, over
    n, for particles of equal weights; 0 where no weight is positive.
    """
    if float(log_increments.max()) == -math.inf:
        return 0.0
    weights = torch.softmax(log_increments, 0)
    return float(1.0 / (len(weights) * weights.square().sum()))


def next_power(before: float, log_likelihood: Tensor, share: float) -> float:
    """The power up to 1 to which a step from ``before`` leaves this share of equal particles.

    Particles where the likelihood is zero die by any step, and do not count.
    """
    alive = log_likelihood[log_likelihood > -math.inf]

    def leaves_enough(power: float) -> bool:
        return conditional_size((power - before) * alive) >= share

    if not len(alive) or leaves_enough(1.0):
        return 1.0
    low, high = before, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if leaves_enough(middle) else (low, middle)
    return high


def ladder(steps: int, power: float = 3.0) -> list[float]:
    """The schedule beta_k = (k / steps) ** power."""
    return [(k / steps) ** power for k in range(1, steps + 1)]


def increases_to_one(powers: Sequence[float]) -> bool:
    """Whether they are powers after 0 that end in exactly 1."""
    return bool(powers) and powers[-1] == 1.0 and all(a < b for a, b in pairwise([0.0, *powers]))
