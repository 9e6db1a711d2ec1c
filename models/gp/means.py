"""Mean functions of Gaussian processes: any function of points [n, D] to [..., n] is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...ppl.errors import DataError, located
from .kernel import Number, parameter


def zero(x: Tensor) -> Tensor:
    """Zero at all points [n, D]: [n]."""
    return x.new_zeros(x.shape[-2])


@dataclass(frozen=True, eq=False)
class ConstantMean:
    """One value [...] everywhere."""

    value: Number = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """[..., n] at points [n, D]."""
        value = parameter(self.value, x)[..., None]
        return value.expand(*value.shape[:-1], x.shape[-2])


@dataclass(frozen=True, eq=False)
class LinearMean:
    """intercept + x slope.

    Args:
        slope: a number for all coordinates, or [..., D].
        intercept: [...].

    Errors:
        DataError: there are other numbers of slopes and of coordinates.
    """

    slope: Number
    intercept: Number = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """[..., n] at points [n, D]."""
        slope = torch.atleast_1d(parameter(self.slope, x))  # type: ignore[no-untyped-call]
        if slope.shape[-1] not in (1, x.shape[-1]):
            what = f"slopes are {list(slope.shape)} for points of {x.shape[-1]} coordinates"
            raise DataError(located(what, hint="the last axis is of coordinates"))
        intercept = parameter(self.intercept, x)[..., None]
        values: Tensor = intercept + (x * slope[..., None, :]).sum(-1)
        return values
