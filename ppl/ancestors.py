"""Laws of ancestors, as distributions: what systematic and stratified resampling draw.

Both have finite support, so that the exact evaluator enumerates them like any other choice.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Systematic(dist.TorchDistribution):  # type: ignore[misc]
    """The law of systematic resampling: ancestors [n] as the event, from log weights [n]."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, log_weights: Tensor) -> None:
        self.log_weights = log_weights
        super().__init__(torch.Size(), log_weights.shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = torch.rand(
            (*sample_shape, 1), dtype=self.log_weights.dtype, device=self.log_weights.device
        )
        return self._ancestors(u)

    def _ancestors(self, u: Tensor) -> Tensor:
        n = len(self.log_weights)
        ends = torch.cumsum(torch.softmax(self.log_weights, 0), 0)
        points = (torch.arange(n, device=u.device) + u) / n
        ancestors: Tensor = torch.searchsorted(ends, points, right=True)
        return ancestors.clamp(max=n - 1)

    def _cells(self) -> tuple[Tensor, Tensor]:
        """The midpoints and lengths of the intervals of u on which the ancestors are constant."""
        n = len(self.log_weights)
        ends = torch.cumsum(torch.softmax(self.log_weights, 0), 0)
        breaks = torch.cat([ends.new_tensor([0.0, 1.0]), torch.frac(ends * n)]).sort().values
        lengths = breaks.diff()
        keep = lengths > 1e-15
        return ((breaks[1:] + breaks[:-1]) / 2)[keep], lengths[keep]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        middles, _ = self._cells()
        return torch.unique(self._ancestors(middles[:, None]), dim=0)

    def log_prob(self, value: Tensor) -> Tensor:
        middles, lengths = self._cells()
        rows = self._ancestors(middles[:, None])
        same = (value[..., None, :] == rows).all(-1)
        return torch.log((same * lengths).sum(-1))


class Strata(dist.TorchDistribution):  # type: ignore[misc]
    """The law of stratified resampling: n independent ancestors, one for each stratum of [0, 1]."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.nonnegative_integer
    has_enumerate_support = True

    def __init__(self, log_weights: Tensor) -> None:
        self.log_weights = log_weights
        super().__init__(log_weights.shape, torch.Size(), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        n, ends = len(self.log_weights), torch.cumsum(torch.softmax(self.log_weights, 0), 0)
        u = torch.rand((*sample_shape, n), dtype=ends.dtype, device=ends.device)
        points = (torch.arange(n, device=u.device) + u) / n
        return torch.searchsorted(ends, points, right=True).clamp(max=n - 1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = len(self.log_weights)
        values = torch.arange(n).reshape(n, 1)
        return values.expand(n, n) if expand else values

    def log_prob(self, value: Tensor) -> Tensor:
        """log n |[j/n, (j+1)/n] n cell i|, the chance that stratum j falls into ancestor i."""
        n, weights = len(self.log_weights), torch.softmax(self.log_weights, 0)
        ends = torch.cumsum(weights, 0)
        starts = ends - weights
        low = torch.arange(n, dtype=ends.dtype) / n
        overlap = torch.minimum(ends[value], low + 1 / n) - torch.maximum(starts[value], low)
        return torch.log(torch.where(overlap > 1e-15, overlap * n, torch.zeros_like(overlap)))
