"""What commands print, and how a mistake on the command line is told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rich.console import Console

from ..ppl.errors import PushforwardError

console, errors = Console(), Console(stderr=True)
INTERRUPTED = 130  # the exit status that shells give Ctrl-C


class UsageError(PushforwardError):
    """The command line, or a file that it names, is not what the command needs."""


def say(text: str, style: str | None = None, to: Console = console) -> None:
    """Print text as it is: no markup, and no line breaks of our own."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name, and what there is."""
    names = list(known)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
    listed = f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"
    return f"did you mean '{near[0]}'? {listed}" if near else listed
