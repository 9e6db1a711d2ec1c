"""Many independent draws of one distribution, as one distribution."""

from __future__ import annotations

from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor

from ..types.supports import support_of


class Repeated(dist.TorchDistribution):  # type: ignore[misc]
    """``shape`` independent draws of one distribution, without expanding its parameters."""

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any, shape: tuple[int, ...]) -> None:
        self.base, self.sizes = base, shape
        self.has_rsample = base.has_rsample
        batch = torch.Size(shape) + base.batch_shape
        super().__init__(batch, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return support_of(self.base)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return bool(self.base.has_enumerate_support)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.base.enumerate_support(expand=expand)
        split = values.shape[:1] + (1,) * len(self.sizes) + values.shape[1:]
        values = values.reshape(split)
        if expand:
            values = values.expand(split[:1] + self.batch_shape + self.event_shape)
        return cast(Tensor, values)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return cast(Tensor, self.base.sample(torch.Size(sample_shape) + torch.Size(self.sizes)))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return cast(Tensor, self.base.rsample(torch.Size(sample_shape) + torch.Size(self.sizes)))

    def log_prob(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.base.log_prob(value))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return dist.ExpandedDistribution(self, batch_shape)

    def expanded(self) -> Any:
        """The same law as one distribution of the base's own family."""
        return self.base.expand(self.batch_shape)
