"""Runs that are killed on their way: ``python killed.py KIND FILE STEPS`` dies after STEPS."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pushforward.inference import MCMC, SMC, Checkpoint, Fit, nuts, particle_filter
from pushforward.inference.kernels import cycle, gibbs, single_site
from pushforward.inference.runs.progress import Progress
from pushforward.ppl import condition, observe, plate, program, sample, scan

QUIET: dict[str, Any] = {"compiled": False, "progress": False}
X = torch.tensor([0.1, -0.4, 1.2])


@program
def line(x: Tensor) -> None:
    a = sample("a", dist.Normal(torch.zeros(()), 1.0))
    b = sample("b", dist.Gamma(torch.tensor(2.0), 2.0))
    with plate("points", len(x)):
        sample("y", dist.Normal(a * x, b))


@program
def walk(ys: Tensor) -> Tensor:
    rate = sample("rate", dist.Beta(torch.tensor(2.0), 2.0))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = x + sample("up", dist.Bernoulli(rate))
        observe("y", dist.Normal(x, 1.0), y)
        return x, None

    return scan(step)(torch.tensor(0.0), ys)[0]


OBSERVED = condition(line, {"y": torch.tensor([0.2, -0.1, 1.0])})
KERNEL = cycle(single_site(), gibbs([f"up[{i}]" for i in range(3)]))

RUNS: dict[str, Callable[[Any], Fit]] = {
    "nuts": lambda to: MCMC(nuts(), chains=3, draws=40, warmup=30, **QUIET).run(
        OBSERVED, X, seed=5, checkpoint=to
    ),
    "traces": lambda to: MCMC(KERNEL, chains=2, draws=12, warmup=3, **QUIET).run(
        walk, X, seed=5, checkpoint=to
    ),
    "tempered": lambda to: SMC(particles=20, islands=3, stages=4, **QUIET).run(
        OBSERVED, X, seed=5, checkpoint=to
    ),
    "filter": lambda to: SMC(20, 4, particle_filter, **QUIET).run(walk, X, seed=5, checkpoint=to),
}


def die_after(steps: int) -> None:
    """Kill this process when progress has been reported so often."""
    advance, seen = Progress.advance, 0

    def counted(self: Progress, count: int = 1, **figures: Any) -> None:
        nonlocal seen
        seen += count
        if seen >= steps:
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self, count, **figures)

    Progress.advance = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    kind, path, after = sys.argv[1:]
    die_after(int(after))
    RUNS[kind](Checkpoint(path, seconds=0.0))
