"""Weibull survival with censored times: remission of leukaemia (Freireich et al. 1963)."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from ...ppl import factor, plate, program, sample
from .files import Built, data


@program
def weibull(time: Tensor, event: Tensor, placebo: Tensor) -> None:
    """Proportional hazards shape t^(shape - 1) exp(b0 + b1 placebo); event is 0 where censored."""
    shape = sample("shape", dist.Exponential(1.0))
    b0 = sample("b0", dist.Normal(0.0, 5.0))
    b1 = sample("b1", dist.Normal(0.0, 2.5))
    log_scale = b0 + b1 * placebo
    log_hazard = shape.log() + (shape - 1) * time.log() + log_scale
    with plate("patient", len(time)):
        factor("times", event * log_hazard - time**shape * log_scale.exp())


def gehan_weibull() -> Built:
    """Forty-two patients."""
    d = data("gehan_weibull")
    return weibull, (d["time"], d["event"], d["placebo"])
