"""Rules of quadrature whose nodes are shifted: errors of other shifts even out.

Where an integrand has a kink (an accept step has one), a fixed grid errs in the same way from all
states.  Trapezoidal rules on the line are as good for any shift, and shifts of irrational rotation
fill the gaps of one by those of others, as points of a lattice do (Sloan and Joe 1994, Lattice
Methods for Multiple Integration).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

from ...ppl.distributions.support import LIMIT, quadrature_rule
from ...ppl.errors import BudgetError, located

REACH = 8.5  # deviations of a normal law beyond which there is no mass
STEEP = 3.0  # where the double exponential map of the line to an interval ends
ROTATIONS = (2**0.5, 3**0.5, 5**0.5, 7**0.5, 11**0.5, 13**0.5)


def nodes(law: Any, n: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes [m, *batch, *event] of a law, joint over its batch, and log weights [m].

    There are n for each coordinate of normal and uniform laws, shifted by a part of a step.
    """
    while isinstance(law, Independent):
        law = law.base_dist
    if isinstance(law, MultivariateNormal) and not law.batch_shape:
        t, logs = _joint(n, shift, law.event_shape.numel(), _normal)
        return law.loc + t.to(law.loc.dtype) @ law.scale_tril.mT, logs
    if isinstance(law, Normal | Uniform):
        shape = torch.Size(law.batch_shape)
        rule = _normal if isinstance(law, Normal) else _uniform
        t, logs = _joint(n, shift, shape.numel(), rule)
        t = t.reshape(-1, *shape)
        if isinstance(law, Normal):
            return law.loc + law.scale * t.to(law.loc.dtype), logs
        return law.low + (law.high - law.low) * t.to(law.low.dtype), logs
    values, logs = quadrature_rule(law, n)
    return values, logs.reshape(len(logs), -1).sum(1)


def _joint(n: int, shift: Tensor, dims: int, rule: Any) -> tuple[Tensor, Tensor]:
    """Joint nodes [n ** dims, dims] and log weights; each coordinate has a shift of its own."""
    if dims * math.log(n) > math.log(LIMIT):
        raise BudgetError(located(f"{n} nodes for {dims} coordinates give {n}^{dims} joint nodes"))
    places = torch.cartesian_prod(*[torch.arange(n)] * dims).reshape(-1, dims)
    columns = [rule(n, (shift * ROTATIONS[i % len(ROTATIONS)]) % 1.0) for i in range(dims)]
    values = torch.stack([t[places[:, i]] for i, (t, _) in enumerate(columns)], 1)
    logs = sum(
        (logs[places[:, i]] for i, (_, logs) in enumerate(columns)), torch.zeros(len(places))
    )
    return values, logs


def _line(n: int, shift: Tensor, reach: float) -> Tensor:
    return reach * (2.0 * (torch.arange(n, dtype=torch.float64) + shift) / n - 1.0)


def _normal(n: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    t = _line(n, shift, REACH)
    return t, (-t.square() / 2).log_softmax(0)


def _uniform(n: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """By the double exponential map (Takahasi and Mori 1974)."""
    t = _line(n, shift, STEEP)
    inner = math.pi / 2 * t.sinh()
    slopes = t.cosh().log() - 2.0 * (inner.abs() + torch.log1p((-2.0 * inner.abs()).exp()))
    return torch.sigmoid(2.0 * inner), slopes.log_softmax(0)
