"""``pushforward check``: run checks, and print their reports."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import calculus
from ..semantics import Report
from ..semantics.checks.agreement import DEPTH, NODES, agreement
from .options import Depth, Nodes
from .saying import UsageError, say
from .targets import load, paper


def check(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:name of a function that returns a Report or a list of them, or FILE.pf",
            show_default=False,
        ),
    ],
    depth: Depth = DEPTH,
    quadrature: Nodes = NODES,
) -> None:
    """Run checks and print their reports; the exit status is 1 unless all of them pass.

    Of a .pf file: print its types, and hold the program that runs against the reference semantics.
    """
    if (module := paper(target)) is not None:
        say(calculus.types(module))
        found: Any = [agreement(module, depth=depth, quadrature=quadrature)]
    else:
        found = load(target)
    if callable(found):
        found = found()
    reports = found if isinstance(found, list | tuple) else [found]
    for report in reports:
        if not isinstance(report, Report):
            raise UsageError(f"{target} gives a {type(report).__name__}, not a Report")
        say(str(report), "green" if report.verdict == "pass" else "red")
    if not reports:
        raise UsageError(f"{target} gives no report")
    if any(report.verdict != "pass" for report in reports):
        raise typer.Exit(1)
