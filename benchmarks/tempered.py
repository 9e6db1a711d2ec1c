"""Tempered SMC on a regression with correlated columns, beside BlackJAX and ``particles``.

The evidence and the posterior are known.  Each runs in turn, in rounds of processes of its own or
of this one; figures are medians of CPU seconds of a run, root mean squared errors of the log
evidence, and of posterior means and sds in posterior sds.  A run of ours is one of four islands
with a pilot run, one of the others a single population of as many particles as all islands.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers import environment
from peers.regression import NOISE, data, exact
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import dist, observe, sample
from pushforward.inference import SMC

Run = tuple[float, float, list[float], list[float]]  # seconds, log evidence, means, sds
ISLANDS = 4


def regression(x: Tensor, y: Tensor) -> None:
    """Slopes of N(0, 1), errors of a known size."""
    w = sample("w", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    observe("y", dist.Normal(x @ w, NOISE).to_event(1), y)


class Ours:
    """The driver, by default or with options."""

    def __init__(self, particles: int, **options: Any) -> None:
        self.driver = SMC(particles // ISLANDS, ISLANDS, progress=False, **options)
        self.data, self.seed = tuple(map(torch.as_tensor, data())), 0

    def __call__(self, runs: int) -> list[Run]:
        found = []
        for _ in range(runs):
            self.seed += 1
            start = time.process_time()
            fit = self.driver.run(regression, *self.data, seed=self.seed)
            seconds, w = time.process_time() - start, fit["w"].flatten(0, 1)
            evidence = float(fit.log_evidence or 0.0)
            found.append((seconds, evidence, w.mean(0).tolist(), w.std(0).tolist()))
        return found


def peer(python: str, module: str, *args: str) -> Callable[[int], list[Run]]:
    """A peer in processes of its own."""

    def run(runs: int) -> list[Run]:
        with tempfile.TemporaryDirectory() as folder:
            about = args[0], str(runs), *args[1:]
            said = environment.run(python, f"peers.{module}", *about, cache=folder)
        return [tuple(each) for each in json.loads(said.splitlines()[-1])["runs"]]

    return run


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles-python", help="the Python of an environment with particles")
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5, help="of each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    n, blackjax = options.particles, environment.peers_python()
    who: dict[str, Callable[[int], list[Run]]] = {
        "ours": Ours(n),
        "ours, waste-free": Ours(n, waste_free=True),
        "BlackJAX, step 0.05": peer(blackjax, "blackjax_tempered", f"{n}", "0.05"),
        "BlackJAX, step 0.1": peer(blackjax, "blackjax_tempered", f"{n}", "0.1"),
    }
    if options.particles_python:
        who["particles"] = peer(options.particles_python, "particles_tempered", f"{n}")
    for run in who.values():
        if isinstance(run, Ours):
            run(1)  # compiles
    found: dict[str, list[Run]] = {name: [] for name in who}
    for _ in range(options.rounds):
        for name, run in who.items():
            found[name] += run(options.runs)
    evidence, means, sds = exact()
    names = ("who", "s of CPU", "log evidence: bias", "error", "1000 error^2 x s", "means", "sds")
    table = Table(*names, title=f"{n} particles, exact log evidence {evidence:.2f}")
    for name, runs in found.items():
        seconds = statistics.median(s for s, *_ in runs)
        missed = np.array([z for _, z, *_ in runs]) - evidence
        error = float(np.sqrt(np.mean(missed**2)))
        off = [np.sqrt(np.mean([(np.array(r[2]) - means) ** 2 for r in runs], 0)) / sds]
        off.append(np.sqrt(np.mean([(np.array(r[3]) - sds) ** 2 for r in runs], 0)) / sds)
        cells = (f"{missed.mean():+.3f}", f"{error:.3f}", f"{1e3 * error**2 * seconds:.2f}")
        table.add_row(name, f"{seconds:.2f}", *cells, *(f"{each.max():.3f}" for each in off))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
