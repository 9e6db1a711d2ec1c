"""How much maps of rows change volume: by autograd, held against finite differences.

What is detached from its argument has derivatives that autograd does not see, and takes for zero.
So central differences, extrapolated (Richardson 1911), overrule it at a row where they have
converged and do not agree with it; they stand in, too, for a map that autograd cannot take.

Of many rows all derivatives are held against differences; of one point, whose coordinates may be
many, one derivative, along a direction that no map has in mind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

STEPS = (1e-2, 1e-3, 1e-4)  # of differences, relative to one plus the coordinate; halved twice
ROUNDINGS = 100  # of the map, in a difference
CONVERGED = 1e-4  # the largest relative error of differences that overrule autograd
ALONG = (1e-3, 1e-2, 1e-1, 1e-5, 1e-7)  # steps in one direction, the likeliest first
EDGE = 100  # steps to one side: the sides of a point without an edge differ by no more
GOLDEN = (5**0.5 - 1) / 2
Map = Callable[[Tensor], Tensor]


class Volumes(NamedTuple):
    """log |det DF| [n] at rows, its error [n], and at how many rows differences stand in."""

    log_size: Tensor
    error: Tensor
    by_differences: int


def volumes(mapping: Map, points: Tensor) -> Volumes:
    """How much a map of rows [n, k], each on its own, changes volume at each."""
    fine, error = _best_differences(mapping, points, _units(points))
    by_hand, off = _log_size(fine), _error_of_log_size(fine, error)
    found = _by_autograd(mapping, points)
    if found is None:
        return Volumes(by_hand, off, len(points))
    agree = ((found - fine).abs() <= 10 * error).flatten(1).all(1)
    believed = agree | ~(error <= CONVERGED * (1.0 + fine.abs())).flatten(1).all(1)
    log_size = torch.where(believed, _log_size(found), by_hand)
    return Volumes(log_size, torch.where(believed, 0.0, off), int((~believed).sum()))


def one_derivative(f: Map, points: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A derivative [n] of f [n] at rows [n, k], by their gradients [n, k] and by differences.

    Along a direction whose coordinates are relative to one plus those of a row; and the errors [n]
    of the differences.
    """
    size, direction = 1.0 + points.abs(), _direction(points)

    def column(offsets: Tensor) -> Tensor:
        return f(points + size * offsets)[:, None]

    fine, error = _best_differences(column, torch.zeros_like(points), direction[None])
    return (gradients * size) @ direction, fine[:, 0, 0], error[:, 0, 0]


def log_volume(mapping: Map, point: Tensor) -> tuple[Tensor, float]:
    """log |det DF| of a map of vectors [k] at one, and its error: infinite where it is not known.

    Coordinates are taken relative to one plus their size, so that one step suits all.
    """
    size = 1.0 + point.detach().abs()

    def rows(offsets: Tensor) -> Tensor:
        return torch.stack([mapping(point + size * offset) for offset in offsets])

    at = torch.zeros_like(point)[None]
    found, sides = _by_autograd(rows, at), _sides(rows, at)
    if found is not None and _confirmed(rows, at, found, sides):
        return _log_size(found)[0] - size.log().sum(), 0.0
    if _apart(*sides):
        return torch.tensor(math.nan), math.inf
    fine, error = _best_differences(rows, at, _units(at))
    return _log_size(fine)[0] - size.log().sum(), float(_error_of_log_size(fine, error)[0])


def _confirmed(mapping: Map, point: Tensor, found: Tensor, sides: tuple[Tensor, Tensor]) -> bool:
    """Whether differences along one direction lead back to it by the inverse of what was found.

    So it is relative to every coordinate of the image.  At an edge of the map, where the sides
    differ, one of them must do.
    """
    inverse, singular = torch.linalg.inv_ex(found[0])
    if bool(singular) or not bool(inverse.isfinite().all()):
        return False
    along, rough = _direction(point), torch.finfo(point.dtype).eps ** (1 / 6)
    if _apart(*sides):
        return any(bool(((inverse @ side - along).abs() <= CONVERGED).all()) for side in sides)
    for step in ALONG:
        slope, error = _differences(mapping, point, step, along[None])
        allowed = 10 * inverse.abs() @ error[0, :, 0]
        off = (inverse @ slope[0, :, 0] - along).abs()
        if bool(((off <= allowed) & (allowed <= rough)).all()):
            return True
    return False


