"""Whether a density has infinite mass, seen along rays on which it does not decay."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ppl.interpretations.log_density import LogDensity

RAYS = 16
FEWEST = 40  # points of a ray at which the density is a number
REACH = 100.0  # of the log of the distance
FAR = 35.0  # so far out the tail of a density is its limit
SLOPE = 1e-4  # of the log of density times distance ** d, over that log: a slower fall is none


def endless(density: LogDensity) -> str:
    """A ray on which the density times distance ** d does not fall, from the origin, in words.

    The rays point anywhere, so that such a one has others about it, and the mass is infinite.
    Where numbers end before the tail is seen, as on the logarithmic coordinate of a positive
    number, the density itself must not fall.  Empty if none is found, which proves nothing.
    """
    size = density.layout.size
    generator = torch.Generator().manual_seed(0)
    rays = torch.randn(RAYS if size > 1 else 1, size, generator=generator, dtype=torch.float64)
    logs = torch.linspace(0.0, REACH, 2001, dtype=torch.float64)
    for ray in torch.cat([rays, -rays]):
        points = logs.exp()[:, None] * ray / ray.norm()
        values = torch.func.vmap(density)(points)
        latents = torch.func.vmap(lambda u: _numbers(density, u))(points)
        known = _known(values, latents)
        far, end = known // 2, known - 1
        if known < FEWEST:
            continue
        spread = values + (size + SLOPE) * logs
        whole = values[far:known] if logs[end] < FAR else spread[far:known]
        if _keeps(whole):
            return f"on the way to {_shown(latents[end])}"
    return ""


def _numbers(density: LogDensity, u: Tensor) -> Tensor:
    """The latents at a point of the unconstrained space, as one vector."""
    found = density.layout.values(u)[0]
    return torch.cat([x.reshape(-1) for x in found.values()])


def _known(values: Tensor, latents: Tensor) -> int:
    """How many points there are before a density [n] is no number, or latents [n, k] stand still.

    They do where a coordinate is beyond the numbers nearest to the end of its interval.
    """
    moving = (latents.diff(dim=0) != 0).any(1)
    good = values.isfinite() & torch.cat([moving, moving[-1:]])
    return int(good.long().cumprod(0).sum())


def _keeps(values: Tensor) -> bool:
    """Whether they do not fall, but for rounding."""
    return bool((values.diff() >= -1e-12 * (1.0 + values[1:].abs())).all())


def _shown(point: Tensor) -> str:
    shown = ", ".join(f"{x:.3g}" for x in point.tolist())
    return shown if len(point) == 1 else f"({shown})"
