"""The particle filter as one program: exact for a few particles, fast for many.

The object that ``inference.particle_filter`` makes is evaluated exactly on a hidden Markov model of
three steps, and run with many particles on a linear-Gaussian model beside hand-written torch.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pushforward.inference import multinomial, particle_filter, smc, systematic
from pushforward.ppl import Program, compiled, observe, program, sample, scan
from pushforward.semantics import check

SCHEMES = {"systematic": systematic, "multinomial": multinomial}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def hidden_markov(states: int) -> Program:
    """A hidden Markov model; the carry starts in a state "not started" with a row of its own."""
    transitions = torch.ones(states + 1, states, dtype=torch.float64)
    transitions[:states] += torch.eye(states)
    transitions[states, 0] += 1.0
    transitions = transitions / transitions.sum(-1, keepdim=True)
    emissions = torch.softmax(torch.eye(states, dtype=torch.float64), -1)

    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Categorical(transitions[x]))
            observe("y", dist.Categorical(emissions[x]), y)
            return x, None

        return scan(step)(torch.tensor(states), ys)[0]

    return model


@program
def linear_gaussian(ys: Tensor) -> Tensor:
    """x_0 ~ N(0, 1), x_t ~ N(0.9 x_{t-1}, 1), y_t ~ N(x_t, 1/4); returns the last x."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        observe("y", dist.Normal(x, 0.5), y)
        return x, None

    return scan(step)(sample("x0", dist.Normal(torch.zeros((), dtype=ys.dtype), 1.0)), ys)[0]


def by_hand(ys: Tensor, n: int, scheme: str) -> tuple[Tensor, Tensor, Tensor]:
    """The same filter in plain batched torch; returns (particles, log weights, log evidence)."""
    x = torch.randn(n, dtype=ys.dtype)
    log_weights = torch.zeros(n, dtype=ys.dtype)
    log_evidence = torch.zeros((), dtype=ys.dtype)
    grid = torch.arange(n, dtype=ys.dtype)
    constant = -math.log(0.5) - 0.5 * math.log(2 * math.pi)
    for t, y in enumerate(ys):
        if t > 0:
            total = torch.logsumexp(log_weights, 0)
            log_evidence = log_evidence + total - math.log(n)
            ends = torch.cumsum(torch.exp(log_weights - total), 0)
            if scheme == "systematic":
                points = (grid + torch.rand((), dtype=ys.dtype)) / n
            else:
                points = torch.rand(n, dtype=ys.dtype)
            ancestors = torch.searchsorted(ends, points).clamp(max=n - 1)
            x = x[ancestors]
            log_weights = torch.zeros(n, dtype=ys.dtype)
        x = 0.9 * x + torch.randn(n, dtype=ys.dtype)
        log_weights = log_weights + (constant - 2.0 * (y - x) ** 2)
    return x, log_weights, log_evidence + torch.logsumexp(log_weights, 0) - math.log(n)


def kalman(ys: Tensor) -> float:
    """The exact log evidence of ``linear_gaussian``."""
    mean, variance, total = 0.0, 1.0, 0.0
    for y in ys.tolist():
        mean, variance = 0.9 * mean, 0.81 * variance + 1.0
        s = variance + 0.25
        total += -0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
        mean, variance = mean + variance / s * (y - mean), variance * 0.25 / s
    return total


