"""From low ends to high ones by what a network predicts: the sampler, and its chain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ...ppl import Program, observe, program, sample, scan
from .aims import Aim, high_end
from .bridge import Schedule, Time, p_step

Predicted = Callable[[Tensor, Time], Tensor]  # of x_t and t, to the high end


def guided(
    net: nn.Module,
    of: Schedule,
    x_low: Tensor,
    y: Tensor,
    aim: Aim = "grad",
    guidance: float = -1.0,
) -> Predicted:
    """The high end that a network predicts from x_low [n, d], with values y [n, 2] (high, low).

    o = (1 + guidance) net(..., y) - guidance net(..., hidden): values count fully at 0, not at all
    at -1, and are turned around below that.
    """
    one = torch.ones_like(y[:, :1])

    def predict(x_t: Tensor, t: Time) -> Tensor:
        time = one * t / len(of.m)
        o = torch.zeros_like(x_t)
        for share, known in ((1 + guidance, one), (-guidance, 0 * one)):
            if share != 0:
                o = o + share * net(x_t, time, y, known)
        return high_end(aim, o, of, x_t, x_low, t)

    return predict


def sampler(of: Schedule, predict: Predicted, times: list[int], eta: float = 0.2) -> Program:
    """x_low to the high end, by steps along falling times, of which the last is 0.

    Each step is the bridge's, given the high end that is predicted, with eta times its noise.
    """
    falling = torch.tensor(times)

    @program
    def proposals(x_low: Tensor) -> Tensor:
        def step(x: Tensor, ahead: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
            mean, s2 = p_step(of, x, predict(x, ahead[0]), x_low, *ahead)
            e = sample("e", dist.Normal(torch.zeros_like(x), 1.0).to_event(x.ndim))
            return mean + eta * s2.sqrt() * e, None

        x: Tensor = scan(step)(x_low, (falling[:-1], falling[1:]))[0]
        return predict(x, times[-1])

    return proposals


def chain(of: Schedule, predict: Predicted, x_high: Tensor) -> Program:
    """The law of the bridge's path from x_low, high end unknown; x_high is observed.

    x_(T-1) ~ normal(x_low, delta_(T-1)), each x_(t-1) given x_t as if the high end were the one
    that is predicted, x_high ~ normal(that at x_0, delta_0 / (1 - m_0)^2). ``backward`` is a guide.
    """
    T = len(of.m)

    @program
    def path(x_low: Tensor) -> Tensor:
        x = sample("x[0]", dist.Normal(x_low, of.delta[-1].sqrt()).to_event(x_low.ndim))
        for i, t in enumerate(range(T - 1, 0, -1), 1):
            mean, s2 = p_step(of, x, predict(x, t), x_low, t, t - 1)
            x = sample(f"x[{i}]", dist.Normal(mean, s2.sqrt()).to_event(x.ndim))
        spread = of.delta[0].sqrt() / (1 - of.m[0])
        observe("x_high", dist.Normal(predict(x, 0), spread).to_event(x.ndim), x_high)
        return x

    return path
