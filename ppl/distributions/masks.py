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
    return batch.reshape((*batch.shape, *(1,) * events))


def lies_in(inner: torch.Size, outer: torch.Size) -> bool:
    """Whether a shape broadcasts to another one and no further."""
    short = len(inner) <= len(outer)
    return short and all(a in (1, b) for a, b in zip(inner[::-1], outer[::-1], strict=False))


def is_of_batch(mask: Tensor, distribution: Any, value: Tensor) -> bool:
    """Whether a mask is no wider than a site with these data."""
    batch = value.shape[: value.ndim - len(distribution.event_shape)]
    return lies_in(mask.shape, torch.broadcast_shapes(batch, distribution.batch_shape))


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
