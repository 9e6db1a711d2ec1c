"""Whether compiled code is the function that it was made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reference = Callable[..., tuple[Tensor, ...]]


def agrees(function: Reference, itself: Reference, u: Tensor, *rest: Tensor) -> bool:
    """Whether the first lane's results are those of the function itself, but for rounding.

    What rounding may do is seen by moving the point by a few units of its last place.
    """
    found = [x[0] for x in function(u[:1], *rest)]
    try:
        first = itself(u[0], *rest)
        if all(map(_equal, found, first)):
            return True
        unit = torch.finfo(u.dtype).eps * (1.0 + u[0].abs())
        near = [first, *(itself(u[0] + k * unit, *rest) for k in (-3, -1, 1, 2))]
    except (RuntimeError, TypeError):  # a graph that torch itself cannot run
        return False
    pairs = zip(found, zip(*near, strict=True), strict=True)
    return all(_close(x, torch.stack(each).to(x.dtype)) for x, each in pairs)


def _equal(found: Tensor, first: Tensor) -> bool:
    """Whether two results are finite and agree to half of their digits, on the scale of all."""
    loss = torch.finfo(found.dtype).eps ** 0.5
    scale = first.abs().max() if first.numel() else 0.0
    return bool((first.isfinite() & ((found - first).abs() <= loss * scale)).all())


def _close(found: Tensor, near: Tensor) -> bool:
    """Whether a result is the first of those nearby, but for a hundred times what they vary."""
    if not found.numel():
        return True
    same = (found == near[0]) | (found.isnan() & near[0].isnan())
    if not bool(near.isfinite().all()):  # rounding may decide whether there is a density
        return bool(same.all()) or _differ(near.isfinite())
    scale = near[0].abs().max()
    spread = (near - near[0]).abs().amax(0)
    loss = torch.finfo(found.dtype).eps ** 0.5
    return bool((same | ((found - near[0]).abs() <= loss * scale + 100.0 * spread)).all())


def _differ(rows: Tensor) -> bool:
    return bool((rows != rows[0]).any())
