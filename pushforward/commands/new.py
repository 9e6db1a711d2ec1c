"""``pushforward new``: a file to begin from, with a model, data and a test."""

from __future__ import annotations

import importlib.util
import keyword
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from .saying import UsageError, say

TEMPLATE = "starter.py.txt"


def new(name: Annotated[str, typer.Argument(help="of the file, without .py")]) -> None:
    """Write NAME.py: a model, its data, and a test that passes; change them to yours."""
    path = Path(name.removesuffix(".py") + ".py")
    word = path.stem
    if not word.isidentifier() or keyword.iskeyword(word):
        raise UsageError(f"{word!r} is no name of a module: letters, digits and underscores")
    if path.exists():
        raise UsageError(f"{path} exists, and is left as it is")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if importlib.util.find_spec(word) is not None:
        raise UsageError(f"there is a module {word!r} already, which {path} would hide")
    path.write_text(starter(str(path), word), encoding="utf-8")
    say(f"written to {path}; go on with")
    say(f"  pushforward type {path}:posterior")
    say(f"  pushforward infer {path}:posterior --save {word}.pt")
    say(f"  python -m pytest {path}")


def starter(path: str, word: str) -> str:
    """The text of the file."""
    text = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return text.replace("{path}", path).replace("{word}", word)
