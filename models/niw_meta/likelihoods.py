"""Likelihoods of an episode: the law of its targets by the outputs of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl.errors import located


class Likelihood(Protocol):
    """The law of targets, and what the curvature of its logarithm is."""

    def law(self, outputs: Tensor) -> Any:
        """The law of targets [..., n] by outputs [..., n, k], one event for each datum."""
        ...

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """-log density [...] of all targets y [..., n], as outputs [..., n, k] give them."""
        ...

    def gauss_newton(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        """The diagonal [d] of J^T H J: outputs [n, k], their derivatives J [n, k, d]."""
        ...

    def check(self, y: Tensor) -> None:
        """Refuse targets [n] of an episode that have no density."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """y ~ Normal(output, variance), of one output."""

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(located(f"the variance of noise is positive, not {self.variance}"))

    def law(self, outputs: Tensor) -> Any:
        return dist.Normal(outputs[..., 0], self.variance**0.5)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        square = (y - outputs[..., 0]).square() / self.variance
        return (square + math.log(2 * math.pi * self.variance)).sum(-1) / 2

    def gauss_newton(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        return jacobian.square().sum((0, 1)) / self.variance

    def check(self, y: Tensor) -> None:
        if not bool(torch.isfinite(y).all()):
            raise ValueError(located("targets of an episode are finite numbers"))


@dataclass(frozen=True)
class Categories:
    """y ~ Categorical(softmax(outputs)), y in 0 .. k - 1."""

    k: int

    def law(self, outputs: Tensor) -> Any:
        return dist.Categorical(logits=outputs)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        logs = outputs.log_softmax(-1).gather(-1, y.long()[..., None])
        return -logs[..., 0].sum(-1)

    def gauss_newton(self, outputs: Tensor, jacobian: Tensor) -> Tensor:
        p = outputs.softmax(-1)[..., None]
        apart = jacobian - (p * jacobian).sum(-2, keepdim=True)
        return (p * apart.square()).sum((0, 1))

    def check(self, y: Tensor) -> None:
        if not bool(((y >= 0) & (y < self.k) & (y == y.round())).all()):
            raise ValueError(located(f"classes of an episode are 0 .. {self.k - 1}"))
        if len(y) and len(y.unique()) < 2:
            what = f"all data of an episode are of class {int(y[0])}"
            raise ValueError(located(what, hint="an episode has at least two classes"))
