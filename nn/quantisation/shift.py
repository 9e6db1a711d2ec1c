"""Tensors of few bits, and their products by whole numbers.

Source: Guo et al., Towards Accurate and Efficient Sub-8-Bit Integer Training (arXiv 2411.10948).
The body of the paper was not available: the rule for groups and their number are rebuilt from its
abstract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...kernels import Backend, uses_triton
from ...kernels.precision import widened
from ...kernels.shiftquant import LARGEST, integer_product, quantise

Rounding = Literal["stochastic", "nearest"]
Path = Literal["auto", "A", "B"]
MOST_PRODUCTS = (2**31 - 1) // LARGEST**2  # of entries of int8 in an int32


@dataclass(frozen=True)
class QTensor:
    """scale q: whole numbers ``q`` int8, and one ``scale`` or, of a matrix, one for each column."""

    q: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        """The numbers that are meant, of the dtype of the scale."""
        return self.scale * self.q.to(self.scale.dtype)


@dataclass(frozen=True)
class ShiftTensor:
    """scale 2^(-shift_c) q: whole numbers ``q`` int8 of a matrix [m, k], a ``scale``, and a
    ``shift`` uint8 [k] below ``num_groups`` for each column."""

    q: Tensor
    scale: Tensor
    shift: Tensor
    bits: int
    num_groups: int

    def dequantize(self) -> Tensor:
        """The numbers that are meant, of the dtype of the scale."""
        return (
            self.scale * torch.exp2(-self.shift.to(self.scale.dtype)) * self.q.to(self.scale.dtype)
        )

    @property
    def largest(self) -> int:
        """A bound of the entries of q."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def fits_int8(self) -> bool:
        """Whether all columns can be shifted to one scale within int8."""
        return self.largest << (self.num_groups - 1) <= LARGEST

    def shifted_int8(self) -> Tensor:
        """q at the one scale ``scale`` 2^(1 - num_groups), int8.

        Errors:
            ValueError: the shifted numbers do not fit; the message says how many groups would.
        """
        if not self.fits_int8:
            most = (LARGEST // self.largest).bit_length()
            what = f"{self.bits} bits in {self.num_groups} groups do not fit int8 when shifted"
            raise ValueError(f"{what}: at most {most} groups do")
        left = (self.num_groups - 1 - self.shift.to(torch.int32)).to(torch.int8)
        return torch.bitwise_left_shift(self.q, left)


def _require_bits(bits: int, num_groups: int = 1) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"numbers have 2 to 8 bits, not {bits}")
    if not 1 <= num_groups <= 16:
        raise ValueError(f"there are 1 to 16 groups, not {num_groups}")


def _require_finite(scale: Tensor) -> None:
    """A scale is no number if one of the numbers was not finite."""
    if not torch.compiler.is_compiling() and not bool(scale.isfinite().all()):
        raise ValueError("non-finite gradient: numbers that are not finite cannot be quantised")


def draw_seed(generator: torch.Generator | None = None) -> Tensor:
    """A seed for stochastic rounding, from a generator, or from torch's own."""
    return torch.randint(2**32, (), generator=generator)


def quantize_shift(
    x: Tensor,
    bits: int = 4,
    num_groups: int = 4,
    axis: int = -1,
    rounding: Rounding = "stochastic",
    generator: torch.Generator | None = None,
    nonfinite: Literal["raise", "skip_step"] = "raise",
    backend: Backend = "auto",
) -> ShiftTensor:
    """A matrix x in few bits, with one scale for each of the columns along the contracted axis.

    Stochastic rounding is unbiased, with a variance of at most a quarter of the squared scale.

    Args:
        x: [m, k]; with axis 0 it is transposed first, so that the last axis is contracted.
        bits: 2 to 8; entries lie within 2^(bits - 1) - 1.
        num_groups: scales that there may be, 1 to 16.
        rounding: to the nearest (ties to even), or up with the probability of what is cut off; then
            one number is drawn from the generator, and the same one gives the same bits everywhere.
        nonfinite: "raise", or "skip_step": a scale that is not a number, so that a loss scaler
            leaves the step out.

    Errors:
        ValueError: x is no matrix or not finite, or a setting is out of range.
        TypeError: x holds integers.
    """
    seed = draw_seed(generator).to(x.device) if rounding == "stochastic" else None
    if rounding not in ("stochastic", "nearest"):
        raise ValueError(f"rounding is 'stochastic' or 'nearest', not {rounding!r}")
    return seeded_shift(x, bits, num_groups, axis, seed, nonfinite, backend)


