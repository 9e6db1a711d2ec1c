"""Unified normalisation in torch: passes over rows, and the steps of its two windows.

The steps choose on the device, and are operators of their own: what they change is not computed
twice when a graph is compiled.

Source: Yang et al., Unified Normalization for Accelerating and Stabilizing Transformers
(arXiv 2208.01313).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .windows import LIMIT, gap, geometric, spread


def squares(x: Tensor, valid: Tensor | None) -> Tensor:
    """sum x^2 [c] over the valid ones of rows [n, c]."""
    square = x.square()
    return (square if valid is None else square * valid[:, None]).sum(0)


def products(gradient: Tensor, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """sum g x over valid rows, sum g x and sum g over all: [c] each."""
    product = gradient * x
    total = product.sum(0)
    some = total if valid is None else (product * valid[:, None]).sum(0)
    return some, total, gradient.sum(0)


def combine(x: Tensor, a: Tensor, y: Tensor | None, b: Tensor) -> Tensor:
    """a x + b y of rows [n, c] with a, b [c]; a x + b without y."""
    return a * x + (b if y is None else b * y)


def _written(window: Tensor, t: Tensor, row: Tensor) -> Tensor:
    """The window [m, c] with a row at place t mod m."""
    here = torch.arange(len(window), device=window.device) == t % len(window)
    return torch.where(here[:, None], row, window)


def _fits(window: Tensor) -> bool:
    return window.dtype == torch.float32 and window.shape[1] <= 2**14


@torch.library.custom_op(
    "pushforward::unified_forward", mutates_args=("window", "running", "iters", "skips")
)
def forward_step(
    q: Tensor,
    window: Tensor,
    running: Tensor,
    iters: Tensor,
    skips: Tensor,
    warmup: int,
    rescale_after: int,
    filtration: bool,
    per_channel: bool,
    update_on_outlier: bool,
    momentum: float,
    eps: float,
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sigma2 [c], r [c], whether the batch is an outlier, and the step's number (-1: not counted).

    A mean square q [c] that is not finite changes no statistic, and gives a sigma2 that is no
    number.  A window of one batch is no window: sigma2 is q, and r one.  ``fused`` takes one
    program of Triton, where the window is in float32.
    """
    settings = (warmup, rescale_after, filtration, per_channel, update_on_outlier, momentum, eps)
    if fused and _fits(window):
        from .gpu import unified as gpu

        done: tuple[Tensor, Tensor, Tensor, Tensor] = gpu.forward_step(
            q, window, running, iters, skips, *settings
        )
        return done
    m = len(window)
    finite = q.isfinite().all()
    t = iters + 1
    full = (t > m) & (t >= warmup) & (m > 1)
    written = _written(window, t, q)
    outlier = (gap(written) > m * spread(window, per_channel)).any() & full & finite & filtration
    early = ~full | outlier
    sigma2 = torch.where(early, q, geometric(written))
    sigma2 = torch.where(finite, sigma2, torch.where(q.isfinite(), q, torch.nan))
    ratio = ((sigma2 + eps) / (running + eps)).sqrt().clamp(1 / LIMIT, LIMIT)
    unscaled = (t <= max(rescale_after, warmup)) | outlier | ~finite | (m == 1)
    r = torch.where(unscaled, torch.ones_like(ratio), ratio)
    kept = torch.where(outlier, _written(window, t, running), written)
    moves = finite & (~outlier | update_on_outlier)
    window.copy_(torch.where(finite, kept, window))
    running.copy_(torch.where(moves, torch.lerp(sigma2, running, momentum), running))
    iters += finite
    skips += outlier | ~finite
    return sigma2, r, outlier, torch.where(finite, t, -torch.ones_like(t))


@forward_step.register_fake
def _(q: Tensor, window: Tensor, running: Tensor, iters: Tensor, *_: object) -> tuple[Tensor, ...]:
    flag = torch.empty_like(iters, dtype=torch.bool)
    return torch.empty_like(q), torch.empty_like(q), flag, torch.empty_like(iters)


@torch.library.custom_op(
    "pushforward::unified_backward", mutates_args=("window", "average", "tickets")
)
def backward_step(
    p: Tensor,
    window: Tensor,
    average: Tensor,
    tickets: Tensor,
    t: Tensor,
    outlier: Tensor,
    warmup: int,
    momentum: float,
    fused: bool,
) -> Tensor:
    """What is taken from the gradient along z [c], from p [c] = mean(g z) of step t.

    A step moves the window once, whatever the number of backward passes through it.  A window of
    one batch is no window: p itself is taken.
    """
    if fused and _fits(window):
        from .gpu import unified as gpu

        taken: Tensor = gpu.backward_step(p, window, average, tickets, t, outlier, warmup, momentum)
        return taken
    m = len(window)
    finite = p.isfinite().all()
    here = torch.arange(m, device=p.device) == t % m
    moves = finite & (t > 0) & (here & (tickets != t)).any()
    written = _written(window, t, torch.where(outlier, average, p))
    early = (t <= m) | (t < warmup) | outlier
    mean = torch.where(early, p, written.mean(0))
    moved = torch.where(moves, torch.lerp(mean, average, momentum), average)
    window.copy_(torch.where(moves, written, window))
    average.copy_(moved)
    tickets.copy_(torch.where(moves & here, t, tickets))
    return torch.where(outlier | ~finite | (t < 0) | (m == 1), p, moved)


@backward_step.register_fake
def _(p: Tensor, *_: object) -> Tensor:
    return torch.empty_like(p)
