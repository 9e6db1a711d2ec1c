"""``pushforward compare``: which of several fits predicts best."""

from __future__ import annotations

from typing import Annotated

import typer

from ..inference import compare
from .fits import by_name
from .options import Fits
from .saying import UsageError, say


def compare_fits(
    fits: Fits,
    by: Annotated[str, typer.Option(help="loo (leave-one-out) or waic")] = "loo",
) -> None:
    """Compare fits of models of the same data by how well they predict it, best first.

    elpd_diff is how far a fit is below the first, with its standard error dse.
    """
    if by not in ("loo", "waic"):
        raise UsageError(f"--by is loo or waic, not {by!r}")
    if len(fits) < 2:
        raise UsageError("compare needs two fits or more")
    found = by_name(fits)
    table = compare(found, by)  # type: ignore[arg-type]
    say(table.to_string(float_format="{:.2f}".format))
    for name, each in found.items():
        if each.factors:
            say(f"warning: {name}: not counted: {', '.join(each.factors)}", "yellow")
        if doubtful := int(table.loc[name, "doubtful"]):
            what = f"{doubtful} observations of {name} are doubtful"
            say(f"warning: {what}: fit the models without them in turn", "yellow")
