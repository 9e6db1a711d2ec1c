"""How draws of gamma and beta laws move with their parameters, at a fixed quantile.

dx/da = -dF(x; a)/da / p(x), and F is an integral over one side of x.  With t = x e^-u, or the like
beyond x, it is that of exp(-E(u)) h(u) over u > 0, where E increases from zero.  A double
exponential rule (Takahasi and Mori 1974) takes it, to about 1e-10 in float64; torch's own
derivatives are wrong by up to 1e-3, whatever the precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 1 / 8
FLAT = 4.0  # below it the integral over what lies below x loses nothing
FIRST, LAST = -3.5, 8.0  # of the rule, in t: u = L exp(t - exp(-t))


def gamma_slope(a: Tensor, x: Tensor) -> Tensor:
    """dx/da of a draw x of Gamma(a, 1), of the shape and dtype of both."""
    kind = torch.promote_types(a.dtype, x.dtype)
    a, x = torch.broadcast_tensors(a.double(), x.double())
    x = x.clamp(min=torch.finfo(x.dtype).tiny)
    side = torch.where(x <= a.clamp(min=FLAT), -1.0, 1.0)
    apart = x.log() - torch.digamma(a)
    flat = x <= FLAT
    slope = torch.where(flat, torch.maximum(a, a.sqrt()), (x - a).abs())
    curvature = torch.where(flat, 0.0, x)

    def exponent(u: Tensor) -> Tensor:
        v = side[..., None] * u
        return x[..., None] * torch.expm1(v) - a[..., None] * v

    def factor(u: Tensor) -> Tensor:
        return apart[..., None] + side[..., None] * u

    return (side * x * _integral(exponent, factor, slope, curvature)).to(kind)


def share_slope(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """dx/da / (1 - x) of a draw x of Beta(a, b), of the shape and dtype of all."""
    kind = torch.promote_types(x.dtype, a.dtype)
    x, a, b = torch.broadcast_tensors(x.double(), a.double(), b.double())
    tiny = torch.finfo(x.dtype).tiny
    x, rest = x.clamp(min=tiny), (1 - x).clamp(min=tiny)
    below = x * b <= a * rest
    # t runs from x towards the end that is near: t or 1 - t is ``near`` e^-u
    near, far = torch.where(below, x, rest), torch.where(below, rest, x)
    own, other = torch.where(below, a, b), torch.where(below, b, a) - 1.0
    apart = torch.digamma(a) - torch.digamma(a + b)

    def logs(u: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``near`` and ``far`` at u."""
        return near[..., None].log() - u, torch.log1p(-near[..., None] * torch.exp(-u))

    def exponent(u: Tensor) -> Tensor:
        return own[..., None] * u - other[..., None] * (logs(u)[1] - far[..., None].log())

    def factor(u: Tensor) -> Tensor:
        return torch.where(below[..., None], *logs(u)) - apart[..., None]

    more = other.clamp(min=0.0) * near / far
    slope, curvature = own - more, more / far
    integral = _integral(exponent, factor, slope, curvature)
    return (torch.where(below, -x / rest, 1.0) * integral).to(kind)


def _integral(
    exponent: Callable[[Tensor], Tensor],
    factor: Callable[[Tensor], Tensor],
    slope: Tensor,
    curvature: Tensor,
) -> Tensor:
    """The integral of exp(-E) h over u > 0, E with about this slope and curvature at zero."""
    t = torch.arange(FIRST, LAST, STEP, dtype=slope.dtype, device=slope.device)
    scale = 2.0 / (slope + (slope**2 + 2 * curvature).sqrt())
    u = scale[..., None] * torch.exp(t - torch.exp(-t))
    weights = u * (1 + torch.exp(-t)) * STEP
    total: Tensor = (weights * torch.exp(-exponent(u)) * factor(u)).nan_to_num(0.0).sum(-1)
    return total
