"""Rectified linear units with a correction that changes the entropy of their output.

Source: Sun et al., A Method on Searching Better Activation Functions (arXiv 2405.12954).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.dispatch import forward_mode
from ...kernels.precision import widened


def crrelu(x: Tensor, eps: Tensor | float) -> Tensor:
    """max(0, x) + eps x exp(-x^2 / 2), of the shape of x.

    Args:
        eps: a number, or one for each channel [c] of x [n, c, ...].

    Half precision is computed in float32.  Infinite inputs give no number.

    Errors:
        TypeError: x holds integers.
        ValueError: eps has another length than x has channels.
    """
    if not x.is_floating_point():
        raise TypeError(f"crrelu takes floating point tensors, not {x.dtype}")
    strength = torch.as_tensor(eps, device=x.device)
    if strength.numel() > 1:
        strength = _by_channel(x, strength)
    wide = widened(x)
    apply: Any = _corrected if _derives_itself() else _Corrected.apply
    out: Tensor = apply(wide, strength.to(wide.dtype))
    return out.to(x.dtype)


def _derives_itself() -> bool:
    """Whether the formula is taken as it is: by a compiler, which keeps only x by itself, and in
    forward mode, where the rules of functions do not nest."""
    return torch.compiler.is_compiling() or forward_mode()


def _corrected(x: Tensor, eps: Tensor) -> Tensor:
    """max(0, x) + eps x exp(-x^2 / 2)."""
    return torch.addcmul(torch.relu(x), eps, x * torch.exp(-0.5 * x.square()))


class _Corrected(torch.autograd.Function):
    """max(0, x) + eps x exp(-x^2 / 2), of which only x is kept; eps [1] or as wide as x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, eps: Tensor) -> Tensor:
        return _corrected(x, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, eps = ctx.saved_tensors
        (gradient,) = gradients
        square = x.square()
        bell = torch.exp(-0.5 * square)
        slope = torch.addcmul((x > 0).to(x.dtype), eps, (1 - square) * bell)
        along = (gradient * x * bell).sum_to_size(eps.shape)
        return gradient * slope, along


def _by_channel(x: Tensor, eps: Tensor) -> Tensor:
    if x.ndim < 2:
        what = f"{eps.numel()} strengths need channels, dimension 1, which {list(x.shape)} has not"
        raise ValueError(what)
    if x.shape[1] != eps.numel():
        raise ValueError(f"{eps.numel()} strengths do not fit the {x.shape[1]} channels of x")
    return eps.reshape(-1, *(1 for _ in x.shape[2:]))


class CRReLU(nn.Module):
    """Rectified linear units with a learned correction: max(0, x) + eps x exp(-x^2 / 2).

    By the criterion of the paper the entropy falls where eps is negative; the paper starts at
    +0.01, and training decides the sign, as it does here.

    Args:
        init: of eps.
        num_parameters: 1, or one for each channel (dimension 1 of the input).
        trainable: whether eps is learned; else it is a buffer.

    Shape:
        any, or [n, c, ...] with c parameters, to the same.

    Errors:
        ValueError: ``init`` is not finite, or there is no parameter.
    """

    eps: Tensor

    def __init__(
        self,
        init: float = 0.01,
        num_parameters: int = 1,
        trainable: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not math.isfinite(init):
            raise ValueError(f"eps begins at a finite number, not {init}")
        if num_parameters < 1:
            raise ValueError(f"CRReLU needs at least one parameter, not {num_parameters}")
        start = torch.full((num_parameters,), init, device=device, dtype=dtype)
        if trainable:
            self.eps = nn.Parameter(start)
        else:
            self.register_buffer("eps", start)
        self.num_parameters = num_parameters

    def forward(self, x: Tensor) -> Tensor:
        return crrelu(x, self.eps)

    def no_weight_decay(self) -> list[str]:
        """The parameters that weight decay should leave alone."""
        return ["eps"]

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
