"""Masks of distributions: a law with one, and the law itself; points that stand for no data."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..tensors.hidden import is_known

LAW = torch.distributions.Distribution


def unmasked(distribution: Any) -> Any:
    """The law itself, of the same batch shape, without masks of it and of what it is made of."""
    if isinstance(distribution, dist.MaskedDistribution):
        return unmasked(distribution.base_dist)
    base = vars(distribution).get("base_dist")
    if not isinstance(base, LAW) or (bare := unmasked(base)) is base:
        return distribution
    new = copy.copy(distribution)
    new.base_dist = bare
    return new


def counted(distribution: Any, marked: Tensor) -> Tensor:
    """Which marked entries of data count, those that a mask in the law or the law itself drops not.

    ``marked`` has the shape of the data, or one that broadcasts with it.
    """
    if isinstance(distribution, _NAN_IS_NONE):
        return torch.zeros_like(marked)
    if isinstance(distribution, dist.MaskedDistribution):
        events = len(distribution.event_shape)
        marked = counted(distribution.base_dist, marked)
        return marked & over_events(distribution._mask, events, marked)
    if isinstance(distribution, _AROUND):
        return counted(distribution.base_dist, marked)
    return marked


_NAN_IS_NONE = (dist.NanMaskedNormal, dist.NanMaskedMultivariateNormal)


def over_events(mask: Any, events: int, like: Tensor) -> Tensor:
    """A mask of a batch as one of all entries of its events."""
    batch: Tensor = torch.as_tensor(mask, device=like.device)
    return batch.reshape(*batch.shape, *(1,) * events)


def filled(value: Any, mask: Any, events: int) -> Any:
    """Data with numbers in place of the NaN that a mask of the batch drops.

    So what is masked has no part in a gradient either, where zero times NaN is NaN.  The numbers
    are other data, which lie in the support.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point() or not is_known(value):
        return value
    if not bool((nan := value.isnan()).any()):
        return value
    spoilt = nan.flatten(-events).any(-1) if events else nan
    whole = value[~spoilt]
    number = whole[0] if len(whole) else value.new_full(value.shape[value.ndim - events :], 0.5)
    dropped = over_events(spoilt & ~torch.as_tensor(mask, device=value.device), events, value)
    return torch.where(dropped, number, value)


def core(distribution: Any) -> Any:
    """The law inside masks, expansions and independent dimensions."""
    while isinstance(distribution, _AROUND):
        distribution = distribution.base_dist
    return distribution


_AROUND = (torch.distributions.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


def is_unscored_point(distribution: Any) -> bool:
    """Whether a law is a point that never counts, as reparameterised sites leave."""
    masked = isinstance(distribution, dist.MaskedDistribution) and distribution._mask is False
    return masked and isinstance(core(distribution), dist.Delta)


def weighs(distribution: Any) -> bool:
    """Whether a law is a point with a log density of its own, which is then no probability."""
    point = core(distribution)
    if not isinstance(point, dist.Delta):
        return False
    log_density = point.log_density
    return not is_known(log_density) or bool((log_density != 0).any())


def is_image(distribution: Any, value: Any) -> bool:
    """Whether an observed value is the very point of its law: what it is made of was sampled.

    Pyro's reparameterisations leave such sites.  They may be scored, and are no data.
    """
    point = core(distribution)
    own = isinstance(point, dist.Delta) and point.v is value
    return own or is_unscored_point(distribution)
