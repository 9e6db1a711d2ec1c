"""A progress bar with live figures, silent where nobody looks."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Counts ``total`` steps; ``advance(name=value)`` shows figures, ``say`` a message."""

    def __init__(self, total: int, title: str, enabled: bool = True) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, figures="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, steps: int = 1, **figures: Any) -> None:
        """Count steps and show figures beside the bar."""
        shown = "  ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in figures.items()
        )
        self._bar.update(self._task, advance=steps, figures=shown)

    def lengthen(self, total: int) -> None:
        """Count to so many from now on."""
        self._bar.update(self._task, total=total)

    def say(self, message: str) -> None:
        """Show a message beside the bar."""
        self._bar.update(self._task, figures=message)