def seeded_shift(
    x: Tensor,
    bits: int,
    num_groups: int,
    axis: int,
    seed: Tensor | None,
    nonfinite: str,
    backend: Backend = "auto",
) -> ShiftTensor:
    """:func:`quantize_shift` with its seed, or with none to round to the nearest."""
    if not x.is_floating_point():
        raise TypeError(f"floating point numbers are quantised, not {x.dtype}")
    if x.ndim != 2 or axis not in (-2, -1, 0, 1):
        raise ValueError(f"a matrix and one of its axes are expected: {list(x.shape)}, axis {axis}")
    _require_bits(bits, num_groups)
    if nonfinite not in ("raise", "skip_step"):
        raise ValueError(f"nonfinite is 'raise' or 'skip_step', not {nonfinite!r}")
    wide = widened(x)
    matrix = wide if axis in (-1, 1) else wide.T
    if matrix.numel() == 0:
        one, none = matrix.new_ones(()), torch.zeros(matrix.shape[1], dtype=torch.uint8)
        return ShiftTensor(matrix.to(torch.int8), one, none.to(x.device), bits, num_groups)
    if uses_triton(backend, matrix) and matrix.dtype == torch.float32:
        from ...kernels.gpu.shiftquant import fused_quantise

        q, scale, shift = fused_quantise(matrix, bits, num_groups, seed)
    else:
        q, scale, shift = quantise(matrix, bits, num_groups, seed)
    if nonfinite == "raise":
        _require_finite(scale)
    return ShiftTensor(q, scale, shift, bits, num_groups)


def quantize_tensor(x: Tensor, bits: int = 8, per_column: bool = False) -> QTensor:
    """x in few bits, rounded to the nearest, with one scale, or one for each column of a matrix.

    Errors:
        ValueError: x is not finite, or bits are not 2 to 8.
        TypeError: x holds integers.
    """
    if not x.is_floating_point():
        raise TypeError(f"floating point numbers are quantised, not {x.dtype}")
    _require_bits(bits)
    wide = widened(x)
    if x.numel() == 0:
        return QTensor(wide.to(torch.int8), wide.new_ones(()))
    top = 2 ** (bits - 1) - 1
    greatest = wide.abs().amax(0) if per_column else wide.abs().amax()
    _require_finite(greatest)
    normal = greatest >= torch.finfo(wide.dtype).tiny
    scale = torch.where(
        normal, greatest / torch.full_like(greatest, top), torch.ones_like(greatest)
    )
    q = torch.where(normal, wide / scale, torch.zeros_like(wide)).round().clamp(-top, top)
    return QTensor(q.to(torch.int8), scale)


def shift_matmul(
    a: ShiftTensor,
    b: QTensor,
    out_dtype: torch.dtype | None = None,
    path: Path = "auto",
    backend: Backend = "auto",
) -> Tensor:
    """The product [m, n] of a [m, k] and b [k, n] by whole numbers, of the dtype of a's scale.

    Path A shifts the columns of a to one scale and multiplies once; path B, where they do not fit
    int8, multiplies once for each group.  Both give the same whole numbers.  Sums that an int32
    could not hold are split.

    Errors:
        ValueError: sizes do not fit, or path A is asked for and not possible.
    """
    if a.q.shape[1] != b.q.shape[0]:
        raise ValueError(f"matrices {list(a.q.shape)} and {list(b.q.shape)} cannot be multiplied")
    if b.scale.ndim and b.scale.shape != b.q.shape[1:]:
        raise ValueError(f"scales {list(b.scale.shape)} are not one for each of the columns of b")
    if path == "A" or (path == "auto" and a.fits_int8):
        total = _split_product(a.shifted_int8(), b.q, LARGEST, backend)
    else:
        total = torch.zeros(a.q.shape[0], b.q.shape[1], dtype=torch.float64, device=a.q.device)
        for group in range(a.num_groups):
            part = torch.where(a.shift == group, a.q, torch.zeros_like(a.q))
            product = _split_product(part, b.q, a.largest, backend)
            total = total + 2.0 ** (a.num_groups - 1 - group) * product.double()
    scale = a.scale * b.scale * 2.0 ** (1 - a.num_groups)
    out = scale * total.to(scale.dtype)
    return out if out_dtype is None else out.to(out_dtype)


def _split_product(a: Tensor, b: Tensor, largest: int, backend: Backend) -> Tensor:
    """The exact product of whole numbers, in as many parts as int32 sums need."""
    if a.shape[1] <= MOST_PRODUCTS:
        return _product(a, b, largest, backend)
    parts = range(0, a.shape[1], MOST_PRODUCTS)
    products = [
        _product(a[:, at : at + MOST_PRODUCTS], b[at : at + MOST_PRODUCTS], largest, backend)
        for at in parts
    ]
    return torch.stack(products).double().sum(0)


def _product(a: Tensor, b: Tensor, largest: int, backend: Backend) -> Tensor:
    if 0 not in (*a.shape, *b.shape) and uses_triton(backend, a, b):
        from ...kernels.gpu.shiftquant import integer_product as fused

        whole: Tensor = fused(a, b)
        return whole
    return integer_product(a, b, largest)
