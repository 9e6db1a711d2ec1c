"""Sets of inputs at which functions are compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import located


@dataclass(frozen=True)
class Grid:
    """The same inputs each time: X [M, D]."""

    X: Tensor

    def __post_init__(self) -> None:
        if self.X.ndim != 2 or len(self.X) < 2:
            what = (
                f"inputs at which functions are compared are [M, D], M >= 2: {list(self.X.shape)}"
            )
            raise ValueError(located(what))

    def draw(self) -> Tensor:
        return self.X


@dataclass(frozen=True)
class MeasurementSet:
    """Some training inputs, and points that are uniform in a box about them, shuffled.

    Args:
        X: training inputs [n, D].
        low, high: ends of the box, numbers or [D].
        real_ratio: the part of the set that is of training inputs, different ones; fewer where
            there are not as many.
        size: M.

    Errors:
        ValueError: fewer than two points, an empty box, or a ratio outside [0, 1].
    """

    X: Tensor
    low: Tensor | float
    high: Tensor | float
    real_ratio: float = 0.7
    size: int = 100

    def __post_init__(self) -> None:
        if self.X.ndim != 2:
            raise ValueError(located(f"training inputs are [n, D], not {list(self.X.shape)}"))
        if self.size < 2:
            raise ValueError(located(f"functions are compared at two points or more: {self.size}"))
        if not bool((torch.as_tensor(self.low) < torch.as_tensor(self.high)).all()):
            raise ValueError(located(f"the box is empty: low {self.low}, high {self.high}"))
        if not 0 <= self.real_ratio <= 1:
            raise ValueError(located(f"real_ratio lies in [0, 1], not {self.real_ratio}"))

    def draw(self) -> Tensor:
        """A set [M, D]; its order is random."""
        real = min(len(self.X), round(self.real_ratio * self.size))
        like = self.X.new_zeros(())
        uniform = dist.Uniform(like, torch.ones_like(like), validate_args=False)
        chosen = self.X[draw(uniform, (len(self.X),)).argsort()[:real]]
        low, high = (torch.as_tensor(x).to(self.X) for x in (self.low, self.high))
        anywhere = low + (high - low) * draw(uniform, (self.size - real, self.X.shape[1]))
        points = torch.cat([chosen, anywhere])
        return points[draw(uniform, (self.size,)).argsort()]
