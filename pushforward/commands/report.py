"""``pushforward report``: one page of HTML of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..inference import write_page
from .fits import chosen, read_fit
from .options import Data
from .saying import UsageError, say
from .targets import posed


def report(
    fit: Annotated[Path, typer.Argument(help="a file that infer --save wrote")],
    target: Annotated[
        str, typer.Argument(help="FILE.py:name of its program, for the text and type", metavar="")
    ] = "",
    data: Data = None,
    out: Annotated[Path, typer.Option(help="the page")] = Path("fit.html"),
    title: Annotated[str, typer.Option(help="of the page [default: the name of the fit]")] = "",
) -> None:
    """Write one page of HTML of a fit: figures, advice, chains, data, and how it was made."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}")
    if data is not None and not target:
        raise UsageError("--data is of a program: name it after the fit")
    found = read_fit(fit)
    chosen(found, "")
    p, args = posed(target, data)[:2] if target else (None, ())
    write_page(found, out, p, *args, title=title or fit.stem)
    say(f"written to {out}")
