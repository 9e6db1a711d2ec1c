"""Random subsets of indices: what a subsampled plate draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Subsets(dist.TorchDistribution):  # type: ignore[misc]
    """``size`` choose ``k`` indices in random order, independently for each batch element."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, size: int, k: int, batch_shape: Sequence[int]) -> None:
        self.size, self.k = size, k
        super().__init__(torch.Size(batch_shape), torch.Size((k,)), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return torch.rand((*shape, self.size)).argsort(-1)[..., : self.k]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.tensor(list(itertools.permutations(range(self.size), self.k)))
        shape = (1,) * len(self.batch_shape) if not expand else tuple(self.batch_shape)
        ones = values.reshape(-1, *(1,) * len(shape), self.k)
        return ones.expand(-1, *shape, self.k)

    def log_prob(self, value: Tensor) -> Tensor:
        count = math.perm(self.size, self.k)
        return torch.full(value.shape[:-1], -math.log(count), dtype=torch.float64)
