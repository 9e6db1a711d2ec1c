"""How far a quadratic model of a loss may be trusted: gradient-normalised smoothness at a point.

Source: Semenov, Jaggi, Doikov, Gradient-Normalized Smoothness for Optimization with Approximate
Hessians (arXiv 2506.13710).  The text of its local region was not available; the ellipsoid here
holds every step of the method, and makes its bound for quasi-self-concordant losses true.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

GRID, COARSE = 512, 32  # places along a direction, in one dimension and in more
HALVINGS = 200


class Smoothness(NamedTuple):
    """The radius; ``exact`` in one dimension, else an estimate from above."""

    gamma: float
    exact: bool


def gradient_normalized_smoothness(
    gradient: Callable[[Tensor], Tensor],
    x: Tensor,
    H: Tensor,
    region: Literal["ellipsoid", "ball"] = "ellipsoid",
    samples: int = 256,
    generator: torch.Generator | None = None,
) -> Smoothness:
    """The greatest gamma with |g(x + h) - g(x) - H h| <= |g(x)| |h| / gamma for all |h| <= gamma.

    Args:
        gradient: g, from [n] to [n].
        x: the point [n]; H: the Hessian there, or what stands for it [n, n].
        region: only h with h H h <= -g h, where the steps of the method lie; or all of the ball.
        samples: random directions, beside those of -g and of the Newton step, if n is above one.

    Errors:
        ValueError: shapes do not fit, or the region is unknown.
    """
    if region not in ("ellipsoid", "ball"):
        raise ValueError(f"the region is 'ellipsoid' or 'ball', not {region!r}")
    if x.ndim != 1 or H.shape != (len(x), len(x)) or samples < 0:
        raise ValueError(f"[n] and [n, n] are expected, not {list(x.shape)}, {list(H.shape)}")
    g = gradient(x)
    size, least = float(g.norm()), math.inf
    for u in _directions(g, H, samples, generator):
        longest = math.inf
        if region == "ellipsoid":
            fall, bend = float(-g @ u), float(u @ H @ u)
            longest = 0.0 if fall <= 0 else fall / bend if bend > 0 else math.inf
        least = min(least, _along(gradient, x, H @ u, g, u, size, longest, least))
    return Smoothness(least, len(x) == 1)


def _directions(
    g: Tensor, H: Tensor, samples: int, generator: torch.Generator | None
) -> list[Tensor]:
    if len(g) == 1:
        return [torch.ones_like(g), -torch.ones_like(g)]
    drawn = torch.randn(samples, len(g), generator=generator, dtype=g.dtype).to(g.device)
    rows = torch.cat([-g[None], -(torch.linalg.pinv(H) @ g)[None], drawn])
    return list(torch.nn.functional.normalize(rows, dim=1))


def _along(
    gradient: Callable[[Tensor], Tensor],
    x: Tensor,
    bent: Tensor,
    g: Tensor,
    u: Tensor,
    size: float,
    longest: float,
    most: float,
) -> float:
    """The greatest gamma along u, by halving; infinity if it is not below ``most``."""
    if longest == 0:
        return math.inf

    places = GRID if len(x) == 1 else COARSE

    def fits(gamma: float) -> bool:
        end = min(gamma, longest)
        for s in torch.linspace(0, end, places + 1, dtype=x.dtype)[1:].tolist():
            error = float((gradient(x + s * u) - g - s * bent).norm())
            if not error * gamma <= size * s:
                return False
        return True

    low, high = 0.0, min(most, 1.0)
    while fits(high):
        low, high = high, 2 * high
        if low >= min(most, 1e12):
            return math.inf
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
