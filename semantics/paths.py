"""Paths of a program: its choices enumerated by replay, equal outcomes merged.

A run with other choices is a run from the start with the earlier choices fixed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger

from ..ppl.errors import BudgetError, ImpureProgramError, ProgramError, located
from ..ppl.language.effects import stack
from ..ppl.language.handlers import Handler
from ..ppl.tensors.keys import Cell, Keys
from .measure import logsumexp

CUT = object()  # the value of a path that was given up: its weight bounds what is missing


@dataclass(frozen=True)
class Outcome:
    """One outcome of a choice: its value, the states of the handlers after it, its log weight."""

    value: Any
    states: tuple[Any, ...]
    log_weight: float


@dataclass
class Path:
    """The run in progress: the choices so far, of which the first ``fixed`` are replayed."""

    log: list[tuple[Hashable, Outcome]]
    fixed: int
    position: int = 0
    log_weight: float = 0.0
    names: set[str] = field(default_factory=set)


class Dead(BaseException):
    """The path has weight zero."""


class Cut(BaseException):
    """The path is given up."""


class Store(Handler):
    """The values of the random functions (``memo``) that were drawn on the path so far."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Any] = {}

    def state(self) -> Any:
        return tuple(sorted(self.tables.items(), key=lambda item: item[0]))

    def restore(self, state: Any) -> None:
        self.tables = dict(state)

    def place(self) -> Place:
        """A place for the values of a new function."""
        address = max(self.tables, default=-1) + 1
        self.tables[address] = ()
        return Place(self, address)

    def keep(self, addresses: set[int]) -> None:
        """Forget the functions that nothing refers to any more."""
        self.tables = {a: entries for a, entries in self.tables.items() if a in addresses}


class Place(Cell):
    """The table of one random function, in a store."""

    def __init__(self, store: Store, address: int) -> None:
        self.store, self.address = store, address

    def read(self) -> Any:
        return self.store.tables[self.address]

    def write(self, entries: Any) -> None:
        inner = next(h for h in reversed(stack()) if isinstance(h, Explorer))
        if inner.store is not self.store:
            raise ProgramError(
                located(
                    "a query asks a random function of the program around it for a new value",
                    hint="ask for the value before normalize, and pass it on",
                )
            )
        self.store.tables[self.address] = entries


