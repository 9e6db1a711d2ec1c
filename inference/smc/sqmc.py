"""Sequential quasi-Monte Carlo: a particle filter whose particles move by points of scrambled nets.

Gerber and Chopin 2015, "Sequential quasi Monte Carlo".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...ppl import draw, scan, vmap
from ...ppl.distributions.nets import MOST, ScrambledNet
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, Program, signature
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping
from .by_points import ByPoints, Counting
from .curves import along_curve, flat
from .filtering import Filtering, ancestry
from .population import Population
from .resampling import resample


def sqmc(
    model: Callback, particles: int, proposal: Callback | None = None, digits: int = MOST
) -> Program:
    """A particle filter by quasi-random points, for a program with a ``scan``.

    It returns a ``Population``.  Before each step as many points are drawn as there are particles,
    a scrambled Sobol' net.  Particles stand in the order of what they carry, along a Hilbert curve
    if that is several numbers; the first coordinate of a point chooses an ancestor in that order,
    and the others make the choices of the step by the quantiles of their laws.  So neighbours go on
    by points that are spread evenly, and errors fall faster than by independent ones.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for every number of particles, since
    each point is uniform by itself, and those of one step are independent of those before.

    Laws without a quantile here (gamma, beta, Student's, Poisson and others) are drawn as ever,
    which keeps the measure and loses the gain.  The number of particles is best a power of two.

    Args:
        particles: how many.
        proposal: as of ``particle_filter``.
        digits: binary digits of a coordinate.  With two or three the law of the points is small
            enough for exact checks, of a model whose chances are multiples of 2^-digits.

    Errors:
        As of ``particle_filter``.
    """
    if particles < 1:
        raise ValueError("sqmc needs at least one particle")
    if not 1 <= digits <= MOST:
        raise ValueError(f"points have 1 to {MOST} digits, not {digits}")
    filtering = _ByNets(model, particles, proposal=proposal, digits=digits)
    checked = Bookkeeping()

    def step(state: tuple[Population, bool, int, Any], t: Tensor) -> tuple[Any, Any]:
        population, recording, numbers, args = state
        population, output, ancestors = filtering.moved(population, t, numbers, *args)
        recording = output is not None
        return (population, recording, numbers, args), (output, ancestors) if recording else None

    def run(*args: Any) -> Population:
        if not any(map(is_hidden, tree_leaves(args))) and (key := signature(args)) not in checked:
            filtering.check(*args)
            checked.add(key)
        before, numbers = filtering.asked(*args)
        population, length = filtering.begun(before, *args)
        carry = population, False, numbers, args
        (population, *_), history = scan(step)(carry, torch.arange(length))
        outputs = None if history is None else ancestry(*history)
        return filtering.end(population, outputs, *args).require_weights()

    run.__name__ = run.__qualname__ = f"sqmc({particles})"
    return Program(run)


@dataclass(frozen=True)
class _ByNets(Filtering):
    """A filter whose particles begin and go on by nets of points."""

    digits: int = MOST

    def asked(self, *args: Any) -> tuple[int, int]:
        """How many numbers make the choices of a particle before the scan, and those of a step."""
        with Sealed():
            with Counting() as before:
                particle, length, _ = self._start(*args)
            with Counting() as within:
                if length:
                    self._advance(particle, 0, *args)
        return before.asked, within.asked

    def begun(self, numbers: int, *args: Any) -> tuple[Population, int]:
        """As ``begin``, by points of so many numbers."""
        points = self._net(numbers)
        axes = (0, *(None,) * len(args))
        values, lengths, log_weights = vmap(self._start_by, axes, self.particles)(points, *args)
        return Population(values, log_weights), int(lengths[0])

    def moved(
        self, population: Population, t: Tensor, numbers: int, *args: Any
    ) -> tuple[Population, Any, Tensor]:
        """Resample and run step t, by points of 1 + ``numbers`` numbers."""
        time = t if is_hidden(t) else int(t)
        points = self._net(1 + numbers)
        order = along_curve(flat(population.values[1], self.particles))

        def by_first(log_weights: Tensor) -> Tensor:
            """The ancestors at the first coordinates of the sorted weights, cumulated."""
            ends = torch.softmax(log_weights.double()[order], 0).cumsum(0)
            return order[torch.searchsorted(ends / ends[-1], points[:, 0].contiguous())]

        population, ancestors = resample(population, by_first)
        axes = (0, 0, None, *(None,) * len(args))
        values, output, log_weights = vmap(self._advance_by, axes, self.particles)(
            population.values, points[:, 1:], time, *args
        )
        return Population(values, population.log_weights + log_weights), output, ancestors

    def _net(self, numbers: int) -> Tensor:
        """Points [particles, numbers] of one net, sorted by the first coordinate."""
        if not numbers:
            return torch.zeros(self.particles, 0, dtype=torch.float64)
        return draw(ScrambledNet(self.particles, numbers, self.digits), label="points")

    def _start_by(self, u: Tensor, *args: Any) -> tuple[Any, int, Tensor]:
        with ByPoints(u):
            return self._start(*args)

    def _advance_by(
        self, particle: Any, u: Tensor, t: int | Tensor, *args: Any
    ) -> tuple[Any, Any, Tensor]:
        with ByPoints(u):
            return self._advance(particle, t, *args)
