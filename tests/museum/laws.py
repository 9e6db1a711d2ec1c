"""Laws that are written by hand: a support, a log density and a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward import dist

LogDensity = Callable[[Tensor], Tensor]
Sampler = Callable[[torch.Size], Tensor]


class ByHand(dist.TorchDistribution):
    """A law on numbers, or on vectors of a size, of one support."""

    arg_constraints: dict[str, Any] = {}
    support: Any = None

    def __init__(
        self, support: Any, density: LogDensity, sampler: Sampler, size: int | None = None
    ) -> None:
        event = torch.Size() if size is None else torch.Size([size])
        self.support = support if size is None else dist.constraints.independent(support, 1)
        self.density, self.sampler = density, sampler
        super().__init__(torch.Size(), event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.density(value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return self.sampler(sample_shape)
