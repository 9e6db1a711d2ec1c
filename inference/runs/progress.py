"""A progress bar with live figures, silent where nobody looks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

MANY = 8  # figures beside each other; of more, the least and the greatest are shown


class Progress:
    """Counts ``total`` steps; ``advance(name=value)`` shows figures, ``say`` a message.

    Beside the bar stand the share that is done, the time that has passed and that is left.
    """

    def __init__(
        self, total: int, title: str, enabled: bool = True, console: Console | None = None
    ) -> None:
        console = console or Console(stderr=True)
        self._shown = enabled and is_watched(console)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not self._shown,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, figures="")

    def __enter__(self) -> Progress:
        if self._shown:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._bar.stop()

    def advance(self, steps: int = 1, **figures: Any) -> None:
        """Count steps and show figures beside the bar: words, numbers, or a number a chain."""
        shown = "  ".join(f"{name} {shown_figure(value)}" for name, value in figures.items())
        self._bar.update(self._task, advance=steps, figures=shown)

    def lengthen(self, total: int) -> None:
        """Count to so many from now on."""
        self._bar.update(self._task, total=total)

    def say(self, message: str) -> None:
        """Show a message beside the bar."""
        self._bar.update(self._task, figures=message)


def is_watched(console: Console) -> bool:
    """Whether a bar can move there: in a terminal, or a notebook whose widgets are installed."""
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    return console.is_interactive or widgets


def shown_figure(value: str | float | Sequence[float]) -> str:
    """A word, a number, or numbers: one if they are alike, and their ends if they are many."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return f"{value:.4g}"
    texts = list(dict.fromkeys(f"{x:.3g}" for x in value))
    if len(texts) < 2:
        return "".join(texts)
    if len(value) > MANY:
        return f"{min(value):.3g} to {max(value):.3g}"
    return " ".join(f"{x:.3g}" for x in value)
