"""Scenes with exact normals: height fields of bumps, spheres and boxes, seen from above.

Rows of an image are y and columns x, both from -1 to 1; the viewer looks along -z, without
perspective. Surfaces are Lambertian and cast no shadows.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .normals import unit

Lights = Literal["easy", "ambiguous"] | Tensor
TILT = math.radians(40)  # of the three lights of "easy"; ours, since the source does not say
NOISE = 0.02


class Scenes(NamedTuple):
    """images [n, lights, size, size], normals [n, 3, size, size], heights [n, 1, size, size]."""

    images: Tensor
    normals: Tensor
    heights: Tensor


def grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y [size, size] of the pixels."""
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def directions(lights: Lights) -> Tensor:
    """Unit vectors [lights, 3]: three around the view ("easy"), or the view itself ("ambiguous").

    Errors:
        ValueError: there is no such name, or a tensor is not [lights, 3].
    """
    if isinstance(lights, Tensor):
        if lights.ndim != 2 or lights.shape[1] != 3:
            raise ValueError(f"directions of lights are [lights, 3], not {list(lights.shape)}")
        return unit(lights)
    if lights == "ambiguous":
        return torch.tensor([[0.0, 0.0, 1.0]])
    if lights != "easy":
        raise ValueError(f"lights are 'easy', 'ambiguous' or directions, not {lights!r}")
    around = 2 * math.pi / 3 * torch.arange(3)
    flat = math.sin(TILT) * torch.stack([around.cos(), around.sin()], 1)
    return torch.cat([flat, torch.full((3, 1), math.cos(TILT))], 1)


def lit(normals: Tensor, lights: Lights, noise: float, rng: torch.Generator) -> Tensor:
    """max(0, N . l) + noise, [n, lights, size, size]."""
    shade = torch.einsum("nchw,lc->nlhw", normals, directions(lights).to(normals)).clamp(min=0)
    return shade + noise * torch.randn(shade.shape, generator=rng)


def uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def surface(
    x: Tensor, y: Tensor, centres: Tensor, widths: Tensor, heights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """z, dz/dx and dz/dy [n, size, size] of sums of Gaussian bumps.

    Args:
        x, y: [size, size].
        centres: [n, k, 2]; widths, heights: [n, k].
    """
    dx, dy = (v - centres[..., i, None, None] for i, v in enumerate((x, y)))
    w2 = widths.square()[..., None, None]
    each = heights[..., None, None] * (-(dx**2 + dy**2) / (2 * w2)).exp()
    return each.sum(1), (-dx / w2 * each).sum(1), (-dy / w2 * each).sum(1)


def bumps(
    n: int, size: int = 16, lights: Lights = "easy", seed: int = 0, noise: float = NOISE
) -> Scenes:
    """Height fields of four bumps each: centres in [-1, 1]^2, widths .25 to .65, heights to .6."""
    rng = torch.Generator().manual_seed(seed)
    shape = uniform(-1, 1, (n, 4, 2), rng), uniform(0.25, 0.65, (n, 4), rng)
    z, slope_x, slope_y = surface(*grid(size), *shape, uniform(-0.6, 0.6, (n, 4), rng))
    normals = unit(torch.stack([-slope_x, -slope_y, torch.ones_like(z)], 1))
    return Scenes(lit(normals, lights, noise, rng), normals, z[:, None])


class Hits(NamedTuple):
    """Heights z [n, size, size], -inf where there is nothing, and normals [n, 3, size, size]."""

    z: Tensor
    normals: Tensor


def sphere(x: Tensor, y: Tensor, centre: Tensor, radius: Tensor) -> Hits:
    """One sphere in each scene: centre [n, 3] and radius [n]."""
    (cx, cy, cz), r = centre.T[..., None, None], radius[:, None, None]
    left = r**2 - (x - cx) ** 2 - (y - cy) ** 2
    up = left.clamp(min=0).sqrt()
    z = torch.where(left > 0, cz + up, -torch.inf)
    return Hits(z, torch.stack([x - cx, y - cy, up], 1) / r[:, None])


def box(x: Tensor, y: Tensor, centre: Tensor, half: Tensor, turn: Tensor) -> Hits:
    """One box in each scene: centre and half sides [n, 3], and axes as rows of turn [n, 3, 3].

    Along each axis the ray is between two planes for an interval; it hits where the last of their
    beginnings is before the first of their ends, and that axis is the normal.
    """
    away = torch.stack([*(torch.broadcast_to(v, x.shape) for v in (x, y)), torch.zeros_like(x)])
    origin = torch.einsum("nac,nchw->nahw", turn, away - centre[:, :, None, None])
    speed = -turn[:, :, 2, None, None]  # of the ray (0, 0, -1) along the axes
    planes = torch.stack([(s * half[..., None, None] - origin) / speed for s in (-1, 1)])
    begin, which = planes.amin(0).max(1)
    hit = begin < planes.amax(0).amin(1)
    sign = -speed.sign() * turn[:, :, :, None, None].movedim(2, 0)  # [3, n, axes, 1, 1]
    faces = sign.expand(3, *planes.shape[1:]).gather(
        2, which[None, :, None].expand(3, -1, -1, -1, -1)
    )
    return Hits(torch.where(hit, -begin, -torch.inf), faces[:, :, 0].movedim(0, 1))


def rotations(n: int, rng: torch.Generator) -> Tensor:
    """Random rotations and reflections [n, 3, 3]."""
    found: Tensor = torch.linalg.qr(torch.randn(n, 3, 3, generator=rng))[0]
    return found


def solids(
    n: int, size: int = 16, lights: Lights = "easy", seed: int = 0, noise: float = NOISE
) -> Scenes:
    """Two spheres and two turned boxes each, half sunk in a floor at z = 0."""
    rng = torch.Generator().manual_seed(seed)
    x, y = grid(size)
    z, normals = torch.zeros(n, size, size), torch.zeros(n, 3, size, size)
    normals[:, 2] = 1.0
    for kind in ("sphere", "box", "sphere", "box"):
        spot = torch.cat([uniform(-0.8, 0.8, (n, 2), rng), torch.zeros(n, 1)], 1)
        if kind == "sphere":
            hits = sphere(x, y, spot, uniform(0.25, 0.55, (n,), rng))
        else:
            hits = box(x, y, spot, uniform(0.2, 0.45, (n, 3), rng), rotations(n, rng))
        over = hits.z > z
        z = torch.where(over, hits.z, z)
        normals = torch.where(over[:, None], hits.normals, normals)
    return Scenes(lit(normals, lights, noise, rng), normals, z[:, None])


def height_code(heights: Tensor, grid: int = 4) -> Tensor:
    """Mean heights [n, 1, grid, grid] of patches: descriptors that tell hills from hollows."""
    return adaptive_avg_pool2d(heights, grid)
