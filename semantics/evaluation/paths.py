"""Paths of a program: its choices enumerated by replay, equal outcomes merged.

A run with other choices is a run from the start with the earlier choices fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from pyro.poutine.messenger import Messenger
from torch.utils._pytree import tree_map

from ...ppl.errors import BudgetError, ImpureProgramError, ProgramError, located
from ...ppl.language.effects import stack
from ...ppl.language.handlers import Handler
from ...ppl.tensors.keys import Cell, Keys, settled
from .measure import logsumexp, readable
from .sources import Sources, elsewhere

MOST = 100  # choices for each path of the budget
MANY = 1000  # paths of one evaluation that are run again, where all are to be
FEW, WIDTH = 4, 200  # choices, and characters, of those that an error came after
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
    undecided: bool = False  # whether it holds numbers that are known by comparisons only


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
        again: how many runs, at least, are made again and compared, of each path one and with the
            global generators elsewhere; if 0, the first path of each part is run again.
    """

    def __init__(self, budget: int, again: int = 0) -> None:
        super().__init__()
        self.budget, self.paths, self.choices = budget, 0, 0
        self.again, self.runs_again = again, 0
        self.gave_up = False  # whether some path was left before its end
        self.store = Store()
        self._key = Keys()
        self._current: list[Path] = []
        self._pending: list[list[tuple[Hashable, Outcome]]] = []
        self._sources: Sources | None = None

    def run(self, fn: Callable[[], Any]) -> list[Outcome]:
        """All outcomes of a program, with weights; the program is run under this evaluator."""
        self._sources = Sources(fn)
        outcomes = self._explore(fn, [self.store], (self.store.state(),), self.again)
        if moved := self._sources.moved():
            raise ImpureProgramError(
                located(
                    f"the program used random numbers outside its effects: {_listed(moved)}",
                    hint="use sample(...) or draw(...) in place of torch, numpy or random",
                )
            )
        return outcomes

    def _explore(
        self,
        fn: Callable[[], Any],
        handlers: list[Messenger],
        states: tuple[Any, ...],
        again: int = 0,
    ) -> list[Outcome]:
        """Every path of ``fn`` from the given handler states, equal outcomes merged."""
        found: dict[Hashable, tuple[Outcome, list[float]]] = {}
        outer, self._pending = self._pending, [[]]
        doubted: list[tuple[Path, Hashable]] = []
        try:
            while self._pending:
                path = Path(prefix := self._pending.pop(), len(prefix))
                self._count()
                outcome = self._run_path(fn, path, handlers, states)
                key = None if outcome is None else self._key((outcome.value, outcome.states))
                if not doubted or (self.again and self.runs_again < MANY):
                    doubted.append((path, (key, path.log_weight)))
                    self._require_repeatable(fn, handlers, states, *doubted[-1])
                if outcome is not None:
                    found.setdefault(key, (outcome, []))[1].append(outcome.log_weight)
            more = max(0, again - len(doubted))
            for path, was in itertools.islice(itertools.cycle(doubted), more):
                self._require_repeatable(fn, handlers, states, path, was)
        finally:
            self._pending = outer
        return [
            Outcome(outcome.value, outcome.states, logsumexp(logs))
            for outcome, logs in found.values()
        ]

    def _count(self) -> None:
        self.paths += 1
        if self.paths > self.budget:
            raise BudgetError(
                located(
                    f"the exact evaluation needs more than {self.budget} paths",
                    hint="return less of the history (equal states merge), shrink the model, "
                    "or raise budget=",
                )
            )

    def _count_choices(self, path: Path) -> None:
        self.choices += 1
        hint = "write a loop that may go on for ever by fix(...), or raise budget="
        if len(path.log) > self.budget:
            what = f"one path makes more than {self.budget} choices"
        elif self.choices > MOST * self.budget:
            what = f"the exact evaluation needs more than {MOST * self.budget} choices"
        else:
            return
        raise BudgetError(located(what, hint=hint))

    def _run_path(
        self, fn: Callable[[], Any], path: Path, handlers: list[Messenger], states: tuple[Any, ...]
    ) -> Outcome | None:
        restore(handlers, states)
        self._current.append(path)
        try:
            value = fn()
            if path.undecided:
                self._key((value, states_of(handlers)))  # which decides all that is returned
                value = tree_map(settled, value)
        except Dead:
            self.gave_up = True
            return None
        except Cut:
            self.gave_up = True
            return Outcome(CUT, (), path.log_weight)
        except Exception as error:
            _note(error, path)
            raise
        finally:
            self._current.pop()
        if path.position < path.fixed:
            raise self._impure("it made fewer choices when it was run again")
        outcome = Outcome(value, states_of(handlers), path.log_weight)
        return self._without_garbage(outcome, states)

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
        handlers: list[Messenger],
        states: tuple[Any, ...],
        path: Path,
        was: Hashable,
    ) -> None:
        """Run a path again with every choice fixed: a program must do the same."""
        again = Path(list(path.log), len(path.log))
        self.runs_again += 1
        with elsewhere(self.runs_again) if self.again else nullcontext():
            outcome = self._run_path(fn, again, handlers, states)
        if again.position != len(path.log):
            raise self._impure("it took another path when it was run again")
        key = None if outcome is None else self._key((outcome.value, outcome.states))
        if (key, again.log_weight) != was:
            raise self._impure("it returned another value or weight when it was run again")

    def _impure(self, what: str) -> ImpureProgramError:
        moved = self._sources.moved() if self._sources else []
        return ImpureProgramError(
            located(
                f"the program is impure: {what} with the same choices"
                + (f", and it moved {_listed(moved)}" if moved else ""),
                hint="remove hidden state (globals, in-place changes, outside randomness)",
            )
        )

    # ------------------------------------------------------------------------------------ choosing

    def _choose(self, identity: Hashable, outcomes: Callable[[], list[Outcome]]) -> Outcome:
        """Take the next outcome: the recorded one on replay, else the first; the others wait."""
        path = self._current[-1]
        self._count_choices(path)
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


def _note(error: Exception, path: Path) -> None:
    """Say with which choices an error came, where no inner part has said it."""
    chosen = [outcome.value for _, outcome in path.log if outcome.value is not None]
    if chosen and not getattr(error, "__notes__", ()):
        few = shorten(", ".join(str(readable(value)) for value in chosen[-FEW:]), WIDTH)
        error.add_note(f"after the choices {'..., ' if len(chosen) > FEW else ''}{few}")


def _listed(moved: list[str]) -> str:
    return " and ".join(moved)
