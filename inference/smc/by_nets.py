"""A filter whose particles begin and go on by nets of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl import draw, vmap
from ...ppl.distributions.nets import MOST, ScrambledNet
from ...ppl.language.handlers import Sealed
from ...ppl.tensors.hidden import is_hidden
from .by_points import ByPoints, Counting
from .curves import along_curve, flat
from .filtering import Filtering
from .population import Population
from .resampling import resample


@dataclass(frozen=True)
class ByNets(Filtering):
    """A filter whose choices are made of points, of ``digits`` binary digits each."""

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
