"""The probabilities on both sides of a number, as logs, and the numbers that have given ones.

Both sides are computed by themselves, so that neither loses digits where the other is nearly one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...errors import UnsupportedDistributionError, located
from ...tensors.logs import log_of
from ...types.supports import interval_of, support_of
from ..densities import has_own_density
from ..masks import core
from ..points import point_or_half

Side = Callable[[Any, Tensor], Tensor]
HALF = math.log(0.5)


class Tails(NamedTuple):
    """Functions of a law and numbers: log P(X <= x), log P(X > x), and their inverses."""

    below: Side
    above: Side
    from_below: Side
    from_above: Side


def tails_of(law: Any) -> Tails:
    """The tails of a continuous law of single numbers.

    For laws without ``tails`` that are not in the table here they come from ``cdf`` and ``icdf``,
    and the upper one has as many digits as 1 - cdf.

    Errors:
        UnsupportedDistributionError: the law has no distribution function.
    """
    own = core(law)
    if isinstance(given := getattr(own, "tails", None), Tails):
        return given
    for kind, found in _TABLE.items():
        if isinstance(own, kind) and not _differs(type(own), kind):
            return found
    if type(own).cdf is torch.distributions.Distribution.cdf or _is_stale(type(own)):
        raise UnsupportedDistributionError(
            located(
                f"{type(own).__name__} has no distribution function of single numbers",
                hint="give the law a cdf and an icdf",
            )
        )
    return Tails(
        lambda d, x: log_of(d.cdf(x)),
        lambda d, x: log_of(1 - d.cdf(x)),
        lambda d, log_p: d.icdf(log_p.exp()),
        lambda d, log_p: d.icdf(-torch.expm1(log_p)),
    )


def _differs(kind: type, known: type) -> bool:
    """Whether a law that derives from a known one has another distribution function or density."""
    return has_own_density(kind) or kind.cdf is not known.cdf  # type: ignore[attr-defined]


def _is_stale(kind: type) -> bool:
    """Whether the density is a law's own, and the distribution function of one it derives from."""
    owners = [
        next(i for i, k in enumerate(kind.__mro__) if n in vars(k)) for n in ("log_prob", "cdf")
    ]
    return has_own_density(kind) and owners[0] < owners[1]


def log_below(law: Any, x: Tensor) -> Tensor:
    """log P(X <= x) of a continuous law, at any x."""
    under, over, inside = _within(law, x)
    found = tails_of(law).below(core(law), inside)
    return torch.where(under, -math.inf, torch.where(over, 0.0, found))


def log_above(law: Any, x: Tensor) -> Tensor:
    """log P(X > x) of a continuous law, at any x."""
    under, over, inside = _within(law, x)
    found = tails_of(law).above(core(law), inside)
    return torch.where(over, -math.inf, torch.where(under, 0.0, found))


def quantile(law: Any, log_p: Tensor, log_rest: Tensor) -> Tensor:
    """The number with P(X <= x) = p, by the smaller of log p and log(1 - p)."""
    lower, tails = log_p <= log_rest, tails_of(law)
    below = tails.from_below(core(law), torch.where(lower, log_p, -1.0))
    above = tails.from_above(core(law), torch.where(lower, -1.0, log_rest))
    return torch.where(lower, below, above)


