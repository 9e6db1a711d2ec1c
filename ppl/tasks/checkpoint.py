"""Checkpoints: a run that was killed goes on from its last one, and ends as if it had not been."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, located

Content = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is kept, and how often it is written there.

    A file that exists is gone on from: its run must have had the same program, data, seed and
    settings.  With the same machine and libraries the result is that of a run without a break, bit
    for bit.  The file of a finished run gives its result at once.

    Args:
        path: of the file; it is replaced at once and never half written.
        seconds: at least so many lie between two writings.
    """

    path: str | Path
    seconds: float = 60.0


class Store:
    """The checkpoint of one run; without a file it does nothing.

    ``content``: what an earlier run has left, or None.
    """

    def __init__(self, checkpoint: Checkpoint | str | Path | None, about: dict[str, Any]) -> None:
        if isinstance(checkpoint, str | Path):
            checkpoint = Checkpoint(checkpoint)
        self._where, self._about = checkpoint, about
        self._written = time.monotonic()
        self.content: Content | None = None
        if (
            checkpoint is not None
            and not (folder := Path(checkpoint.path).absolute().parent).is_dir()
        ):
            what = f"there is no folder {folder} to keep a checkpoint in"
            raise DataError(located(what, hint="make it, or name another file"))
        if checkpoint is not None and Path(checkpoint.path).exists():
            self.content = self._read(Path(checkpoint.path))

    def _read(self, path: Path) -> Content:
        try:
            held = torch.load(path, weights_only=True)
            about, content = held["about"], held["content"]
        except Exception as error:  # of torch, zip and pickle: no common class
            what = f"{path} is no checkpoint: {error}"
            raise DataError(located(what, hint="remove it, or name another file")) from error
        different = [
            f"{name} {about.get(name)} is now {value}"
            for name, value in self._about.items()
            if about.get(name) != value
        ]
        if different:
            what = f"the checkpoint {path} is of another run: {'; '.join(different)}"
            raise DataError(located(what, hint="remove it to begin anew, or name another file"))
        found: Content = content
        return found

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return self._where is not None and time.monotonic() - self._written >= self._where.seconds

    def offer(self, content: Callable[[], Content]) -> None:
        """Write the content if it is time to."""
        if self.due:
            self.write(content())

    def write(self, content: Content) -> None:
        """Write the content now."""
        if self._where is None:
            return
        path = Path(self._where.path)
        beside = path.with_name(path.name + ".new")
        with open(beside, "wb") as file:
            torch.save({"about": self._about, "content": content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        self._written = time.monotonic()


def random_state() -> list[Any]:
    """The states of torch's generators, of the processor and of every GPU."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def restore_random_state(states: list[Any]) -> None:
    """Let torch's generators go on from these states."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


def stream(seed: int, i: int) -> int:
    """The seed of the i-th of many independent runs."""
    return (seed * 1_000_003 + i) % 2**63
