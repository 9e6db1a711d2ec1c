"""``pushforward infer``: run a method on a program, print the posterior, and write it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import calculus
from ..inference import ADVI, MCMC, SMC, Fit, Laplace, Pathfinder, nuts
from ..inference.runs.placing import placed
from ..semantics.checks.agreement import DEPTH, NODES
from .fits import read_fit
from .options import Data, Depth, Form, Nodes, Out, Target
from .saying import INTERRUPTED, UsageError, say
from .targets import paper, posed
from .writing import require_writable, write_draws

DTYPES = {"float32": torch.float32, "float64": torch.float64}
EVERY = {"seed", "draws", "save", "out", "dtype"}
OPTIONS = {  # that each method takes
    "nuts": EVERY
    | {"chains", "warmup", "target", "max-depth", "metric", "cores", "checkpoint"}
    | {"resume", "extend"},
    "smc": EVERY | {"chains", "checkpoint"},
    "advi": EVERY,
    "pathfinder": EVERY | {"chains"},
    "laplace": EVERY | {"chains"},
    "exact": {"dtype"},
}


def infer(
    target: Target,
    data: Data = None,
    method: Annotated[
        str,
        typer.Option(
            help="nuts, smc, advi, pathfinder, laplace or exact [default: nuts; of a .pf file: "
            "exact]"
        ),
    ] = "",
    seed: Annotated[int | None, typer.Option(help="seed of all randomness [default: 0]")] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=1, help="draws of each chain, or particles of each island [1000]"),
    ] = None,
    chains: Annotated[
        int | None,
        typer.Option(min=1, help="chains, islands of smc, paths, or starts of laplace [4]"),
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, help="of nuts: warm-up transitions [1000]")
    ] = None,
    accept: Annotated[
        float | None,
        typer.Option("--target", help="of nuts: the mean acceptance that warm-up aims at"),
    ] = None,
    max_depth: Annotated[
        int | None,
        typer.Option(min=1, help="of nuts: trajectories have at most 2^DEPTH - 1 steps [10]"),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="of nuts: auto, diagonal or dense [default: auto]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float64 [default] or float32, of all that is computed")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="of nuts: threads for chains")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="compile the log density")
    ] = True,
    save: Annotated[
        Path | None, typer.Option(help="write the fit here, for other commands and Fit.load")
    ] = None,
    out: Out = None,
    form: Form = "",
    resume: Annotated[
        Path | None,
        typer.Option(help="go on with the chains of this fit, with neither warm-up nor --draws"),
    ] = None,
    extend: Annotated[
        int | None,
        typer.Option(min=1, help="of --resume: further draws of each chain [as many as it has]"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="keep the run of nuts or smc here; a run that was killed goes on"),
    ] = None,
    depth: Depth = DEPTH,
    quadrature: Nodes = NODES,
) -> None:
    """Run inference on a program and print the posterior.

    The method exact enumerates a finite program, and prints the measure on
    what it returns, or on its choices if it returns nothing.  A .pf file is
    evaluated in rationals if it is finite, else by quadrature.
    """
    module = paper(target)
    method = method or ("nuts" if module is None else "exact")
    asked: dict[str, Any] = {"draws": draws, "chains": chains, "warmup": warmup, "target": accept}
    asked |= {"max-depth": max_depth, "metric": metric, "cores": cores, "dtype": dtype}
    asked |= {"seed": seed, "save": save, "out": out, "checkpoint": checkpoint}
    asked |= {"resume": resume, "extend": extend}
    given = {name: value for name, value in asked.items() if value is not None}
    _require_meant(method, given)
    require_writable(out, form)
    if module is not None and method == "exact":
        say(calculus.posterior(module, depth, quadrature))
        return
    earlier = None if resume is None else read_fit(resume)
    usual = torch.float64 if earlier is None else earlier.dtype
    precision = usual if dtype is None else DTYPES[dtype]
    with placed(None, precision):
        p, args, _ = posed(target, data)
        if method == "exact":
            say(exact(p, args))
            return
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)  # threads slow small graphs down
        driver = _driver(method, given, earlier, compiled, precision)
        kept: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint}
        if earlier is not None:
            kept["resume"] = earlier
            seed = earlier.seed if seed is None else seed
        fit = driver.run(p, *args, seed=seed or 0, **kept)
    _show(fit)
    if save is not None:
        fit.save(save)
        say(f"saved to {save}")
    if out is not None and fit.size:
        name = target.rpartition(":")[2]
        how = given.get("warmup", 1000), given.get("max-depth", 10)
        written = write_draws(fit, out, form, name, *how)
        say(f"draws written to {', '.join(map(str, written))}")
    if fit.interrupted:
        say(_going_on(fit, save, checkpoint), "yellow")
        raise SystemExit(INTERRUPTED)


def exact(p: Any, args: tuple[Any, ...]) -> str:
    """The measure of a finite program and, where its mass is not 1, the posterior."""
    from ..semantics import denote

    measure = denote(p, *args)
    if measure.pmf().keys() == {None}:
        measure = denote(p, *args, of="trace")
    if abs(measure.mass() - 1.0) < 1e-6:
        return repr(measure)
    return f"{measure!r}\nnormalised:\n{measure.normalize()!r}"


def _require_meant(method: str, given: dict[str, Any]) -> None:
    """Raise unless the options that were given are of the method, and of each other."""
    if method not in OPTIONS:
        raise UsageError(f"--method must be {', '.join(OPTIONS)}, not {method!r}")
    for name in given:
        if name not in OPTIONS[method]:
            which = [each for each, options in OPTIONS.items() if name in options]
            raise UsageError(f"--{name} is for {', '.join(which)}, not for {method}")
    for name, words in (("metric", ("auto", "diagonal", "dense")), ("dtype", tuple(DTYPES))):
        if name in given and given[name] not in words:
            raise UsageError(f"--{name} is {' or '.join(words)}, not {given[name]!r}")
    if "extend" in given and "resume" not in given:
        raise UsageError("--extend is for a run that goes on: name its fit by --resume")
    if "resume" in given and (double := {"draws", "chains", "warmup"} & given.keys()):
        what = ", ".join(f"--{name}" for name in sorted(double))
        raise UsageError(f"{what} beside --resume: its chains go on, by --extend draws")
    if "target" in given and not 0.0 < given["target"] < 1.0:
        raise UsageError(f"--target is between 0 and 1, not {given['target']}")
    if "save" in given and not given["save"].absolute().parent.is_dir():
        raise UsageError(f"--save: there is no folder {given['save'].parent}")


def _driver(
    method: str,
    given: dict[str, Any],
    earlier: Fit | None,
    compiled: bool,
    dtype: torch.dtype,
) -> Any:
    """The driver of a method, with the options that were given."""
    draws, chains = given.get("draws", 1000), given.get("chains", 4)
    where: dict[str, Any] = {"compiled": compiled, "dtype": dtype}
    if method == "laplace":
        return Laplace(starts=chains, draws=draws, dtype=dtype)
    if method == "advi":
        return ADVI(draws=draws, **where)
    if method == "smc":
        return SMC(draws, chains, **where)
    if method == "pathfinder":
        return Pathfinder(chains, draws, **where)
    if earlier is not None:
        chains, draws = earlier.chains, given.get("extend", earlier.size or 1000)
    kernel = nuts(given.get("max-depth", 10))
    about = {name: given[name] for name in ("warmup", "target", "metric", "cores") if name in given}
    return MCMC(kernel, chains, draws, **about, **where)


def _show(fit: Fit) -> None:
    """What was found, and what a reader should know of it."""
    say(repr(fit))
    if fit.size:
        say(fit.summary().to_string(float_format="{:.4g}".format))
    for warning in fit.warnings():
        say(f"warning: {warning}", "yellow")


def _going_on(fit: Fit, save: Path | None, checkpoint: Path | None) -> str:
    """What is kept of a run that Ctrl-C ended, and how it goes on."""
    if checkpoint is not None and checkpoint.exists():
        return f"interrupted; the same command goes on from what {checkpoint} holds"
    if save is not None and "position" in fit.state:
        how = "" if fit.size else ", with what warm-up has learnt and no more of it"
        return f"interrupted; --resume {save} --extend N goes on{how}"
    kept = "" if fit.size else "; nothing is kept: --save keeps what warm-up has learnt so far"
    return f"interrupted{kept}"
