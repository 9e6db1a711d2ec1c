"""Smoothing a function with a Matern kernel: a parallel scan, a compiled loop, a loop as it is, C.

Irregular times, a fifth of the values missing, float64, one thread.  All run in turn, in rounds;
figures are medians of process-CPU seconds, and differences from the loop are of means, covariances
and the log mass, each relative to its greatest.  ``--sweeps`` times sweeps of a functional Tucker
decomposition by the number of entries instead, beside a dense Gaussian process of scikit-learn.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import compiled
from pushforward.models.funbat.cores import DiagonalCore, TuckerCore
from pushforward.models.funbat.decomposition import Decomposition
from pushforward.models.funbat.modes import Mode
from pushforward.ppl.markov import KERNELS, GaussianMarkov, Matern, Sites, observed, smoothed

Answer = tuple[Tensor, Tensor, Tensor]  # log mass, means, covariances
NOISE = 0.09
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


def data(length: int) -> tuple[Tensor, Tensor]:
    """Times and values, of which some are missing."""
    g = torch.Generator().manual_seed(0)
    times = 10 * torch.rand(length, generator=g, dtype=torch.float64).sort().values
    y = torch.sin(3 * times) + 0.3 * torch.randn(length, generator=g, dtype=torch.float64)
    return times, torch.where(torch.rand(length, generator=g) < 0.2, math.nan, y)


class ByC:
    """``peers/smoother.c``, for chains of so many states."""

    def __init__(self, chain: GaussianMarkov, y: Tensor, folder: str) -> None:
        states = chain.event_shape[1]
        source, made = Path(__file__).parent / "peers" / "smoother.c", f"{folder}/{states}.so"
        subprocess.run(["cc", *FLAGS, f"-DS={states}", source, "-o", made, "-lm"], check=True)
        self.call = ctypes.CDLL(made).smoothed
        self.call.restype = ctypes.c_double
        self.given = chain.transition.contiguous(), chain.covariance.contiguous(), y.contiguous()
        self.out = torch.zeros(chain.event_shape).to(y), torch.zeros_like(chain.covariance)

    def __call__(self) -> Answer:
        places = [ctypes.c_void_p(x.data_ptr()) for x in (*self.given, *self.out)]
        length = ctypes.c_long(len(self.given[2]))
        mass = self.call(length, *places[:3], ctypes.c_double(NOISE), *places[3:])
        return (torch.tensor(mass, dtype=torch.float64), *self.out)


def ways(chain: GaussianMarkov, y: Tensor, folder: str) -> dict[str, Callable[[], Answer]]:
    """Functions that smooth the same data."""
    sites = observed(y, torch.tensor(NOISE, dtype=torch.float64), chain.event_shape[1])
    quick = compiled(lambda *known: smoothed(chain, Sites(*known), "loop")[1:])
    return {
        "loop": lambda: smoothed(chain, sites, "loop")[1:],
        "loop, compiled": lambda: quick(*sites),
        "scan": lambda: smoothed(chain, sites, "scan")[1:],
        "C": ByC(chain, y, folder),
    }


def timed(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def medians(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of CPU of each, run in turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(timed(run))
    return {name: statistics.median(each) for name, each in found.items()}


def difference(found: Answer, wanted: Answer) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def smoothers(lengths: list[int], rounds: int) -> Table:
    """Seconds by kernel, length and way."""
    names = ("loop", "loop, compiled", "scan", "C")
    columns = ("kernel", "times", *(f"{name}, ms" for name in names))
    table = Table(*columns, "compiled loop / scan", "scan - loop", "C - loop", title="smoothing")
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            times, y = data(length)
            for kernel in KERNELS:
                runs = ways(Matern.named(kernel, 0.3).chain(times), y, folder)
                answers = {name: run() for name, run in runs.items()}  # and compiles
                seconds = medians(runs, rounds)
                table.add_row(
                    kernel,
                    f"{length}",
                    *(f"{1e3 * seconds[name]:.1f}" for name in names),
                    f"{seconds['loop, compiled'] / seconds['scan']:.1f}",
                    *(
                        f"{difference(answers[name], answers['loop']):.0e}"
                        for name in ("scan", "C")
                    ),
                )
    return table


def entries(n: int, form: str) -> Decomposition:
    """n entries of two modes at places that are all different, rank 2."""
    torch.manual_seed(0)
    X = torch.rand(n, 2, dtype=torch.float64)
    modes = [Mode(x, 2, Matern.named("matern32", 0.15)) for x in X.unbind(1)]
    for mode in modes:
        mode.start()
    core = DiagonalCore((2, 2)) if form == "cp" else TuckerCore((2, 2), torch.randn(4).to(X))
    y = torch.sin(6 * X[:, 0]) * X[:, 1] + 0.1 * torch.randn(n, dtype=torch.float64)
    return Decomposition(y, modes, core)


def dense(n: int) -> Callable[[], Any]:
    """A Gaussian process on the same entries, by scikit-learn: one fit without a search."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern as Kernel

    torch.manual_seed(0)
    X = torch.rand(n, 2, dtype=torch.float64).numpy()
    made = GaussianProcessRegressor(Kernel([0.15, 0.15], nu=1.5), alpha=0.01, optimizer=None)
    return lambda: made.fit(X, X[:, 0])


def sweeps(sizes: list[int], rounds: int) -> Table:
    """Seconds of a sweep by the number of entries."""
    names = ("tucker", "cp", "dense")
    columns = (f"{name}, ms" for name in names)
    table = Table("entries", *columns, title="a sweep; a fit of a dense Gaussian process")
    for n in sizes:
        with torch.no_grad():
            made = {form: entries(n, form) for form in ("tucker", "cp")}
            runs: dict[str, Callable[[], Any]] = {form: each.sweep for form, each in made.items()}
            if n <= 8000:
                runs["dense"] = dense(n)
            for run in runs.values():
                run()
            seconds = medians(runs, rounds)
        table.add_row(
            f"{n}", *(f"{1e3 * seconds[name]:.1f}" if name in seconds else "" for name in names)
        )
    return table


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, nargs="+", default=[10_000])
    parser.add_argument("--sweeps", type=int, nargs="+", help="numbers of entries")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = sweeps(options.sweeps, options.rounds) if options.sweeps else None
    Console(width=140).print(made or smoothers(options.times, options.rounds))


if __name__ == "__main__":
    main()
