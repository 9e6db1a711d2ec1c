"""Unbounded structure: ``fix`` (recursive programs) and ``memo`` (random functions)."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import BranchError, ProgramError, located
from ..tensors.hidden import is_known
from ..tensors.keys import Keys, Unkeyed
from ..tensors.nesting import deep
from .coverage import Entry
from .effects import emit, stack
from .handlers import Handler, Scoping, Step
from .program import Callback, Program, derived, program_name

# --------------------------------------------------------------------------------------- recursion


def fix(step: Callback) -> Program:
    """The recursive program p with ``p(*args) = step(p, *args)``.

    The calls of recursive programs are a tree: the sites of the i-th call that an activation makes
    are called ``name[i]``, those of the calls that this one makes ``name[i][j]``, and so on.  The
    exact evaluator computes each distinct call once at each depth, and answers with an interval
    where it cuts (see ``denote(..., depth=)``).

    Errors:
        ProgramError: the recursion is deeper than about two thousand calls.
    """

    def recursive(*args: Any) -> Any:
        with deep():
            return _call(step, args)

    return derived(recursive, f"fix({program_name(step)})")


class Activation(Handler, Unkeyed):
    """Counts the calls of recursive programs that one such call makes, to name their sites."""

    def __enter__(self) -> Any:
        self.calls = 0
        return super().__enter__()

    def state(self) -> Any:
        return self.calls

    def restore(self, state: Any) -> None:
        self.calls = state


@dataclass(frozen=True)
class Again:
    """The recursive program inside its own body."""

    step: Callback

    def __call__(self, *args: Any) -> Any:
        return _call(self.step, args)


def _call(step: Callback, args: tuple[Any, ...]) -> Any:
    caller = next((h for h in reversed(stack()) if isinstance(h, Activation)), None)
    number = None
    if caller is not None:
        number, caller.calls = caller.calls, caller.calls + 1
    return emit("fix", functools.partial(_activate, step, number), args, infer={"step": step})


def _activate(step: Callback, number: int | None, *args: Any) -> Any:
    with nullcontext() if number is None else Step(number, Entry(number)), Activation():
        return step(Again(step), *args)


# -------------------------------------------------------------------------------- random functions


class Table:
    """The values of one random function so far, in the order in which they were asked for."""

    def __init__(self) -> None:
        self.entries: tuple[tuple[Hashable, Any, Any], ...] = ()

    def read(self) -> tuple[tuple[Hashable, Any, Any], ...]:
        return self.entries

    def write(self, entries: tuple[tuple[Hashable, Any, Any], ...]) -> None:
        self.entries = entries


class RandomFunction:
    """A function drawn by ``memo``: it draws each of its values when it is first asked for."""

    def __init__(self, p: Callback, name: str, history: bool, table: Any) -> None:
        self.p, self.name, self.history, self.table = p, name, history, table
        self.bare = not stack()

    def __call__(self, *args: Any) -> Any:
        if self.bare and stack():
            raise ProgramError(
                located(
                    "a random function was drawn outside the program that uses it",
                    hint="call memo(...) inside the program, so that each run has its own",
                )
            )
        key = _argument_key(self.name, args)
        entries = self.table.read()
        for known, _, value in entries:
            if known == key:
                return value
        earlier = ([(given, value) for _, given, value in entries],) if self.history else ()
        with Scoping(f"{self.name}({', '.join(map(_shown, args))})"):
            value = self.p(*args, *earlier)
        # the draw itself may have asked for other values
        self.table.write((*self.table.read(), (key, args, value)))
        return value

    def __repr__(self) -> str:
        return f"<random function {self.name}, {len(self.table.read())} values drawn>"


def memo(p: Callback, name: str = "memo", *, history: bool = False) -> RandomFunction:
    """Draw a random function f: ``f(x)`` is drawn from ``p(x)`` once, and remembered.

    An effect: call it inside a program.  Only what is asked for is drawn, so the space of arguments
    may be infinite.  The sites of ``f(x)`` are called ``name(x)/...``.

    Args:
        history: pass the earlier values to p, as ``p(x, [(args, value), ...])``, for functions
            whose values depend on each other (Gaussian processes, urns).  That the law does not
            depend on the order of asking is up to p.

    Errors:
        BranchError: an argument is a lane or an abstract value, which cannot be looked up.
    """
    return RandomFunction(p, name, history, emit("memo", Table))


def _argument_key(name: str, args: tuple[Any, ...]) -> Hashable:
    for leaf in tree_leaves(args):
        if not is_known(leaf):
            raise BranchError(
                located(
                    f"the random function {name} is asked at a value that differs by lane",
                    hint="replay interpretations can run it: no vmap, capture or trace type",
                )
            )
    return Keys()(args)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(value.tolist())
    return str(value)
