"""Exact checks of particle methods and kernels: seconds, by particles, steps and states.

The model is a hidden Markov chain of two states that returns its last.  Each line is a check from
the start in a process that has made a small one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample, scan
from pushforward.inference.smc import multinomial, particle_filter, smc, systematic
from pushforward.semantics import Report, check

MOVES, SEEN = torch.tensor([[0.7, 0.3], [0.2, 0.8]]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])
YS = torch.tensor([0.0, 1, 1, 0, 1, 0])


def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
    x = sample("x", dist.Categorical(MOVES.double()[x]))
    observe("y", dist.Categorical(SEEN.double()[x]), y)
    return x, None


def chain(steps: int) -> Any:
    return program(lambda: scan(step)(torch.tensor(0), YS[:steps].double())[0])


def spins(n: int) -> tuple[Any, Any]:
    """A ring of n spins, and Metropolis flips of one of them."""

    def energy(s: Tensor) -> Tensor:
        return 0.7 * ((2 * s - 1) * (2 * s.roll(1) - 1)).sum()

    @program
    def ring() -> Tensor:
        s = sample("s", dist.Bernoulli(torch.full((n,), 0.5).double()).to_event(1))
        factor("energy", energy(s))
        return s

    def flip(s: Tensor) -> Tensor:
        place = torch.arange(n) == draw(dist.Categorical(torch.ones(n).double()))
        proposed = torch.where(place, 1 - s, s)
        log_ratio = energy(proposed) - energy(s)
        accept = draw(dist.Bernoulli(log_ratio.exp().clamp(max=1.0)))
        return torch.where(accept == 1, proposed, s)

    return ring, flip


def checks() -> dict[str, Callable[[], Report]]:
    found: dict[str, Callable[[], Report]] = {}
    for name, scheme in {"multinomial": multinomial, "systematic": systematic}.items():
        for n, steps in ((2, 4), (2, 5), (2, 6), (3, 4)):
            p, about = chain(steps), f"{n} particles, {steps} steps, {name}"
            found[f"smc, {about}"] = lambda p=p, n=n, s=scheme: check.valid(smc(p, n, s), p)
        p = chain(6)
        found[f"particle_filter, 4 particles, 6 steps, {name}"] = lambda p=p, s=scheme: check.valid(
            particle_filter(p, 4, s), p
        )
    for n in (9, 12):
        ring, flip = spins(n)
        found[f"invariant, 2^{n} states"] = lambda k=flip, p=ring: check.invariant(k, p)
    return found


def main() -> None:
    check.valid(smc(chain(1), 1), chain(1)).require()
    table = Table("check", "s of CPU", "verdict")
    for name, run in checks().items():
        start = time.process_time()
        report = run()
        table.add_row(name, f"{time.process_time() - start:.2f}", report.verdict)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
