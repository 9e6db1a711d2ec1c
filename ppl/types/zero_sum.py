"""Vectors that sum to zero, and their coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform


class _ZeroSum(Constraint):
    """Vectors [n] whose sum is zero, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        rounding = 16 * torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
        inside: Tensor = value.sum(-1).abs() <= rounding * (1 + value.abs().sum(-1))
        return inside


zero_sum = _ZeroSum()


class ZeroSumVector(Transform):
    """Vectors [n - 1] to vectors [n] with sum zero; lengths and angles are kept.

    So the density in these coordinates is that on the plane of sum zero.  It is a reflection that
    takes the last axis to the direction of (1, ..., 1), in order n.
    """

    domain = constraints.real_vector
    codomain = zero_sum
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        root = math.sqrt(x.shape[-1] + 1)
        total = x.sum(-1, keepdim=True)
        shift = total / (root * (1 + root))
        return torch.cat([x - shift, -total / root], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        root = math.sqrt(y.shape[-1])
        return y[..., :-1] - y[..., -1:] / (1 + root)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))
