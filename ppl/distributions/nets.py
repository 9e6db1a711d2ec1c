"""Scrambled Sobol' points, as one law of all of them.

Matousek 1998, "On the L2-discrepancy for anchored boxes": random linear scrambles and a digital
shift.  Each point is uniform by itself, whatever the others are, and variances of means are those
of Owen's nested scrambles (Owen 2003, "Variance with alternative scramblings of digital nets").
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import BudgetError, located

_LIMIT = 100_000
MOST = 52  # binary digits of a number, of which no middle rounds to 1


class ScrambledNet(dist.TorchDistribution):  # type: ignore[misc]
    """``n`` points [n, d] in (0, 1)^d, in increasing order of their first coordinate, float64.

    Each coordinate is the middle of one of 2^digits cells of equal chance.  With few digits the law
    is finite, and the exact evaluator enumerates the scrambles.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.unit_interval, 2)
    has_enumerate_support = True

    def __init__(self, n: int, d: int, digits: int = MOST) -> None:
        self.n, self.d, self.digits = n, d, digits
        self.numbers = (n - 1).bit_length()  # of Sobol', which 2^numbers points have
        self.columns = min(self.numbers, digits)
        super().__init__(torch.Size(), torch.Size((n, d)), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """The shift and, below the diagonal, all of the scrambles are fair coins."""
        sizes = *sample_shape, self.d
        top = 1 << self.digits
        shift = torch.randint(top, sizes)
        coins = torch.randint(top, (*sizes, self.columns))
        return self._points(shift, coins)

    def _points(self, shift: Tensor, coins: Tensor) -> Tensor:
        """The points of whole numbers [..., d] and [..., d, columns] below 2^digits.

        Column c of a scramble has the digit 1 at place c, those of a coin below it, and 0 above.
        """
        heights = torch.tensor([1 << (self.digits - 1 - c) for c in range(self.columns)])
        scramble = heights + coins % heights if self.columns else coins
        points = shift[..., None, :]
        for digits in _directions(self.d, self.numbers, self.columns):
            direction = torch.tensor(digits)
            moved = torch.zeros_like(shift)
            for c in range(self.columns):
                moved = moved ^ (scramble[..., c] * direction[:, c])
            points = torch.cat([points, points ^ moved[..., None, :]], -2)
        points = points[..., : self.n, :]
        order = points[..., 0].argsort(dim=-1, stable=True)[..., None].expand(points.shape)
        return (points.gather(-2, order).double() + 0.5) / (1 << self.digits)

    def directions(self) -> Tensor:
        """The direction numbers [d, numbers], of which bit c is the digit c."""
        shape = self.numbers, self.d, self.columns
        digits = torch.tensor(_directions(self.d, self.numbers, self.columns)).reshape(shape)
        numbers = (digits.long() << torch.arange(self.columns)).sum(-1)
        return numbers.T.contiguous()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._table()[0]

    def log_prob(self, value: Tensor) -> Tensor:
        points, chances = self._table()
        same = (value[..., None, :, :] == points).flatten(-2).all(-1)
        return torch.log((same * chances).sum(-1))

    def _table(self) -> tuple[Tensor, Tensor]:
        return _enumerated(self.n, self.d, self.digits)


@cache
def _directions(d: int, numbers: int, columns: int) -> list[list[list[int]]]:
    """Of direction numbers of Sobol', the first digits [numbers, d, columns], highest first."""
    with _disable_current_modes():
        engine: Any = torch.quasirandom.SobolEngine(d)
        places = torch.arange(engine.MAXBIT - 1, engine.MAXBIT - 1 - columns, -1)
        digits = (engine.sobolstate[:, :numbers, None] >> places) & 1
        found: list[list[list[int]]] = digits.movedim(1, 0).tolist()
    return found


@cache
def _enumerated(n: int, d: int, digits: int) -> tuple[Tensor, Tensor]:
    """All sets of points, and their chances."""
    law = ScrambledNet(n, d, digits)
    free = [digits, *(digits - 1 - c for c in range(law.columns))] * d  # coins of each number
    if (count := 2 ** sum(free)) > _LIMIT:
        what = f"{n} scrambled points of {d} numbers, {digits} digits each, have {count} outcomes"
        raise BudgetError(located(what, hint="use fewer digits, or fewer points"))
    numbers = torch.tensor(list(itertools.product(*(range(2**k) for k in free))))
    numbers = numbers.reshape(count, d, 1 + law.columns)
    points = law._points(numbers[..., 0], numbers[..., 1:])
    found, times = torch.unique(points, dim=0, return_counts=True)
    return found, times.double() / math.prod(2**k for k in free)
