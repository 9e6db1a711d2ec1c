"""Masks of distributions: a law with one, and the law itself."""

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
