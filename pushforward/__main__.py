"""The command line: demo, infer, type, check."""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from .ppl.combinators import Conditioned, condition
from .ppl.errors import PushforwardError
from .ppl.program import program

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Probabilistic programs whose inference algorithms are checked, exactly.",
)
console = Console()

Target = Annotated[str, typer.Argument(help="FILE.py:name of a program, algorithm or check")]
Data = Annotated[
    Path | None,
    typer.Option(help='JSON: {"args": {...by name}, "data": {site: values}}; or flat site: values'),
]
Seed = Annotated[int, typer.Option(help="seed of all randomness")]


class UsageError(PushforwardError):
    """The command line names something that is not there."""


def load(target: str) -> Any:
    """The object that ``FILE.py:name`` names."""
    path, colon, name = target.rpartition(":")
    if not colon:
        raise UsageError(f"write FILE.py:name, not {target!r}")
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(
            f"{path} has no {name!r}; it has {', '.join(public) or 'nothing callable'}"
        )
    return getattr(module, name)


def read_data(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments by name and data by site, as tensors."""
    if path is None:
        return {}, {}
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object")
    split = content if content.keys() <= {"args", "data"} else {"data": content}
    return _tensors(split.get("args", {})), _tensors(split.get("data", {}))


def _tensors(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: torch.tensor(value, dtype=torch.get_default_dtype() if _has_float(value) else None)
        if isinstance(value, list | float)
        else value
        for name, value in values.items()
    }


def _has_float(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_float, value))
    return isinstance(value, float)


def conditioned(target: str, data: Path | None) -> tuple[Any, tuple[Any, ...]]:
    """A program from a file, with arguments and data from JSON."""
    import inspect

    p = load(target)
    arguments, observed = read_data(data)
    signature = inspect.signature(p)
    unknown = arguments.keys() - signature.parameters.keys()
    if unknown:
        raise UsageError(f"{target} takes no argument {', '.join(sorted(unknown))}: {signature}")
    try:
        args = signature.bind(**arguments).args
    except TypeError as error:
        raise UsageError(f'{target}{signature}: {error}; give it under "args" in --data') from error
    return (condition(p, observed) if observed else p), args


@app.command("type")
def show_type(target: Target, data: Data = None) -> None:
    """Print the type of a program, inferred without sampling."""
    p, args = conditioned(target, data)
    base = p if isinstance(p, Conditioned) else program(p)
    console.print(str(base.type(*args)), markup=False, highlight=False)


@app.command()
def infer(
    target: Target,
    data: Data = None,
    method: Annotated[str, typer.Option(help="nuts, smc, svi or exact")] = "nuts",
    seed: Seed = 0,
    draws: Annotated[int, typer.Option(help="draws for each chain, or particles")] = 1000,
    chains: Annotated[int, typer.Option(help="chains of nuts")] = 4,
    save: Annotated[Path | None, typer.Option(help="write the result here")] = None,
) -> None:
    """Run inference on a program and print the posterior."""
    from .inference import MCMC, SMC, SVI, nuts
    from .semantics import denote

    p, args = conditioned(target, data)
    if method == "exact":
        console.print(repr(denote(p, *args)), markup=False)
        return
    methods = {
        "nuts": lambda: MCMC(nuts(), chains=chains, draws=draws),
        "smc": lambda: SMC(particles=draws),
        "svi": lambda: SVI(draws=draws),
    }
    if method not in methods:
        raise UsageError(f"--method must be nuts, smc, svi or exact, not {method!r}")
    fit = methods[method]().run(p, *args, seed=seed)
    console.print(repr(fit), markup=False)
    console.print(fit.summary().to_string(), markup=False, highlight=False)
    if save is not None:
        fit.save(save)
        console.print(f"saved to {save}")


@app.command()
def check(target: Target) -> None:
    """Run a check: a function in the file that returns a Report, or a list of them.

    Exits with 0 if all pass, and 1 otherwise.
    """
    outcome = load(target)
    reports = outcome() if callable(outcome) else outcome
    reports = reports if isinstance(reports, list | tuple) else [reports]
    for report in reports:
        if not hasattr(report, "verdict"):
            raise UsageError(f"{target} gives a {type(report).__name__}, not a Report")
        console.print(str(report), markup=False, highlight=False)
    if any(report.verdict != "pass" for report in reports):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the report")] = Path("out"), seed: Seed = 0
) -> None:
    """The main job: eight schools by NUTS, SMC and SVI, with a reference and exact checks."""
    from .demo import run

    raise typer.Exit(0 if run(out, seed, console) else 1)


def main() -> None:
    """Run the command line; mistakes are told in words, and with ``--debug`` by traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="pushforward")
    except PushforwardError as error:
        if debug:
            traceback.print_exc()
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
