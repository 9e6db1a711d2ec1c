"""Processes on grids: a kernel for each axis, whose product is the kernel of the plane or box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul

import torch
from torch import Tensor

from ...ppl import deterministic, observe, sample
from ...ppl.distributions.gaussian_process import covariance_factor
from ...ppl.errors import DataError, ProgramError, located
from .given import Given, jitter_of, require_values, variances
from .kernel import Kernel, Number, require_points
from .kronecker_normal import KroneckerNormal, applied, outer, spectrum
from .means import zero
from .process import standard


@dataclass(frozen=True, eq=False)
class Kronecker:
    """A process with k(x, y) = product of kernel_d(x_d, y_d), seen at all points of a grid.

    It is ``Process`` of the product of ``kernel_d.on(d)``, at a cost of sums over axes of n_d^3 and
    N n_d in place of N^3.  Axes are points [n_d, 1] each, and values [N] are in the order of
    ``grid(axes)``, the last axis fastest: flatten a table [n_1, ..., n_D].

    Args:
        kernels: one for each axis.
        mean: a function of points [N, D] to [..., N].

    Errors:
        ProgramError: there are no kernels; noise is not positive, or not one number.
        DataError: there are other numbers of axes and of kernels, or of values.
    """

    kernels: Sequence[Kernel]
    mean: Callable[[Tensor], Tensor] = zero

    def __post_init__(self) -> None:
        if not self.kernels:
            raise ProgramError(located("a Kronecker process has a kernel for each axis, not none"))

    def grid(self, axes: Sequence[Tensor]) -> Tensor:
        """All points [N, D] of the axes [n_d, 1]."""
        if len(axes) != len(self.kernels):
            what = f"{len(axes)} axes are not for {len(self.kernels)} kernels"
            raise DataError(located(what))
        for axis in axes:
            require_points(axis)
            if axis.shape[1:] != (1,):
                raise DataError(located(f"an axis is points [n, 1], not {list(axis.shape)}"))
        return torch.cartesian_prod(*(axis[:, 0] for axis in axes)).reshape(-1, len(axes))

    def law(self, axes: Sequence[Tensor], noise: Number) -> KroneckerNormal:
        """The normal law [..., N] of observations with noise on the grid."""
        loc = self.mean(self.grid(axes))
        return KroneckerNormal(
            loc, self._factors(axes), variances(noise, loc[..., :1])[..., 0].sqrt()
        )

    def observed(self, name: str, axes: Sequence[Tensor], y: Tensor, noise: Number) -> None:
        """Observe y [N] on the grid with normal noise, as site ``name``."""
        observe(name, self.law(axes, noise), y)

    def values(self, name: str, axes: Sequence[Tensor], jitter: float | None = None) -> Tensor:
        """Sample the values [N] on the grid, for any likelihood.

        Sites are ``name/white`` [N] and the derived ``name``; ``jitter`` is on the diagonal of the
        covariance of each axis, in units of its mean, 1e-6 unless told.
        """
        loc = self.mean(self.grid(axes))
        roots = [
            covariance_factor(K, jitter_of(None, jitter)).to(K.dtype) for K in self._factors(axes)
        ]
        batch = torch.broadcast_shapes(loc.shape[:-1], *(L.shape[:-2] for L in roots))
        white = sample(f"{name}/white", standard(loc.expand(*batch, loc.shape[-1])))
        return deterministic(name, loc + applied(roots, white))

    def given(self, axes: Sequence[Tensor], y: Tensor, noise: Number) -> Given:
        """The process given observations y [..., N] with noise on the grid."""
        grid = self.grid(axes)
        require_values(grid, y)
        loc = self.mean(grid)
        square = variances(noise, loc[..., :1]).double()
        spectra, bases = spectrum([K.double() for K in self._factors(axes)])
        precision = 1 / (outer(spectra) + square)
        turned = applied([V.mT for V in bases], (y - loc).double())
        return OnGrid(self, tuple(axes), bases, precision, precision * turned)

    def _factors(self, axes: Sequence[Tensor]) -> list[Tensor]:
        return [k(axis) for k, axis in zip(self.kernels, axes, strict=True)]


@dataclass(frozen=True, eq=False)
class OnGrid(Given):
    """A process on a grid given data there; it has no derivatives by the kernels' parameters.

    Args:
        axes: those of the data.
        bases: V_d [..., n_d, n_d], the eigenvectors of the axes.
        precision: 1 / mu [..., N], of what was seen, in their basis.
        weights: V' (y - mean) / mu [..., N].
    """

    process: Kronecker
    axes: tuple[Tensor, ...]
    bases: list[Tensor]
    precision: Tensor
    weights: Tensor

    def mean(self, new: Tensor) -> Tensor:
        change = (self._across(new) @ self.weights[..., None])[..., 0]
        return self.process.mean(new) + change.to(new.dtype)

    def covariance(self, new: Tensor) -> Tensor:
        across = self._across(new)
        told = (across * self.precision[..., None, :]) @ across.mT
        return self._kernel(new) - told.to(new.dtype)

    def variance(self, new: Tensor) -> Tensor:
        told = (self._across(new).square() * self.precision[..., None, :]).sum(-1)
        return (self.prior(new) - told.to(new.dtype)).clamp(min=0)

    def prior(self, new: Tensor) -> Tensor:
        return self._kernel.diagonal(new)

    @property
    def _kernel(self) -> Kernel:
        """The product of the kernels of the axes."""
        on_axes = (k.on(d) for d, k in enumerate(self.process.kernels))
        return reduce(mul, on_axes)

    def _across(self, new: Tensor) -> Tensor:
        """k(new, grid) V [..., p, N], float64."""
        require_points(new)
        D = len(self.axes)
        if new.shape[-1] != D:
            what = f"points of a grid of {D} axes are [p, {D}], not {list(new.shape)}"
            raise DataError(located(what))
        each = zip(self.process.kernels, new.split(1, -1), self.axes, self.bases, strict=True)
        return outer([k(x, axis).double() @ V for k, x, axis, V in each])
