"""Normalisation by the mean absolute deviation, in place of the standard deviation.

It needs no square and no root, and so bears few bits.

Source: Guo et al., Towards Accurate and Efficient Sub-8-Bit Integer Training (arXiv 2411.10948), as
far as its abstract tells.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import Backend, uses_triton
from ...kernels.precision import widened
from ..standing_in import called

GAUSSIAN = math.sqrt(math.pi / 2)  # standard deviation over mean absolute deviation, if normal


def l1_layer_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    gaussian_scale: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """(x - mean) / (mean |x - mean| + eps) over the last dimensions, then an affine map.

    Args:
        gaussian_scale: multiply the deviation by sqrt(pi / 2), so that normal numbers come out with
            variance one, as from ``layer_norm``.

    Errors:
        ValueError: the shape does not end with ``normalized_shape``, or eps is not positive.
        TypeError: x holds integers.
    """
    _require(x, eps)
    if x.shape[x.ndim - len(normalized_shape) :] != normalized_shape:
        raise ValueError(f"{list(x.shape)} does not end with {list(normalized_shape)}")
    factor = GAUSSIAN if gaussian_scale else 1.0
    given = x.flatten(x.ndim - len(normalized_shape))
    if uses_triton(backend, x) and x.dtype != torch.float64 and 0 < given.shape[-1] <= 2**14:
        from ...kernels.gpu.l1 import fused_l1

        plain = weight is None and bias is None
        out: Tensor = fused_l1(given, eps, factor, x.dtype if plain else torch.float32)
    else:
        rows = widened(given)
        centred = rows - rows.mean(-1, keepdim=True)
        out = centred / (factor * centred.abs().mean(-1, keepdim=True) + eps)
    out = out.reshape(x.shape)
    out = out if weight is None else out * weight
    out = out if bias is None else out + bias
    return out.to(x.dtype)


def _require(x: Tensor, eps: float) -> None:
    if not x.is_floating_point():
        raise TypeError(f"floating point tensors are normalised, not {x.dtype}")
    if eps <= 0:
        raise ValueError(f"eps is positive, which {eps} is not")


class L1LayerNorm(nn.Module):
    """``nn.LayerNorm`` with the mean absolute deviation.

    Args:
        gaussian_scale: of :func:`l1_layer_norm`; the rest as in ``nn.LayerNorm``.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...] | list[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        gaussian_scale: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(shape)
        if eps <= 0:
            raise ValueError(f"eps is positive, which {eps} is not")
        self.eps, self.gaussian_scale = eps, gaussian_scale
        about = {"device": device, "dtype": dtype}
        one = nn.Parameter(torch.ones(self.normalized_shape, **about))
        zero = nn.Parameter(torch.zeros(self.normalized_shape, **about))
        self.register_parameter("weight", one if elementwise_affine else None)
        self.register_parameter("bias", zero if elementwise_affine and bias else None)
        called(self)

    def forward(self, x: Tensor) -> Tensor:
        shape, scaled = self.normalized_shape, self.gaussian_scale
        return l1_layer_norm(x, shape, self.weight, self.bias, self.eps, scaled)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, gaussian_scale={self.gaussian_scale}"


class _L1BatchNorm(nn.Module):
    """Batch normalisation with the mean absolute deviation of each channel.

    Args:
        gaussian_scale: of :func:`l1_layer_norm`; the rest as in torch's batch normalisation.

    Errors:
        ValueError: the shape does not fit, or there is one value per channel in training.
    """

    dimensions: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_deviation: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        gaussian_scale: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps is positive, which {eps} is not")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.gaussian_scale = gaussian_scale
        about = {"device": device, "dtype": dtype}
        one, zero = torch.ones(num_features, **about), torch.zeros(num_features, **about)
        self.register_parameter("weight", nn.Parameter(one) if affine else None)
        self.register_parameter("bias", nn.Parameter(zero) if affine else None)
        self.register_buffer("running_mean", zero.clone() if track_running_stats else None)
        self.register_buffer("running_deviation", one.clone() if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        _require(x, self.eps)
        if x.ndim not in self.dimensions or x.shape[1] != self.num_features:
            dims = " or ".join(str(n) for n in self.dimensions)
            what = f"{dims} dimensions with {self.num_features} channels are expected"
            raise ValueError(f"{what}, not {list(x.shape)}")
        wide = widened(x)
        over = (0, *range(2, x.ndim))
        if self.training or self.running_mean is None or self.running_deviation is None:
            if x.numel() == x.shape[1]:
                raise ValueError(f"one value per channel in training: {list(x.shape)}")
            mean = wide.mean(over, keepdim=True)
            deviation = (wide - mean).abs().mean(over, keepdim=True)
            self._update(mean, deviation)
        else:
            mean, deviation = (self._spread(s, wide) for s in self._running())
        factor = GAUSSIAN if self.gaussian_scale else 1.0
        out = (wide - mean) / (factor * deviation + self.eps)
        if self.weight is not None and self.bias is not None:
            out = out * self._spread(self.weight, wide) + self._spread(self.bias, wide)
        return out.to(x.dtype)

    def _running(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None and self.running_deviation is not None
        return self.running_mean, self.running_deviation

    def _spread(self, s: Tensor, like: Tensor) -> Tensor:
        return s.to(like.dtype).reshape(-1, *(1 for _ in like.shape[2:]))

    @torch.no_grad()
    def _update(self, mean: Tensor, deviation: Tensor) -> None:
        if self.training and self.running_mean is not None:
            for running, new in zip(self._running(), (mean, deviation), strict=True):
                running.lerp_(new.flatten().to(running.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, gaussian_scale={self.gaussian_scale}"


class L1BatchNorm1d(_L1BatchNorm):
    """:class:`_L1BatchNorm` of [n, c] or [n, c, length]."""

    dimensions = (2, 3)


class L1BatchNorm2d(_L1BatchNorm):
    """:class:`_L1BatchNorm` of [n, c, height, width]."""

    dimensions = (4,)
