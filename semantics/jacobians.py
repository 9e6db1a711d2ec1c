"""How much maps of rows change volume: by autograd, held against finite differences.

What is detached from its argument has derivatives that autograd does not see, and takes for zero.
So central differences, extrapolated (Richardson 1911), overrule it at a row where they have
converged and do not agree with it; they stand in, too, for a map that autograd cannot take.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = (1e-2, 1e-3, 1e-4)  # of differences, relative to one plus the coordinate; halved twice
ROUNDINGS = 100  # of the map, in a difference
CONVERGED = 1e-4  # the largest relative error of differences that overrule autograd
Map = Callable[[Tensor], Tensor]


class Volumes(NamedTuple):
    """log |det DF| [n] at rows, its error [n], and at how many rows differences stand in."""

    log_size: Tensor
    error: Tensor
    by_differences: int


def volumes(mapping: Map, points: Tensor) -> Volumes:
    """How much a map of rows [n, k], each on its own, changes volume at each."""
    fine, error = _best_differences(mapping, points)
    by_hand, off = _log_size(fine), _error_of_log_size(fine, error)
    found = _by_autograd(mapping, points)
    if found is None:
        return Volumes(by_hand, off, len(points))
    agree = ((found - fine).abs() <= 10 * error).flatten(1).all(1)
    believed = agree | ~(error <= CONVERGED * (1.0 + fine.abs())).flatten(1).all(1)
    log_size = torch.where(believed, _log_size(found), by_hand)
    return Volumes(log_size, torch.where(believed, 0.0, off), int((~believed).sum()))


def _log_size(jacobians: Tensor) -> Tensor:
    size = torch.linalg.slogdet(jacobians.nan_to_num()).logabsdet
    known = jacobians.isfinite().flatten(1).all(1)
    return torch.where(known, size, torch.nan)


def _by_autograd(mapping: Map, points: Tensor) -> Tensor | None:
    """The Jacobians [n, k, k] of independent rows, or None if the map cannot be differentiated."""
    with torch.enable_grad():
        x = points.detach().clone().requires_grad_()
        try:
            y = mapping(x * 1.0)
        except (RuntimeError, NotImplementedError):  # numpy, or an operation without derivative
            return None
        if not y.requires_grad:
            return None
        rows = [
            torch.autograd.grad(y[:, i].sum(), x, retain_graph=True, allow_unused=True)[0]
            for i in range(y.shape[1])
        ]
    return torch.stack([torch.zeros_like(points) if row is None else row for row in rows], 1)


def _error_of_log_size(jacobians: Tensor, error: Tensor) -> Tensor:
    """Of log |det J| [n], by the trace of its derivative, J^-1."""
    inverse = torch.linalg.pinv(jacobians.nan_to_num())
    off: Tensor = (inverse.abs().mT * error).sum((1, 2))
    return off.nan_to_num(torch.inf, torch.inf)


def _best_differences(mapping: Map, points: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobians [n, k, k] by the steps that suit each row best, and their errors."""
    fine, error = _differences(mapping, points, STEPS[0])
    for step in STEPS[1:]:
        other, its = _differences(mapping, points, step)
        better = (its.amax((1, 2)) < error.amax((1, 2)))[:, None, None]
        fine, error = torch.where(better, other, fine), torch.where(better, its, error)
    return fine, error


def _differences(mapping: Map, points: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The Jacobians [n, k, k], extrapolated twice, and their errors."""
    size = step * (1.0 + points.abs())
    once = [_central(mapping, points, size / 2**i) for i in range(3)]
    twice = [(4 * b - a) / 3 for a, b in itertools.pairwise(once)]
    best = (16 * twice[1] - twice[0]) / 15
    rounding = torch.finfo(points.dtype).eps * ROUNDINGS / step
    error = (best - twice[1]).abs() + rounding * (1.0 + best.abs())
    return best, error.nan_to_num(torch.inf, torch.inf)


def _central(mapping: Map, points: Tensor, steps: Tensor) -> Tensor:
    columns = []
    with torch.no_grad():
        for j, unit in enumerate(torch.eye(points.shape[1], dtype=points.dtype)):
            step = steps * unit
            above, below = points + step, points - step
            width = (above - below)[:, j, None]
            columns.append((mapping(above) - mapping(below)) / width)
    return torch.stack(columns, 2)
