"""How far the draws of a guide can be trusted: their importance weights, and the tail of these."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..results.pareto import doubts, smoothed

ROUNDINGS = 16  # errors of the largest term, which the sum of a log density is taken to hold
HINT = "try a richer guide, or MCMC"


class Trust(NamedTuple):
    """``log_weights`` [n] are log p - log q, ``k_hat`` the shape of their tail.

    ``notes``: what a reader of the draws should know; none if they can be trusted.
    """

    log_weights: Tensor
    k_hat: float
    log_evidence: float
    error: float
    notes: list[str]


def judged(log_p: Tensor, log_q: Tensor, *, proposed: str, epsilon: float) -> Trust:
    """The weights p / q of n draws of q, by their log densities [n].

    A guide that is the posterior has weights that differ by rounding only, and a k-hat of zero.
    Where a log density is NaN or infinite, the draw counts for nothing.

    Args:
        proposed: what the draws are of.
        epsilon: the rounding of the densities, relative to their terms.

    Source: Vehtari et al. (arXiv 1507.02646); Yao et al. (arXiv 1802.02538).
    """
    log_weights = (log_p - log_q).detach()
    usable = log_weights < math.inf  # neither NaN nor infinite; it may be minus infinity
    log_weights = torch.where(usable, log_weights, -math.inf)
    rounding = rounding_of(log_p[usable], log_q[usable], epsilon=epsilon)
    found = smoothed(log_weights, rounding)
    notes = doubts(found, proposed, HINT)
    if lost := int((~usable).sum()):
        what = f"at {lost} of {len(usable)} draws the log density was NaN or infinite"
        notes = [f"{what}, and they count for nothing", *notes]
    return Trust(log_weights, found.k_hat, found.log_mean, found.error, notes)


def rounding_of(*log_densities: Tensor, epsilon: float) -> float:
    """By how much the logs of weights may differ, that are made of these, for rounding alone."""
    sizes = [float(x[x.isfinite()].abs().amax()) for x in log_densities if x.isfinite().any()]
    return ROUNDINGS * epsilon * max(sizes, default=0.0)
