"""The climb of a log density by L-BFGS: where it came by, with the gradients there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .target import Target

Array = NDArray[np.float64]


class Path(NamedTuple):
    """The start and what the climb came to after each step; ``limited``: it ran out of steps.

    positions [n + 1, d], log_densities [n + 1], gradients [n + 1, d].
    """

    positions: Tensor
    log_densities: Tensor
    gradients: Tensor
    limited: bool


class _Point(NamedTuple):
    x: Array
    position: Tensor
    log_density: Tensor
    gradient: Tensor


def ascent(target: Target, start: Tensor, *, history: int, steps: int, tolerance: float) -> Path:
    """Climb from ``start`` [d], where the log density and its gradient are finite.

    Args:
        history: pairs of steps and differences of gradients that L-BFGS remembers.
        steps: at most so many.
        tolerance: relative change of the log density over a step at which the climb ends.
    """
    from scipy.optimize import minimize  # slow to import

    descent = _Descent(target, start.numpy())
    options = {"maxcor": history, "maxiter": steps, "maxfun": 20 * steps}
    found = minimize(
        descent,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=descent.keep,
        options={**options, "ftol": tolerance, "gtol": 0.0},
    )
    _, positions, values, gradients = zip(*descent.kept, strict=True)
    limited = found.status == 1
    return Path(torch.stack(positions), torch.stack(values), torch.stack(gradients), limited)


class _Descent:
    """The negative log density for the optimiser, and the points that it has accepted."""

    def __init__(self, target: Target, start: Array) -> None:
        self._target = target
        self._tried = self._at(start)
        self.kept = [self._tried]

    def _at(self, x: Array) -> _Point:
        position = self._target.rounded(torch.from_numpy(x.copy()))
        value, gradient = self._target(position[None])
        return _Point(x.copy(), position, value[0], gradient[0])

    def __call__(self, x: Array) -> tuple[float, Array]:
        self._tried = tried = self._at(x)
        if bool(tried.log_density.isfinite() & tried.gradient.isfinite().all()):
            return -float(tried.log_density), -tried.gradient.numpy()
        return self._wall(x), np.zeros_like(x)

    def _wall(self, x: Array) -> float:
        """A value for where there is no density: it makes the line search turn back.

        So many times the first slope over the step that interpolation takes a small part of it,
        but not next to nothing as an infinite value would.
        """
        last = self.kept[-1]
        rise = abs(float(last.gradient @ torch.from_numpy(x - last.x)))
        return 4.0 * rise - float(last.log_density)

    def keep(self, intermediate_result: Any) -> None:
        """Note an iterate: it is the last point that was tried, or tried again."""
        x = intermediate_result.x
        self.kept.append(self._tried if np.array_equal(x, self._tried.x) else self._at(x))
