"""Points inside the support of a law, and in the place of data that do not count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..errors import UnsupportedDistributionError
from ..tensors.abstract_tensor import concrete, dependence
from ..tensors.hidden import is_hidden
from ..types import space_of
from ..types.bijections import bijection
from ..types.points_of_mass import WithPoints
from ..types.supports import interval_of
from .data import value_dtype
from .masks import is_image, is_of_batch, over_events


def inner_point(distribution: Any) -> Tensor:
    """A value [*batch, *event] inside the support, without sampling."""
    shape = distribution.batch_shape + distribution.event_shape
    dtype = value_dtype(distribution)
    support = space_of(distribution).constraint
    listed = getattr(distribution, "has_enumerate_support", False)
    if listed and not hasattr(support, "lower_bound"):
        first: Tensor = concrete(distribution.enumerate_support(expand=False))[0]
        return first.expand(shape)
    if not isinstance(support, type(constraints.dependent)) and support.is_discrete:
        low = concrete(getattr(support, "lower_bound", 0))
        return torch.as_tensor(low, dtype=dtype).expand(shape)
    if isinstance(support, WithPoints):
        return _between(concrete(support.low), concrete(support.high)).expand(shape)
    return _at_zero(bijection(support), shape, dtype)


def _at_zero(transform: Any, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The point of a support whose unconstrained coordinates are zero."""
    free = torch.zeros(transform.inverse_shape(shape), dtype=dtype)
    value: Tensor = concrete(transform(free))
    return value.expand(shape)


def filled(value: Any, mask: Any, distribution: Any) -> Any:
    """Data with points of their law in place of the events with NaN that a mask of the batch drops.

    So what is masked has no part in a gradient either, where zero times NaN is NaN.  Where Python
    cannot look at the data, in graphs and lanes, every event may be such.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or mask is True:
        return value
    if is_image(distribution, value) or dependence(value):
        return value  # computed from choices
    if not is_hidden(value) and not bool(value.isnan().any()):
        return value
    events = len(distribution.event_shape)
    seen = torch.as_tensor(mask, device=value.device)
    if not is_of_batch(seen, distribution, value):
        seen = torch.tensor(False, device=value.device)  # refused where the site is scored
    nan = value.isnan().flatten(-events).any(-1) if events else value.isnan()
    dropped = over_events(nan & ~seen, events, value)
    return torch.where(dropped, point_or_half(distribution).to(value), value)


def point_or_half(distribution: Any) -> Tensor:
    """A point of a law, also where choices move its support; 1/2 where that is not known."""
    shape = distribution.batch_shape + distribution.event_shape
    try:
        return inner_point(distribution).detach()
    except UnsupportedDistributionError:
        support = space_of(distribution).constraint
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        ends = interval_of(support)
        return torch.full(shape, 0.5) if ends is None else _between(*map(torch.as_tensor, ends))


def _between(low: Tensor, high: Tensor) -> Tensor:
    """A point of each interval, of which one end may be infinite."""
    middle = torch.where(low.isinf(), high - 1, (low + high) / 2)
    return torch.where(high.isinf(), low + 1, middle).detach()
