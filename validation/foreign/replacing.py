"""Functions of other libraries, and others that stand in their places while a program runs."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple


class Replacement(NamedTuple):
    """What is read as ``holder.name``, and what stands there instead."""

    holder: Any
    name: str
    value: Any


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Within, others stand in these places; afterwards what stood there before."""
    before = [getattr(holder, name) for holder, name, _ in replacements]
    try:
        for holder, name, value in replacements:
            setattr(holder, name, value)
        yield
    finally:
        for (holder, name, _), value in zip(replacements, before, strict=True):
            setattr(holder, name, value)


def held_in(package: str, rule: Callable[[Any], Any]) -> list[Replacement]:
    """Where the modules of a package hold what the rule has another for (it gives None otherwise).

    A module holds its globals, and its functions hold what they close over.
    """
    modules = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and f"{name}.".startswith(f"{package}.")
    ]
    places: list[tuple[Any, str, Any]] = []
    for module in modules:
        for name, value in list(vars(module).items()):
            places.append((module, name, value))
            if isinstance(value, types.FunctionType):
                cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
                places += [(c, "cell_contents", c.cell_contents) for _, c in cells if _is_full(c)]
    found = [(holder, name, rule(value)) for holder, name, value in places]
    return [Replacement(*each) for each in found if each[2] is not None]


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