def _direction(point: Tensor) -> Tensor:
    """A vector [k] of entries between 1/2 and 3/2, by multiples of the golden ratio modulo one."""
    places = torch.arange(1, point.shape[1] + 1, dtype=torch.float64)
    return (0.5 + (places * GOLDEN) % 1.0).to(point)


def _sides(mapping: Map, point: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives [k] along that direction, by differences to each side."""
    size = _step_aside(point)
    step = size * _direction(point)
    at = point.detach()
    here, above, below = (mapping(x)[0].detach() for x in (at, at + step, at - step))
    return (above - here) / size, (here - below) / size


def _apart(above: Tensor, below: Tensor) -> bool:
    """Whether the two sides of a point differ: an edge of the map is near."""
    allowed = EDGE * _step_aside(above) * (1.0 + above.abs())
    return not bool(((above - below).abs() <= allowed).all())


def _step_aside(point: Tensor) -> float:
    """Where rounding is as large as curvature."""
    return float(torch.finfo(point.dtype).eps ** (1 / 3))


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
            rows = [
                torch.autograd.grad(y[:, i].sum(), x, retain_graph=True, allow_unused=True)[0]
                for i in range(y.shape[1] if y.requires_grad else 0)
            ]
        except (RuntimeError, NotImplementedError):  # numpy, or an operation without derivative
            return None
    if not y.requires_grad:
        return None
    return torch.stack([torch.zeros_like(points) if row is None else row for row in rows], 1)


def _error_of_log_size(jacobians: Tensor, error: Tensor) -> Tensor:
    """Of log |det J| [n], by the trace of its derivative, J^-1."""
    inverse = torch.linalg.pinv(jacobians.nan_to_num())
    off: Tensor = (inverse.abs().mT * error).sum((1, 2))
    return off.nan_to_num(torch.inf, torch.inf)


def _units(points: Tensor) -> Tensor:
    return torch.eye(points.shape[1], dtype=points.dtype, device=points.device)


def _best_differences(mapping: Map, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives [n, k, d] by the steps that suit each row best, and their errors.

    Twice, by steps of no simple ratio: what is but noise may agree with itself, and not with that.
    """
    fine, error = _by_steps(mapping, points, 1.0, directions)
    other, its = _by_steps(mapping, points, GOLDEN, directions)
    apart = (fine - other).abs().nan_to_num(torch.inf, torch.inf)
    return fine, torch.maximum(torch.maximum(error, its), apart)


def _by_steps(
    mapping: Map, points: Tensor, scale: float, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivatives [n, k, d] by the best of some steps, and their errors."""
    fine, error = _differences(mapping, points, scale * STEPS[0], directions)
    for step in STEPS[1:]:
        other, its = _differences(mapping, points, scale * step, directions)
        better = (its.amax((1, 2)) < error.amax((1, 2)))[:, None, None]
        fine, error = torch.where(better, other, fine), torch.where(better, its, error)
    return fine, error


def _differences(
    mapping: Map, points: Tensor, step: float, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """The derivatives [n, k, d] along directions [d, k], extrapolated twice, and their errors."""
    size = step * (1.0 + points.abs())
    once = [_central(mapping, points, size / 2**i, directions) for i in range(3)]
    twice = [(4 * b - a) / 3 for a, b in itertools.pairwise(once)]
    best = (16 * twice[1] - twice[0]) / 15
    rounding = torch.finfo(points.dtype).eps * ROUNDINGS / step
    error = (best - twice[1]).abs() + rounding * (1.0 + best.abs())
    return best, error.nan_to_num(torch.inf, torch.inf)


def _central(mapping: Map, points: Tensor, steps: Tensor, directions: Tensor) -> Tensor:
    columns, at, size = [], points.detach(), steps.detach()
    for along in directions:
        above, below = at + size * along, at - size * along
        width = ((above - below) @ along / (along @ along))[:, None]
        columns.append((mapping(above).detach() - mapping(below).detach()) / width)
    return torch.stack(columns, 2)
