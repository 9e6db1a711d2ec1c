"""Coordinates of intervals of which each element may have other infinite ends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform
from torch.nn.functional import logsigmoid


class PartlyBounded(Transform):
    """The line to intervals (low, high), element by element.

    A finite end alone is at the distance e^x; between two finite ones is low + (high - low) times
    the logistic function; without ends x stays as it is.
    """

    domain = constraints.real
    bijective = True

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.above, self.below = ~low.isinf(), ~high.isinf()
        self._from = torch.where(self.above, low, 0.0)
        self._to = torch.where(self.below, high, 0.0)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.interval(self.low, self.high)  # type: ignore[no-untyped-call,no-any-return]

    def _chosen(self, both: Tensor, above: Tensor, below: Tensor, free: Tensor) -> Tensor:
        one = torch.where(self.above, above, torch.where(self.below, below, free))
        return torch.where(self.above & self.below, both, one)

    def _call(self, x: Tensor) -> Tensor:
        both = self._from + (self._to - self._from) * x.sigmoid()
        away = x.exp()
        return self._chosen(both, self._from + away, self._to - away, x)

    def _inverse(self, y: Tensor) -> Tensor:
        up = torch.where(self.above, y - self._from, 1.0).log()
        down = torch.where(self.below, self._to - y, 1.0).log()
        return self._chosen(up - down, up, down, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        width = torch.where(self.above & self.below, self._to - self._from, 1.0)
        both = width.log() + logsigmoid(x) + logsigmoid(-x)
        return self._chosen(both, x, x, torch.zeros_like(x))
