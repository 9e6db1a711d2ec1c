"""``pushforward predict``: what a program samples anew, given a fit or nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer

from ..inference import Prediction, predict
from ..inference.results.figures import COLUMNS, figures, numbers
from ..inference.results.predict import Discrete
from ..inference.runs.placing import placed
from .fits import chosen, read_fit
from .options import Data, Form, Out, Seed, Target
from .saying import UsageError, say
from .targets import posed
from .writing import require_writable, write_draws

SHOWN = 5  # of COLUMNS: moments and quantiles


def predict_sites(
    target: Target,
    data: Data = None,
    fit: Annotated[
        Path | None, typer.Option(help="the fit whose draws are given [default: the prior]")
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="of the prior predictive, without --fit [1000]")
    ] = None,
    given: Annotated[
        str, typer.Option(help="the latents to take from the fit, with commas [all that it holds]")
    ] = "",
    discrete: Annotated[
        str, typer.Option(help="of finite latents that are not given: sample, max or prior")
    ] = "",
    seed: Seed = 0,
    out: Out = None,
    form: Form = "",
) -> None:
    """Sample data, and what is not given, anew for each draw of a fit or from the prior.

    The data file gives arguments, which may be new ones.
    """
    require_writable(out, form)
    if discrete and discrete not in get_args(Discrete):
        raise UsageError(f"--discrete is {' or '.join(get_args(Discrete))}, not {discrete!r}")
    if fit is not None and draws is not None:
        raise UsageError("--draws is for the prior predictive; with --fit there is one a draw")
    earlier: Any = draws or 1000
    dtype = torch.float64
    if fit is not None:
        earlier = read_fit(fit)
        chosen(earlier, "")
        dtype = earlier.dtype
    about: dict[str, Any] = {"discrete": discrete or None}
    if given:
        about["given"] = [name.strip() for name in given.split(",") if name.strip()]
    with placed(None, dtype):
        p, args, _ = posed(target, data)
        found = predict(earlier, p, *args, seed=seed, **about)
    say(repr(found))
    say(_table(found))
    if out is not None:
        say(f"draws written to {', '.join(map(str, write_draws(found, out, form)))}")


def _table(found: Prediction) -> str:
    import pandas

    rows = {name: figures(x)[:SHOWN] for name, x in numbers(found.sites)}
    table = pandas.DataFrame.from_dict(rows, orient="index", columns=COLUMNS[:SHOWN])
    return str(table.to_string(float_format="{:.4g}".format))
