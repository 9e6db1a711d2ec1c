"""The measure of a static continuous program, by quadrature over all nodes at once.

The program's density is integrated in unconstrained coordinates u by the trapezoidal rule, after an
affine change of variables to its mode and curvature there.  For densities that are analytic and
decay fast the rule converges exponentially in the number of nodes; the window grows until its edge
carries no mass, and the error is estimated by halving the nodes.  Where tails are too long for it,
coordinates are hyperbolic sines of even nodes.  A mode that lies far from the one found is looked
for along each coordinate, and off these lines can be missed: this is an estimate, not a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...ppl.errors import (
    BudgetError,
    ConvergenceError,
    InfiniteMassError,
    ProgramError,
    ZeroMassError,
    located,
)
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.tensors.keys import Values
from .measure import Measure, log_difference, logsumexp

EDGE = 1e-17  # of the mass, at the edge of a window that is wide enough
REACH = 7.6  # asinh of how far a second mode is looked for
FAINT = 1e-12  # of the mass, that a second mode may have
WINDOWS = (8.0, 16.0, 32.0, 64.0)
ROUNDED = 1e-10  # of the mass, where values are rounded to one
SPREAD = (5.0, 6.0, 8.0, 12.0, 16.0)  # of nodes that are spread out


def integrate(density: LogDensity, nodes: int, of: str, budget: int) -> Measure:
    """The measure of the density's program; ``nodes`` for each coordinate of the first window.

    Errors:
        ZeroMassError, InfiniteMassError: the density is zero, or does not decay.
        BudgetError: too many nodes for the number of coordinates.
    """
    peak = _laplace(density)
    outcome: Callable[[Tensor], Any] = lambda u: density.outcome(u, of)  # noqa: E731
    try:
        grid = _grid(density, peak, nodes, budget, WINDOWS, _even)
    except (BudgetError, InfiniteMassError) as error:
        try:
            grid = _grid(density, peak, nodes, budget, SPREAD, _spread)
        except ProgramError:
            raise error from None
        finite = bool(grid.weights.isfinite().all())
        if not finite or _beyond(density, grid):  # the numbers of a latent
            raise error from None
    centre, scale, log_peak = peak
    _require_one_mode(density, centre, scale, log_peak, grid.reach)
    log_cell = len(centre) * math.log(grid.step) + float(torch.logdet(scale))
    keep = grid.weights > 0
    total = float(grid.weights.sum())
    if total == 0:
        raise ZeroMassError(located("the density is zero at every quadrature node"))
    coarse = (grid.places % 2 == 0).all(1)
    halved = float(grid.weights[coarse].sum()) * 2 ** len(centre)
    log_error = (
        math.log(abs(total - halved)) + log_cell + float(log_peak) if total != halved else -math.inf
    )
    logs = (grid.log_density[keep] + log_cell).tolist()
    values = list(_values(outcome, grid.points[keep]))
    jumps = _log_error_of_shared(values, logs, coarse[keep].tolist(), len(centre))
    log_error = max(log_error, jumps)
    return Measure.of(zip(values, logs, strict=True), log_error, ("quadrature about the mode",))


class _Grid(NamedTuple):
    """Points [n, d], the log density [n] per cell there and its ratios [n] to the peak.

    ``places`` [n, d] count the nodes along each coordinate, which are a ``step`` apart; ``reach``
    is how far they go, in scales.
    """

    points: Tensor
    log_density: Tensor
    weights: Tensor
    places: Tensor
    step: float
    reach: float


def _beyond(density: LogDensity, grid: _Grid) -> bool:
    """Whether mass lies at nodes of which the latents are rounded to one number, as at an end."""

    def latents(u: Tensor) -> Tensor:
        values = density.layout.unpack(u)[0].values()
        return torch.cat([x.double().reshape(-1) for x in values])

    each = torch.func.vmap(latents)
    found, total = each(grid.points), grid.weights.sum()
    for unit in torch.eye(grid.points.shape[1], dtype=grid.points.dtype):
        beside = each(grid.points + 1e-2 * (1 + grid.points.abs()) * unit)
        rounded = (beside == found).all(1)
        if bool(grid.weights[rounded].sum() > ROUNDED * total):
            return True
    return False


def _even(z: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes as they are, and the log of how much each stretches a cell."""
    return z, torch.zeros(())


