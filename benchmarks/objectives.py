"""Optimisers on variational objectives: steps and time until the guide is the posterior.

The model is ten normal observations of a normal mean, whose posterior is normal, so that all
objectives have the same maximum.  A run ends where location and scale of the guide, averaged over
the last 50 steps, are within 2 per cent of a posterior deviation (5 for noisy gradients).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pushforward import dist, observe, plate, program, sample
from pushforward.inference.vi import elbo, iwelbo, reinforce, reparam
from pushforward.nn.optim import AdamP, Ball, ExponentiatedSGD, OptimisticMirrorDescent

Y = torch.tensor([1.2, 0.4, 2.1, 1.7, 0.9, 1.3, 0.2, 1.1, 1.6, 0.8], dtype=torch.float64)
SCALE = (1 + len(Y)) ** -0.5
MEAN = float(Y.sum()) * SCALE**2
Make = Callable[[Any], list[torch.optim.Optimizer]]


@program
def model(y: Any) -> None:
    """A normal mean."""
    mu = sample("mu", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(mu, 1.0), y)


class Guide(torch.nn.Module):
    """A normal law, with a strategy for its gradient; its scale as it is, or by its logarithm."""

    def __init__(self, strategy: Callable[[Any], Any], direct: bool) -> None:
        super().__init__()
        self.strategy, self.direct = strategy, direct
        self.loc = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        start = torch.ones if direct else torch.zeros
        self.size = torch.nn.Parameter(start((), dtype=torch.float64))

    @property
    def scale(self) -> torch.Tensor:
        return self.size if self.direct else self.size.exp()

    def forward(self, y: Any) -> None:
        sample("mu", self.strategy(dist.Normal(self.loc, self.scale)))


OBJECTIVES: dict[str, tuple[Callable[[Guide], Any], Callable[[Any], Any], float]] = {
    "ELBO, paths": (lambda guide: elbo(model, guide), reparam, 0.02),
    "ELBO, scores": (lambda guide: elbo(model, guide), reinforce, 0.05),
    "5-sample bound, paths": (lambda guide: iwelbo(model, guide, 5), reparam, 0.05),
}
DIRECT = "SGD 0.002, and exponentiated 0.01 for the scale"
OPTIMISERS: dict[str, Make] = {
    "SGD 0.002, momentum 0.9": lambda g: [torch.optim.SGD(g.parameters(), 0.002, 0.9)],
    DIRECT: lambda g: [
        torch.optim.SGD([g.loc], 0.002, 0.9),
        ExponentiatedSGD([g.size], 0.01, 0.9),
    ],
    "Adam 0.02": lambda g: [torch.optim.Adam(g.parameters(), 0.02)],
    "AdamP 0.02, projection off": lambda g: [AdamP(g.parameters(), 0.02, projection="off")],
    "optimistic mirror descent": lambda g: [
        OptimisticMirrorDescent(g.parameters(), domain=Ball(3.0), grad_bound="max")
    ],
}


def run(objective: str, name: str, seed: int, most: int) -> tuple[int, float]:
    """Steps and seconds, or the greatest number of steps."""
    torch.manual_seed(seed)
    build, strategy, limit = OBJECTIVES[objective]
    guide = Guide(strategy, direct=name == DIRECT)
    bound = build(guide)
    optimizers = OPTIMISERS[name](guide)
    recent: list[tuple[float, float]] = []
    start = time.perf_counter()
    step = 0
    while step < most:
        step += 1
        loss = -bound.surrogate(Y)
        guide.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        loc, scale = guide.loc.item(), guide.scale.item()
        if not (abs(loc) < 1e3 and 1e-20 < scale < 1e20):
            return most, math.inf
        recent = [*recent[-49:], (loc, scale)]
        loc, scale = (statistics.fmean(each) for each in zip(*recent, strict=True))
        if len(recent) == 50 and max(abs(loc - MEAN), abs(scale - SCALE)) < limit * SCALE:
            break
    return step, time.perf_counter() - start


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("optimiser", *OBJECTIVES, title="median steps (seconds) to the posterior")
    for name in OPTIMISERS:
        row = []
        for objective in OBJECTIVES:
            runs = [run(objective, name, seed, options.most) for seed in range(options.seeds)]
            steps, seconds = (statistics.median(each) for each in zip(*runs, strict=True))
            slow = "diverges" if math.isinf(seconds) else f"> {options.most}"
            row.append(slow if steps >= options.most else f"{steps:.0f} ({seconds:.1f})")
        table.add_row(name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
