"""Laws on the whole numbers: their masses where draws fall and about there, and what lies beyond.

A window about the draws is listed number by number.  Beyond it the density is asked at a few
numbers of blocks that double in length: if it falls there, a block's length times its largest value
bounds its mass.  That is an estimate: a peak between the numbers asked for is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.constraints import MixtureSameFamilyConstraint

from ...ppl.distributions.data import value_dtype
from ...ppl.errors import ProgramError, located
from ...ppl.types.supports import support_of
from ..evaluation.measure import EPSILON, logsumexp, share

ALWAYS, MOST = 2**16, 2**23  # numbers that are listed on each side of the draws, and in all
ASKED = 64  # numbers of each block beyond
FALLS = 1e-3  # by less than this, relative, from block to block: the mass is infinite
ROUNDINGS = 8  # of the log of a factorial, in a density
Ends = tuple[float, float]


class Counts(NamedTuple):
    """The masses [n] of n numbers in a row, what may lie beyond, and the rounding of their sum."""

    first: int
    masses: Tensor
    beyond: float
    rounding: float


def ends_of(distribution: Any) -> Ends | None:
    """The least and largest whole number that a law may give; None if it gives anything else."""
    if distribution.event_shape:
        return None
    support = support_of(distribution)
    while isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    if isinstance(support, constraints.integer_interval):
        low, high = (torch.as_tensor(x) for x in (support.lower_bound, support.upper_bound))
        return float(low.min()), float(high.max())
    if isinstance(support, type(constraints.nonnegative_integer)):
        return float(torch.as_tensor(support.lower_bound).min()), math.inf
    return (-math.inf, math.inf) if isinstance(support, type(constraints.integer)) else None


def counts_of(distribution: Any, ends: Ends, drawn: Tensor, depth: int | None) -> Counts:
    """The masses of a law about draws [m], or of its first or middle ``depth`` numbers.

    Errors:
        ProgramError: the log density is NaN or infinite at a number.
    """
    first, last = _window(ends, drawn.double(), depth)
    values = torch.arange(first, last + 1, dtype=torch.float64)
    density = _density(distribution)
    masses = density(values).exp()
    below = _log_beyond(density, first - 1, -1, ends[0])
    above = _log_beyond(density, last + 1, 1, ends[1])
    typical = float(drawn.double().abs().median())
    rounding = ROUNDINGS * EPSILON * math.lgamma(typical + 2.0)
    return Counts(first, masses, share(logsumexp([below, above]), 0.0), rounding)


def _window(ends: Ends, drawn: Tensor, depth: int | None) -> tuple[int, int]:
    """The first and the last number of a list."""
    if depth is not None:
        first = ends[0] if ends[0] > -math.inf else -(depth // 2)
        return int(first), int(min(first + depth - 1, ends[1]))
    low, high = (float(drawn.quantile(q, interpolation="nearest")) for q in (0.01, 0.99))
    margin = 4 * (high - low) + ALWAYS
    first = max(low - margin, ends[0])
    return int(first), int(min(high + margin, first + MOST, ends[1]))


def _density(distribution: Any) -> Callable[[Tensor], Tensor]:
    """The log density [n] at whole numbers [n]."""
    shape, dtype = distribution.batch_shape, value_dtype(distribution)

    def at(values: Tensor) -> Tensor:
        given = values.to(dtype).reshape(-1, *(1,) * len(shape))
        found: Tensor = distribution.log_prob(given).detach().double().reshape(len(values))
        if bool((wrong := found.isnan() | (found == math.inf)).any()):
            told = f"the log density is {float(found[wrong][0])} at {int(values[wrong][0])}"
            raise ProgramError(located(told, hint="it is the log of a mass"))
        return found

    return at


def _log_beyond(density: Callable[[Tensor], Tensor], start: int, sign: int, end: float) -> float:
    """The log of a bound of the mass from a number on, up or down; infinite if it does not fall."""
    logs = [
        math.log(length) + float(density(start + sign * offsets).max())
        for offsets, length in _blocks(abs(end - start) + 1 if (end - start) * sign >= 0 else 0)
    ]
    if math.isinf(end) and logs[-1] > -math.inf and logs[-1] >= logs[-2] - FALLS:
        return math.inf
    return logsumexp(logs)


def _blocks(count: float) -> Iterator[tuple[Tensor, float]]:
    """Offsets in blocks of doubling length, of so many or all that a double tells apart."""
    first, length = 0.0, 1.0
    while first < min(count, 2.0**50):
        length = min(length, count - first)
        yield (first + torch.linspace(0, length - 1, ASKED, dtype=torch.float64)).round(), length
        first, length = first + length, 2 * length