def _spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes that are the farther apart the farther they are off, so that few reach long tails."""
    return torch.sinh(z), torch.cosh(z).log().sum(1)


def _grid(
    density: LogDensity,
    peak: tuple[Tensor, Tensor, Tensor],
    nodes: int,
    budget: int,
    windows: tuple[float, ...],
    placed: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> _Grid:
    """The first window at whose edge there is no mass."""
    centre, scale, log_peak = peak
    for window in windows:
        per_axis = int(nodes * window / windows[0]) | 1
        if per_axis ** len(centre) > budget:
            raise BudgetError(
                located(
                    f"quadrature needs {per_axis}^{len(centre)} nodes, over the budget of {budget}",
                    hint="use fewer nodes or latents, or raise budget=",
                )
            )
        axis = torch.linspace(-window, window, per_axis, dtype=centre.dtype)
        z = torch.cartesian_prod(*[axis] * len(centre)).reshape(-1, len(centre))
        offsets, log_stretch = placed(z)
        points = centre + offsets @ scale.T
        log_density = torch.func.vmap(density)(points) + log_stretch
        if bool(torch.isnan(log_density).any()):
            raise ProgramError(located("the log density is NaN at a quadrature node"))
        weights = torch.exp(log_density - log_peak)
        edge = (z.abs() == window).any(1)
        if float(weights[edge].sum()) <= EDGE * float(weights.sum()):
            step = float(axis[1] - axis[0])
            places = torch.round((z + window) / step).long()
            return _Grid(points, log_density, weights, places, step, float(offsets.max()))
    raise InfiniteMassError(
        located("the density does not decay: its mass is infinite, or too spread for quadrature")
    )


def _log_error_of_shared(
    values: list[Any], logs: list[float], coarse: list[bool], dims: int
) -> float:
    """The log of what halving the nodes changes in the weights of values that several nodes share.

    Where the result jumps in a coordinate, the mass is exact and these are not.
    """
    key, groups = Values(), dict[Hashable, tuple[list[float], list[float]]]()
    for value, log_weight, halved in zip(values, logs, coarse, strict=True):
        fine, half = groups.setdefault(key(value), ([], []))
        fine.append(log_weight)
        if halved:
            half.append(log_weight + dims * math.log(2.0))
    shared = ((fine, half) for fine, half in groups.values() if len(half) > 1)
    return logsumexp([log_difference(logsumexp(fine), logsumexp(half)) for fine, half in shared])


def _values(outcome: Callable[[Tensor], Any], u: Tensor) -> Iterator[Any]:
    """The value of ``outcome`` at each row of u [n, d]."""
    spec: Any = None
    present: list[bool] = []

    def at(row: Tensor) -> tuple[Tensor, ...]:
        nonlocal spec, present
        leaves, spec = tree_flatten(outcome(row))
        present = [leaf is not None for leaf in leaves]
        return tuple(torch.as_tensor(leaf) for leaf in leaves if leaf is not None)

    columns = torch.func.vmap(at)(u)
    for i in range(len(u)):
        row = iter(columns)
        yield tree_unflatten([next(row)[i] if kept else None for kept in present], spec)


def _require_one_mode(
    density: LogDensity, centre: Tensor, scale: Tensor, log_peak: Tensor, window: float
) -> None:
    """Raise if a line along some coordinate meets a second mode of some mass, off the window.

    A mode far away shows by its flank: the log density has a local maximum on the line.
    """
    t = torch.linspace(-REACH, REACH, 601, dtype=torch.float64)
    here = float(log_peak) + float(torch.logdet(scale))
    for direction in torch.eye(len(centre), dtype=torch.float64):
        line = centre + torch.sinh(t)[:, None] * direction
        values = torch.func.vmap(density)(line)
        values = values.masked_fill(~values.isfinite(), -math.inf)
        top = (values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])
        for start in line[1:-1][top & values[1:-1].isfinite()]:
            if _off_window(start, centre, scale, window):
                mode, spread, log_density = _laplace(density, start)
                there = float(log_density) + float(torch.logdet(spread))
                if _off_window(mode, centre, scale, window) and there > here + math.log(FAINT):
                    raise ConvergenceError(
                        located(
                            "the density has modes too far apart for one quadrature",
                            hint="write the choice between them as a discrete site",
                        )
                    )


def _off_window(u: Tensor, centre: Tensor, scale: Tensor, window: float) -> bool:
    z = torch.linalg.solve_triangular(scale, (u - centre)[:, None], upper=False)
    return bool(z.abs().max() > window)


def _laplace(
    density: LogDensity, start: Tensor | None = None, steps: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """A mode, a scale matrix (Cholesky factor of the inverse curvature), and the log density.

    The mode is found by damped Newton steps from ``start``, the origin unless given.
    """
    u = torch.zeros(density.layout.size, dtype=torch.float64) if start is None else start
    value = density(u)
    for _ in range(steps):
        gradient, curvature = torch.func.grad(density)(u), -torch.func.hessian(density)(u)
        if not bool(gradient.isfinite().all() and curvature.isfinite().all()):
            break
        factor = _factor(curvature)
        step = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        size = 1.0
        while size > 1e-10:
            proposal = density(u + size * step)
            if bool(torch.isfinite(proposal)) and float(proposal) >= float(value):
                break
            size /= 2
        else:
            break
        u, gain, value = u + size * step, float(proposal - value), proposal
        if gain < 1e-13 * max(1.0, abs(float(value))):
            break
    if not bool(torch.isfinite(value)):
        raise ZeroMassError(located(f"the log density is {float(value)} at the origin"))
    factor = _factor(-torch.func.hessian(density)(u).nan_to_num(0.0, 0.0, 0.0))
    scale = torch.linalg.cholesky(torch.cholesky_inverse(factor))
    return u, scale, value


def _factor(curvature: Tensor) -> Tensor:
    """A Cholesky factor of the curvature, made positive by raising its small eigenvalues."""
    eigenvalues, vectors = torch.linalg.eigh((curvature + curvature.T) / 2)
    lifted = vectors @ torch.diag(eigenvalues.abs().clamp(min=1e-4)) @ vectors.T
    factor: Tensor = torch.linalg.cholesky(lifted)
    return factor
