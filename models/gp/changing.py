"""Kernels that are not the same everywhere: of lines, of noise, of changing lengthscales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ppl.distributions.gaussian_process import squared_distances
from ...ppl.distributions.laws.parameters import refuted
from ...ppl.errors import ProgramError, located
from .kernel import Kernel, Number, parameter, require_positive, wide


@dataclass(frozen=True, eq=False)
class Linear(Kernel):
    """k(x, y) = (x - centre) (y - centre): straight lines through zero at the centre.

    Args:
        centre: a number [...] for all coordinates.
    """

    centre: Number = 0.0

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        centre = wide(self.centre, x)
        return (x - centre) @ (y - centre).mT

    def diagonal(self, x: Tensor) -> Tensor:
        return (x - wide(self.centre, x)).square().sum(-1)


@dataclass(frozen=True, eq=False)
class Polynomial(Kernel):
    """k(x, y) = ((x - centre) (y - centre) + offset)^degree.

    Errors:
        ProgramError: the degree is below 1, or the offset is not positive.
    """

    degree: int = 2
    offset: Number = 1.0
    centre: Number = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "offset")
        if self.degree < 1:
            raise ProgramError(located(f"the degree of Polynomial is at least 1: {self.degree}"))

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return (Linear(self.centre).between(x, y) + wide(self.offset, x)) ** self.degree

    def diagonal(self, x: Tensor) -> Tensor:
        offset = parameter(self.offset, x)[..., None]
        return (Linear(self.centre).diagonal(x) + offset) ** self.degree


@dataclass(frozen=True, eq=False)
class WhiteNoise(Kernel):
    """``variance`` of each value by itself: k(x) is diagonal, and k(x, y) is zero.

    Two values at one point have noise of their own each, and new values have new noise.
    """

    variance: Number = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "variance")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[-2], y.shape[-2])

    def own(self, x: Tensor) -> Tensor:
        return wide(self.variance, x) * torch.eye(x.shape[-2]).to(x)

    def diagonal(self, x: Tensor) -> Tensor:
        return parameter(self.variance, x)[..., None] * x.new_ones(x.shape[-2])


@dataclass(frozen=True, eq=False)
class Gibbs(Kernel):
    """The squared exponential with a lengthscale that changes from place to place.

    k(x, y) = (2 l m / (l^2 + m^2))^(D / 2) exp(-|x - y|^2 / (l^2 + m^2)), l and m those at x and y.

    Args:
        lengthscale: a function of points [n, D] to positive lengths [..., n].

    Source: Gibbs (1997); Rasmussen and Williams (2006), equation 4.32.

    Errors:
        ProgramError: it gives lengths that are not positive, or not [..., n].
    """

    lengthscale: Callable[[Tensor], Tensor]

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = self._at(x)[..., :, None], self._at(y)[..., None, :]
        both = left.square() + right.square()
        apart = squared_distances(x, y)
        return (2 * left * right / both) ** (x.shape[-1] / 2) * (-apart / both).exp()

    def diagonal(self, x: Tensor) -> Tensor:
        return torch.ones_like(self._at(x))

    def _at(self, x: Tensor) -> Tensor:
        lengths = self.lengthscale(x)
        if lengths.shape[-1:] != x.shape[-2:-1]:
            what = f"lengths at {x.shape[-2]} points are [..., n], not {list(lengths.shape)}"
            raise ProgramError(located(what))
        if refuted(lengths > 0):
            raise ProgramError(located("a Gibbs kernel has positive lengths everywhere"))
        return lengths


@dataclass(frozen=True, eq=False)
class ChangePoint(Kernel):
    """One kernel before a place, another behind it, with a soft change between them.

    The function is (1 - s) f + s g, s = sigmoid(rate (x - place)) in one coordinate.

    Args:
        place, rate: [...]; a larger rate is a harder change.
        coordinate: that in which it changes.
    """

    before: Kernel
    after: Kernel
    place: Number = 0.0
    rate: Number = 1.0
    coordinate: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "rate")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = self._share(x), self._share(y)
        before, after = self.before.between(x, y), self.after.between(x, y)
        return _around(1 - left, before, 1 - right) + _around(left, after, right)

    def own(self, x: Tensor) -> Tensor:
        s = self._share(x)
        return _around(1 - s, self.before.own(x), 1 - s) + _around(s, self.after.own(x), s)

    def diagonal(self, x: Tensor) -> Tensor:
        s = self._share(x)
        return (1 - s).square() * self.before.diagonal(x) + s.square() * self.after.diagonal(x)

    def _share(self, x: Tensor) -> Tensor:
        """s [..., n]."""
        place, rate = (parameter(each, x)[..., None] for each in (self.place, self.rate))
        return torch.sigmoid(rate * (x[..., self.coordinate] - place))


def _around(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * matrix * right[..., None, :]
