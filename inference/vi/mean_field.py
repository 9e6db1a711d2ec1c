"""The mean-field evidence lower bound and its reparameterised gradient, as a program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]


class Elbo(NamedTuple):
    """An estimate of the bound and of its gradient in ``loc`` [d] and ``log_scale`` [d]."""

    value: Tensor
    loc: Tensor
    log_scale: Tensor


def elbo(loc: Tensor, log_scale: Tensor, potential: Potential, particles: int) -> Elbo:
    """E_q[log p(u)] + H(q) for q = Normal(loc, exp(log_scale)), by paths u = loc + scale * noise.

    Unbiased for any number of particles; the entropy is exact (Kingma, Welling, arXiv 1312.6114).
    """
    noise = draw(
        dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)), (particles,), label="noise"
    )
    scale = log_scale.exp()
    log_density, gradient = potential(loc + scale * noise)
    entropy = log_scale.sum() + 0.5 * len(loc) * (1.0 + math.log(2.0 * math.pi))
    return Elbo(
        log_density.mean() + entropy,
        gradient.mean(0),
        (gradient * noise).mean(0) * scale + 1.0,
    )
