"""The command line: demo, infer, type, check, validate."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from torch import Tensor

from . import calculus
from .ppl.calculus.elaborate import elaborate
from .ppl.calculus.syntax import Module
from .ppl.errors import BranchError, DataError, PushforwardError
from .ppl.interpretations.abstract_run import abstract_run
from .ppl.language.combinators import Conditioned, condition
from .ppl.language.program import program
from .semantics import CheckFailed, Report
from .semantics.agreement import DEPTH, NODES, agreement

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Probabilistic programs whose inference algorithms are checked, exactly.",
    epilog="Exit status: 0 if all is well, 1 if a check fails, 2 for an error.",
)
console, errors = Console(), Console(stderr=True)

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
        help='JSON file: {"args": {argument: value}, "data": {site: value}}, or only {site: value}'
    ),
]
Seed = Annotated[int, typer.Option(help="seed of all randomness")]


class UsageError(PushforwardError):
    """The command line, or a file that it names, is not what the command needs."""


def say(text: str, style: str | None = None, to: Console = console) -> None:
    """Print text as it is: no markup, and no line breaks of our own."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


# -------------------------------------------------------------------------------- files of the user


def paper(target: str) -> Module | None:
    """The definitions of a ``.pf`` file; None for any other target."""
    if not target.endswith(".pf"):
        return None
    if not Path(target).is_file():
        raise UsageError(f"there is no file {target}")
    return calculus.read(Path(target))


def load(target: str) -> Any:
    """The object that ``FILE.py:name`` names."""
    path, colon, name = target.rpartition(":")
    if not colon or not name:
        raise UsageError(f"write FILE.py:name, not {target!r}")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.parent.resolve()))
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if callable(v) and _is_own(v, spec.name)]
        raise UsageError(f"{path} has no {name!r}; it has {', '.join(own) or 'no function'}")
    return getattr(module, name)


def _is_own(value: Any, module: str) -> bool:
    return getattr(value, "__module__", None) == module


def load_program(target: str) -> Any:
    """The program that ``FILE.py:name`` names, or that of a ``.pf`` file."""
    if (module := paper(target)) is not None:
        return elaborate(module)
    p = load(target)
    if inspect.isclass(p) or not callable(p):
        what = "a class" if inspect.isclass(p) else f"of type {type(p).__name__}"
        raise UsageError(f"{target} is {what}, not a program")
    return p


