"""Laws of ancestors, as distributions: what the resampling schemes draw.

All have finite support, so that the exact evaluator enumerates them like any other choice.  Weights
are given by their logs, up to a constant; at least one is positive, and no particle of weight zero
is ever an ancestor.  Sampling takes linear time: where the points are sorted, the number of points
in each cell of the cumulated weights follows without a search.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..errors import BudgetError, located
from ..tensors.hidden import is_hidden

_LIMIT = 1_000_000


def _ends(log_weights: Tensor) -> Tensor:
    """The right ends of the cells of the cumulated weights; the last positive cell ends in 1."""
    ends = torch.cumsum(torch.exp(log_weights - log_weights.amax(-1, keepdim=True)), -1)
    return ends / ends[..., -1:]


def _uniform(shape: Any, like: Tensor) -> Tensor:
    """Uniform on (0, 1]: a point at zero would fall into an empty first cell."""
    return 1 - torch.rand(shape, dtype=like.dtype, device=like.device)


def _one_in_each_stratum(ends: Tensor, u: Tensor) -> Tensor:
    """The cells of the points (j + u_j) / n, for u [..., n] or [..., 1] in (0, 1].

    Cell i ends after k = floor(n ends_i) whole strata, and after point k if that lies before it;
    point j then falls into the cell whose number is that of the cells that end before it.
    """
    n = ends.shape[-1]
    scaled = ends * n
    whole = scaled.floor().clamp(max=n - 1)
    index = whole.long()
    at = u if u.shape[-1] == 1 else u.gather(-1, index.expand(u.shape))
    points = index + (at <= scaled - whole)
    none = points.new_zeros((*points.shape[:-1], n + 1))
    before = none.scatter_add(-1, points, torch.ones_like(points))
    return before[..., :-1].cumsum(-1)


class MultinomialAncestors(dist.TorchDistribution):  # type: ignore[misc]
    """The law of multinomial resampling: n independent ancestors, listed in increasing order."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, log_weights: Tensor) -> None:
        self.log_weights = log_weights
        super().__init__(torch.Size(), log_weights.shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Sorted uniforms are the normalised partial sums of n + 1 exponentials."""
        ends = _ends(self.log_weights)
        u = _uniform((*sample_shape, *self.batch_shape, ends.shape[-1] + 1), ends)
        sums = (-torch.log(u)).clamp_(min=torch.finfo(u.dtype).eps).cumsum(-1)
        points = sums[..., :-1] / sums[..., -1:]
        return torch.searchsorted(ends.expand(points.shape).contiguous(), points)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = len(self.log_weights)
        hidden = is_hidden(self.log_weights)  # then all are listed, of probability zero if dead
        alive = [i for i in range(n) if hidden or self.log_weights[i] > -math.inf]
        if (count := math.comb(len(alive) + n - 1, n)) > _LIMIT:
            raise BudgetError(
                located(
                    f"multinomial resampling of {n} particles has {count} outcomes",
                    hint="use fewer particles, or systematic resampling",
                )
            )
        return torch.tensor(list(itertools.combinations_with_replacement(alive, n)))

    def log_prob(self, value: Tensor) -> Tensor:
        n = len(self.log_weights)
        log_weights = torch.log_softmax(self.log_weights, 0)
        counts = torch.nn.functional.one_hot(value, n).sum(-2)
        orders = math.lgamma(n + 1) - torch.lgamma(counts.to(log_weights.dtype) + 1).sum(-1)
        log_prob = orders + log_weights[value].sum(-1)
        increasing = (value.diff(dim=-1) >= 0).all(-1)
        return torch.where(increasing, log_prob, -math.inf)


class Systematic(dist.TorchDistribution):  # type: ignore[misc]
    """The law of systematic resampling: ancestors [n] as the event, from log weights [n]."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)
    has_enumerate_support = True

    def __init__(self, log_weights: Tensor) -> None:
        self.log_weights = log_weights
        super().__init__(torch.Size(), log_weights.shape, validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        ends = _ends(self.log_weights)
        return _one_in_each_stratum(ends, _uniform((*sample_shape, *self.batch_shape, 1), ends))

    def pieces(self) -> tuple[Tensor, Tensor]:
        """The ancestors [n + 1, n] on each interval of u on which they are constant, and the log
        of its length; some lengths are zero."""
        ends = _ends(self.log_weights)
        breaks = torch.cat([ends.new_tensor([0.0, 1.0]), torch.frac(ends * len(ends))])
        breaks = breaks.sort().values
        lengths = breaks.diff()
        middles = (breaks[1:] + breaks[:-1]) / 2
        logs = torch.where(lengths > 1e-15, lengths, 0.0).log()
        return _one_in_each_stratum(ends, middles[:, None]), logs

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The pieces that have a length."""
        rows, logs = self.pieces()
        keep = logs > -math.inf
        return rows[keep], logs[keep].exp()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        rows: Tensor = torch.unique(self._rows()[0], dim=0)
        return rows

    def log_prob(self, value: Tensor) -> Tensor:
        rows, lengths = self._rows()
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
        ends = _ends(self.log_weights)
        return _one_in_each_stratum(ends, _uniform((*sample_shape, *self.batch_shape), ends))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n = len(self.log_weights)
        values = torch.arange(n).reshape(n, 1)
        return values.expand(n, n) if expand else values

    def log_prob(self, value: Tensor) -> Tensor:
        """log n |[j/n, (j+1)/n] n cell i|, the chance that stratum j falls into ancestor i."""
        n, ends = len(self.log_weights), _ends(self.log_weights)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        low = torch.arange(n, dtype=ends.dtype, device=ends.device) / n
        overlap = torch.minimum(ends[value], low + 1 / n) - torch.maximum(starts[value], low)
        return torch.log(torch.where(overlap > 1e-15, overlap * n, torch.zeros_like(overlap)))
