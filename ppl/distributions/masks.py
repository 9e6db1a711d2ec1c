"""Masks of distributions: a law with one, and the law itself; points that stand for no data."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import torch

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


def is_image(distribution: Any, value: Any) -> bool:
    """Whether an observed value is the very point of its law: what it is made of was sampled.

    Pyro's reparameterisations leave such sites.  They may be scored, and are no data.
    """
    point = core(distribution)
    own = isinstance(point, dist.Delta) and point.v is value
    return own or is_unscored_point(distribution)
