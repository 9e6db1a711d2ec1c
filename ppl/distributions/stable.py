"""The density of stable laws, by Nolan's integral at the peak of its integrand.

Pyro 1.9.2 takes the same integral by a fixed rule, and interpolates where that fails: its log
density is off by whole units at stabilities about 1 and below, near the centre and in the lighter
tail, and by hundreds far out at stability 2.

Source: Nolan, Communications in Statistics, Stochastic Models 13 (1997), theorem 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

NEAR_ONE = 1e-4  # of the stability: within, the log density is interpolated
NEAR_CENTRE = 1e-4  # of the value: within, the density is interpolated
REACH, STEP = 4.5, 1 / 64  # of the double exponential rule
LARGEST = 300.0  # log of g, beyond which exp(-g) is nothing


def stable_log_density(distribution: Any, value: Tensor) -> Tensor:
    """The log density of a stable law, in Pyro's coordinates S0 or S; good to 1e-5, mostly to 1e-8.

    It is computed in float64, whatever the precision of the parameters.
    """
    dtype = torch.promote_types(value.dtype, distribution.stability.dtype)
    parameters = distribution.stability, distribution.skew, distribution.loc, distribution.scale
    x, *rest = torch.broadcast_tensors(value.double(), *(p.double() for p in parameters))
    alpha, beta, loc, scale = rest
    z = (x - loc) / scale
    near = (alpha - 1).abs() < NEAR_ONE
    ends = torch.stack([torch.where(near, 1 + side * NEAR_ONE, alpha) for side in (-1, 1)])
    shift = beta * torch.tan(math.pi / 2 * ends)
    if distribution.coords == "S":
        z = z - torch.where(alpha == 1, 0.0, beta * torch.tan(math.pi / 2 * alpha))
    below, above = _about_centre(ends, beta.expand_as(ends), z + shift)
    share = ((alpha - 1) / NEAR_ONE + 1) / 2
    log_density = torch.where(near, below + (above - below) * share, below)
    found: Tensor = (log_density - scale.log()).to(dtype)
    return found


def _about_centre(alpha: Tensor, beta: Tensor, z: Tensor) -> Tensor:
    """The log density at z in coordinates S, also where z is nearly 0, and alpha is not 1."""
    near = z.abs() < NEAR_CENTRE
    sides = torch.stack([torch.where(near, side * NEAR_CENTRE, z) for side in (-1, 1)])
    back, there = _away(alpha.expand_as(sides), beta.expand_as(sides), sides)
    share = torch.where(near, (z / NEAR_CENTRE + 1) / 2, 0.5)
    mixed = torch.logaddexp(there + share.log(), back + torch.log1p(-share))
    return torch.where(near, mixed, there)


def _away(alpha: Tensor, beta: Tensor, z: Tensor) -> Tensor:
    """The log density at z in coordinates S, away from 0, where alpha is not 1.

    It is that of alpha / (pi |alpha - 1| z) times the integral of g exp(-g) over angles w from 0 to
    L, with v = L - w, where g is monotone.  The parts on both sides of g = 1 are integrated apart.
    """
    beta, z = torch.where(z < 0, -beta, beta), z.abs()
    bend = torch.atan(beta * torch.tan(math.pi / 2 * alpha))
    length = math.pi / 2 + bend / alpha
    outside, length = length <= 1e-12, length.clamp(min=1e-12)
    g = _Integrand(alpha, bend, z)
    with torch.no_grad():
        middle = _bisected(g, length, alpha > 1)
    w, v = length * middle.sigmoid(), length * (-middle).sigmoid()
    t = torch.arange(-REACH, REACH, STEP, dtype=z.dtype, device=z.device)
    near, far = (math.pi * t.sinh()).sigmoid(), (-math.pi * t.sinh()).sigmoid()
    weights = (math.pi * t.cosh() * STEP).log() + near.log() + far.log()
    w, v, g = w[..., None], v[..., None], g.wide()
    parts = [(g.log(w * near, v + w * far), w), (g.log(w + v * far, v * near), v)]
    terms = [log_g - log_g.exp() + weights + width.log() for log_g, width in parts]
    total = torch.logsumexp(torch.cat(terms, -1), -1)
    log_density = (alpha / (math.pi * (alpha - 1).abs() * z)).log() + total
    return torch.where(outside, -math.inf, log_density)


class _Integrand:
    """g by two angles, w and v = L - w, each of which may be tiny."""

    def __init__(self, alpha: Tensor, bend: Tensor, z: Tensor) -> None:
        self.alpha = alpha
        self.power = 1 / (alpha - 1)
        self.first = self.power * (alpha * z.log() + bend.cos().log())
        self.short = (math.pi * (1 - alpha / 2) - bend).clamp(min=0.0)  # pi - alpha L
        self.rest = (math.pi / 2 - bend / alpha).clamp(min=0.0)  # pi - L

    def wide(self) -> _Integrand:
        """The same with an axis for nodes."""
        new = object.__new__(_Integrand)
        vars(new).update({name: x[..., None] for name, x in vars(self).items()})
        return new

    def log(self, w: Tensor, v: Tensor) -> Tensor:
        """log g, no larger than what exp(-g) can tell from it."""
        turned = self.alpha * w
        sine = _sine(turned, self.short + self.alpha * v)
        left = torch.where(
            self.alpha > 1,
            self.short + (self.alpha - 1) * v,
            self.rest + (1 - self.alpha) * w,
        )
        ratio = _sine(v, self.rest + w).log() - self.alpha * sine.log()
        found = self.first + self.power * ratio + _sine(turned + v, left).log()
        return found.clamp(max=LARGEST)


def _sine(angle: Tensor, left: Tensor) -> Tensor:
    """sin(angle), by pi - angle beyond the right angle."""
    return torch.where(angle < math.pi / 2, angle, left).sin()


def _bisected(g: _Integrand, length: Tensor, falls: Tensor) -> Tensor:
    """The logit of w / L where g = 1, or an end if it is nowhere; g falls with w, or rises."""
    low, high = torch.full_like(length, -300.0), torch.full_like(length, 300.0)
    for _ in range(28):
        middle = (low + high) / 2
        above = g.log(length * middle.sigmoid(), length * (-middle).sigmoid()) > 0
        low = torch.where(above == falls, middle, low)
        high = torch.where(above == falls, high, middle)
    return (low + high) / 2
