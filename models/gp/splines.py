"""Smooth curves by B-splines whose coefficients are a random walk: P-splines."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import deterministic, sample
from ...ppl.distributions.laws.parameters import refuted
from ...ppl.errors import DataError, ProgramError, located


@dataclass(frozen=True)
class Splines:
    """B-splines on equally spaced knots: piecewise polynomials that sum to one between the ends.

    Args:
        low, high: the ends, between which points lie.
        count: of functions, above the degree.
        degree: of the polynomials; 3 is twice continuously differentiable.

    Source: de Boor, A Practical Guide to Splines (1978); Eilers and Marx, Statistical Science 11
        (1996), who have the knots go on beyond the ends.

    Errors:
        ProgramError: the ends are not in order, or there are too few functions.
    """

    low: float
    high: float
    count: int = 20
    degree: int = 3

    def __post_init__(self) -> None:
        if not self.low < self.high or self.degree < 0 or self.count <= self.degree:
            hint = "low < high, degree >= 0 and count > degree"
            raise ProgramError(located(f"no splines are {self}", hint=hint))

    @property
    def knots(self) -> Tensor:
        """[count + degree + 1], float64, a step apart; ``degree`` of them are beyond each end."""
        pieces = self.count - self.degree
        steps = torch.arange(-self.degree, pieces + self.degree + 1, dtype=torch.float64)
        return self.low + steps * (self.high - self.low) / pieces

    def basis(self, x: Tensor) -> Tensor:
        """B [..., n, count] at points x [..., n], by the recursion of de Boor.

        Errors:
            DataError: points lie outside the ends.
        """
        if refuted((x >= self.low) & (x <= self.high)):
            what = f"points of splines lie in {self.low} ... {self.high}"
            raise DataError(located(what, hint="take ends around all points, also new ones"))
        pieces = self.count - self.degree
        at = (x - self.low) * (pieces / (self.high - self.low)) + self.degree  # in knots
        piece = at.floor().clamp(self.degree, self.count - 1)  # the last has its end
        order = torch.arange(self.count + self.degree).to(at)
        found = (piece[..., None] == order).to(at)
        for k in range(1, self.degree + 1):
            rising = (at[..., None] - order[:-k]) / k
            falling = (order[k:] + 1 - at[..., None]) / k
            found = rising * found[..., :-1] + falling * found[..., 1:]
        return found

    def curve(
        self,
        name: str,
        x: Tensor,
        scale: Tensor | float,
        order: int = 2,
        spread: Tensor | float = 10.0,
    ) -> Tensor:
        """Sample a smooth curve, and give its values [n] at points x [n].

        The ``order``-th differences of the coefficients are normal with deviation ``scale``: where
        it goes to zero, the curve goes to a polynomial of degree ``order`` - 1.  Sites are
        ``name/start`` [order], ``name/white`` [count - order] (not centred, for NUTS), the derived
        ``name/coefficients`` [count] and ``name`` [n].  A program that is run with other points
        predicts the curve there.

        Args:
            scale: [], positive; usually a sampled value.
            spread: the deviation of the start: of the first coefficient, and of the first
                differences of each order below.

        Source: Lang and Brezger, Journal of Computational and Graphical Statistics 13 (2004).

        Errors:
            ProgramError: the order is not between 1 and ``count`` - 1.
        """
        if not 1 <= order < self.count:
            what = f"a walk of order {order} has no steps among {self.count} coefficients"
            raise ProgramError(located(what, hint="take order 1 or 2, or more functions"))
        start = sample(f"{name}/start", dist.Normal(x.new_zeros(order), spread).to_event(1))
        rest = x.new_zeros(self.count - order)
        differences = scale * sample(f"{name}/white", dist.Normal(rest, 1.0).to_event(1))
        for k in reversed(range(order)):
            differences = torch.cat([start[k : k + 1], differences]).cumsum(0)
        coefficients = deterministic(f"{name}/coefficients", differences)
        return deterministic(name, (self.basis(x) @ coefficients[:, None])[..., 0])
