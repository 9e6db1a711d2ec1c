"""What the command line names: files of the user, and the programs and functions in them."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import calculus
from ..ppl.calculus.elaborate import elaborate
from ..ppl.calculus.syntax import Module
from ..ppl.language.combinators import condition
from .data import as_argument, as_data, read_data
from .saying import UsageError, nearest

OF_FILES = "_file_"  # how the modules of the user's files are called


class Posed(NamedTuple):
    """A program with its data, and its arguments; ``bare`` is the program without data."""

    program: Any
    args: tuple[Any, ...]
    bare: Any


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
    spec = importlib.util.spec_from_file_location(f"{OF_FILES}{file.stem}", file)
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


def posed(target: str, path: Path | None) -> Posed:
    """A program from a file, with arguments and data from another.

    Names of a file that does not part them are arguments where the program has such, else sites.

    Errors:
        UsageError: the files are not such, an argument is missing, or a name is of no argument
            and no site.
    """
    p = load_program(target)
    arguments, data, flat = read_data(path)
    signature = inspect.signature(p.forward if isinstance(p, torch.nn.Module) else p)
    taken = [
        name
        for name, each in signature.parameters.items()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    arguments = arguments | {name: value for name, value in flat.items() if name in taken}
    data = data | {name: value for name, value in flat.items() if name not in taken}
    for name in () if open_ended else arguments:
        if name not in taken:
            raise UsageError(f"{target} has no argument {name!r}; {nearest(name, taken)}")
    values = {name: as_argument(name, value) for name, value in arguments.items()}
    try:
        bound = signature.bind(**values)
    except TypeError as error:
        what = 'give arguments under "args" in the file of --data'
        missing = [name for name in taken if name not in values]
        if near := [name for name in flat if difflib.get_close_matches(name, missing, 1)]:
            what = f"'{near[0]}' is no argument"
        raise UsageError(f"{target}{signature}: {error}; {what}") from error
    if bound.kwargs:
        p = functools.partial(p, **bound.kwargs)
    if data:
        sites = as_data(p, bound.args, data, taken if flat else None)
        return Posed(condition(p, sites), bound.args, p)
    return Posed(p, bound.args, p)
