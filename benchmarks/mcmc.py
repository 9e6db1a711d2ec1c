"""NUTS with default settings on posteriors of posteriordb: seconds, gradients, effective draws.

``--peers`` puts other samplers beside it on eight posteriors, after a check that their log
densities are ours; ``--write`` stores what it finds in docs/benchmarks.md.  Linux only.

Each fit, four chains of 1000 + 1000 in float64, is made in a process of its own with empty caches,
on one thread of one core; times are CPU seconds of the process and the compilers that it starts.
``compile`` is from the model to machine code, ``run`` warm-up and draws, ``results`` the draws in
the parameters of the reference; ``first`` is all of it, and the import of the library.  ``us`` is
microseconds of ``run`` for a gradient of one chain, ``ess`` the least bulk effective size of the
parameters, ``z`` the worst difference from the reference in standard errors.  Figures are medians
over seeds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import page
from peers.agreement import disagreements
from peers.environment import REQUIREMENTS, peers_python, run
from peers.posteriors import POSTERIORS
from peers.programs import built, content
from peers.runner import CHAINS, STAGES

from pushforward.inference.results.arviz import ess, r_hat
from pushforward.inference.runs.start import starting_points
from pushforward.models.posteriordb import POSTERIORS as OF_POSTERIORDB
from pushforward.models.posteriordb.comparison import scores
from pushforward.ppl import seeded
from pushforward.ppl.interpretations.log_density import LogDensity

# The module of each sampler, and how its density is written; ours comes first.
SAMPLERS = {
    "ours": ("ours", ""),
    "C": ("c_nuts", "c"),
    "BlackJAX": ("blackjax_nuts", "jax"),
    "NumPyro": ("numpyro_nuts", "jax"),
    "nutpie": ("nutpie_nuts", "pytensor"),
}
Figures = dict[str, float]


def quality(name: str, draws: Any) -> Figures:
    """Least bulk effective size, greatest R-hat and worst z of draws [chains, draws, k]."""
    reference = content(name)["reference"]["summary"]
    columns = dict(zip(reference, np.moveaxis(draws, -1, 0), strict=True))
    z = [abs(s) for each, x in columns.items() for s in scores(x, reference[each]).values()]
    return {
        "ess": min(ess(x) for x in columns.values()),
        "r_hat": max(r_hat(x) for x in columns.values()),
        "z": max(z),
    }


def fitted(sampler: str, python: str, name: str, seed: int) -> Figures:
    """One fit in a new process with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        p, args = built(name)
        with seeded(seed):
            start = starting_points(LogDensity(p, *args, turning=True), CHAINS)
        np.save(f"{folder}/start.npy", start.numpy())
        module = f"peers.{SAMPLERS[sampler][0]}"
        printed = run(python, module, name, str(seed), folder, cache=f"{folder}/cache")
        found: Figures = json.loads(printed.splitlines()[-1])
        found |= quality(name, np.load(f"{folder}/draws.npy"))
    found["first"] = sum(found[stage] for stage in STAGES)
    found["us"] = 1e6 * found["run"] / found["gradients"]
    found["ess/s"] = found["ess"] / found["run"]
    found["ess/s compiled"] = found["ess"] / (found["run"] + found["compile"])
    found["ess/s first"] = found["ess"] / found["first"]
    return found


def compared(
    pythons: dict[str, str], names: Sequence[str], seeds: int
) -> dict[tuple[str, str], Figures]:
    """Medians over seeds of each sampler on each posterior, samplers in alternation."""
    rows = {}
    for name in names:
        fits: dict[str, list[Figures]] = {sampler: [] for sampler in pythons}
        for seed in range(seeds):
            for sampler, python in pythons.items():
                try:
                    fits[sampler].append(fitted(sampler, python, name, seed))
                except RuntimeError as error:
                    print(f"{sampler} failed: {error}", file=sys.stderr)
        for sampler, found in fits.items():
            if found:
                row = {c: statistics.median(fit[c] for fit in found) for c in page.COLUMNS}
                rows[name, sampler] = row
                print(page.line([name, sampler, *page.figures(row)]), flush=True)
    return rows


def machine() -> str:
    """The processor, the system and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "CPU")
    pins = ", ".join(REQUIREMENTS.read_text().split()).replace("==", " ")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, one core; {versions}; {pins}"


def require_agreement(python: str, names: Sequence[str]) -> None:
    """Stop before anything is timed if a density of a peer is another than ours."""
    found = disagreements(python, names)
    for (name, way), far in found.items():
        print(f"the density of {name} in {way} is off by {far:.2g}", file=sys.stderr)
    if found:
        sys.exit("no benchmark of densities that disagree")
    print(f"the densities of {', '.join(names)} agree with ours", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="posteriors; all, if none is named")
    parser.add_argument("--peers", action="store_true", help="other samplers too")
    parser.add_argument("--write", action="store_true", help="store in docs/benchmarks.md and .png")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--note", default="", help="what the page says of the run")
    given = parser.parse_args()
    if given.write and not given.peers:
        parser.error("--write stores a comparison: give --peers too")
    torch.set_default_dtype(torch.float64)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    others = OF_POSTERIORDB.keys() - {posterior.file for posterior in POSTERIORS.values()}
    names = given.names or [*POSTERIORS, *(() if given.peers else sorted(others))]
    pythons = {"ours": sys.executable}
    if given.peers:
        peers = peers_python()
        require_agreement(peers, names)
        pythons |= {sampler: peers for sampler in SAMPLERS if sampler != "ours"}
    print(page.heading(["posterior", "sampler", *page.COLUMNS]))
    started = time.perf_counter()
    rows = compared(pythons, names, given.seeds)
    print(f"\n{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    about = f"{datetime.date.today()}, {given.seeds} seed(s). {machine()}. {given.note}".strip()
    if given.write:
        page.write(rows, about)
    elif given.peers:
        print("\n" + page.report(rows, about))


if __name__ == "__main__":
    main()
