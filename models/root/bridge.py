"""A Brownian bridge between two points: its marginals, its steps, and both ways as programs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pyro import distributions as dist
from torch import Tensor

from ...ppl import Program, program, sample, scan

Time = int | Tensor  # an index of a schedule, or indices


class Schedule(NamedTuple):
    """x_t ~ normal((1 - m_t) x0 + m_t x_low, variance delta_t): m [T] and delta [T]."""

    m: Tensor
    delta: Tensor


def schedule(
    T: int = 1000, kind: Literal["linear", "power"] = "linear", max_var: float = 1.0
) -> Schedule:
    """m from 0.001 to 0.999, linear or by powers of 1.0075; delta = 2 max_var (m - m^2).

    Errors:
        ValueError: a setting is wrong.
    """
    if T < 2 or max_var <= 0 or kind not in ("linear", "power"):
        raise ValueError("T is at least 2, max_var is positive, and kind is 'linear' or 'power'")
    m = torch.linspace(0.001, 0.999, T, dtype=torch.float64)
    if kind == "power":
        rise = 1.0075 ** torch.arange(T, dtype=torch.float64) - 1
        m = 0.001 + 0.998 * rise / rise[-1]
    return Schedule(m, 2 * max_var * (m - m**2))


def levels(T: int, steps: int) -> list[int]:
    """Times from T - 1 to 0, of which the last three are about (T - 1) / (steps - 2), 1 and 0.

    Errors:
        ValueError: there are not 3 to T steps.
    """
    if not 3 <= steps <= T:
        raise ValueError(f"steps is {steps}; it must be from 3 to T, which is {T}")
    gap = (T - 1) / (steps - 2)
    return [*(int(T - 1 - gap * i + 1e-9) for i in range(steps - 2)), 1, 0]


def q_sample(of: Schedule, x0: Tensor, x_low: Tensor, t: Time, noise: Tensor) -> Tensor:
    """x_t of the bridge from x0 to x_low, for standard normal noise; rows have times t [n, 1]."""
    return (1 - of.m[t]) * x0 + of.m[t] * x_low + of.delta[t].sqrt() * noise


def variance(of: Schedule, t: Time, n: Time) -> Tensor:
    """That of x_n given x_t, x0 and x_low, for n < t."""
    ratio = (1 - of.m[t]) ** 2 / (1 - of.m[n]) ** 2
    return (of.delta[t] - of.delta[n] * ratio) * of.delta[n] / of.delta[t]


def p_step(
    of: Schedule, x_t: Tensor, x0: Tensor, x_low: Tensor, t: Time, n: Time
) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_n given x_t, x0 and x_low, for n < t."""
    s2 = variance(of, t, n)
    away = x_t - (1 - of.m[t]) * x0 - of.m[t] * x_low
    mean = (1 - of.m[n]) * x0 + of.m[n] * x_low
    return mean + ((of.delta[n] - s2) / of.delta[t]).sqrt() * away, s2


def forward(of: Schedule) -> Program:
    """(x0, x_low) to the path [T, ...] of the bridge: each x_t given the one before.

    x_t = r x_(t-1) + (m_t - r m_(t-1)) x_low + noise, where r = (1 - m_t) / (1 - m_(t-1)), and the
    noise has what variance is left of delta_t.
    """
    before = Schedule(*(torch.cat([v.new_zeros(1), v[:-1]]) for v in of))
    r = (1 - of.m) / (1 - before.m)
    moved, left = of.m - r * before.m, of.delta - r**2 * before.delta

    @program
    def path(x0: Tensor, x_low: Tensor) -> Tensor:
        def step(x: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
            mean = rates[0] * x + rates[1] * x_low
            x = sample("x", dist.Normal(mean, rates[2]).to_event(x.ndim))
            return x, x

        found: Tensor = scan(step)(x0, torch.stack([r, moved, left.sqrt()], 1))[1]
        return found

    return path


def backward(of: Schedule) -> Program:
    """The same law of (x_0, ..., x_(T-1)), from its other end; the path [T, ...] starts there."""

    @program
    def path(x0: Tensor, x_low: Tensor) -> Tensor:
        last = len(of.m) - 1
        mean, spread = (1 - of.m[last]) * x0 + of.m[last] * x_low, of.delta[last].sqrt()
        steps = [(variance(of, t, t - 1), t) for t in range(last, 0, -1)]
        rates = torch.stack(
            [
                torch.stack([((of.delta[t - 1] - s2) / of.delta[t]).sqrt(), of.m[t - 1], s2.sqrt()])
                for s2, t in steps
            ]
        )
        ahead = torch.cat([rates.new_tensor([[0.0, of.m[last], spread]]), rates])

        def step(away: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
            centre = (1 - rate[1]) * x0 + rate[1] * x_low
            x = sample("x", dist.Normal(centre + rate[0] * away, rate[2]).to_event(away.ndim))
            return x - centre, x

        found: Tensor = scan(step)(torch.zeros_like(mean), ahead)[1]
        return found

    return path
