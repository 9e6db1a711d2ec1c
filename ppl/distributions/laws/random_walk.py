"""Walks with normal steps."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located
from .parameters import together


class GaussianRandomWalk(dist.TorchDistribution):  # type: ignore[misc]
    """x_t = x_(t - 1) + drift + scale e_t, from x_0 = start, which is no part of the event [T].

    Args:
        scale: [*batch], positive.
        length: T.
        drift, start: [*batch]; a start that is not known is a latent of its own.

    Errors:
        ProgramError: there are no steps.
    """

    arg_constraints = {
        "scale": constraints.positive,
        "drift": constraints.real,
        "start": constraints.real,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        scale: Tensor | float,
        length: int,
        drift: Tensor | float = 0.0,
        start: Tensor | float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        if length < 1:
            raise ProgramError(located(f"a walk has at least one step, not {length}"))
        parts = together(scale, drift, start)
        self.scale, self.drift, self.start = parts
        super().__init__(self.scale.shape, torch.Size([length]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianRandomWalk:
        batch = torch.Size(batch_shape)
        scale, drift, start = (x.expand(batch) for x in (self.scale, self.drift, self.start))
        length = self.event_shape[0]
        return GaussianRandomWalk(scale, length, drift, start, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        first = (value[..., 0] - self.start - self.drift) / self.scale
        steps = value[..., 1:] - value[..., :-1]
        rest = (steps - self.drift[..., None]) / self.scale[..., None]
        square = first.square() + rest.square().sum(-1)
        constant = self.scale.log() + math.log(2 * math.pi) / 2
        found: Tensor = -square / 2 - self.event_shape[0] * constant
        return found

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        e = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        steps = self.drift[..., None] + self.scale[..., None] * e
        found: Tensor = self.start[..., None] + steps.cumsum(-1)
        return found

    @property
    def _times(self) -> Tensor:
        length = self.event_shape[0]
        return torch.arange(1, length + 1, dtype=self.scale.dtype, device=self.scale.device)

    @property
    def mean(self) -> Tensor:
        """[*batch, T]."""
        return self.start[..., None] + self.drift[..., None] * self._times

    @property
    def variance(self) -> Tensor:
        """[*batch, T]."""
        return self.scale.square()[..., None] * self._times
