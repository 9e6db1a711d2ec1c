"""Weights of a distillation by f-divergences, by the ratio of teacher to student, and their means.

Source: Xu, Nie, Vahdat, One-step Diffusion Models with f-Divergence Distribution Matching
(arXiv 2502.15681); the two-stage normalisation is that of its public code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...inference.vi.divergences import (
    HELLINGER,
    JEFFREYS,
    JENSEN_SHANNON,
    KL,
    NEYMAN,
    PEARSON,
    REVERSE_KL,
    SOFTENED,
    Divergence,
)

# by the source's names, of D(p, q), p the teacher: "rkl" is KL(q, p)
DIVERGENCES: dict[str, Divergence] = {
    "rkl": REVERSE_KL,
    "sf": SOFTENED,
    "js": JENSEN_SHANNON,
    "sh": HELLINGER.scaled(0.5),
    "kl": KL,
    "jf": JEFFREYS,
    "neyman": NEYMAN,
    "pearson": PEARSON,
}
LITTLE = 1e-6


def divergence_of(f_div: str | Divergence) -> Divergence:
    """A divergence D(p, q), by the source's name.

    Errors:
        ValueError: there is none of that name, or it has a negative weight: f is not convex.
    """
    if isinstance(f_div, str) and f_div not in DIVERGENCES:
        raise ValueError(f"the divergence is one of {sorted(DIVERGENCES)}, not {f_div!r}")
    found = DIVERGENCES[f_div] if isinstance(f_div, str) else f_div
    if bool((found.weight(torch.linspace(-5, 5, 101)) < 0).any()):
        raise ValueError(f"{found!r} has a negative weight: f is not convex")
    return found


def weight(f_div: str | Divergence, ratio: Tensor) -> Tensor:
    """h(r) = f''(r) r^2 [n] of ratios r = p / q.

    Errors:
        ValueError: a ratio is not positive.
    """
    if not bool((ratio > 0).all()):
        raise ValueError("ratios of densities are positive numbers")
    return divergence_of(f_div).weight(ratio.log())


class RatioNormalizer(nn.Module):
    """Ratios clipped, and divided by their mean at like levels of noise: there E_q r = 1.

    Args:
        bins: equal ones of the level, in [0, 1].
        ema: how much of the last mean of a bin stays.
        lo, hi: where ratios are clipped.

    Errors:
        ValueError: a setting is out of range.
    """

    means: Tensor

    def __init__(self, bins: int = 10, ema: float = 0.0, lo: float = 0.1, hi: float = 20.0) -> None:
        super().__init__()
        if bins < 1 or not 0 <= lo < hi or not 0 <= ema < 1:
            raise ValueError(f"bins, 0 <= lo < hi, and ema in [0, 1): {bins}, {lo}, {hi}, {ema}")
        self.bins, self.ema, self.lo, self.hi = bins, ema, lo, hi
        self.register_buffer("means", torch.ones(bins))

    @torch.no_grad()
    def forward(self, ratio: Tensor, level: Tensor) -> Tensor:
        """Ratios [n] at levels [n] in [0, 1]; bins without one keep their mean.

        Errors:
            FloatingPointError: a ratio is not a number, or not positive.
        """
        if not bool((ratio > 0).all()):
            raise FloatingPointError("a ratio of densities is not a positive number")
        ratio = ratio.clamp(self.lo, self.hi)
        place = (level * self.bins).long().clamp(0, self.bins - 1)
        wide = ratio.to(torch.promote_types(ratio.dtype, self.means.dtype))
        zeros = torch.zeros(self.bins, dtype=wide.dtype, device=wide.device)
        count = zeros.index_add(0, place, torch.ones_like(wide))
        now = zeros.index_add(0, place, wide) / count.clamp(min=1)
        moved = self.ema * self.means + (1 - self.ema) * now
        self.means = torch.where(count > 0, moved, self.means).to(self.means.dtype)
        return wide / (moved[place] + LITTLE)


def normalised(h: Tensor) -> Tensor:
    """Weights [n] with the mean one."""
    return h / (h.mean() + LITTLE)
