"""How errors of the evidence fall with the number of particles: quasi-random points, and others.

Linear-Gaussian models, whose evidence a Kalman filter knows: a number that is measured (50 steps),
and a point that turns in the plane, of which one coordinate is measured (20 steps).  Root mean
squared errors of the log evidence over runs of compiled filters, and the slope of their logarithms.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward import compiled, dist, observe, program, sample, scan
from pushforward.inference import particle_filter, sqmc
from pushforward.ppl import Program

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


def linear(matrix: Tensor) -> Program:
    """x_t ~ N(A x, 1), y_t ~ N(first coordinate of x_t, 1/4); the carry is a number if A is one."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        law = dist.Normal(matrix @ x, 1.0).to_event(1) if matrix.ndim else None
        x = sample("x", law or dist.Normal(matrix * x, 1.0))
        observe("y", dist.Normal(x[0] if matrix.ndim else x, 0.5), y)
        return x, None

    @program
    def model(ys: Tensor) -> Tensor:
        return scan(step)(torch.zeros(matrix.shape[:1]), ys)[0]

    return model


def kalman(matrix: Tensor, ys: Tensor) -> float:
    """The log evidence."""
    a = matrix.reshape(1, 1) if not matrix.ndim else matrix
    one = torch.eye(len(a))
    mean, covariance, total = torch.zeros(len(a)), torch.zeros_like(a), 0.0
    for y in ys:
        mean, covariance = a @ mean, a @ covariance @ a.T + one
        s = covariance[0, 0] + 0.25
        total -= 0.5 * float(torch.log(2 * math.pi * s) + (y - mean[0]) ** 2 / s)
        gain = covariance[:, 0] / s
        mean, covariance = mean + gain * (y - mean[0]), covariance - torch.outer(gain, gain) * s
    return total


MODELS = {
    "line": (torch.tensor(0.9, dtype=torch.float64), 50),
    "plane": (0.9 * torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64), 20),
}


def main() -> None:
    """Parse the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    table = Table("model", "algorithm", *(f"{n}" for n in SIZES), "slope", "ms of CPU at 4 096")
    with torch.no_grad():
        for name, (matrix, steps) in MODELS.items():
            ys = torch.sin(1.3 * torch.arange(float(steps)))
            model, exact = linear(matrix), kalman(matrix, ys)
            for algorithm in (particle_filter, sqmc):
                errors, seconds = [], 0.0
                for n in SIZES:
                    run = compiled(algorithm(model, n))
                    run(ys)
                    start = time.process_time()
                    found = [float(run(ys).log_evidence()) - exact for _ in range(options.runs)]
                    if n == 4096:
                        seconds = (time.process_time() - start) / options.runs
                    errors.append(float(np.sqrt(np.mean(np.square(found)))))
                slope = np.polyfit(np.log(SIZES), np.log(errors), 1)[0]
                cells = (*(f"{e:.2g}" for e in errors), f"{slope:.2f}", f"{1e3 * seconds:.0f}")
                table.add_row(name, algorithm.__name__, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
