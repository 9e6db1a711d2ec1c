"""``pushforward validate``: see what a thing is, and run the checks that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .data import as_argument, as_tensor, read_data
from .options import Data, Seed
from .saying import UsageError, say
from .targets import load


def validate(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:name of a distribution, bijection, program, guide, kernel, algorithm, "
            "gradient estimator or driver",
            show_default=False,
        ),
    ],
    against: Annotated[
        str, typer.Option(help="FILE.py:name of its model, target or exact objective")
    ] = "",
    data: Data = None,
    observed: Annotated[
        str, typer.Option(help="of a driver: the sites of the model that are data, with commas")
    ] = "",
    at: Annotated[
        str, typer.Option(help="of a gradient estimator: the parameters, numbers with commas")
    ] = "",
    budget: Annotated[float, typer.Option(min=0.0, help="seconds, more or less")] = 60.0,
    seed: Seed = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write it here as JSON")] = None,
    junit: Annotated[Path | None, typer.Option(help="write it here as JUnit's XML")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="write it here as a page")] = None,
) -> None:
    """See what a thing is, and run the checks that fit it; the status is 1 unless all pass."""
    from .. import validation

    arguments, sites, flat = read_data(data)
    if sites or flat:
        raise UsageError('--data of validate holds arguments only: {"args": {name: value}}')
    found = validation.validate(
        load(target),
        load(against) if against else None,
        args=tuple(as_argument(name, value) for name, value in arguments.items()),
        at=as_tensor("at", [float(x) for x in at.split(",")], None) if at else None,
        observed=[name for name in observed.split(",") if name],
        budget=budget,
        seed=seed,
    )
    say(str(found), "green" if found.verdict == "pass" else "red")
    written = (
        (json_file, validation.as_json),
        (junit, validation.as_junit),
        (page, validation.as_html),
    )
    for path, text in written:
        if path is not None:
            path.write_text(text(found), encoding="utf-8")
            say(f"written to {path}")
    if found.verdict != "pass":
        raise typer.Exit(1)
