"""Filters that look ahead and paths drawn backward: in lane code, by Inductor, and as they are.

A position that is measured to within a tenth, 100 steps, float64.  All run in turn, in rounds;
figures are medians of process-CPU seconds, and what compiling took beside them (with compilers'
processes).  Compiled code is kept in ``XDG_CACHE_HOME`` and ``TORCHINDUCTOR_CACHE_DIR``: empty
folders show all of it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import compiled, dist, observe, program, sample, scan
from pushforward.inference import backward_simulation, particle_filter
from pushforward.ppl import Program

Run = Callable[[Tensor], Any]


@program
def position(ys: Tensor) -> Tensor:
    """x_t ~ N(0.9 x, 1), y_t ~ N(x_t, 0.01)."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        observe("y", dist.Normal(x, 0.1), y)
        return x, x

    return scan(step)(torch.tensor(0.0), ys)[1]


def informed(x: Tensor, y: Tensor, ys: Tensor) -> None:
    """The law of the next state given its measurement."""
    sample("x", dist.Normal((0.9 * x + 100.0 * y) / 101.0, 101.0**-0.5))


def foreseen(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
    """The density of the next measurement."""
    return dist.Normal(0.9 * x, 1.01**0.5).log_prob(y)


ALGORITHMS: dict[str, Callable[[], Program]] = {
    "filter, 1 000 particles": lambda: particle_filter(position, 1000, proposal=informed),
    "that looks ahead": lambda: particle_filter(position, 1000, proposal=informed, ahead=foreseen),
    "50 paths through 200 particles": lambda: backward_simulation(position, 200, 50),
    "500 paths through 500 particles": lambda: backward_simulation(position, 500, 500),
}


def seconds() -> float:
    """Of CPU, in this process and in those that it waited for."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + others.ru_utime + others.ru_stime


def timed(run: Run, ys: Tensor) -> float:
    """Seconds of one run."""
    start = seconds()
    run(ys)
    return seconds() - start


def without_lane_code(algorithm: Program) -> Program:
    """The same program, which does not know how to be quick."""
    del algorithm.fn.quick  # type: ignore[attr-defined]
    return compiled(algorithm)


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    ys = torch.linspace(-2.0, 2.0, 100)
    who = ("lane code", "Inductor", "as it is")
    table = Table("algorithm", *(f"{each}, ms" for each in who), "compiling, s", title="100 steps")
    with torch.no_grad():
        for name, make in ALGORITHMS.items():
            runs = (compiled(make()), without_lane_code(make()), make())
            compiling = [timed(run, ys) for run in runs[:2]]
            found: list[list[float]] = [[], [], []]
            for _ in range(options.rounds):
                for run, each in zip(runs, found, strict=True):
                    each.append(timed(run, ys))
            cells = [f"{1e3 * statistics.median(each):.1f}" for each in found]
            table.add_row(name, *cells, ", ".join(f"{each:.1f}" for each in compiling))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
