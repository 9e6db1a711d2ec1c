"""The main job: one real posterior by three methods, against its reference, and exact checks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from .examples import tiny
from .examples.eight_schools import SCHOOLS, EightSchools, eight_schools, load
from .inference import ADVI, MCMC, SMC, Fit, predict
from .ppl import condition
from .report import write_report

LIMIT = 4.0  # of |z|, for a method that is asymptotically exact

Row = tuple[str, float, float, list[tuple[float, float, float, float]]]


def run(out: Path, seed: int, console: Console) -> bool:
    """Run the demo and write its report to ``out``; whether all came out as it should."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    data = load()
    dtype = torch.get_default_dtype()
    sigma, model = data.sigma.to(dtype), condition(eight_schools, {"y": data.y.to(dtype)})
    kind = str(model.type(sigma))
    console.print("[bold]Eight schools[/bold]: the effect of coaching on test scores (Rubin 1981)")
    console.print(f"  {kind}", markup=False, highlight=False)

    fits = {}
    methods: dict[str, Any] = {"NUTS": MCMC(), "SMC": SMC(), "ADVI": ADVI()}
    for name, method in methods.items():
        fits[name] = method.run(model, sigma, seed=seed)
        console.print(str(fits[name]), markup=False, highlight=False)
        for warning in fits[name].warnings():
            console.print(f"  warning: {warning}", style="yellow")

    rows = list(compare(fits, data))
    table = table_of(rows, list(fits))
    console.print(table)
    worst = {name: largest_z(rows, i) for i, name in enumerate(fits)}
    close = all(worst[name] < LIMIT for name in ("NUTS", "SMC"))
    console.print(
        f"largest |z|: {', '.join(f'{name} {z:.1f}' for name, z in worst.items())}. NUTS and SMC "
        f"converge to the posterior and must stay below {LIMIT:g}; ADVI fits independent normals, "
        "and its bias shows."
    )

    console.print("\n[bold]The algorithms above, checked exactly on tiny models[/bold]")
    reports = []
    for run_check in tiny.CHECKS.values():
        reports.append(report := run_check())
        console.print(str(report), markup=False, highlight=False, style="green")
    broken = tiny.broken()
    console.print("\n[bold]And one that is broken on purpose[/bold]")
    console.print(str(broken), markup=False, highlight=False, style="red")

    passed = all(report.verdict == "pass" for report in reports) and broken.verdict == "fail"
    replicated = predict(fits["NUTS"], eight_schools, sigma, seed=seed)["y"]
    path = write_report(out, kind, fits, data, table, reports, broken, replicated)
    console.print(f"\nreport: {path} ({time.perf_counter() - start:.0f} s in all)")
    if not passed:
        console.print("a check did not come out as it should", style="red")
    if not close:
        console.print("a method is too far from the reference", style="red")
    return passed and close


def compare(fits: dict[str, Fit], data: EightSchools) -> Iterator[Row]:
    """For each parameter the reference, and of each method (mean, z of it, sd, z of it).

    z is the difference from the reference over the Monte Carlo standard error of both.
    """
    summaries = {name: fit.summary(["mu", "tau", "theta"]) for name, fit in fits.items()}
    for parameter in ["mu", "tau", *(f"theta[{j}]" for j in range(len(SCHOOLS)))]:
        known = data.reference[parameter]
        cells = []
        for table in summaries.values():
            found = table.loc[parameter]
            cells.append(
                (
                    found["mean"],
                    z_score(found["mean"], found["mcse_mean"], known["mean"], known["mcse_mean"]),
                    found["sd"],
                    z_score(found["sd"], found["mcse_sd"], known["sd"], known["mcse_sd"]),
                )
            )
        label = f"theta {SCHOOLS[int(parameter[6:-1])]}" if "[" in parameter else parameter
        yield label, known["mean"], known["sd"], cells


def z_score(found: float, error: float, known: float, known_error: float) -> float:
    return (found - known) / math.hypot(error, known_error)


def largest_z(rows: list[Row], method: int) -> float:
    return max(abs(row[3][method][i]) for row in rows for i in (1, 3))


def table_of(rows: list[Row], methods: list[str]) -> Table:
    """Posterior means and standard deviations beside the reference, with z-scores."""
    table = Table(title="posterior mean and sd (z against the reference)")
    for heading in ("", "reference", *methods):
        table.add_column(heading, justify="right")
    for label, mean, sd, cells in rows:
        shown = [f"{m:5.2f} ({zm:+.1f})  {s:4.2f} ({zs:+.1f})" for m, zm, s, zs in cells]
        table.add_row(label, f"{mean:5.2f}  {sd:4.2f}", *shown)
    return table
