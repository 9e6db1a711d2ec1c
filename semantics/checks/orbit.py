"""The check of trajectory samplers: their transition, enumerated over one orbit of the dynamics.

The dynamics preserves volume, so a sampler that moves along its orbits preserves exp(-H) if on each
orbit its transition matrix preserves the weights exp(-H) of the points.  An orbit is a sequence of
points, and the sampler's randomness is a finite number of coins: both can be written down in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.language.program import program_name
from ..evaluation.denote import doubted
from ..evaluation.sources import AGAIN
from ..judging.candidate import held, verdict
from ..judging.comparing import numbers
from ..judging.report import Report, decide

TOLERANCE = 1e-12
BUDGET = 10_000_000


class OrbitPoint(NamedTuple):
    """A point of an orbit, for one chain: index [1], momentum [1, d], log_weight [1]."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    momentum: Tensor
    log_weight: Tensor


@dataclass(frozen=True)
class Orbit:
    """A window of an orbit: momenta [n, d], and log weights [n] of largest value 0."""

    momentum: Tensor
    log_weight: Tensor

    @staticmethod
    def through(
        start: Any, leapfrog: Callable[[Any, Tensor], Any], before: int, after: int
    ) -> Orbit:
        """The window from ``before`` steps before a phase point of one chain to ``after`` after it.

        ``leapfrog(point, direction)`` moves a point with ``momentum`` [1, d] and ``log_weight`` [1]
        by a step in the direction [1] of +-1.
        """
        past, future = [start], [start]
        for points, steps, sign in ((past, before, -1), (future, after, 1)):
            for _ in range(steps):
                points.append(leapfrog(points[-1], torch.tensor([sign])))
        points = past[:0:-1] + future
        log_weight = torch.cat([point.log_weight for point in points])
        momentum = torch.cat([point.momentum for point in points])
        return Orbit(momentum, log_weight - log_weight.max())

    def point(self, index: int) -> OrbitPoint:
        """The point with this index."""
        return self._at(torch.tensor([index]))

    def leapfrog(self, point: OrbitPoint, direction: Tensor) -> OrbitPoint:
        """The next point in a direction [1] of +-1."""
        return self._at(point.index + direction)

    def _at(self, index: Tensor) -> OrbitPoint:
        if not 0 <= int(index) < len(self.log_weight):
            raise IndexError(f"the trajectory leaves the window at index {int(index)}")
        return OrbitPoint(index, self.momentum[index], self.log_weight[index])


# (start, leapfrog) -> where the transition ends: a program
Trajectory = Callable[[OrbitPoint, Callable[[OrbitPoint, Tensor], OrbitPoint]], OrbitPoint]
# a program without arguments -> the pairs (value, probability) that it may return
Enumerate = Callable[[Callable[[], Any]], Iterable[tuple[Any, float]]]


def enumerated(p: Callable[[], Any]) -> Iterable[tuple[Any, float]]:
    """The exact measure of a program without arguments, which must do the same when run again."""
    return doubted(p, again=AGAIN, budget=BUDGET).items()


def transition_matrix(
    trajectory: Trajectory, orbit: Orbit, starts: range, enumerate_program: Enumerate = enumerated
) -> Tensor:
    """K[i, j]: the probability of ending at index j from index i; rows outside ``starts`` are 0.

    All starts are enumerated together, so that what their trajectories share is computed once.
    """
    uniform = torch.full((len(starts),), 1.0 / len(starts), dtype=torch.float64)

    def transitions() -> tuple[Tensor, Tensor]:
        start = orbit.point(starts[int(draw(dist.Categorical(uniform)))])
        return start.index, trajectory(start, orbit.leapfrog).index

    n = len(orbit.log_weight)
    matrix = torch.zeros((n, n), dtype=torch.float64)
    for (i, j), probability in enumerate_program(transitions):
        matrix[int(i), int(j)] += probability * len(starts)
    return matrix


@verdict
def check_orbit(
    trajectory: Trajectory,
    orbit: Orbit,
    reach: int,
    *,
    tolerance: float = TOLERANCE,
    enumerate_program: Enumerate = enumerated,
) -> Report:
    """Whether a transition preserves the weights of an orbit: sum_i pi_i K_ij = pi_j.

    This is asked for every index j of which all possible predecessors can be enumerated within the
    window.  Deviations are relative to the largest weight among them.

    Args:
        trajectory: a program from a start and a leapfrog to the point where the transition ends.
        orbit: a window of n points, of which n - 4 reach are asked about.
        reach: the most steps that a transition takes away from its start.
    """
    start = time.perf_counter()
    n = len(orbit.log_weight)
    starts, targets = range(reach, n - reach), range(2 * reach, n - 2 * reach)
    if not targets:
        raise ValueError(f"check_orbit: reach {reach} needs more than {4 * reach} points, not {n}")
    subject = f"{program_name(trajectory)} preserves the weights of an orbit"
    with held(subject, f"from one of the indices {starts.start} to {starts.stop - 1}"):
        matrix = transition_matrix(trajectory, orbit, starts, enumerate_program)
    found = {"deviation": 0.0, "at": targets[0], "flow": 0.0, "weight": 0.0}
    for j in targets:
        sources = slice(j - reach, j + reach + 1)
        weights = (orbit.log_weight[sources] - orbit.log_weight[sources].max()).exp()
        into, own = float(weights @ matrix[sources, j]), float(weights[reach])
        if not abs(into - own) <= found["deviation"]:
            found = {"deviation": abs(into - own), "at": j, "flow": into, "weight": own}
    j = int(found["at"])
    weight, flow = numbers(found["weight"], found["flow"])
    return decide(
        subject,
        found["deviation"],
        tolerance,
        "for float64 rounding",
        f"index {j} of the orbit has weight {weight} and receives {flow}; "
        f"it is reached from {_row(matrix[:, j])}",
        time.perf_counter() - start,
        (f"{len(targets)} indices, {len(starts)} starts, transitions of up to {reach} steps",),
    )


def _row(column: Tensor) -> str:
    """The starts from which an index is reached, with probabilities."""
    pairs = [f"{i} ({float(column[i]):.4g})" for i in column.nonzero()[:, 0].tolist()]
    return ", ".join(pairs)
