"""Pathfinder along one path: of the normal approximations on it, the one of greatest bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl import draw
from ....ppl.interpretations.layout import Layout
from .ascent import ascent
from .inverse_hessian import inverse_hessians
from .normal import LowRankNormal, approximation
from .target import Target

HISTORY, STEPS, TOLERANCE, ELBO_DRAWS = 6, 1000, 1e-13, 25


class Found(NamedTuple):
    """What a path came to.

    normal: the best approximation; None if there is none, and ``failure`` says why.
    elbo: of the approximation after each step, [n]; -inf where there is none.
    best: which of these is the greatest, from 0.
    limited: the climb ran out of steps, and its end was the best.
    flat: coordinates in which the density was seen to be flat, or to rise evenly.
    """

    normal: LowRankNormal | None
    elbo: Tensor
    best: int = -1
    limited: bool = False
    failure: str = ""
    flat: tuple[int, ...] = ()

    def reason(self, layout: Layout) -> str:
        """Why there is no approximation, with the sites that are to blame; empty if there is."""
        sites = dict.fromkeys(f"'{layout.site_of(i)}'" for i in self.flat)
        return f"{self.failure} {', '.join(sites)}" if sites else self.failure


def pathfinder(
    target: Target,
    start: Tensor,
    *,
    history: int = HISTORY,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    elbo_draws: int = ELBO_DRAWS,
) -> Found:
    """Climb from ``start`` [d] and keep the approximation with the greatest bound.

    Args:
        history: pairs of steps and differences of gradients in an inverse Hessian, and of L-BFGS.
        steps: of L-BFGS, at most.
        tolerance: relative change of the log density over a step at which the climb ends.
        elbo_draws: of each approximation, for its bound.
    """
    path = ascent(target, target.rounded(start), history=history, steps=steps, tolerance=tolerance)
    none = path.positions.new_full((len(path.positions) - 1,), -math.inf)
    if len(none) == 0:
        still = not bool(path.gradients[0].any())
        slope = "its gradient is zero there" if still else "no step raises the density"
        return Found(None, none, failure=f"the climb ends at its start: {slope}")
    places = dict[int, LowRankNormal]()
    for i, h in enumerate(inverse_hessians(path, history)):
        if h is not None:
            law = approximation(path.positions[i + 1], path.gradients[i + 1], h)
            places |= {} if law is None else {i: law}
    if not places:
        return Found(None, none, failure="the log density is nowhere concave on the way")
    bounds, gradients = elbos([*places.values()], target, elbo_draws)
    elbo = none.index_copy(0, torch.tensor([*places], device="cpu"), bounds)
    if flat := _even(torch.cat([path.gradients, gradients])):
        return Found(None, elbo, failure="the density is flat, or rises evenly, along", flat=flat)
    best = int(elbo.argmax())
    if float(elbo[best]) == -math.inf:
        return Found(None, elbo, failure="each normal law has draws of no finite log density")
    return Found(places[best], elbo, best, path.limited and best == len(elbo) - 1)


def elbos(laws: Sequence[LowRankNormal], target: Target, draws: int) -> tuple[Tensor, Tensor]:
    """Estimates of E_q[log p - log q] for each law q, [n], and gradients of log p [n * draws, d].

    -inf where a draw has no finite log density.
    """
    standard = dist.Normal(torch.zeros_like(laws[0].mean), torch.ones_like(laws[0].mean))
    points = [target.rounded(q.points(draw(standard, (draws,), label="noise"))) for q in laws]
    log_q = torch.stack([q.log_density(u) for q, u in zip(laws, points, strict=True)])
    log_p, gradients = target(torch.cat(points))
    bounds = (log_p.reshape(log_q.shape) - log_q).mean(-1)
    return torch.where(bounds.isfinite(), bounds, -math.inf), gradients


def _even(gradients: Tensor) -> tuple[int, ...]:
    """The coordinates in which all gradients [n, d] are one number: no law has such a density."""
    return tuple(torch.nonzero((gradients == gradients[0]).all(0)).flatten().tolist())
