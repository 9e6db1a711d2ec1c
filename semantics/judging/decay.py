"""Whether a density has infinite mass, seen along rays or parallels on which it does not decay."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ppl.interpretations.log_density import LogDensity

RAYS = 16
BESIDE = 8  # parallels
FEWEST = 40  # points of a ray at which the density is a number
REACH = 100.0  # of the log of the distance
OBLIQUE = 7.0  # the same where coordinates are added, and must not lose their digits
FAR = 35.0  # so far out the tail of a density is its limit
SLOPE = 1e-4  # of the log of density times distance ** d, over that log: a slower fall is none


def endless(density: LogDensity) -> str:
    """A ray on which the density times distance ** d does not fall, from the origin, in words.

    The rays point anywhere, so that such a one has others about it, and the mass is infinite.  So
    it is, too, if the density times distance does not fall along parallels from all of some points:
    these run along the coordinates, and where the density hardly bends.
    Where numbers end before the tail is seen, as on the logarithmic coordinate of a positive
    number, the density itself must not fall.  Empty if none is found, which proves nothing.
    """
    size = density.layout.size
    generator = torch.Generator().manual_seed(0)
    rays = torch.randn(RAYS if size > 1 else 1, size, generator=generator, dtype=torch.float64)
    origin = torch.zeros(1, size, dtype=torch.float64)
    for ray in torch.cat([rays, -rays]):
        if end := _end(density, origin, ray / ray.norm(), size):
            return f"on the way to {end}"
    if size == 1:
        return ""
    beside = torch.randn(BESIDE, size, generator=generator, dtype=torch.float64)
    coordinates = torch.eye(size, dtype=torch.float64)
    for lines, reach in ((coordinates, REACH), (_axes(density, beside[0]), OBLIQUE)):
        for line in torch.cat([lines, -lines]):
            if end := _end(density, beside, line, 1, reach):
                return f"on the way to {end} and beside it"
    return ""


def _end(
    density: LogDensity, starts: Tensor, direction: Tensor, power: int, reach: float = REACH
) -> str:
    """Where parallels from starts [n, d] lead, if density times distance ** power falls on none."""
    logs = torch.linspace(0.0, reach, 2001, dtype=torch.float64)
    found = ""
    for start in starts:
        points = start + logs.exp()[:, None] * direction
        values = torch.func.vmap(density)(points)
        latents = torch.func.vmap(lambda u: _numbers(density, u))(points)
        known = _known(values, latents)
        far, end = known // 2, known - 1
        if known < FEWEST:
            return ""
        spread = values + (power + SLOPE) * logs
        whole = values[far:known] if logs[end] < FAR else spread[far:known]
        if not _keeps(whole):
            return ""
        found = found or _shown(latents[end])
    return found


def _axes(density: LogDensity, at: Tensor) -> Tensor:
    """The directions [d, d], as rows, along which the log density bends by itself at a point."""
    bends = torch.func.hessian(density)(at).nan_to_num(0.0, 0.0, 0.0)
    axes: Tensor = torch.linalg.eigh((bends + bends.T) / 2).eigenvectors.T
    return axes


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
