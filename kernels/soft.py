"""Gaussian attention through landmarks in plain torch, and the inverse by Newton's iteration.

Sources: Lu et al., SOFT: Softmax-free Transformer with Linear Complexity (arXiv 2110.11945), and
Softmax-free Linear Transformers (arXiv 2207.03341).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .dispatch import forward_mode
from .precision import as_given

ORDERS = 4  # derivatives in forward mode


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2) [..., n, m] of rows [..., n, d] and [..., m, d]."""
    square = (a**2).sum(-1)[..., :, None] + (b**2).sum(-1)[..., None, :]
    with as_given(a.device):
        products = 2 * a @ b.transpose(-2, -1)
    return torch.exp(-0.5 * (square - products).clamp(min=0))


def newton(a: Tensor, steps: int, scale: float, tol: float | None) -> Tensor:
    """X of X <- 2 X - X A X from scale A^T / (|A|_1 |A|_inf).

    The residual I - A X is squared by every step.  |A|_1 |A|_inf is no less than the square of the
    largest singular value, so that any scale below 2 converges where A is invertible.
    """
    size = a.abs()
    bound = size.sum(-2).amax(-1) * size.sum(-1).amax(-1)
    x = scale * a.transpose(-2, -1) / bound[..., None, None]
    for _ in range(steps):
        ax = a @ x
        if tol is not None and float(_residual(ax)) < tol:
            break
        x = 2 * x - x @ ax
    return x


def _residual(ax: Tensor) -> Tensor:
    """The greatest entry of A X - I."""
    eye = torch.eye(ax.shape[-1], dtype=ax.dtype, device=ax.device)
    return (ax - eye).abs().max()


class NewtonInverse(torch.autograd.Function):
    """Newton's iteration forward; backward the derivative of an inverse, -X^T G X^T."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, steps: int, scale: float, tol: float | None, fused: bool) -> Tensor:
        with as_given(a.device):
            if fused:
                from .gpu.soft import fused_newton

                inverse: Tensor = fused_newton(a, steps, scale)
                return inverse
            return newton(a, steps, scale, tol)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        transposed = x.transpose(-2, -1)
        with as_given(x.device):
            return -transposed @ gradients[0] @ transposed, None, None, None, None


def newton_inverse(a: Tensor, steps: int, scale: float, tol: float | None, fused: bool) -> Tensor:
    """Newton's iteration, with the derivatives of an inverse.

    Rules of forward mode do not nest: torch drops the outer tangents inside of one.  There the
    series X - X E X + X E X E X - ... in E = A - A, which is zero with the tangents of A, has the
    same value and the same derivatives up to the order of its last term.
    """
    if not forward_mode():
        inverse: Tensor = NewtonInverse.apply(a, steps, scale, tol, fused)
        return inverse
    still = a.detach()
    with as_given(a.device):
        x, away = newton(still, steps, scale, tol), a - still
        series = x
        for _ in range(ORDERS):
            series = x - x @ away @ series
        return series
