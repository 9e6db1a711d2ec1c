"""``pushforward plot``: a picture of fits."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from ..inference.results.figures import numbers
from ..inference.results.pictures import chains_and_ranks, intervals
from .fits import by_name, chosen
from .options import Fits, Sites
from .saying import UsageError, say

MOST = 20  # rows of a picture of chains


def plot(
    fits: Fits,
    out: Annotated[Path, typer.Option(help="the picture: .png, .pdf or .svg")] = Path("fit.png"),
    kind: Annotated[
        str, typer.Option(help="chains (with their ranks, of one fit) or intervals")
    ] = "chains",
    sites: Sites = "",
) -> None:
    """Draw the chains of a fit with their ranks, or the intervals of several fits."""
    if kind not in ("chains", "intervals"):
        raise UsageError(f"--kind is chains or intervals, not {kind!r}")
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--out {out}: a picture ends in .png, .pdf or .svg")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}")
    found = {name: chosen(fit, sites) for name, fit in by_name(fits).items()}
    if kind == "chains":
        if len(found) > 1:
            raise UsageError("--kind chains is of one fit; intervals show several")
        rows = list(islice(numbers(next(iter(found.values()))), MOST + 1))
        if len(rows) > MOST:
            say(f"only the first {MOST} numbers are shown: choose by --sites", "yellow")
        figure = chains_and_ranks(dict(rows[:MOST]))
    else:
        flat = {
            name: {number: x.reshape(-1) for number, x in numbers(draws)}
            for name, draws in found.items()
        }
        common = set.intersection(*(set(each) for each in flat.values()))
        if not common:
            raise UsageError("the fits have no site in common")
        figure = intervals(
            {name: {n: x for n, x in each.items() if n in common} for name, each in flat.items()}
        )
    figure.savefig(out, dpi=110, bbox_inches="tight")
    say(f"written to {out}")
