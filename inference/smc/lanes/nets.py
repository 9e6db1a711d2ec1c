"""Filters that move by nets of points, in lane code."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....ppl.compile.inductor import Notify
from ....ppl.distributions.nets import ScrambledNet
from ..by_nets import ByNets
from ..by_points import ByPoints
from .engine import Digits, Engine
from .particle import Particle
from .quick import Kind, Quick, population, quick


class NetParticle(Particle):
    """A particle whose choices are functions of the coordinates of points."""

    filtering: ByNets

    def _points(self, args: tuple[Any, ...]) -> tuple[int, int]:
        return self.filtering.asked(*args)

    def _start(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        with ByPoints(u):
            return super()._start(u[:0], *rest)

    def _step(self, u: Tensor, t: int | Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        with ByPoints(u[self.size :]):
            return super()._step(u[: self.size], t, *rest)


class Nets(Engine):
    """Runs the filter of a particle by nets."""

    particle: NetParticle

    def __init__(self, particle: NetParticle) -> None:
        super().__init__(particle)
        filtering, (before, within) = particle.filtering, particle.points
        law = ScrambledNet(filtering.particles, max(before, 1 + within), filtering.digits)
        self._directions = law.directions()
        self.run.digits = digits_of(law, self._directions)


def digits_of(law: ScrambledNet, directions: Tensor) -> Digits:
    """What makes the points of a law, by direction numbers that stay alive."""
    return Digits(law.digits, law.columns, law.numbers, directions.data_ptr())


def quick_nets(
    filtering: ByNets, args: tuple[Any, ...], notify: Notify | None, followed: bool = False
) -> Quick | None:
    """The filter as machine code, or None: see ``quick``."""
    return quick(filtering, args, notify, followed, Kind(NetParticle, Nets, population))