def read_data(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments by name and data by site, as JSON has them."""
    if path is None:
        return {}, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    parts = {name for name in ("args", "data") if isinstance(content.get(name), dict)}
    if not parts:
        return {}, content
    if others := content.keys() - parts:
        raise UsageError(f'{path}: {sorted(others)} beside "args" and "data"')
    return content.get("args", {}), content.get("data", {})


def as_argument(name: str, value: Any) -> Any:
    """A JSON value as an argument: lists and floats become tensors, the rest stays as it is.

    A list that holds a float has the default dtype; one of integers keeps them (they may be
    indices).
    """
    if isinstance(value, dict):
        return {key: as_argument(f"{name}.{key}", item) for key, item in value.items()}
    return as_tensor(name, value) if isinstance(value, list | float) else value


def as_tensor(name: str, value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor: exact where they are integers, else of ``dtype`` or the default."""
    try:
        exact = torch.tensor(value, dtype=torch.float64 if _has_float(value) else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{name} must be a number or a rectangular list of numbers: {error}"
        ) from error
    if exact.is_floating_point():
        wanted = dtype if dtype is not None and dtype.is_floating_point else None
        return exact.to(wanted or torch.get_default_dtype())
    return exact.to(dtype) if dtype is not None else exact


def _has_float(value: Any) -> bool:
    if isinstance(value, list):
        return not value or any(map(_has_float, value))
    return isinstance(value, float)


def as_data(p: Any, args: tuple[Any, ...], data: dict[str, Any]) -> dict[str, Tensor]:
    """JSON data by site, in the dtype of what the site samples."""
    try:
        dtypes = abstract_run(p, *args)[0].dtypes if data else {}
    except (BranchError, DataError):
        dtypes = {}
    return {
        name: as_tensor(name, value, dtypes.get(name, dtypes.get(f"{name}[0]")))
        for name, value in data.items()
    }


def conditioned(target: str, path: Path | None) -> tuple[Any, tuple[Any, ...]]:
    """A program from a file, with arguments and data from JSON."""
    p = load_program(target)
    arguments, data = read_data(path)
    signature = inspect.signature(p.forward if isinstance(p, torch.nn.Module) else p)
    values = {name: as_argument(name, value) for name, value in arguments.items()}
    try:
        bound = signature.bind(**values)
    except TypeError as error:
        raise UsageError(
            f'{target}{signature}: {error}; give arguments under "args" in the file of --data'
        ) from error
    if bound.kwargs:
        p = functools.partial(p, **bound.kwargs)
    return condition(p, as_data(p, bound.args, data)) if data else p, bound.args


# ----------------------------------------------------------------------------------------- commands


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Probabilistic programs whose inference algorithms are checked, exactly."""
    del debug  # main looks for it, so that it may stand anywhere


@app.command("type")
def show_type(target: Target, data: Data = None) -> None:
    """Print the type of a program, inferred without sampling, or those of a .pf file."""
    if (module := paper(target)) is not None:
        say(calculus.types(module))
        return
    p, args = conditioned(target, data)
    base = p if isinstance(p, Conditioned) else program(p)
    say(str(base.type(*args)))


@app.command()
def infer(
    target: Target,
    data: Data = None,
    method: Annotated[
        str,
        typer.Option(
            help="nuts, smc, advi, pathfinder or exact [default: nuts; of a .pf file: exact]"
        ),
    ] = "",
    seed: Seed = 0,
    draws: Annotated[
        int, typer.Option(min=1, help="draws of each chain, or particles of each island")
    ] = 1000,
    chains: Annotated[
        int, typer.Option(min=1, help="chains of nuts, islands of smc, or paths of pathfinder")
    ] = 4,
    warmup: Annotated[int, typer.Option(min=0, help="warm-up transitions of nuts")] = 1000,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="compile the log density")
    ] = True,
    save: Annotated[
        Path | None, typer.Option(help="write the result here, for Fit.load in Python")
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
    from .inference import ADVI, MCMC, SMC, Pathfinder, nuts

    module = paper(target)
    method = method or ("nuts" if module is None else "exact")
    if method not in ("nuts", "smc", "advi", "pathfinder", "exact"):
        raise UsageError(f"--method must be nuts, smc, advi, pathfinder or exact, not {method!r}")
    if save is not None and method == "exact":
        raise UsageError("--save is for all methods but exact, which prints all that it finds")
    if save is not None and not save.absolute().parent.is_dir():
        raise UsageError(f"--save: there is no folder {save.parent}")
    if checkpoint is not None and method not in ("nuts", "smc"):
        raise UsageError("--checkpoint is for nuts and smc: the others are run again")
    if module is not None and method == "exact":
        say(calculus.posterior(module, depth, quadrature))
        return
    p, args = conditioned(target, data)
    if method == "exact":
        say(exact(p, args))
        return
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # threads slow small graphs down
    if method == "nuts":
        driver: Any = MCMC(nuts(), chains, draws, warmup, compiled=compiled)
    elif method == "smc":
        driver = SMC(draws, chains, compiled=compiled)
    elif method == "pathfinder":
        driver = Pathfinder(chains, draws, compiled=compiled)
    else:
        driver = ADVI(draws=draws, compiled=compiled)
    kept = {} if checkpoint is None else {"checkpoint": checkpoint}
    fit = driver.run(p, *args, seed=seed, **kept)
    say(repr(fit))
    say(fit.summary().to_string(float_format="{:.4g}".format))
    for warning in fit.warnings():
        say(f"warning: {warning}", "yellow")
    if save is not None:
        fit.save(save)
        say(f"saved to {save}")


def exact(p: Any, args: tuple[Any, ...]) -> str:
    """The measure of a finite program and, where its mass is not 1, the posterior."""
    from .semantics import denote

    measure = denote(p, *args)
    if measure.pmf().keys() == {None}:
        measure = denote(p, *args, of="trace")
    if abs(measure.mass() - 1.0) < 1e-6:
        return repr(measure)
    return f"{measure!r}\nnormalised:\n{measure.normalize()!r}"


@app.command()
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


@app.command()
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
    from . import validation

    arguments, sites = read_data(data)
    if sites:
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the report")] = Path("out"), seed: Seed = 0
) -> None:
    """The main job: eight schools by NUTS, SMC and ADVI, with a reference and exact checks."""
    from .demo import run

    raise typer.Exit(0 if run(out, seed, console) else 1)


# ------------------------------------------------------------------------------------------- errors


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; mistakes are told in words, and with ``--debug`` by traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=[a for a in given if a != "--debug"], prog_name="pushforward")
    except Exception as error:
        debug = "--debug" in given
        if debug:
            traceback.print_exc()
        if isinstance(error, CheckFailed):
            say(str(error), "red")
            sys.exit(1)
        say(f"error: {in_words(error, debug)}", "red", errors)
        sys.exit(2)
    sys.exit(0)


def in_words(error: Exception, debug: bool = False) -> str:
    """What went wrong, and for errors that are not ours the line of the user's file."""
    if isinstance(error, PushforwardError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    files = {getattr(m, "__file__", None) for n, m in sys.modules.items() if n.startswith("_file_")}
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename in files]
    where = f" ({lines[-1]})" if lines else ""
    more = "" if debug else "\n--debug shows the traceback"
    return f"{type(error).__name__}: {error}{where}{more}"


if __name__ == "__main__":
    main()
