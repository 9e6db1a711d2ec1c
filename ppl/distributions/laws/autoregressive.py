"""Autoregressive series: numbers in turn, each a weighted sum of those before it and noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import ProgramError, located


class AR(dist.TorchDistribution):  # type: ignore[misc]
    """x_t - loc = sum_i coefficients_i (x_(t - i) - loc) + scale e_t, e_t ~ Normal(0, 1).

    Without ``initial`` the series is stationary from its first value; coefficients of a process
    that is not have density zero.  ``stationary`` makes coefficients of one that is.

    Args:
        coefficients: [*batch, p]; scale: [*batch], positive.
        length: T, the number of values; an event is [T].
        loc: [*batch].
        initial: [*batch, p], the p values before the first, the latest last.

    Errors:
        ProgramError: a shape is wrong, or there are no values.
    """

    arg_constraints = {
        "coefficients": constraints.real_vector,
        "scale": constraints.positive,
        "loc": constraints.real,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        coefficients: Tensor,
        scale: Tensor | float,
        length: int,
        loc: Tensor | float = 0.0,
        initial: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if length < 1 or not coefficients.ndim or not coefficients.shape[-1]:
            what = f"a series has coefficients [p] and values [T], not {length} values"
            raise ProgramError(located(f"{what} and coefficients {list(coefficients.shape)}"))
        p = coefficients.shape[-1:]
        if initial is not None and initial.shape[-1:] != p:
            what = f"initial has the {p[0]} values before the first, not {list(initial.shape)}"
            raise ProgramError(located(what))
        scale, loc = (torch.as_tensor(x, dtype=coefficients.dtype) for x in (scale, loc))
        shapes = [coefficients.shape[:-1], scale.shape, loc.shape]
        shapes += [] if initial is None else [initial.shape[:-1]]
        batch = torch.broadcast_shapes(*shapes)
        self.coefficients = coefficients.expand(batch + p)
        self.scale, self.loc = scale.expand(batch), loc.expand(batch)
        self.initial = None if initial is None else initial.expand(batch + p)
        super().__init__(batch, torch.Size([length]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> AR:
        batch = torch.Size(batch_shape)
        p, initial = self.coefficients.shape[-1:], self.initial
        return AR(
            self.coefficients.expand(batch + p),
            self.scale.expand(batch),
            self.event_shape[0],
            self.loc.expand(batch),
            None if initial is None else initial.expand(batch + p),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        y = value - self.loc[..., None]
        p, n = self.coefficients.shape[-1], self.event_shape[0]
        if self.initial is not None:
            before = (self.initial - self.loc[..., None]).expand(*y.shape[:-1], p)
            return self._innovations(torch.cat([before, y], -1), p)
        orders, variances, stable = self._start
        score = self._innovations(y, p) if n > p else torch.zeros_like(y[..., 0])
        for t in range(min(p, n)):
            variance = variances[t]
            off = y[..., t] - _predicted(orders[t], y[..., :t])
            score = score - (off.square() / variance + (2 * math.pi * variance).log()) / 2
        return torch.where(stable, score, -math.inf)

    def _innovations(self, y: Tensor, p: int) -> Tensor:
        """The log density of all values but the first p, given those before."""
        n = y.shape[-1] - p
        off = y[..., p:]
        for i in range(p):
            off = off - self.coefficients[..., i, None] * y[..., p - 1 - i : p - 1 - i + n]
        square = (off / self.scale[..., None]).square().sum(-1)
        found: Tensor = -square / 2 - n * (self.scale.log() + math.log(2 * math.pi) / 2)
        return found

    @property
    def _start(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Of each order below p: the best predictor, and its variance; is the process stationary?

        The recursion of Levinson and Durbin, backwards.
        """
        a, variance = self.coefficients, self.scale.square()
        stable = torch.ones_like(self.scale, dtype=torch.bool)
        orders: list[Tensor] = []
        variances: list[Tensor] = []
        for k in range(a.shape[-1], 0, -1):
            partial, rest = a[..., k - 1], a[..., : k - 1]
            inside = partial.abs() < 1
            stable = stable & inside
            left = torch.where(inside, 1 - partial.square(), 1.0)
            a = (rest + partial[..., None] * rest.flip(-1)) / left[..., None]
            variance = variance / left
            orders.insert(0, a)
            variances.insert(0, variance)
        return orders, variances, stable

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        e = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        values = list(self._deviations(e.unbind(-1)))
        return torch.stack(values, -1) + self.loc[..., None]

    def _deviations(self, noise: tuple[Tensor, ...]) -> Iterator[Tensor]:
        p = self.coefficients.shape[-1]
        past: list[Tensor] = []
        orders: list[Tensor] = []
        variances: list[Tensor] = []
        if self.initial is None:
            orders, variances, _ = self._start
        else:
            past = list((self.initial - self.loc[..., None]).unbind(-1))
        for e in noise:
            k = len(past)
            a, scale = (
                (self.coefficients, self.scale) if k >= p else (orders[k], variances[k].sqrt())
            )
            new = scale * e
            for i in range(min(k, p)):
                new = new + a[..., i] * past[-1 - i]
            past.append(new)
            yield new

    @property
    def mean(self) -> Tensor:
        """[*batch, T]."""
        nothing = (torch.zeros_like(self.scale),) * self.event_shape[0]
        return torch.stack(list(self._deviations(nothing)), -1) + self.loc[..., None]

    @property
    def variance(self) -> Tensor:
        """[*batch, T]."""
        n = self.event_shape[0]
        if self.initial is None:
            return self._start[1][0][..., None].expand(*self.batch_shape, n)
        still = AR(self.coefficients, 1.0, n, initial=torch.zeros_like(self.coefficients))
        zero, one = torch.zeros_like(self.scale), torch.ones_like(self.scale)
        response = torch.stack(list(still._deviations((one, *(zero,) * (n - 1)))), -1)
        return self.scale.square()[..., None] * response.square().cumsum(-1)


def _predicted(a: Tensor, past: Tensor) -> Tensor:
    """The sum of a_i times the value i steps before the next."""
    found: Tensor = (a * past.flip(-1)).sum(-1)
    return found


def stationary(partials: Tensor) -> Tensor:
    """Coefficients [*batch, p] of a stationary process, by partial autocorrelations in (-1, 1).

    Every stationary process has just one such vector, so that uniform partials, or any law of them,
    are a prior on stationary processes.  Source: Monahan, Biometrika 71 (1984).
    """
    a = partials[..., :0]
    for k in range(partials.shape[-1]):
        partial = partials[..., k, None]
        a = torch.cat([a - partial * a.flip(-1), partial], -1)
    return a
