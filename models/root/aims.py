"""What a network predicts of a point of the bridge, the high end by it, and weights of a bound."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .bridge import Schedule, Time

Aim = Literal["grad", "noise", "ysubx", "elbo"]
AIMS = ("grad", "noise", "ysubx", "elbo")


def target(aim: Aim, x_t: Tensor, x0: Tensor, x_low: Tensor, noise: Tensor) -> Tensor:
    """What is predicted: x_t - x0 ("grad", "elbo"), the noise, or x_low - x0 ("ysubx")."""
    if aim == "noise":
        return noise
    return (x_low if aim == "ysubx" else x_t) - x0


def high_end(aim: Aim, o: Tensor, of: Schedule, x_t: Tensor, x_low: Tensor, t: Time) -> Tensor:
    """The x0 of which o would be the target."""
    if aim == "noise":
        return (x_t - of.m[t] * x_low - of.delta[t].sqrt() * o) / (1 - of.m[t])
    return (x_low if aim == "ysubx" else x_t) - o


def bound_weights(of: Schedule) -> Tensor:
    """w [T], by which sum_t w_t |x0 - its prediction at t|^2 is the part of minus the ELBO of
    ``chain`` that a network moves, on average over the bridge.

    KL(q(x_(t-1) | x_t, x0), p(x_(t-1) | x_t)) is (r_(t-1) - r_t) / 2 |...|^2, of signals to noise
    r_t = (1 - m_t)^2 / delta_t; the last term is minus log p(x0 | x_0), of variance 1 / r_0.
    """
    ratio = (1 - of.m) ** 2 / of.delta
    return torch.cat([ratio[:1], ratio[:-1] - ratio[1:]]) / 2
