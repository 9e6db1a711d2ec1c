"""Pyro's ``SMCFilter`` as a program: its particles, with the estimate of the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ...inference.smc import Population
from .torch_code import Effects


def pyro_filter(make: Callable[[], Any], returned: str) -> Callable[[Iterable[Any]], Population]:
    """A run of a filter over data, as a program that returns a ``Population``.

    It calls ``init()``, and ``step(y)`` for each y of the data.  Pyro normalises its weights at
    each step and keeps no evidence: that is estimated here by the product, over steps, of the
    means of what the particles' weights are multiplied by, under the weights of before.

    Args:
        make: makes the filter anew: ``lambda: SMCFilter(model, guide, 2, max_plate_nesting=0)``.
        returned: the entry of its state whose values [particles, ...] are the population's.
    """

    def run(data: Iterable[Any]) -> Population:
        filter = make()
        evidence = _Evidence(filter)
        with Effects(beyond=True):
            filter.init()
            for y in data:
                filter.step(y)
        weights = filter.state._log_weights.double()
        return Population(filter.state[returned], weights - weights.logsumexp(0) + evidence.log)

    run.__name__ = run.__qualname__ = type(make()).__name__
    return run


class _Evidence:
    """Looks at each step of weighting, and keeps the log of the evidence [] until then."""

    def __init__(self, filter: Any) -> None:
        self.log = torch.zeros((), dtype=torch.float64)
        self.filter, self.update = filter, filter._update_weights
        filter._update_weights = self

    def __call__(self, model: Any, guide: Any) -> None:
        before = self.filter.state._log_weights.double()
        self.log = self.log - before.logsumexp(0)
        factors = self._factors(model, guide)
        self.log = self.log + (before + factors).logsumexp(0)
        self.update(model, guide)

    def _factors(self, model: Any, guide: Any) -> Tensor:
        """What the weights [particles] are multiplied by, as logs."""
        found = torch.zeros(self.filter.num_particles, dtype=torch.float64)
        for trace, sign in ((model, 1), (guide, -1)):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and not site_is_subsample(site):
                    counted = site["is_observed"] if trace is model else True
                    if counted or name in guide.nodes:
                        log_prob = site["fn"].log_prob(site["value"]).double()
                        found = found + sign * log_prob.reshape(len(found), -1).sum(-1)
        return found
