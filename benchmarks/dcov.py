"""Distance covariance of two scalars by ranks, beside all distances and the package ``dcor``.

    OMP_NUM_THREADS=1 python benchmarks/dcov.py --dcor PYTHON-WITH-DCOR

Seconds of CPU of the U statistic in float64, one thread, medians; with its derivative by the
predictions, which ``dcor`` does not give.  On 1 December 2026, two shared AMD EPYC cores at work,
Python 3.11.7, torch 2.13.0 (CPU), dcor 0.7 with numba 0.68 (its fastest way, compiled before):

       n     ranks  with derivative  all distances     dcor  ranks / dcor
     256    1.8 ms           1.7 ms         2.2 ms  0.08 ms          22
   2 000    2.6 ms           2.9 ms         258 ms   1.0 ms         2.6
  10 000     12 ms            13 ms       10 100 ms   6.8 ms         1.8
 100 000    151 ms           148 ms              -   118 ms         1.3
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pushforward.models.fairness import dcov

PEER = """
import json, statistics, sys, time
import dcor, numpy
from dcor import DistanceCovarianceMethod as Method
found = {}
for n in json.loads(sys.argv[1]):
    random = numpy.random.default_rng(n)
    x = random.standard_normal(n)
    y = x**2 + random.standard_normal(n)
    best = {}
    for method in (Method.AVL, Method.MERGESORT):
        value = dcor.u_distance_covariance_sqr(x, y, method=method)
        times = []
        for _ in range(int(sys.argv[2])):
            start = time.process_time()
            dcor.u_distance_covariance_sqr(x, y, method=method)
            times.append(time.process_time() - start)
        best[statistics.median(times)] = value
    found[n] = min(best.items())
print(json.dumps([(n, *row) for n, row in found.items()]))
"""


def data(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two dependent scalars [n], as the peer makes them."""
    random = np.random.default_rng(n)
    x = random.standard_normal(n)
    return torch.tensor(x), torch.tensor(x**2 + random.standard_normal(n))


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The median of process time."""
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def derivative(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By x [n]."""
    return torch.autograd.grad(dcov(x, y, method="fast"), x)[0]


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 2_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dcor", help="a Python that has dcor")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peer: dict[int, tuple[float, float]] = {}
    if options.dcor:
        command = [options.dcor, "-c", PEER, json.dumps(options.sizes), str(options.rounds)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peer = {n: (cost, value) for n, cost, value in json.loads(out)}
    table = Table("n", "ranks, ms", "with derivative", "all distances", "dcor", "ranks / dcor")
    for n in options.sizes:
        x, y = data(n)
        leaf = x.clone().requires_grad_()
        fast = seconds(partial(dcov, x, y, method="fast"), options.rounds)
        slope = seconds(partial(derivative, leaf, y), options.rounds)
        whole = "-"
        if n <= 10_000:
            naive = seconds(partial(dcov, x, y, method="naive"), 3)
            whole = f"{1e3 * naive:.2f}"
        theirs, ratio = "-", "-"
        if n in peer:
            cost, value = peer[n]
            found = float(dcov(x, y, method="fast"))
            assert abs(found - value) < 1e-9 * abs(value), (found, value)
            theirs, ratio = f"{1e3 * cost:.2f}", f"{fast / cost:.2f}"
        table.add_row(str(n), f"{1e3 * fast:.2f}", f"{1e3 * slope:.2f}", whole, theirs, ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
