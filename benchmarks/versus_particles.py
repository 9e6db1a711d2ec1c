"""The compiled particle filter beside the package ``particles``, in processes of their own.

``particles`` needs numpy < 2, so that it lives in another environment, whose Python is named:

    python -m venv peers && peers/bin/pip install "numpy<2" particles
    OMP_NUM_THREADS=1 python benchmarks/versus_particles.py peers/bin/python

Both filter a linear-Gaussian model, x_0 ~ N(0, 1), x_t ~ N(0.9 x_{t-1}, 1), y_t ~ N(x_t, 1/4), and
resample systematically at every step.  The first runs of a process, and with them compilation, do
not count.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SIZES = (1_000, 100_000)
WARM = 2


def peer(n: int, steps: int) -> Callable[[], float]:
    """A run of ``particles``, which returns its log evidence."""
    import numpy as np
    import particles  # type: ignore[import-not-found]
    from particles import distributions as dists  # type: ignore[import-not-found]
    from particles import state_space_models as models

    class LinearGaussian(models.StateSpaceModel):  # type: ignore[misc]
        def PX0(self) -> object:
            return dists.Normal(0.0, np.sqrt(1.81))

        def PX(self, t: int, xp: object) -> object:
            return dists.Normal(loc=0.9 * xp, scale=1.0)  # type: ignore[operator]

        def PY(self, t: int, xp: object, x: object) -> object:
            return dists.Normal(loc=x, scale=0.5)

    ys = np.sin(np.arange(float(steps)))

    def run() -> float:
        bootstrap = models.Bootstrap(ssm=LinearGaussian(), data=ys)
        smc = particles.SMC(fk=bootstrap, N=n, resampling="systematic", ESSrmin=1.0)
        smc.run()
        return float(smc.logLt)

    return run


def ours(n: int, steps: int, dtype: str) -> Callable[[], float]:
    """A run of the compiled filter, which returns its log evidence."""
    import torch
    from particle_filter import DTYPES, linear_gaussian

    from pushforward.inference import particle_filter
    from pushforward.ppl import compiled

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    ys = torch.sin(torch.arange(steps, dtype=DTYPES[dtype]))
    algorithm = compiled(particle_filter(linear_gaussian, n))
    return lambda: float(algorithm(ys).log_evidence())


def measured(run: Callable[[], float], repeats: int) -> dict[str, float]:
    """Median seconds of a run, what runs add to the peak resident size, and the mean result."""
    for _ in range(WARM):
        run()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that compiling reached
    before, seconds, results = peak_resident(), [], []
    for _ in range(repeats):
        start = time.perf_counter()
        results.append(run())
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "megabytes": peak_resident() - before,
        "log_evidence": statistics.mean(results),
    }


def peak_resident() -> float:
    """The largest resident size of this process so far, in MB (Linux)."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def elsewhere(python: str, who: str, n: int, steps: int, repeats: int) -> dict[str, float]:
    """``measured`` in a process of its own."""
    order = [python, __file__, "-", "--who", who, *map(str, ("--particles", n))]
    order += ["--steps", str(steps), "--repeats", str(repeats)]
    output = subprocess.run(order, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def versus(python: str, steps: int, repeats: int, rounds: int) -> None:
    """Print particle-steps per second of both, in alternating processes."""
    from rich.console import Console
    from rich.table import Table

    names = ("particles", "who", "M steps/s", "ratio", "MB", "log evidence")
    table = Table(*names, title=f"{steps} steps, medians of {rounds} processes")
    for n in SIZES:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for who in ("particles", "float32", "float64"):
                interpreter = python if who == "particles" else sys.executable
                row = elsewhere(interpreter, who, n, steps, repeats)
                found.setdefault(who, []).append(row)
        for who, rows in found.items():
            pairs = zip(found["particles"], rows, strict=True)
            ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
            rate = n * steps / statistics.median(r["seconds"] for r in rows) / 1e6
            memory = statistics.median(r["megabytes"] for r in rows)
            evidence = statistics.mean(r["log_evidence"] for r in rows)
            cells = (f"{n}", who, f"{rate:.1f}", f"{ratio:.2f}", f"{memory:.1f}", f"{evidence:.3f}")
            table.add_row(*cells)
    Console().print(table)


def main() -> None:
    """Parse the command line; measure one of them here, or compare both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="the Python of an environment that has particles")
    parser.add_argument("--who", help=argparse.SUPPRESS)
    parser.add_argument("--particles", type=int, default=1000, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.who is None:
        versus(options.python, options.steps, options.repeats, options.rounds)
        return
    n, steps = options.particles, options.steps
    run = peer(n, steps) if options.who == "particles" else ours(n, steps, options.who)
    print(json.dumps(measured(run, options.repeats)))


if __name__ == "__main__":
    main()
