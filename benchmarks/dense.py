"""A normal law with a dense covariance: lane code against the graph as torch runs it.

``python benchmarks/dense.py [N ...]``: the log density of N points of a Gaussian process, whose
length scale, size and noise are unknown, with its gradient.  A row: milliseconds of CPU of a call
for all chains, medians of runs in turn, the median of the ratios, and how many times the arithmetic
that there is no way around, N^3 for each chain (a third of it for the factor, two for the inverse),
at the rate of torch's product of two matrices of 512 rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import dist, observe, program, sample
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language.program import Program

SIZES = (10, 50, 100, 200, 400)
CHAINS = (1, 4)


def process(x: Tensor) -> Program:
    """Points of a curve at ``x``, with noise."""
    squares, one = (x[:, None] - x).square(), torch.eye(len(x))

    @program
    def points(y: Tensor) -> None:
        length = sample("length", dist.LogNormal(0.0, 0.5))
        size = sample("size", dist.LogNormal(0.0, 0.5))
        noise = sample("noise", dist.LogNormal(-1.0, 0.5))
        covariance = size**2 * (-squares / (2 * length**2)).exp() + noise**2 * one
        observe("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), y)

    return points


def milliseconds(call: Callable[[], object], least: float = 0.1) -> float:
    """Of CPU for one call, over ``least`` seconds of them."""
    start, count = time.process_time(), 0
    while time.process_time() - start < least:
        call()
        count += 1
    return 1e3 * (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    square = torch.randn(512, 512)
    flops = 2 * 512**3 / milliseconds(lambda: square @ square)  # in a millisecond
    table = Table("points", "chains", "lane code [ms]", "torch [ms]", "torch / lanes", "of least")
    for n in given.sizes:
        x = torch.linspace(-5.0, 5.0, n)
        density = LogDensity(process(x), x.sin(), turning=True)
        for chains in CHAINS:
            u = 0.1 * torch.randn(chains, density.size)
            ours, theirs = (Potential(density, u, compiled=each) for each in (True, False))
            (value, slope), (other, expected) = ours(u), theirs(u)
            torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-8)
            runs = [
                (milliseconds(lambda: ours(u)), milliseconds(lambda: theirs(u)))  # noqa: B023
                for _ in range(given.repeats)
            ]
            a, b = (statistics.median(each) for each in zip(*runs, strict=True))
            ratio = statistics.median(b / a for a, b in runs)
            least = a * flops / (chains * n**3)
            table.add_row(
                *map(str, (n, chains)), f"{a:.3f}", f"{b:.3f}", f"{ratio:.2f}", f"{least:.1f}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
