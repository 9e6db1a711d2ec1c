"""Score distillation: the prior's gradient at |C|, as a loss, and maps that are refined by it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import draw

Denoiser = Callable[[Tensor, Tensor], Tensor]


def gradient(denoise: Denoiser, C: Tensor, s: Tensor, batch: int = 32) -> Tensor:
    """The mean of |C| - D(|C| + s e; s) over noises e: a program, whose draws are the noises."""
    noise = draw(dist.Normal(torch.zeros_like(C), 1.0), (batch,))
    size = C.detach().abs()
    return size - denoise(size + s * noise, s).detach().mean(0)


def distilled(
    denoise: Denoiser, C: Tensor, s: Tensor, rate: float = 1.0, batch: int = 32
) -> Tensor:
    """mean (|C| - (|C| - rate g))^2, of which the second |C| is held.

    Its gradient by C is 2 rate g sign(C) / C.numel(): it shrinks |C| where g is positive. The
    published code holds C - rate g, with C signed, which also pushes negative entries up; here both
    sides are absolute values.
    """
    target = C.detach().abs() - rate * gradient(denoise, C, s, batch)
    return (C.abs() - target).square().mean()


def refined(
    denoise: Denoiser,
    a: Tensor,
    b: Tensor,
    start: Tensor,
    n_loop: int = 300,
    w_sds: float = 1.0,
    time: float = 0.2,
    lr: float = 1e-2,
) -> tuple[Tensor, list[float]]:
    """C [k2, k1] by steps of Adam on mean (C a - b)^2 + w_sds * distilled, and its losses.

    The level of each step is 0.01 + time * uniform. The paper optimises a network of features;
    here the descriptors stand, and C itself moves.
    """
    C = start.clone().requires_grad_()
    adam, losses = torch.optim.Adam([C], lr, betas=(0.9, 0.99)), []
    for _ in range(n_loop):
        s = 0.01 + time * draw(dist.Uniform(0.0, 1.0)).to(C)
        loss = (C @ a - b).square().mean() + w_sds * distilled(denoise, C, s)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(float(loss.detach()))
    return C.detach(), losses
