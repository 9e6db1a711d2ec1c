"""The zero of a sum of exponentials with positive weights that is nearest to the origin.

F(t) = sum_k exp(z_k + a_k t).  Where one term is greater than all others together there is no zero:
those are strips of Re t, one for each such term, and zeros lie in the gaps between them.  The zeros
within |t| < r are counted by the argument principle along the upper half of the circle: within a
strip the argument of F is that of its greatest term up to less than a right angle, and in a gap it
is followed from point to point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

TIED = 1e-9  # rates that differ by less, as a share of the greatest difference, count as one
DOMINANT = math.log(3)  # a term dominates if it is three times as great as the others together
DENSITY = 16  # points on an arc for each 1 / (difference of rates)
NEAR = 0.05  # how far from a circle its nearest zero is when Newton's method takes over, likewise
GREATEST_SHARE = 0.5  # of the sum of sizes that |F| has where Newton's method starts, at most


class Gap(NamedTuple):
    """A range [low, high] of Re t between the strips of two terms of rates ``left`` < ``right``;
    the weights and rates of terms that count there, their mean rate and greatest difference."""

    low: float
    high: float
    left: int
    right: int
    z: Tensor
    a: Tensor
    centre: float
    spread: float


def merged(z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The sum with terms of one rate added up, by rising rates."""
    a, order = a.sort()
    z = z[order]
    apart = a.diff() > TIED * (a[-1] - a[0])
    group = torch.cat([apart.new_zeros(1), apart]).long().cumsum(0)
    weights = [torch.logsumexp(z[group == i], 0) for i in range(int(group[-1]) + 1)]
    rates = [a[group == i].mean() for i in range(int(group[-1]) + 1)]
    return torch.stack(weights), torch.stack(rates)


def _others(z: Tensor, a: Tensor, x: Tensor) -> Tensor:
    """log sum_{k != j} exp(z_k - z_j + (a_k - a_j) x_j) [k], convex in x_j."""
    terms = (z - z[:, None]) + (a - a[:, None]) * x[:, None]
    return torch.logsumexp(terms.fill_diagonal_(-math.inf), 1)


def _halved(low: Tensor, high: Tensor, is_high: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a predicate that rises with x becomes true."""
    for _ in range(200):
        middle = low + (high - low) / 2
        there = is_high(middle)
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    return high


def gaps(z: Tensor, a: Tensor) -> list[Gap]:
    """The gaps, by rising Re t, of a sum whose rates rise."""

    def slope_is_positive(x: Tensor) -> Tensor:
        terms = ((z - z[:, None]) + (a - a[:, None]) * x[:, None]).fill_diagonal_(-math.inf)
        return (terms.softmax(1) * a).sum(1) > a

    far = torch.full_like(a, float((z.max() - z.min() + 10 + math.log(len(z))) / a.diff().min()))
    best = _halved(-far, far, slope_is_positive)
    dominant = _others(z, a, best) < -DOMINANT
    lower = _halved(-far, best, lambda x: _others(z, a, x) < -DOMINANT)
    upper = _halved(best, far, lambda x: _others(z, a, x) >= -DOMINANT)
    strips = dominant.nonzero()[:, 0].tolist()
    found = []
    for left, right in pairwise(strips):
        low, high = float(upper[left]), float(lower[right])
        x = torch.linspace(low, high, 65, dtype=z.dtype)[:, None]
        counts = ((z + a * x).log_softmax(1) > -40).any(0)
        counts[[left, right]] = True
        weights, rates = z[counts], a[counts]
        before = int(counts[:left].sum()), int(counts[:right].sum())
        spread = float(rates[-1] - rates[0])
        found.append(Gap(low, high, *before, weights, rates, float(rates.mean()), spread))
    return found


def _values(gap: Gap, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F, F' and the sum of the sizes of terms over the greatest, at the mean rate less."""
    rates = gap.a - gap.centre
    exponents = gap.z + rates * t[:, None]
    terms = torch.exp(exponents - exponents.real.amax(1, keepdim=True))
    return terms.sum(1), (rates * terms).sum(1), terms.abs().sum(1)


def _arc(gap: Gap, radius: float) -> Tensor | None:
    """Points of the upper half of a circle within a gap, from the right to the left."""
    low, high = max(gap.low, -radius), min(gap.high, radius)
    if low >= high:
        return None
    ends = math.acos(high / radius), math.acos(low / radius)
    number = 3 + math.ceil(DENSITY * gap.spread * radius * (ends[1] - ends[0]))
    angle = torch.linspace(*ends, number, dtype=torch.float64)
    return torch.polar(torch.full_like(angle, radius), angle)


def count(gap: Gap, radius: float) -> int:
    """How many zeros of a gap lie in the upper half of the circle."""
    arc = _arc(gap, radius)
    if arc is None:
        return 0
    value = _values(gap, arc)[0]
    followed = float((value[1:] * value[:-1].conj()).angle().sum())
    begins = _argument(gap, arc[0], gap.right) if gap.high < radius else 0.0
    ends = _argument(gap, arc[-1], gap.left) if gap.low > -radius else 0.0
    return round((followed - (ends - begins)) / (2 * math.pi))  # on the real axis F is positive


def _argument(gap: Gap, t: Tensor, j: int) -> float:
    """That of F where term j dominates, continued from the real axis."""
    others = torch.exp(gap.z - gap.z[j] + (gap.a - gap.a[j]) * t).sum()
    return float((gap.a[j] - gap.centre) * t.imag + others.angle())


def nearest_radius(z: Tensor, a: Tensor) -> Tensor:
    """The distance of the nearest zero, for weights z [k] and rates a [k] that differ somewhere."""
    t = _nearest(z.detach(), a.detach())
    exponents = z - z.max() + (a - a.mean()) * t
    terms = torch.exp(exponents - exponents.real.detach().max())
    return (t - terms.sum() / ((a - a.mean()) * terms).sum()).abs()


@torch.no_grad()
def _nearest(z: Tensor, a: Tensor) -> Tensor:
    """The nearest zero, in the upper half plane."""
    z, a = merged(z.cpu().double(), a.cpu().double())
    z, a = z - z.max(), a - a.mean()
    spread = float(a[-1] - a[0])
    parts = gaps(z, a)
    away = min(max(gap.low, -gap.high, 0.0) for gap in parts)
    low = high = math.hypot(away, math.pi / spread)
    while not any(count(gap, high) for gap in parts):
        low, high = high, 1.25 * high
    while high - low > NEAR / spread:
        middle = (low + high) / 2
        low, high = (low, middle) if any(count(gap, middle) for gap in parts) else (middle, high)
    found = torch.cat([_polished(gap, (low + high) / 2, low - NEAR / spread) for gap in parts])
    return found[found.abs().argmin()]


def _polished(gap: Gap, radius: float, least: float) -> Tensor:
    """Zeros that Newton's method finds from the points of an arc where F is small."""
    arc = _arc(gap, radius)
    if arc is None:
        return torch.zeros(0, dtype=torch.complex128)
    value, _, size = _values(gap, arc)
    t = arc[value.abs() < GREATEST_SHARE * size]
    longest = 0.2 / gap.spread
    for _ in range(60):
        value, slope, _ = _values(gap, t)
        step = value / torch.where(slope.abs() < 1e-300, torch.ones_like(slope), slope)
        t = t - step * (longest / step.abs().clamp(min=longest))
    value, _, size = _values(gap, t)
    exact = 1e-10 + 1e-14 * float(gap.z.abs().max() + gap.spread * radius)
    return t[(value.abs() < exact * size) & (t.imag > 0) & (t.abs() >= least)]
