"""The arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str, typer.Argument(help="FILE.py:name of a program, or FILE.pf", show_default=False)
]
Depth = Annotated[
    int, typer.Option(min=1, help="of a .pf file: nested calls, and terms of infinite supports")
]
Nodes = Annotated[int, typer.Option(min=2, help="of a .pf file: nodes for each continuous draw")]
Data = Annotated[
    Path | None,
    typer.Option(
        help='JSON {"args": {argument: value}, "data": {site: value}}, or JSON or a dump of R as '
        "Stan reads them: {argument or site: value}"
    ),
]
Seed = Annotated[int, typer.Option(help="seed of all randomness")]
Fits = Annotated[list[Path], typer.Argument(help="files that infer --save wrote", metavar="FIT...")]
Sites = Annotated[str, typer.Option(help="only these sites, with commas")]
Out = Annotated[
    Path | None,
    typer.Option(help="write the draws here; of csv a file a chain, OUT_1.csv, OUT_2.csv, ..."),
]
Form = Annotated[
    str, typer.Option("--format", help="of --out: csv, netcdf or json [default: by its extension]")
]
