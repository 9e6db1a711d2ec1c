"""A guide by a flow in continuous time, whose density is that of the steps that are run."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...ppl.errors import GuideError, located
from ...ppl.language.program import Callback
from .guides import SPREAD, Guide

MOST = 0.69  # of h times the Lipschitz constant of a field: exp(0.69) - 1 < 1


class Field(NamedTuple):
    """f(u, t) = last tanh(first u + bias + t rate), of u [d] by ``hidden`` units."""

    first: Tensor
    bias: Tensor
    rate: Tensor
    last: Tensor

    def bounded(self, steps: int) -> Field:
        """The field, made weaker where its Lipschitz constant is above ``MOST`` times the steps."""
        size = torch.linalg.matrix_norm(self.last, 2) * torch.linalg.matrix_norm(self.first, 2)
        return self._replace(last=self.last / (size / (MOST * steps)).clamp(min=1.0))

    def at(self, u: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """f [d] and its Jacobian [d, d] by u."""
        units = torch.tanh(self.first @ u + self.bias + t * self.rate)
        return self.last @ units, self.last * (1 - units.square()) @ self.first


def stepped(field: Field, u: Tensor, t: float, h: float) -> tuple[Tensor, Tensor]:
    """A step of Runge and Kutta's fourth order, with its own Jacobian [d, d].

    Its Jacobian differs from the identity by at most exp(h L) - 1, L the Lipschitz constant of the
    field: where that is below 1, the step is a bijection (Banach), and its determinant positive.
    """
    one = torch.eye(len(u), dtype=u.dtype, device=u.device)
    slope, jacobian = field.at(u, t)
    total, turned = slope, jacobian
    for part, weight in ((0.5, 2.0), (0.5, 2.0), (1.0, 1.0)):
        slope, inner = field.at(u + part * h * slope, t + part * h)
        jacobian = inner @ (one + part * h * jacobian)
        total, turned = total + weight * slope, turned + weight * jacobian
    return u + h / 6.0 * total, one + h / 6.0 * turned


def flowed(field: Field, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """u [d] after a time of one, and the log-determinant [] of the map from it."""
    field, log_det = field.bounded(steps), u.new_zeros(())
    for i in range(steps):
        u, jacobian = stepped(field, u, i / steps, 1.0 / steps)
        log_det = log_det + torch.linalg.slogdet(jacobian)[1]
    return u, log_det


class Continuous(Guide):
    """u = loc + scale * F(noise), where noise flows along a field that a network gives, for a time
    of one, in steps of Runge and Kutta.

    The density is exact for these steps, and not an integral of the field's divergence, which
    differs from it by the error of the steps.  They are bijections, since the field is held to a
    Lipschitz constant of 0.69 times ``steps``: more steps also allow more.  A step costs four
    products of matrices [d, hidden] and a determinant [d, d]: for tens of coordinates.

    Source: Chen, Rubanova, Bettencourt, Duvenaud (arXiv 1806.07366) for the flow; Behrmann et al.,
    Invertible residual networks (arXiv 1811.00995) for the bound.

    Args:
        steps: of the integration.
        hidden: units of the network.
    """

    def __init__(
        self, model: Callback, *args: Any, steps: int = 8, hidden: int = 32, **about: Any
    ) -> None:
        if steps < 1 or hidden < 1:
            what = f"a flow needs steps and hidden units, not {steps} and {hidden}"
            raise GuideError(located(what))
        self.steps, self.hidden = steps, hidden
        super().__init__(model, *args, **about)

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        """The field is zero at first, and its units look in directions that differ."""
        d, hidden = self.layout.size, self.hidden
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        wave = torch.arange(hidden * d, dtype=self.layout.dtype).add(1).mul(2.3).sin()
        self.first = nn.Parameter(wave.reshape(hidden, d).clone())
        self.bias = nn.Parameter(torch.linspace(-1.0, 1.0, hidden, dtype=self.layout.dtype))
        self.rate = self.parameter(hidden)
        self.last = self.parameter(d, hidden)

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        field = Field(self.first, self.bias, self.rate, self.last)
        u, log_det = flowed(field, noise, self.steps)
        return self.loc + self.log_scale.exp() * u, log_det + self.log_scale.sum()
