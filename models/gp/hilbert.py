"""Processes in a box by waves: the approximation in Hilbert spaces of Solin and Sarkka."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ...ppl import deterministic, sample
from ...ppl.distributions.laws.parameters import refuted
from ...ppl.errors import DataError, ProgramError, located
from .kernel import require_points
from .low_rank import LowRank
from .process import Process, standard


@dataclass(frozen=True, eq=False)
class Hilbert(LowRank):
    """A process with a spectral density S, on the box centre - boundary ... centre + boundary.

    The features are the eigenfunctions of the Laplacian that vanish at the boundary, products of
    sin(w (x - centre + boundary)) / sqrt(boundary) with w = pi j / (2 boundary), j = 1 ... count,
    times sqrt(S(w)).  Data should stay away from the boundary: see ``around`` and ``advised``.

    Args:
        centre, boundary: [D]; half-widths of the box.
        count: of functions for each coordinate; in all there are as many as their product.

    Source: Solin and Sarkka (arXiv 1401.5508); Riutort-Mayol et al. (arXiv 2004.11408).

    Errors:
        ProgramError: a boundary or count is not positive; the kernel has no spectral density here.
        DataError: points lie outside the box, or have other coordinates than it.
    """

    centre: Tensor
    boundary: Tensor
    count: tuple[int, ...]

    def __post_init__(self) -> None:
        D = len(self.count)
        if self.centre.shape != (D,) or self.boundary.shape != (D,):
            shapes = f"{list(self.centre.shape)}, {list(self.boundary.shape)} and {D}"
            raise ProgramError(located(f"centre, boundary and count are one for each: {shapes}"))
        if min(self.count, default=0) < 1 or refuted(self.boundary > 0):
            what = f"boundaries and counts are positive: {self.boundary.tolist()}, {self.count}"
            raise ProgramError(located(what))

    @classmethod
    def around(
        cls, process: Process, x: Tensor, count: int | Sequence[int], factor: float = 1.5
    ) -> Hilbert:
        """The box around points x [n, D], ``factor`` times as wide as they lie.

        Take all points that will be asked for: the box, and with it the weights of the waves,
        must be the same for data and for predictions.

        Errors:
            ProgramError: the factor is not above 1, or the points do not span a box.
        """
        require_points(x)
        low, high = x.amin(0), x.amax(0)
        if not factor > 1 or refuted(high > low):
            what = f"a box of factor {factor} around points that span {(high - low).tolist()}"
            hint = "the factor is above 1, and points differ in each coordinate"
            raise ProgramError(located(what, hint=hint))
        counts = (count,) * x.shape[1] if isinstance(count, int) else tuple(count)
        return cls(process, (low + high) / 2, factor * (high - low) / 2, counts)

    @property
    def rates(self) -> Tensor:
        """w [m, D]: those of the waves, in order of the last coordinate first."""
        orders = torch.tensor(list(product(*(range(1, n + 1) for n in self.count))))
        return math.pi * orders.to(self.boundary) / (2 * self.boundary)

    def waves(self, x: Tensor) -> Tensor:
        """The eigenfunctions [n, m] at points [n, D]."""
        require_points(x)
        if x.shape[-1] != len(self.count):
            what = f"a box of {len(self.count)} coordinates has no points of {x.shape[-1]}"
            raise DataError(located(what))
        inside = x - self.centre + self.boundary
        if refuted((inside >= 0) & (inside <= 2 * self.boundary)):
            low, high = (self.centre + sign * self.boundary for sign in (-1, 1))
            what = f"points lie outside the box {low.tolist()} ... {high.tolist()}"
            raise DataError(located(what, hint="make the box around all points, also new ones"))
        sines = (inside[..., :, None, :] * self.rates).sin() / self.boundary.sqrt()
        return sines.prod(-1)

    def features(self, x: Tensor) -> Tensor:
        log_density = self.process.kernel.log_spectral_density(self.rates)
        return self.waves(x) * (log_density / 2).exp()[..., None, :]

    def left(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[-2], x.shape[-2])

    def values(self, name: str, x: Tensor) -> Tensor:
        """Sample the values [n] at x, for any likelihood.

        Sites are ``name/white`` [m], the weights of the waves, and the derived ``name``; a program
        that is run with other points, of the same box, predicts the function there.
        """
        W = self.features(x)
        white = sample(f"{name}/white", standard(W[..., 0, :]))
        return deterministic(name, self.process.mean(x) + (W @ white[..., None])[..., 0])


class Advice(NamedTuple):
    """A number of functions, and the factor of the box."""

    functions: int
    factor: float


_ADVICE = {"squared": (3.2, 1.75), "matern32": (4.5, 3.42), "matern52": (4.1, 2.65)}


def advised(kernel: str, lengthscale: float, half_range: float) -> Advice:
    """Functions and factor for one coordinate.

    Covariances with the middle of the points are then within 0.012 of the kernel's, at variance
    one.  At the ends of a box of factor 1.2 the variance is a seventh too small.

    Args:
        kernel: "squared" (exponential), "matern32" or "matern52".
        lengthscale: the smallest that matters sets the count; the largest sets the factor, so that
            one asks for both and takes the larger of each.
        half_range: half of what the points span.

    Source: Riutort-Mayol et al. (arXiv 2004.11408), section 4: factor c l / S and at least 1.2,
        count m factor S / l.

    Errors:
        ProgramError: no such kernel, or a length that is not positive.
    """
    if kernel not in _ADVICE or not (lengthscale > 0 and half_range > 0):
        what = f"no advice for {kernel!r}, lengthscale {lengthscale}, half range {half_range}"
        raise ProgramError(located(what, hint=f"kernels are {', '.join(_ADVICE)}"))
    c, m = _ADVICE[kernel]
    relative = lengthscale / half_range
    factor = max(c * relative, 1.2)
    return Advice(math.ceil(m * factor / relative), factor)
