"""The command line: its commands, each in a file of ``commands/``, and how mistakes are told."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .commands.checks import check
from .commands.compare import compare_fits
from .commands.infer import infer
from .commands.models import list_models
from .commands.new import new
from .commands.options import Seed
from .commands.plot import plot
from .commands.predict import predict_sites
from .commands.report import report
from .commands.saying import INTERRUPTED, console, errors, say
from .commands.targets import OF_FILES
from .commands.types import show_type
from .commands.validation import validate
from .ppl.errors import PushforwardError
from .semantics import CheckFailed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Probabilistic programs whose inference algorithms are checked, exactly.",
    epilog="Exit status: 0 if all is well, 1 if a check fails, 2 for an error, 130 after Ctrl-C.",
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Probabilistic programs whose inference algorithms are checked, exactly."""
    del debug  # main looks for it, so that it may stand anywhere


app.command("type")(show_type)
app.command()(infer)
app.command("predict")(predict_sites)
app.command("compare")(compare_fits)
app.command()(plot)
app.command()(report)
app.command()(check)
app.command()(validate)
app.command("models")(list_models)
app.command()(new)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the report")] = Path("out"), seed: Seed = 0
) -> None:
    """The main job: eight schools by NUTS, SMC and ADVI, with a reference and exact checks."""
    from .demo import run

    raise typer.Exit(0 if run(out, seed, console) else 1)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; mistakes are told in words, and with ``--debug`` by traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    words = [a for a in given if a != "--debug"]
    try:
        status = app(args=words or ["--help"], prog_name="pushforward", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        sys.exit(_told(error, debug))
    if status == INTERRUPTED:  # by click, which catches Ctrl-C; infer exits by itself
        sys.exit(_told(KeyboardInterrupt(), debug))
    sys.exit(status if isinstance(status, int) else 0)


def _told(error: BaseException, debug: bool) -> int:
    """Say what went wrong; the exit status."""
    if isinstance(error, CheckFailed):
        say(str(error), "red")
        return 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        say("interrupted, before there was anything to keep", "yellow", errors)
        return INTERRUPTED
    assert isinstance(error, Exception)
    say(f"error: {in_words(error, debug)}", "red", errors)
    return 2


def in_words(error: Exception, debug: bool = False) -> str:
    """What went wrong, and for errors that are not ours the line of the user's file."""
    if isinstance(error, PushforwardError):
        return str(error)
    if hasattr(error, "format_message"):  # of the command line: see click
        return f"{_one_line(error.format_message())} {_usage(error)}".rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    files = {getattr(m, "__file__", None) for n, m in sys.modules.items() if n.startswith(OF_FILES)}
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename in files]
    where = f" ({lines[-1]})" if lines else ""
    more = "" if debug else "; --debug shows the traceback"
    return f"{type(error).__name__}: {_one_line(str(error))}{where}{more}"


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f"({_one_line(context.get_usage())})"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
