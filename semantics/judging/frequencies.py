"""Whether the frequencies of draws are those of a law on finitely many cells.

Each count is compared by bounds of the binomial law, which hold for every number of draws; the
level is shared between the cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CELLS = 1000  # into so many of like mass numbers are put together, if there are more
RARE = 15  # powers of ten, down to which both tails are cut further


class Gap(NamedTuple):
    """The worst difference of a frequency from a mass, what is allowed there, and in which cell."""

    size: float
    allowed: float
    cell: int


def worst_gap(masses: Tensor, counts: Tensor, draws: int, level: float) -> Gap:
    """Of cells with masses [m], in which so many of the draws fell."""
    from scipy.stats import binom  # slow to import

    shared, p = level / (2 * len(masses)), masses.clamp(max=1.0).numpy()
    found = counts.double().numpy()
    more, fewer = binom.isf(shared, draws, p), binom.ppf(shared, draws, p)
    bound = torch.from_numpy(more).where(
        torch.from_numpy(found > draws * p), torch.from_numpy(fewer)
    )
    allowed = (bound / draws - masses.clamp(max=1.0)).abs() + 1e-12
    absent = (bound == 0) & (counts == 0)  # too rare for that to mean anything
    gaps = (counts / draws - masses).abs().masked_fill(absent, 0.0)
    worst = int((gaps / allowed).argmax())
    return Gap(float(gaps[worst]), float(allowed[worst]), worst)


def cells_of(masses: Tensor) -> Tensor:
    """The cells [n], in order from zero, into which numbers in a row with masses [n] are put.

    Each is a number by itself if there are few, or it has much of the mass.  Both tails are cut at
    powers of ten, so that what is rare stays with what is as rare.
    """
    if len(masses) <= CELLS:
        return torch.arange(len(masses))
    below = masses.cumsum(0) - masses
    above = masses.flip(0).cumsum(0).flip(0)
    rare = 10.0 ** -torch.arange(3, RARE + 1, dtype=torch.float64)
    even = torch.arange(1, CELLS, dtype=torch.float64) / CELLS
    steps = torch.searchsorted(rare.flip(0), below, right=True)
    steps = steps + torch.searchsorted(even, below, right=True)
    steps = steps - torch.searchsorted(rare.flip(0), above)
    found: Tensor = torch.unique_consecutive(steps, return_inverse=True)[1]
    return found
