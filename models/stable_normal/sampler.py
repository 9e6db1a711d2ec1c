"""The two stages as programs: noise, a guess, and a scan of steps that refine it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import Program, program, sample, scan
from .normals import unit
from .schedule import Steps

Denoise = Callable[[Tensor, Tensor], Tensor]  # x_0 of x_t [B, C, H, W] and the time t []
Guess = Callable[[Tensor], Tensor]  # x_0 of noise [B, C, H, W]


def refinement(denoise: Denoise, steps: Steps) -> Program:
    """From x to the last estimate of x_0, by the steps; those with noise are sites ``x[i]``."""

    def noisy(x: Tensor, row: Tensor) -> tuple[Tensor, None]:
        t, a, b, c = row
        mean = a * x + b * denoise(x, t)
        return sample("x", dist.Normal(mean, c).to_event(x.ndim)), None

    def still(x: Tensor, row: Tensor) -> tuple[Tensor, None]:
        t, a, b = row
        return a * x + b * denoise(x, t), None

    @program
    def refined(x: Tensor) -> Tensor:
        x, _ = scan(noisy)(x, steps.noisy.to(x))
        x, _ = scan(still)(x, steps.still.to(x))
        return denoise(x, x.new_tensor(steps.last))

    return refined


def estimate(guess: Guess, denoise: Denoise, steps: Steps, noise: Tensor | None = None) -> Program:
    """From the shape of noise to normals [B, 3, H, W]: a guess, taken for a state, and refined.

    Args:
        noise: of the guess; a latent ``noise`` unless given.  Where the steps are without noise,
            too, nothing is random: the type of the program has no sites.
    """

    @program
    def normals(like: Tensor) -> Tensor:
        law = dist.Normal(torch.zeros_like(like), 1.0).to_event(like.ndim)
        e = sample("noise", law) if noise is None else noise
        return unit(refinement(denoise, steps)(guess(e)))

    return normals
