"""The normal law of vectors that sum to zero."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located
from ...types.zero_sum import zero_sum
from .parameters import together


class ZeroSumNormal(dist.TorchDistribution):  # type: ignore[misc]
    """x - mean(x), for x of n independent Normal(0, scale).

    Effects of n groups beside an intercept: its density is that on the plane of sum zero.

    Args:
        scale: [*batch] or a number, positive; each entry has variance scale^2 (1 - 1 / n).
        size: n, at least 2.

    Errors:
        ProgramError: there are fewer than two entries.
    """

    arg_constraints = {"scale": constraints.positive}
    support = zero_sum
    has_rsample = True

    def __init__(self, scale: Tensor | float, size: int, validate_args: bool | None = None) -> None:
        if size < 2:
            raise ProgramError(located(f"a vector of sum zero has at least 2 entries, not {size}"))
        (self.scale,) = together(scale)
        super().__init__(self.scale.shape, torch.Size([size]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroSumNormal:
        scale = self.scale.expand(torch.Size(batch_shape))
        return ZeroSumNormal(scale, self.event_shape[0], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        free = self.event_shape[0] - 1
        square = (value / self.scale[..., None]).square().sum(-1)
        found: Tensor = -square / 2 - free * (self.scale.log() + math.log(2 * math.pi) / 2)
        return found

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        x = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        found: Tensor = self.scale[..., None] * (x - x.mean(-1, keepdim=True))
        return found

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.variance)

    @property
    def variance(self) -> Tensor:
        n = self.event_shape[0]
        return (self.scale.square() * (1 - 1 / n))[..., None].expand(*self.batch_shape, n)