def seconds(run: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def exact_table(repeats: int) -> Table:
    """Seconds of ``check.valid`` for small numbers of particles.

    ``smc`` takes any program, and keeps all choices of a particle: it is asked of two states only.
    """
    columns = ("algorithm", "states", "scheme", "particles", "seconds", "deviation")
    table = Table(*columns, title="exact")
    ys = torch.tensor([0, 1, 1])
    for make, states in ((particle_filter, 2), (particle_filter, 3), (smc, 2)):
        model = hidden_markov(states)
        for (name, scheme), n in itertools.product(SCHEMES.items(), (1, 2, 3)):
            algorithm = make(model, n, scheme)
            reports = [check.valid(algorithm, model, ys).require() for _ in range(repeats)]
            time_ = statistics.median(report.seconds for report in reports)
            row = (make.__name__, states, name, n, f"{time_:.2f}", f"{reports[0].deviation:.1e}")
            table.add_row(*map(str, row))
    return table


def peak_memory(who: str, dtype: str, scheme: str, n: int, steps: int) -> float:
    """MB that one run adds to the peak resident size, in a process of its own."""
    order = [sys.executable, __file__, "--memory-of", who, dtype, scheme, str(n), str(steps)]
    return float(subprocess.run(order, check=True, capture_output=True, text=True).stdout)


def print_memory(who: str, dtype: str, scheme: str, n: str, steps: str) -> None:
    """The body of the process that ``peak_memory`` starts."""
    ys = torch.sin(torch.arange(int(steps), dtype=DTYPES[dtype]))

    def run(n: int, ys: Tensor) -> None:
        if who == "ours":
            particle_filter(linear_gaussian, n, SCHEMES[scheme])(ys)
        else:
            by_hand(ys, n, scheme)

    run(10, ys[:3])  # what is imported on first use does not count
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that importing reached
    before = peak_resident()
    run(int(n), ys)
    print(peak_resident() - before)


def peak_resident() -> float:
    """The largest resident size of this process so far, in MB (Linux)."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def batched_table(n: int, steps: int, repeats: int) -> Table:
    """Seconds of the filters in alternation: medians, and the median of the paired ratios."""
    table = Table(
        *("dtype", "scheme", "ours, s", "compiled, s", "hand, s", "ratios"),
        *("ours, MB", "hand, MB", "error"),
        title=f"{n} particles, {steps} steps",
    )
    for name, dtype in DTYPES.items():
        ys = torch.sin(torch.arange(steps, dtype=dtype))
        for scheme in SCHEMES:
            algorithm = particle_filter(linear_gaussian, n, SCHEMES[scheme])
            quick = compiled(algorithm)
            ours, fast, hand = [], [], []
            for _ in range(repeats + 1):
                ours.append(seconds(lambda: algorithm(ys)))  # noqa: B023
                fast.append(seconds(lambda: quick(ys)))  # noqa: B023
                hand.append(seconds(lambda: by_hand(ys, n, scheme)))  # noqa: B023
            ours, fast, hand = ours[1:], fast[1:], hand[1:]
            ratios = [
                statistics.median(a / b for a, b in zip(each, hand, strict=True))
                for each in (ours, fast)
            ]
            gap = float(algorithm(ys).log_evidence()) - kalman(ys)
            table.add_row(
                name,
                scheme,
                f"{statistics.median(ours):.3f}",
                f"{statistics.median(fast):.3f}",
                f"{statistics.median(hand):.3f}",
                " ".join(f"{ratio:.2f}" for ratio in ratios),
                f"{peak_memory('ours', name, scheme, n, steps):.1f}",
                f"{peak_memory('by hand', name, scheme, n, steps):.1f}",
                f"{gap:+.3f}",
            )
    return table


def length_table(repeats: int) -> Table:
    """Microseconds a step of the compiled filter with 1 000 particles, by the length of the model.

    The lengths alternate; the ratio is that of a step at this length to one at the first.
    """
    table = Table("steps", "us a step", "ratio", title="compiled, 1 000 particles, float64")
    lengths = (100, 1000, 10_000)
    algorithm = compiled(particle_filter(linear_gaussian, 1000))
    data = {n: torch.sin(torch.arange(n, dtype=torch.float64)) for n in lengths}
    times: dict[int, list[float]] = {n: [] for n in lengths}
    for _ in range(repeats + 2):
        for n, ys in data.items():
            times[n].append(seconds(lambda: algorithm(ys)) / n)  # noqa: B023
    for n, found in times.items():
        pairs = zip(found[2:], times[lengths[0]][2:], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        table.add_row(str(n), f"{statistics.median(found[2:]) * 1e6:.1f}", f"{ratio:.2f}")
    return table


def main() -> None:
    """Parse the command line, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of runs, after a warm-up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["exact", "batched", "length"])
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        if options.memory_of:
            print_memory(*options.memory_of)
            return
        console = Console(width=120)
        if options.only in (None, "exact"):
            console.print(exact_table(max(1, options.repeats // 3)))
        if options.only in (None, "batched"):
            console.print(batched_table(options.particles, options.steps, options.repeats))
        if options.only in (None, "length"):
            console.print(length_table(options.repeats))


if __name__ == "__main__":
    main()
