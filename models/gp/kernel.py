"""Kernels of Gaussian processes: what they are, and how they are added, multiplied and scaled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.laws.parameters import refuted
from ...ppl.errors import DataError, ProgramError, located

Number = Tensor | float
"""A number, or a tensor [...] of one parameter for each of a batch of kernels."""


class Kernel(ABC):
    """The covariance k(x, y) of a function's values at points of D coordinates.

    ``k(x, y)`` [..., n, m] is between points [n, D] and [m, D], and ``k(x)`` [..., n, n] among the
    points of one set.  Kernels are added and multiplied: ``2.0 * SquaredExponential(0.5) +
    Constant(1.0)``; numbers are variances.  Parameters may be sampled values; those with a batch
    [...] make a batch of kernels.

    To write one: ``between`` and ``diagonal``, and ``own`` where the covariance among the points of
    a set is not ``between(x, x)``.

    Errors:
        DataError: points are not [n, D].
    """

    __array_ufunc__ = None  # so that a number of numpy times a kernel is a kernel

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        require_points(x)
        if y is None:
            return self.own(x)
        require_points(y)
        if x.shape[-1] != y.shape[-1]:
            what = f"points of {x.shape[-1]} coordinates and of {y.shape[-1]} have no covariance"
            raise DataError(located(what))
        return self.between(x, y)

    @abstractmethod
    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """[..., n, m]: of values at x [..., n, D] with others at y [..., m, D]."""

    def own(self, x: Tensor) -> Tensor:
        """[..., n, n]: of the values at x [..., n, D] among themselves."""
        return self.between(x, x)

    @abstractmethod
    def diagonal(self, x: Tensor) -> Tensor:
        """[..., n]: the variances of the values at x [..., n, D]."""

    def spectral_density(self, rates: Tensor) -> Tensor:
        """S(w) [..., m] at angular rates [m, D]: k(r) is the integral of cos(w r) S(w) / (2 pi)^D.

        Errors:
            ProgramError: it is not known of this kernel.
        """
        return self.log_spectral_density(rates).exp()

    def log_spectral_density(self, rates: Tensor) -> Tensor:
        """Its logarithm [..., m], whose derivatives are finite where the density underflows.

        Errors:
            ProgramError: it is not known of this kernel.
        """
        what = f"no spectral density of {type(self).__name__} is known here"
        hint = "it is of SquaredExponential and of Matern kernels, their sums and their multiples"
        raise ProgramError(located(what, hint=hint))

    def on(self, *coordinates: int) -> Kernel:
        """The same kernel, of some coordinates only."""
        return On(self, coordinates)

    def __add__(self, other: Any) -> Kernel:
        return Sum(self, other if isinstance(other, Kernel) else Constant(other))

    def __mul__(self, other: Any) -> Kernel:
        return Product(self, other) if isinstance(other, Kernel) else Scaled(self, other)

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True, eq=False)
class Constant(Kernel):
    """k(x, y) = variance: one value for all points.

    Errors:
        ProgramError: the variance is not positive.
    """

    variance: Number = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "variance")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return wide(self.variance, x) * x.new_ones(x.shape[-2], y.shape[-2])

    def diagonal(self, x: Tensor) -> Tensor:
        return parameter(self.variance, x)[..., None] * x.new_ones(x.shape[-2])


@dataclass(frozen=True, eq=False)
class Sum(Kernel):
    """k(x, y) = left(x, y) + right(x, y)."""

    left: Kernel
    right: Kernel

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left.between(x, y) + self.right.between(x, y)

    def own(self, x: Tensor) -> Tensor:
        return self.left.own(x) + self.right.own(x)

    def diagonal(self, x: Tensor) -> Tensor:
        return self.left.diagonal(x) + self.right.diagonal(x)

    def log_spectral_density(self, rates: Tensor) -> Tensor:
        left, right = (k.log_spectral_density(rates) for k in (self.left, self.right))
        return torch.logaddexp(left, right)


@dataclass(frozen=True, eq=False)
class Product(Kernel):
    """k(x, y) = left(x, y) right(x, y)."""

    left: Kernel
    right: Kernel

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left.between(x, y) * self.right.between(x, y)

    def own(self, x: Tensor) -> Tensor:
        return self.left.own(x) * self.right.own(x)

    def diagonal(self, x: Tensor) -> Tensor:
        return self.left.diagonal(x) * self.right.diagonal(x)


@dataclass(frozen=True, eq=False)
class Scaled(Kernel):
    """k(x, y) = variance kernel(x, y).

    Errors:
        ProgramError: the variance is not positive.
    """

    kernel: Kernel
    variance: Number

    def __post_init__(self) -> None:
        require_positive(self, "variance")

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return wide(self.variance, x) * self.kernel.between(x, y)

    def own(self, x: Tensor) -> Tensor:
        return wide(self.variance, x) * self.kernel.own(x)

    def diagonal(self, x: Tensor) -> Tensor:
        return parameter(self.variance, x)[..., None] * self.kernel.diagonal(x)

    def log_spectral_density(self, rates: Tensor) -> Tensor:
        variance = parameter(self.variance, rates)[..., None]
        return variance.log() + self.kernel.log_spectral_density(rates)


@dataclass(frozen=True, eq=False)
class On(Kernel):
    """A kernel of some of the coordinates.

    Errors:
        ProgramError: no coordinate, or one twice.
        DataError: points do not have it.
    """

    kernel: Kernel
    coordinates: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.coordinates)) != len(self.coordinates) or not self.coordinates:
            what = f"a kernel is on one coordinate or more, each once, not on {self.coordinates}"
            raise ProgramError(located(what))

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        return self.kernel.between(self._of(x), self._of(y))

    def own(self, x: Tensor) -> Tensor:
        return self.kernel.own(self._of(x))

    def diagonal(self, x: Tensor) -> Tensor:
        return self.kernel.diagonal(self._of(x))

    def _of(self, x: Tensor) -> Tensor:
        D = x.shape[-1]
        if not all(-D <= i < D for i in self.coordinates):
            what = f"a kernel is on the coordinates {self.coordinates}, and points have {D}"
            raise DataError(located(what, hint="coordinates are counted from zero"))
        return x[..., list(self.coordinates)]


def parameter(value: Number, x: Tensor) -> Tensor:
    """A parameter as a tensor [...]; a number takes the precision of the points."""
    return value if isinstance(value, Tensor) else x.new_tensor(value)


def wide(value: Number, x: Tensor) -> Tensor:
    """The same [..., 1, 1], for matrices."""
    return parameter(value, x)[..., None, None]


def require_points(x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        shape = f"a tensor {x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"{x!r}"
        hint = "write x[:, None] for points of one coordinate, and x.double() for whole numbers"
        raise DataError(located(f"points are real numbers [n, D], not {shape}", hint=hint))


def require_positive(holder: Any, *names: str) -> None:
    """Refuse parameters that are not positive and finite, where one may look at them."""
    for name in names:
        value = getattr(holder, name)
        value = value if isinstance(value, Tensor) else torch.tensor(value)
        if refuted((value > 0) & value.isfinite()):
            what = f"the {name} of {type(holder).__name__} is positive and finite, which"
            raise ProgramError(located(f"{what} {value.tolist()} is not"))
