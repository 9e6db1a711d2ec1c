"""Particle filters: million particle-steps per second of CPU, beside C and JAX by hand.

Stochastic volatility (500 days, as ``volatility.py``) and a linear Gaussian model (100 steps), with
systematic resampling where the effective size is below half.  Each peer runs in turn, in rounds;
figures are medians of all rounds, and means of log evidences agree within their errors.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from peers import environment
from rich.console import Console
from rich.table import Table
from torch import Tensor
from volatility import simulated

from pushforward.inference import particle_filter
from pushforward.ppl import Program, compiled, observe, program, sample, scan

Runs = list[tuple[float, float]]  # seconds of CPU and log evidence
SIZES = (100, 1_000, 10_000, 100_000)
STEPS = 2_000_000  # particle-steps of a round, at least
DTYPES = {"float64": torch.float64, "float32": torch.float32}
FLAGS = ("-Ofast", "-march=native", "-shared", "-fPIC", "-w")


def volatility(dtype: torch.dtype) -> Program:
    """x_0 ~ N(mu, s^2 / (1 - phi^2)), x_t ~ N(mu + phi (x - mu), s^2), y_t ~ N(0, exp(x_t))."""
    mu, phi, sigma, zero = (torch.tensor(x, dtype=dtype) for x in (-1.0, 0.95, 0.25, 0.0))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        observe("y", dist.Normal(zero, (x / 2).exp()), y)
        return sample("x", dist.Normal(mu + phi * (x - mu), sigma)), None

    @program
    def model(ys: Tensor) -> Tensor:
        return scan(step)(sample("x0", dist.Normal(mu, sigma / (1 - phi**2).sqrt())), ys)[0]

    return model


def linear(dtype: torch.dtype) -> Program:
    """x_0 ~ N(0, 1 / (1 - phi^2)), x_t ~ N(0.9 x, 1), y_t ~ N(x_t, 1/4)."""
    phi, zero, one, half = (torch.tensor(x, dtype=dtype) for x in (0.9, 0.0, 1.0, 0.5))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        observe("y", dist.Normal(x, half), y)
        return sample("x", dist.Normal(phi * x, one)), None

    @program
    def model(ys: Tensor) -> Tensor:
        return scan(step)(sample("x0", dist.Normal(zero, one / (1 - phi**2).sqrt())), ys)[0]

    return model


MODELS: dict[str, Any] = {"volatility": volatility, "linear": linear}
CONSTANTS = {"volatility": (1, -1.0, 0.95, 0.25), "linear": (0, 0.9, 1.0, 0.5)}


def data(name: str) -> Tensor:
    """Simulated volatilities, or a sine."""
    torch.manual_seed(1)
    truth = tuple(torch.tensor(x, dtype=torch.float64) for x in (-1.0, 0.95, 0.25))
    if name == "volatility":
        return simulated(truth, 500)  # type: ignore[arg-type]
    return torch.sin(torch.arange(100, dtype=torch.float64))


def timed(run: Callable[[int], float], runs: int) -> Runs:
    """Process-CPU seconds and results of some runs."""
    found = []
    for seed in range(runs):
        start = time.process_time()
        value = run(seed)
        found.append((time.process_time() - start, value))
    return found


class Ours:
    """The program, compiled."""

    def __init__(self, name: str, dtype: str, n: int, ys: Tensor) -> None:
        self.filter = compiled(particle_filter(MODELS[name](DTYPES[dtype]), n, ess=0.5))
        self.ys = ys.to(DTYPES[dtype])
        start = time.process_time()
        self.filter(self.ys)
        self.compiling = time.process_time() - start

    def __call__(self, runs: int) -> Runs:
        return timed(lambda seed: float(self.filter(self.ys).log_evidence()), runs)


class ByC:
    """``peers/filter.c``."""

    def __init__(self, name: str, dtype: str, n: int, ys: Tensor, folder: str) -> None:
        real, made = {"float64": "double", "float32": "float"}[dtype], f"{folder}/{dtype}.so"
        source = Path(__file__).parent / "peers" / "filter.c"
        start = time.perf_counter()
        subprocess.run(["cc", *FLAGS, f"-DREAL={real}", source, "-o", made, "-lm"], check=True)
        self.compiling = time.perf_counter() - start
        self.call, self.n = ctypes.CDLL(made).filtered, n
        self.call.restype = ctypes.c_double
        self.ys, (self.model, *self.constants) = ys.numpy(), CONSTANTS[name]

    def __call__(self, runs: int) -> Runs:
        constants = [ctypes.c_double(x) for x in self.constants]
        place = self.ys.ctypes.data_as(ctypes.c_void_p)
        sizes = ctypes.c_long(len(self.ys)), ctypes.c_long(self.n)

        def run(seed: int) -> float:
            return float(self.call(self.model, place, *sizes, ctypes.c_uint64(seed), *constants))

        return timed(run, runs)


class ByJax:
    """``peers/jax_filter.py``, in a process of its own."""

    def __init__(self, name: str, dtype: str, n: int, ys: Tensor, folder: str) -> None:
        self.python, self.about, self.folder = (
            environment.peers_python(),
            (name, str(n), dtype),
            folder,
        )
        np.save(f"{folder}/{name}.npy", ys.numpy())
        self.file, self.compiling = f"{folder}/{name}.npy", 0.0

    def __call__(self, runs: int) -> Runs:
        about = (*self.about, str(runs), self.file)
        said = environment.run(self.python, "peers.jax_filter", *about, cache=self.folder)
        found = json.loads(said)
        self.compiling = found["compiling"]
        return [tuple(each) for each in found["runs"]]


def row(name: str, dtype: str, n: int, rounds: int, peers: bool, folder: str) -> dict[str, Any]:
    """The figures of one setting, by who made them."""
    ys = data(name)
    who: dict[str, Any] = {"ours": Ours(name, dtype, n, ys), "C": ByC(name, dtype, n, ys, folder)}
    if peers:
        who["JAX"] = ByJax(name, dtype, n, ys, folder)
    runs = max(3, STEPS // (n * len(ys)))
    found: dict[str, Runs] = {each: [] for each in who}
    for _ in range(rounds):
        for each, run in who.items():
            found[each] += run(runs)
    figures: dict[str, Any] = {}
    for each, made in found.items():
        seconds = statistics.median(s for s, _ in made)
        values = [value for _, value in made]
        error = statistics.stdev(values) / len(values) ** 0.5
        figures[each] = (
            n * len(ys) / seconds / 1e6,
            who[each].compiling,
            statistics.mean(values),
            error,
        )
    return figures


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-jax", action="store_true", help="leave JAX out, which is installed")
    parser.add_argument("--only", choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", "dtype", "particles", title="million particle-steps per CPU second")
    who = ["ours", "C"] + ([] if options.no_jax else ["JAX"])
    for each in who:
        table.add_column(each)
    table.add_column("compiling, s")
    table.add_column("log evidence")
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for name, dtype in ((m, d) for m in MODELS for d in DTYPES):
            if options.only not in (None, name):
                continue
            for n in SIZES if name == "volatility" else (1_000,):
                found = row(name, dtype, n, options.rounds, not options.no_jax, folder)
                speeds = [f"{found[each][0]:.1f}" for each in who]
                compiling = " ".join(f"{found[each][1]:.1f}" for each in who)
                values = " ".join(f"{found[each][2]:.2f}±{found[each][3]:.2f}" for each in who)
                table.add_row(name, dtype, f"{n}", *speeds, compiling, values)
                print(name, dtype, n, *speeds, compiling, values, file=sys.stderr)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
