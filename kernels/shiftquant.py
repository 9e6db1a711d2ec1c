"""Quantisation with scales that are powers of two of one another, and integer products, in torch.

Every channel c of the contracted axis has the scale s0 2^(-g_c) with g_c = floor(log2(R / r_c)) up
to the number of groups less one, where r_c is the greatest entry of the channel and R that of all:
nothing is clipped, and a scale is applied by shifting whole numbers.

Source: Guo et al., Towards Accurate and Efficient Sub-8-Bit Integer Training (arXiv 2411.10948),
whose body was not available: the formulas are rebuilt from its abstract.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_given

LARGEST = 127
MASK = 0xFFFFFFFF
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)


def hashed(x: Tensor) -> Tensor:
    """A mixing hash of 32-bit whole numbers, held in int64."""
    x = x ^ (x >> 16)
    x.mul_(MULTIPLIERS[0]).bitwise_and_(MASK)
    x ^= x >> 15
    x.mul_(MULTIPLIERS[1]).bitwise_and_(MASK)
    x ^= x >> 16
    return x


def uniforms(seed: Tensor, shape: torch.Size) -> Tensor:
    """Numbers in [0, 1), multiples of 2^-24: functions of the seed and of their places alone, and
    so the same on every device."""
    count = shape.numel()
    places = torch.arange(count, device=seed.device)
    mixed = hashed(places.add_(hashed(seed & MASK)).bitwise_and_(MASK))
    return (mixed >> 8).to(torch.float32).mul_(2.0**-24).reshape(shape)


def groups_of(ranges: Tensor, greatest: Tensor, num_groups: int) -> Tensor:
    """g [k] of the channels' greatest entries [k]: exact, since 2^j r <= R is."""
    group = torch.zeros_like(ranges, dtype=torch.uint8)
    for j in range(1, num_groups):
        group += (ranges * 2.0**j <= greatest).to(torch.uint8)
    return group


def quantise(
    x: Tensor, bits: int, num_groups: int, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """q int8 [m, k], s0 and g [k] of x [m, k]; rounded by uniforms of the seed, or to the nearest.

    Numbers that are not finite give a scale that is not a number.
    """
    top = 2 ** (bits - 1) - 1
    ranges = x.abs().amax(0)
    greatest = ranges.amax()
    normal = greatest >= torch.finfo(x.dtype).tiny
    divided = greatest / torch.full_like(greatest, top)  # on a GPU, by a number is not exact
    scale = torch.where(normal | greatest.isnan(), divided, torch.ones_like(greatest))
    scale = torch.where(greatest.isinf(), torch.full_like(scale, torch.nan), scale)
    group = groups_of(ranges, greatest, num_groups)
    t = torch.where(normal, x / scale, torch.zeros_like(x)) * torch.exp2(group.to(x.dtype))
    if seed is None:
        rounded = t.round()
    else:
        below = t.floor()
        rounded = below + (uniforms(seed, x.shape) < t - below).to(x.dtype)
    q = rounded.nan_to_num(0.0).clamp(-top, top).to(torch.int8)
    return q, scale, group


def _known(condition: bool) -> bool:
    """Whether a condition on sizes holds, for all sizes that a compiler lets vary."""
    if not torch.compiler.is_compiling():
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def integer_product(a: Tensor, b: Tensor, largest: int) -> Tensor:
    """The exact product of int8 matrices [m, k] and [k, n], as floating point whole numbers.

    ``largest`` bounds the entries of a.  A sum of k products below 2^24 is exact in float32, below
    2^53 in float64, which is taken where a compiler does not know k.
    """
    wide = torch.float32 if _known(a.shape[1] * largest * LARGEST < 2**24) else torch.float64
    with as_given(a.device):
        return a.to(wide) @ b.to(wide)
