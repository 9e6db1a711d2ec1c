"""The supports of laws that have a density and points of mass beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions.constraints import Constraint


class WithPoints(Constraint):
    """The numbers from ``low`` to ``high``, of which some points have a mass.

    Such a law may be observed.  It has no coordinates: a density on the line knows no points.
    """

    def __init__(self, low: Any, high: Any, where: str) -> None:
        self.low, self.high, self._where = low, high, where

    def check(self, value: Tensor) -> Tensor:
        x = value.to(self.low.dtype)  # data of more digits than an end may lie on it
        inside: Tensor = (x >= self.low) & (x <= self.high)
        return inside

    def __repr__(self) -> str:
        return f"an interval with mass at {self._where}"
