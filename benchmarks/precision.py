"""What double precision costs NUTS in lane code: CPU time of a gradient in both, alternating.

``python benchmarks/precision.py [NAME ...]`` fits posteriors of the folder in single and in double
precision in turn.  A row: microseconds of CPU for each gradient of each chain, medians, and the
median of the ratios of neighbours.  The first fit of each, which compiles
and warms up, is not timed: it goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from pushforward.inference import MCMC, Fit
from pushforward.models.posteriordb import POSTERIORS

NAMES = (
    "eight_schools-eight_schools_noncentered",
    "arK-arK",
    "garch-garch11",
    "earnings-earn_height",
)
DTYPES = (torch.float32, torch.float64)


def microseconds(name: str, dtype: torch.dtype, fit: Fit | None) -> tuple[float, Fit]:
    """Of CPU for each gradient of each chain, while a fit by the defaults goes on; and the fit."""
    p, args = POSTERIORS[name]()
    driver = MCMC(dtype=dtype, progress=False, cores=1, thin=1, draws=4000)
    start = time.process_time()
    found = driver.run(p, *args, resume=fit)
    seconds = time.process_time() - start
    before = 0 if fit is None else fit.size
    return 1e6 * seconds / float(found.stats["n_steps"][:, before:].sum()), found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    table = Table("posterior", "float32 [us]", "float64 [us]", "float64 / float32")
    for name in given.names:
        fits = {dtype: microseconds(name, dtype, None)[1] for dtype in DTYPES}
        runs = [
            [microseconds(name, dtype, fits[dtype])[0] for dtype in DTYPES]
            for _ in range(given.repeats)
        ]
        single, double = (statistics.median(each) for each in zip(*runs, strict=True))
        ratio = statistics.median(b / a for a, b in runs)
        table.add_row(name, f"{single:.2f}", f"{double:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
