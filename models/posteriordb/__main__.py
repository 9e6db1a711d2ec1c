"""The command that fits posteriors by the defaults of MCMC, and prints how far they are off."""

from __future__ import annotations

import argparse
import os

import torch

from ...inference import MCMC
from . import POSTERIORS, compared

HEAD = f"{'posterior':44} {'R-hat':>6} {'mean':>5} {'sd':>5} {'q05':>5} {'q50':>5} {'q95':>5}"
HEAD = f"{HEAD} {'div.':>5} {'CPU s':>6}"


def cpu() -> float:
    """Seconds of this process and of compilers that it has started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def row(name: str, seed: int) -> tuple[str, bool]:
    """Fit a posterior by the defaults of MCMC in float64; its line, and whether it passed."""
    start = cpu()
    p, args = POSTERIORS[name]()
    fit = MCMC(dtype=torch.float64, progress=False).run(p, *args, seed=seed)
    seconds = cpu() - start
    found = compared(fit, name)
    z = " ".join(f"{found.worst(figure):5.1f}" for figure in ("mean", "sd", "q05", "q50", "q95"))
    line = f"{name:44} {found.r_hat:6.3f} {z} {fit.divergences:5} {seconds:6.1f}"
    return line if found.passed else f"{line}  FAIL", found.passed


def main() -> int:
    """Print the table; the exit status is 1 if a posterior failed."""
    parser = argparse.ArgumentParser(prog="python -m pushforward.models.posteriordb")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is named")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.names) - set(POSTERIORS):
        parser.error(
            f"no posterior {', '.join(sorted(unknown))}; there are {', '.join(POSTERIORS)}"
        )
    print(HEAD, flush=True)
    passed = True
    for name in given.names or POSTERIORS:
        line, good = row(name, given.seed)
        print(line, flush=True)
        passed = passed and good
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
