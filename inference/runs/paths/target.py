"""A compiled log density for any number of double-precision vectors on the processor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]


class Target:
    """A log density with its gradient: ``u [n, d] -> ([n], [n, d])``, all in float64 on the CPU.

    Args:
        potential: the density of vectors in the precision, and on the device, of ``example``.
        example: vectors [rows, d].
        rows: so many vectors ``potential`` takes at once; any number if it is None.
    """

    def __init__(self, potential: Potential, example: Tensor, rows: int | None = None) -> None:
        self._potential, self._like, self._rows = potential, example, rows

    @property
    def epsilon(self) -> float:
        """The rounding of what the density computes, relative to its terms."""
        return torch.finfo(self._like.dtype).eps

    def given(self, u: Tensor) -> Tensor:
        """Vectors as the density takes them."""
        return u.to(self._like)

    def rounded(self, u: Tensor) -> Tensor:
        """The vectors at which the density is found when it is asked for at ``u``."""
        return _double(self.given(u))

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        pieces = [u] if self._rows is None else u.split(self._rows)
        values, gradients = zip(*map(self._piece, pieces), strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _piece(self, u: Tensor) -> tuple[Tensor, Tensor]:
        missing = 0 if self._rows is None else self._rows - len(u)
        filled = torch.cat([u, u[-1:].expand(missing, -1)])
        value, gradient = self._potential(self.given(filled))
        return _double(value)[: len(u)], _double(gradient)[: len(u)]


def _double(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)
