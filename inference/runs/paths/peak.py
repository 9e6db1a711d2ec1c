"""A peak of a log density: the climb to it, by L-BFGS and Newton's method, and what is there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ....ppl.interpretations.layout import Layout
from ....ppl.interpretations.quadratic import is_singular
from .ascent import Path, ascent
from .target import Potential, Target

HISTORY, TOLERANCE = 10, 1e-13
STEPS = 1000  # of L-BFGS
NEWTON = 30  # steps from where the climb ends
ARRIVED = 1e-8  # half the squared Newton step at a peak, in units of log density
ALIKE = 0.1  # relative change of the curvature over the last Newton step
ROUNDINGS = 16  # errors of the largest term, which the sum of a log density is taken to hold

Density = Callable[[Tensor], Tensor]


class Peak(NamedTuple):
    """The normal law of this mean [d] and covariance root root^T [d, d]; and its log mass."""

    mode: Tensor
    root: Tensor
    log_mass: float


class Climb(NamedTuple):
    """Where a climb ended [d], the path of L-BFGS before, and the peak there; or why it is none."""

    end: Tensor
    path: Path
    peak: Peak | str


def with_gradient(density: Density) -> Potential:
    """u [n, d] -> (log densities [n], gradients [n, d])."""

    def turned(u: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = torch.func.grad_and_value(density)(u)
        return value, gradient

    found: Potential = torch.func.vmap(turned)
    return found


def climbed(
    density: Density, layout: Layout, target: Target, start: Tensor, steps: int = STEPS
) -> Climb:
    """To the peak above a start [d].

    Args:
        density: of one vector [d], in the coordinates of ``layout``.
        target: the same, with its gradient.
        steps: of L-BFGS, at most.
    """
    path = ascent(target, start, history=HISTORY, steps=steps, tolerance=TOLERANCE)
    u = path.positions[path.log_densities.nan_to_num(-math.inf, -math.inf).argmax()]
    for _ in range(NEWTON):
        precision = curvature(density, target.given(u))
        if not bool(precision.isfinite().all()):
            why = "the second derivatives of its log density are not finite"
            return Climb(u, path, why)
        root, _ = torch.linalg.cholesky_ex(precision)
        if bool(is_singular(root, precision)):
            return Climb(u, path, _flat(layout, precision))
        value, gradient = (x[0] for x in target(u[None]))
        step = torch.cholesky_solve(gradient[:, None], root)[:, 0]
        rise = 0.5 * float(gradient @ step)
        onward = target.rounded(u + step)
        if rise < max(ARRIVED, target.epsilon):
            if _bends_alike(root, curvature(density, target.given(onward))):
                return Climb(onward, path, _at(density, layout, target, onward))
            break
        noise = ROUNDINGS * target.epsilon * abs(float(value))
        if not bool(target(onward[None])[0][0] >= value - noise):
            break
        u = onward
    i = int(step.abs().argmax())
    return Climb(u, path, f"the log density still rises along '{layout.site_of(i)}'")


def curvature(density: Density, u: Tensor) -> Tensor:
    """Minus the second derivatives of the log density at u [d], [d, d] in double precision."""
    second: Tensor = torch.func.jacrev(torch.func.grad(density))(u)
    found = -second.detach().to("cpu", torch.float64)
    return 0.5 * (found + found.mT)


def _bends_alike(root: Tensor, precision: Tensor) -> bool:
    """Whether this is the precision root root^T, nearly, as it is at both ends of a small step.

    It is not where a density rises for ever, ever more slowly.
    """
    half = torch.linalg.solve_triangular(root, precision, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return bool((whole - torch.eye(len(root), dtype=root.dtype)).abs().amax() < ALIKE)


def _at(density: Density, layout: Layout, target: Target, mode: Tensor) -> Peak | str:
    precision = curvature(density, target.given(mode))
    below, _ = torch.linalg.cholesky_ex(precision.flip(0, 1))
    if bool(is_singular(below, precision.flip(0, 1))):
        return _flat(layout, precision)
    upper = below.flip(0, 1)  # precision = upper upper^T, so that the root is lower triangular
    unit = torch.eye(len(mode), dtype=mode.dtype)
    root = torch.linalg.solve_triangular(upper, unit, upper=True).mT
    log_mass = target(mode[None])[0][0] + root.diagonal().log().sum()
    return Peak(mode, root, float(log_mass) + 0.5 * len(mode) * math.log(2 * math.pi))


def _flat(layout: Layout, precision: Tensor) -> str:
    values, vectors = torch.linalg.eigh(precision)
    site = layout.site_of(int(vectors[:, 0].abs().argmax()))
    return f"the log density has a least curvature of {float(values[0]):.2g}, along '{site}'"