class Explorer(Messenger):  # type: ignore[misc]
    """Runs a program once for each path.

    Args:
        budget: the most paths that may be run.
    """

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget, self.paths = budget, 0
        self.gave_up = False  # whether some path was left before its end
        self.store = Store()
        self._key = Keys()
        self._current: list[Path] = []
        self._pending: list[list[tuple[Hashable, Outcome]]] = []

    def run(self, fn: Callable[[], Any]) -> list[Outcome]:
        """All outcomes of a program, with weights; the program is run under this evaluator."""
        before = _ambient_randomness()
        outcomes = self._explore(fn, [self.store], (self.store.state(),))
        if _ambient_randomness() != before:
            raise ImpureProgramError(
                located(
                    "the program used random numbers outside its effects",
                    hint="use sample(...) or draw(...) in place of torch, numpy or random",
                )
            )
        return outcomes

    def _explore(
        self, fn: Callable[[], Any], handlers: list[Messenger], states: tuple[Any, ...]
    ) -> list[Outcome]:
        """Every path of ``fn`` from the given handler states, equal outcomes merged."""
        found: dict[Hashable, tuple[Outcome, list[float]]] = {}
        outer, self._pending = self._pending, [[]]
        try:
            first: tuple[Hashable, float] | None = None
            while self._pending:
                path = Path(prefix := self._pending.pop(), len(prefix))
                if (outcome := self._run_path(fn, path, handlers, states)) is None:
                    continue
                if outcome.value is not CUT:
                    outcome = self._without_garbage(outcome, states)
                key = self._key((outcome.value, outcome.states))
                if first is None:
                    first = (key, path.log_weight)
                    self._require_repeatable(fn, path, handlers, states, first)
                found.setdefault(key, (outcome, []))[1].append(outcome.log_weight)
        finally:
            self._pending = outer
        return [
            Outcome(outcome.value, outcome.states, logsumexp(logs))
            for outcome, logs in found.values()
        ]

    def _run_path(
        self, fn: Callable[[], Any], path: Path, handlers: list[Messenger], states: tuple[Any, ...]
    ) -> Outcome | None:
        self.paths += 1
        if self.paths > self.budget:
            raise BudgetError(
                located(
                    f"the exact evaluation needs more than {self.budget} paths",
                    hint="return less of the history (equal states merge), shrink the model, "
                    "or raise budget=",
                )
            )
        restore(handlers, states)
        self._current.append(path)
        try:
            value = fn()
        except Dead:
            self.gave_up = True
            return None
        except Cut:
            self.gave_up = True
            return Outcome(CUT, (), path.log_weight)
        finally:
            self._current.pop()
        if path.position < path.fixed:
            raise self._impure("it made fewer choices when it was run again")
        return Outcome(value, states_of(handlers), path.log_weight)

    def _without_garbage(self, outcome: Outcome, before: tuple[Any, ...]) -> Outcome:
        """The outcome without the random functions that only this part of the program knew."""
        *others, tables = outcome.states
        known = {address for address, _ in before[-1]}
        if {address for address, _ in tables} <= known:
            return outcome
        entries, reached, cells = dict(tables), set(known), self._key.cells
        cells.clear()
        self._key((outcome.value, others, [entries[address] for address in known]))
        while fresh := (cells - reached):
            reached |= fresh
            cells.clear()
            self._key([entries[address] for address in fresh])
        self.store.keep(reached)
        return Outcome(outcome.value, (*others, self.store.state()), outcome.log_weight)

    def _require_repeatable(
        self,
        fn: Callable[[], Any],
        path: Path,
        handlers: list[Messenger],
        states: tuple[Any, ...],
        first: tuple[Hashable, float],
    ) -> None:
        """Run the first path again with every choice fixed: a program must do the same."""
        again = Path(list(path.log), len(path.log))
        outcome = self._run_path(fn, again, handlers, states)
        if outcome is None or again.position != len(path.log):
            raise self._impure("it took another path when it was run again")
        if outcome.value is not CUT:
            outcome = self._without_garbage(outcome, states)
        if (self._key((outcome.value, outcome.states)), outcome.log_weight) != first:
            raise self._impure("it returned another value or weight when it was run again")

    def _impure(self, what: str) -> ImpureProgramError:
        return ImpureProgramError(
            located(
                f"the program is impure: {what} with the same choices",
                hint="remove hidden state (globals, in-place changes, outside randomness)",
            )
        )

    # ------------------------------------------------------------------------------------ choosing

    def _choose(self, identity: Hashable, outcomes: Callable[[], list[Outcome]]) -> Outcome:
        """Take the next outcome: the recorded one on replay, else the first; the others wait."""
        path = self._current[-1]
        if path.position < path.fixed:
            recorded, outcome = path.log[path.position]
            if recorded != identity:
                raise self._impure("a site had another name, distribution or argument")
        else:
            options = outcomes()
            if not options:
                raise Dead
            for other in reversed(options[1:]):
                self._pending.append([*path.log, (identity, other)])
            outcome = options[0]
            path.log.append((identity, outcome))
        path.position += 1
        path.log_weight += outcome.log_weight
        if outcome.value is CUT:
            raise Cut
        return outcome


def states_of(handlers: list[Messenger]) -> tuple[Any, ...]:
    return tuple(h.state() for h in handlers if isinstance(h, Handler))


def restore(handlers: list[Messenger], states: tuple[Any, ...]) -> None:
    for handler, state in itertools.zip_longest(
        (h for h in handlers if isinstance(h, Handler)), states
    ):
        handler.restore(state)


def _ambient_randomness() -> Hashable:
    numpy_state: Any = np.random.get_state(legacy=True)
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        numpy_state[1].tobytes(),
        numpy_state[2],
    )
