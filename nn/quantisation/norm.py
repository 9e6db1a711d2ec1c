"""Normalisation of whole numbers by whole numbers.

The pipeline is a choice: the text of the paper was not available.

Source: Guo et al., Towards Accurate and Efficient Sub-8-Bit Integer Training (arXiv 2411.10948).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .shift import QTensor

RECIPROCAL = 15  # fraction bits of n / A
STEEPEST = 2**22  # a greater reciprocal saturates anyway, and 255 times it fits an int32
RUNNING = 8  # fraction bits of the running statistics
AFFINE = 6  # fraction bits of the weight


class QuantL1Norm(nn.Module):
    """L1 normalisation of each channel of int8 [n, c, *spatial], to int8 with step 2^(2 - bits).

    mu = round(S / n), A = sum |x - mu|, k = round(2^15 n / A), and the output (x - mu) k is shifted
    right: one division for each channel, and no floating point number for each entry.  The scale
    of the input cancels.  Outputs lie in [-2, 2) before the affine map, and saturate there.

    Args:
        num_features: channels.
        bits: of the output, 3 to 8.

    Errors:
        TypeError: the input is no int8.
        ValueError: sizes do not fit, or there is one value per channel in training.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_deviation: Tensor

    def __init__(self, num_features: int, bits: int = 8, device: Any = None) -> None:
        super().__init__()
        if not 3 <= bits <= 8:
            raise ValueError(f"outputs have 3 to 8 bits, not {bits}")
        self.num_features, self.bits, self.fraction = num_features, bits, bits - 2
        about = {"dtype": torch.int32, "device": device}
        self.register_buffer("weight", torch.full((num_features,), 2**AFFINE, **about))
        self.register_buffer("bias", torch.zeros(num_features, **about))
        self.register_buffer("running_mean", torch.zeros(num_features, **about))
        self.register_buffer("running_deviation", torch.full((num_features,), 2**RUNNING, **about))

    @torch.no_grad()
    def set_affine(self, weight: Tensor, bias: Tensor) -> None:
        """Take a weight (in steps of 2^-6) and a bias (in steps of the output), each [c]."""
        self.weight.copy_((weight * 2**AFFINE).round())
        self.bias.copy_((bias * 2**self.fraction).round())

    @torch.no_grad()
    def forward(self, x: Tensor) -> QTensor:
        if x.dtype != torch.int8:
            raise TypeError(f"whole numbers of int8 are normalised, not {x.dtype}")
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"{self.num_features} channels are expected, not {list(x.shape)}")
        over = (0, *range(2, x.ndim))
        wide = x.to(torch.int32)
        n = x.numel() // max(1, x.shape[1])
        if self.training:
            if n < 2:
                raise ValueError(f"one value per channel in training: {list(x.shape)}")
            mean = _divide(wide.sum(over, dtype=torch.int32), n)
            away = wide - self._spread(mean, x)
            total = away.abs().sum(over, dtype=torch.int32).to(torch.int64)
            slope = _divide(n << RECIPROCAL, total.clamp(min=1))
            self._move(self.running_mean, mean.to(torch.int64) << RUNNING)
            self._move(self.running_deviation, _divide(total << RUNNING, n))
        else:
            mean = _divide(self.running_mean.to(torch.int64), 2**RUNNING)
            away = wide - self._spread(mean.to(torch.int32), x)
            deviation = self.running_deviation.to(torch.int64).clamp(min=1)
            slope = _divide(1 << (RECIPROCAL + RUNNING), deviation)
        slope = slope.clamp(max=STEEPEST).to(torch.int32)
        unit = _shift_right(away * self._spread(slope, x), RECIPROCAL - self.fraction)
        top = 2 ** (self.bits - 1)
        unit = unit.clamp(-top, top - 1)
        out = _shift_right(unit * self._spread(self.weight, x), AFFINE) + self._spread(self.bias, x)
        step = torch.tensor(2.0**-self.fraction, device=x.device)
        return QTensor(out.clamp(-top, top - 1).to(torch.int8), step)

    def _spread(self, s: Tensor, like: Tensor) -> Tensor:
        return s.to(torch.int32).reshape(-1, *(1 for _ in like.shape[2:]))

    def _move(self, running: Tensor, new: Tensor) -> None:
        """By an eighth of the way."""
        running += _shift_right(new - running.to(torch.int64), 3).to(torch.int32)

    def extra_repr(self) -> str:
        return f"{self.num_features}, bits={self.bits}"


def _divide(a: Tensor | int, b: Tensor | int) -> Tensor:
    """a / b to the nearest whole number, for positive b."""
    a, b = torch.as_tensor(a, dtype=torch.int64), torch.as_tensor(b, dtype=torch.int64)
    return torch.div(2 * a.to(b.device if b.ndim else a.device) + b, 2 * b, rounding_mode="floor")


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """x / 2^bits to the nearest whole number."""
    return x if bits == 0 else (x + (1 << (bits - 1))) >> bits
