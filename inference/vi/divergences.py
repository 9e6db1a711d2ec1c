"""The table of f-divergences: D(p, q) = E_q f(p / q) for a convex f with f(1) = 0.

Each is known by functions of s = log t, t = p / q, so that ratios of any size are sound.  What adds
c (t - 1) to f changes no divergence; the forms here are those of the sources, and dual forms
t f(1 / t), which change p for q, stand beside each other: kl and reverse_kl, pearson and neyman.

Source: Csiszar (1963); conjugates: Nowozin, Cseke, Tomioka, f-GAN (arXiv 1606.00709).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

Function = Callable[[Tensor], Tensor]
LOG_2 = math.log(2)


@dataclass(frozen=True)
class Divergence:
    """A divergence, by its convex function f.

    Args:
        f, slope: f(t) and f'(t) of s = log t.
        weight: f''(t) t^2 of s, by which a derivative along paths is weighted: that of D(p, q_a) by
            a is -E_q[weight (d log p / dx - d log q / dx) dx / da].
        conjugate: f*(u) = sup_t (u t - f(t)), infinite outside its domain:
            D(p, q) = sup_u E_p u - E_q f*(u), and it is reached at u = f'(p / q).  None where it
            has no closed form.
        at_zero: f(0).
        at_infinity: the limit of f'(t): what mass of p weighs where q has none.
    """

    name: str
    f: Function
    slope: Function
    weight: Function
    conjugate: Function | None
    at_zero: float
    at_infinity: float

    def __call__(self, log_t: Tensor) -> Tensor:
        """f(t) of log t, which may be minus infinity."""
        some = log_t > -math.inf
        return torch.where(some, self.f(torch.where(some, log_t, 0.0)), self.at_zero)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """D(p, q) [...] of probabilities [..., k]."""
        both = (p > 0) & (q > 0)
        log_t = (torch.where(both, p, 1.0) / torch.where(both, q, 1.0)).log()
        terms = torch.where(both, q * self.f(log_t), 0.0)
        for alone, x, each in (
            (both.logical_not() & (q > 0), q, self.at_zero),
            (both.logical_not() & (p > 0), p, self.at_infinity),
        ):  # an infinite constant would make derivatives elsewhere no numbers
            value = x * each if math.isfinite(each) else torch.full_like(x, each)
            terms = torch.where(alone, value, terms)
        return terms.sum(-1)

    def scaled(self, c: float) -> Divergence:
        """c D, for c > 0."""
        if not 0 < c < math.inf:
            raise ValueError(f"a divergence is scaled by a positive number, not {c}")
        star = self.conjugate
        return Divergence(
            f"{c:g} {self.name}",
            f=lambda s: c * self.f(s),
            slope=lambda s: c * self.slope(s),
            weight=lambda s: c * self.weight(s),
            conjugate=None if star is None else lambda u: c * star(u / c),
            at_zero=c * self.at_zero,
            at_infinity=c * self.at_infinity,
        )

    def __repr__(self) -> str:
        return f"<divergence {self.name}>"


def _within(inside: Tensor, value: Tensor) -> Tensor:
    """The value, and infinity elsewhere."""
    return torch.where(inside, value, math.inf)


KL = Divergence(  # KL(p, q)
    "kl",
    f=lambda s: s.exp() * s,
    slope=lambda s: s + 1,
    weight=torch.exp,
    conjugate=lambda u: (u - 1).exp(),
    at_zero=0.0,
    at_infinity=math.inf,
)
REVERSE_KL = Divergence(  # KL(q, p)
    "reverse_kl",
    f=lambda s: -s,
    slope=lambda s: -(-s).exp(),
    weight=torch.ones_like,
    conjugate=lambda u: _within(u < 0, -1 - (-u).clamp(min=0).log()),
    at_zero=math.inf,
    at_infinity=0.0,
)
JENSEN_SHANNON = Divergence(  # KL(p, m) + KL(q, m), m = (p + q) / 2: twice the usual one
    "jensen_shannon",
    f=lambda s: (1 + s.exp()) * LOG_2 - s.exp() * softplus(-s) - softplus(s),
    slope=lambda s: LOG_2 - softplus(-s),
    weight=torch.sigmoid,
    conjugate=lambda u: _within(u < LOG_2, -(2 - u.exp()).clamp(min=0).log()),
    at_zero=LOG_2,
    at_infinity=LOG_2,
)
TOTAL_VARIATION = Divergence(  # sum |p - q| / 2; its weight is zero but at t = 1
    "total_variation",
    f=lambda s: torch.expm1(s).abs() / 2,
    slope=lambda s: s.sign() / 2,
    weight=torch.zeros_like,
    conjugate=lambda u: _within(u <= 0.5, u.clamp(min=-0.5)),
    at_zero=0.5,
    at_infinity=0.5,
)
PEARSON = Divergence(  # sum (p - q)^2 / q
    "pearson",
    f=lambda s: torch.expm1(s).square(),
    slope=lambda s: 2 * torch.expm1(s),
    weight=lambda s: 2 * (2 * s).exp(),
    conjugate=lambda u: torch.where(u >= -2, u + u.square() / 4, -1.0),
    at_zero=1.0,
    at_infinity=math.inf,
)
NEYMAN = Divergence(  # sum (p - q)^2 / p
    "neyman",
    f=lambda s: torch.expm1(s) * -torch.expm1(-s),
    slope=lambda s: -torch.expm1(-2 * s),
    weight=lambda s: 2 * (-s).exp(),
    conjugate=lambda u: _within(u <= 1, 2 - 2 * (1 - u).clamp(min=0).sqrt()),
    at_zero=math.inf,
    at_infinity=1.0,
)
HELLINGER = Divergence(  # sum (sqrt p - sqrt q)^2
    "hellinger",
    f=lambda s: torch.expm1(s / 2).square(),
    slope=lambda s: -torch.expm1(-s / 2),
    weight=lambda s: (s / 2).exp() / 2,
    conjugate=lambda u: _within(u < 1, u / (1 - u)),
    at_zero=1.0,
    at_infinity=1.0,
)

JEFFREYS = Divergence(  # KL(p, q) + KL(q, p)
    "jeffreys",
    f=lambda s: torch.expm1(s) * s,
    slope=lambda s: s - torch.expm1(-s),
    weight=lambda s: 1 + s.exp(),
    conjugate=None,
    at_zero=math.inf,
    at_infinity=math.inf,
)
SOFTENED = Divergence(  # reverse_kl less jensen_shannon: 2 KL(m, p), m = (p + q) / 2
    "softened",
    f=lambda s: (1 + s.exp()) * (softplus(-s) - LOG_2),
    slope=lambda s: softplus(-s) - LOG_2 - (-s).exp(),
    weight=lambda s: torch.sigmoid(-s),
    conjugate=None,
    at_zero=math.inf,
    at_infinity=-LOG_2,
)


def alpha_divergence(a: float) -> Divergence:
    """(t^a - a t + a - 1) / (a (a - 1)), whose dual is that of 1 - a.

    KL at a = 1 and reversed KL at 0; half of Pearson's at 2 and of Neyman's at -1; twice
    Hellinger's at 1/2.

    Source: Cressie, Read (1984); Amari, Differential-Geometrical Methods in Statistics (1985).
    """
    if not math.isfinite(a):
        raise ValueError(f"alpha is a finite number, which {a} is not")
    if a in (0, 1):
        return KL if a == 1 else REVERSE_KL

    def f(s: Tensor) -> Tensor:
        return (torch.expm1(a * s) - a * torch.expm1(s)) / (a * (a - 1))

    def conjugate(u: Tensor) -> Tensor:
        base = 1 + (a - 1) * u  # t^(a - 1)
        power = base.clamp(min=0).pow(a / (a - 1))
        found = (power - 1) / a
        return found if a > 1 else _within(base >= 0, found)

    return Divergence(
        f"alpha({a:g})",
        f,
        slope=lambda s: torch.expm1((a - 1) * s) / (a - 1),
        weight=lambda s: (a * s).exp(),
        conjugate=conjugate,
        at_zero=1 / a if a > 0 else math.inf,
        at_infinity=math.inf if a > 1 else 1 / (1 - a),
    )


DIVERGENCES: dict[str, Divergence] = {
    each.name: each
    for each in (
        KL,
        REVERSE_KL,
        JENSEN_SHANNON,
        TOTAL_VARIATION,
        PEARSON,
        NEYMAN,
        HELLINGER,
        JEFFREYS,
        SOFTENED,
    )
}


def divergence(which: str | Divergence) -> Divergence:
    """A divergence by its name.

    Errors:
        ValueError: there is none of that name.
    """
    if isinstance(which, Divergence):
        return which
    if which not in DIVERGENCES:
        raise ValueError(f"a divergence is one of {sorted(DIVERGENCES)}, not {which!r}")
    return DIVERGENCES[which]