def _within(law: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether x is no more than all of a support, no less, and else x: of the rest a point inside.

    So formulas and their derivatives never see an end.
    """
    low, high = ends_of(law)
    under, over = x <= low, x >= high
    return under, over, torch.where(under | over, point_or_half(law).to(x), x)


def ends_of(law: Any) -> tuple[Any, Any]:
    """The ends of the support of a law of single numbers.

    Errors:
        UnsupportedDistributionError: its support is no interval.
    """
    found = None if law.event_shape else interval_of(support_of(law))
    if found is None:
        what = f"the support of {type(core(law)).__name__} is no interval of numbers"
        raise UnsupportedDistributionError(
            located(what, hint="truncate or censor single numbers, before to_event")
        )
    return found


def log_rest_of(log_p: Tensor) -> Tensor:
    """log(1 - p), of log p."""
    none = log_p == 0
    small = log_p > HALF
    near = torch.where(none | ~small, HALF, log_p)
    far = torch.where(small, HALF, log_p)
    found = torch.where(small, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))
    return torch.where(none, -math.inf, found)


def log_difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(p - q), of log p and log q with p >= q; -inf where they are equal."""
    nothing = torch.isneginf(log_q)
    rest = log_rest_of(torch.where(nothing, -1.0, log_q) - torch.where(nothing, 0.0, log_p))
    return log_p + torch.where(nothing, 0.0, rest)


# ----------------------------------------------------------------------------------------- the laws


def log_ndtr(z: Tensor) -> Tensor:
    """log P(X <= z) of a standard normal law; torch's own has no rule for lanes."""
    below = z < 0
    low, high = torch.where(below, z, -1.0), torch.where(below, 0.0, z)
    far = (torch.special.erfcx(-low * math.sqrt(0.5)) / 2).log() - low * low / 2
    return torch.where(below, far, torch.log1p(-torch.erfc(high * math.sqrt(0.5)) / 2))


def _log_ndtri(log_p: Tensor) -> Tensor:
    """The number below which a standard normal lies with probability p <= 1/2, of log p."""
    with torch.no_grad():
        z = -(-2 * log_p - math.log(2 * math.pi)).clamp(min=0.0).sqrt()
        z = torch.where(log_p > -2.0, torch.special.ndtri(log_p.exp()), z)
        for _ in range(6):  # Newton, on a concave function
            z = z - _step(z, log_p)
    return z - _step(z, log_p)


def _step(z: Tensor, log_p: Tensor) -> Tensor:
    """Newton's, with its derivative by log p."""
    found = log_ndtr(z)
    slope = (-0.5 * z * z - 0.5 * math.log(2 * math.pi) - found).exp()
    return (found - log_p) / slope


def _both(log_p: Tensor, half: Callable[[Tensor], Tensor]) -> Tensor:
    """The quantile of a symmetric law, by that of p <= 1/2."""
    upper = log_p > HALF
    lower = torch.where(upper, log_rest_of(torch.where(upper, log_p, HALF)), log_p)
    found = half(lower)
    return torch.where(upper, -found, found)


def _laplace(z: Tensor) -> Tensor:
    far = -z.abs() + HALF
    return torch.where(z < 0, far, torch.log1p(-far.exp()))


def _log_angle(z: Tensor) -> Tensor:
    """log P(X <= z) of a standard Cauchy law."""
    rest = torch.atan2(torch.ones_like(z), z.abs()) / math.pi
    return torch.where(z < 0, rest.log(), torch.log1p(-rest))


def _centred(below: Callable[[Tensor], Tensor], half: Callable[[Tensor], Tensor]) -> Tails:
    """A symmetric law of a location and a scale."""
    return Tails(
        lambda d, x: below((x - d.loc) / d.scale),
        lambda d, x: below((d.loc - x) / d.scale),
        lambda d, log_p: d.loc + d.scale * _both(log_p, half),
        lambda d, log_p: d.loc - d.scale * _both(log_p, half),
    )


def _one_sided(above: Side, inverse: Side) -> Tails:
    """A law whose log P(X > x) and its inverse are known."""
    return Tails(
        lambda d, x: log_rest_of(above(d, x)),
        above,
        lambda d, log_p: inverse(d, log_rest_of(log_p)),
        inverse,
    )


def _turned(tails: Tails) -> Tails:
    return Tails(tails.above, tails.below, tails.from_above, tails.from_below)


def _folded(whole: Tails, inner: Side) -> Tails:
    """|X| of a symmetric law about zero: ``inner`` is log P(|X| <= x), for small x."""

    def above(d: Any, x: Tensor) -> Tensor:
        return whole.above(_Unit(d.scale), x) - HALF

    def below(d: Any, x: Tensor) -> Tensor:
        rest = above(d, x)
        return torch.where(rest < HALF, log_rest_of(rest), inner(d, x))

    def from_above(d: Any, log_p: Tensor) -> Tensor:
        return whole.from_above(_Unit(d.scale), log_p + HALF)

    return Tails(below, above, lambda d, log_p: from_above(d, log_rest_of(log_p)), from_above)


class _Unit(NamedTuple):
    """The parameters of a law about zero."""

    scale: Tensor
    loc: float = 0.0


_NORMAL = _centred(log_ndtr, _log_ndtri)
_CAUCHY = _centred(_log_angle, lambda log_p: -1 / (math.pi * log_p.exp()).tan())
_GUMBEL = _turned(
    _one_sided(
        lambda d, x: -((d.loc - x) / d.scale).exp(),
        lambda d, log_p: d.loc - d.scale * (-log_p).log(),
    )
)
_TABLE: dict[type, Tails] = {
    torch.distributions.Normal: _NORMAL,
    torch.distributions.LogNormal: Tails(
        lambda d, x: _NORMAL.below(d.base_dist, x.log()),
        lambda d, x: _NORMAL.above(d.base_dist, x.log()),
        lambda d, log_p: _NORMAL.from_below(d.base_dist, log_p).exp(),
        lambda d, log_p: _NORMAL.from_above(d.base_dist, log_p).exp(),
    ),
    torch.distributions.Cauchy: _CAUCHY,
    dist.Logistic: _centred(
        torch.nn.functional.logsigmoid, lambda log_p: log_p - log_rest_of(log_p)
    ),
    torch.distributions.Laplace: _centred(_laplace, lambda log_p: log_p - HALF),
    torch.distributions.Gumbel: _GUMBEL,
    torch.distributions.HalfNormal: _folded(
        _NORMAL, lambda d, x: torch.erf(x / (math.sqrt(2) * d.scale)).log()
    ),
    torch.distributions.HalfCauchy: _folded(
        _CAUCHY, lambda d, x: (torch.atan(x / d.scale) * (2 / math.pi)).log()
    ),
    torch.distributions.Exponential: _one_sided(
        lambda d, x: -d.rate * x, lambda d, log_p: -log_p / d.rate
    ),
    torch.distributions.Weibull: _one_sided(
        lambda d, x: -((x / d.scale) ** d.concentration),
        lambda d, log_p: d.scale * (-log_p) ** (1 / d.concentration),
    ),
    torch.distributions.Pareto: _one_sided(
        lambda d, x: -d.alpha * (x / d.scale).log(),
        lambda d, log_p: d.scale * (-log_p / d.alpha).exp(),
    ),
    torch.distributions.Uniform: Tails(
        lambda d, x: log_of((x - d.low) / (d.high - d.low)),
        lambda d, x: log_of((d.high - x) / (d.high - d.low)),
        lambda d, log_p: d.low + (d.high - d.low) * log_p.exp(),
        lambda d, log_p: d.high - (d.high - d.low) * log_p.exp(),
    ),
    torch.distributions.Gamma: Tails(
        lambda d, x: log_of(torch.special.gammainc(d.concentration, d.rate * x)),
        lambda d, x: log_of(torch.special.gammaincc(d.concentration, d.rate * x)),
        lambda d, log_p: d.icdf(log_p.exp()),
        lambda d, log_p: d.icdf(-torch.expm1(log_p)),
    ),
}
