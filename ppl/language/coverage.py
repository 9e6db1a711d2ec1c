"""Which entries of the data that programs are conditioned on the sites of a run meet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from pyro.poutine.messenger import Messenger

from ..errors import DataError, located


class Entry(NamedTuple):
    """An index of what a site meets of its data, on the axis of a loop or of lanes.

    ``met``: its own step, or more where it stands for others; ``bound``: how many the loop has.
    """

    met: int | slice
    bound: float = math.inf


class Met:
    """The data of a conditioned program, and what was met of them.

    ``left``: whether a run left it before its end, and may have met more there.
    """

    def __init__(self, program: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.program, self.left = program, False
        self.met = {name: np.zeros(shape, dtype=bool) for name, shape in shapes.items()}
        self.bounds: dict[str, tuple[float, ...]] = {}  # of the leading indices, of names met

    def note(self, name: str, entries: tuple[Entry, ...]) -> None:
        self.met[name][tuple(entry.met for entry in entries)] = True
        known, bounds = self.bounds.get(name, ()), (entry.bound for entry in entries)
        self.bounds[name] = tuple(map(max, itertools.zip_longest(known, bounds, fillvalue=0.0)))

    def missing(self) -> list[str]:
        """The names that no site has met."""
        return [name for name in self.met if name not in self.bounds]

    def unmet(self) -> dict[str, list[int]]:
        """Of each name that sites have met, the first entry that none of them has."""
        rest = {name: np.argwhere(~self.met[name]) for name in self.bounds}
        return {n: at[0, : len(self.bounds[n])].tolist() for n, at in rest.items() if len(at)}

    def beyond(self) -> dict[str, list[int]]:
        """Of each name that sites have met, the first entry beyond all loops that they were in."""
        found = {}
        for name, bounds in self.bounds.items():
            for k, (size, bound) in enumerate(zip(self.met[name].shape, bounds, strict=False)):
                if size > bound:
                    found[name] = [0] * k + [int(bound)] + [0] * (len(bounds) - k - 1)
        return found

    @property
    def complete(self) -> bool:
        return not (self.missing() or self.unmet())

    def require_complete(self, names: list[str] | None) -> None:
        """Raise unless everything was met; ``names`` are the sites there are, where known."""
        if missing := self.missing():
            what = f"data for a site that does not exist: {', '.join(map(repr, missing))}"
            hint = "no path of the program meets it; check the spelling"
            if names is not None:
                hint = f"the sites of {self.program} are {', '.join(names) or 'none'}"
            raise DataError(located(what, hint=hint))
        self.require_none(self.unmet())

    def require_none(self, entries: dict[str, list[int]]) -> None:
        """Raise if there are such entries of the data, which no step meets."""
        for name, entry in entries.items():
            shape = list(self.met[name].shape)
            what = f"the data for '{name}' have shape {shape}, and no step meets entry {entry}"
            hint = "give one entry for each step of the loop, and then for each lane"
            raise DataError(located(what, site=name, hint=hint))


class Coverage:
    """What a run meets of all data that are given to it; handlers that keep one are told."""

    def __init__(self) -> None:
        self.given: dict[Hashable, Met] = {}

    def of(self, place: Hashable, program: str, data: dict[str, Any]) -> Met:
        """The data that are given at a place: the same on all paths, if they have one shape."""
        shapes = {name: tuple(value.shape) for name, value in data.items()}
        key = (place, *shapes.items())
        if key not in self.given:
            self.given[key] = Met(program, shapes)
        return self.given[key]

    @property
    def complete(self) -> bool:
        return all(met.complete for met in self.given.values())

    def require_complete(self, names: list[str] | None = None) -> None:
        """Raise if there are entries that no site met on runs of all paths.

        Errors:
            DataError: data for a site that does not exist, or for more steps than a loop has.
        """
        for met in self.given.values():
            if not met.left:
                met.require_complete(names)

    @property
    def within(self) -> bool:
        """Whether data end where the loops do that were met."""
        return not any(met.beyond() for met in self.given.values())

    def require_within(self) -> None:
        """Raise if data go on beyond all loops that were met.

        Errors:
            DataError: data for more steps than a loop has.
        """
        for met in self.given.values():
            met.require_none(met.beyond())


class Hearing(Messenger):  # type: ignore[misc]
    """Hears what runs inside it meet of their data."""

    def __init__(self) -> None:
        super().__init__()
        self.coverage = Coverage()
