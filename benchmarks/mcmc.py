"""NUTS with default settings on the posteriors of posteriordb: seconds, gradients, effective draws.

Each fit is made in a process of its own with an empty cache, on one thread; times are of the
process and the compilers that it starts.  ``compile`` is from the program to machine code, ``run``
warm-up and draws (in a new cache the engine is compiled there, once per machine), ``results`` the
draws in the coordinates of the program; ``first`` is all of it, and the import of the library.
Figures are medians over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

COLUMNS = ("import", "compile", "run", "results", "first", "gradients", "us", "ess", "ess/s")
COLUMNS = (*COLUMNS, "r_hat", "z", "divergences", "MiB")


def cpu() -> float:
    """Seconds of this process and of what it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fitted(name: str, seed: int) -> dict[str, float]:
    """One fit, in this process."""
    import resource

    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    from pushforward.inference.mcmc.lanes.engine import Advance, Engine
    from pushforward.inference.mcmc.lanes.sampling import sample_lanes
    from pushforward.inference.results.fit import fit_from_vectors, import_arviz
    from pushforward.inference.runs.start import starting_points
    from pushforward.models.posteriordb import POSTERIORS, compared
    from pushforward.ppl import seeded
    from pushforward.ppl.compile.potential import Potential, by_columns
    from pushforward.ppl.interpretations.log_density import LogDensity

    marks = [cpu()]
    gradients = 0

    class Counting(Engine):
        def advance(self, *args: Any, **kwargs: Any) -> Advance:
            nonlocal gradients
            made = super().advance(*args, **kwargs)
            gradients += int(made.info.n_steps.sum())
            return made

    p, args = POSTERIORS[name]()
    density = LogDensity(p, *args, turning=True)
    with seeded(seed):
        u0 = by_columns(starting_points(density, 4))
        potential = Potential(density, u0)
        assert potential.lanes is not None, f"{name} is not in lane code"
        marks.append(cpu())
        samples = sample_lanes(Counting(potential.lanes), potential, u0, 1000, 1000, target=0.85)
        marks.append(cpu())
    about: dict[str, Any] = {"method": "NUTS", "stats": samples.stats, "state": {}, "seed": seed}
    fit = fit_from_vectors(density, samples.draws, seconds=0.0, interrupted=False, **about)
    marks.append(cpu())
    found, az = compared(fit, name), import_arviz()
    draws = {k: x.numpy() for k, x in fit.draws.items() if k in fit.latents}
    ess = min(float(x.min()) for x in az.ess(az.convert_to_dataset(draws)).data_vars.values())
    run = marks[2] - marks[1]
    return {
        "import": marks[0], "compile": marks[1] - marks[0], "run": run,
        "results": marks[3] - marks[2], "first": marks[3], "gradients": gradients,
        "us": 1e6 * run / gradients, "ess": ess, "ess/s": ess / run, "r_hat": found.r_hat,
        "z": found.worst(), "divergences": fit.divergences,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def in_process(name: str, seed: int) -> dict[str, float]:
    """The same in a new process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", name, "--seeds", str(seed)]
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="posteriors; all, if none is named")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(fitted(given.one, given.seeds)))
        return
    from pushforward.models.posteriordb import POSTERIORS

    print("| posterior | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    started = time.perf_counter()
    for name in given.names or POSTERIORS:
        rows = [in_process(name, seed) for seed in range(given.seeds)]
        cells = [f"{statistics.median(row[column] for row in rows):.4g}" for column in COLUMNS]
        print(f"| {name.partition('-')[2]} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
