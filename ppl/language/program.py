"""Programs: Python functions that perform effects."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .effects import emit

Callback = Callable[..., Any]
F = TypeVar("F", bound=Callback)

# Questions about programs that interpretations answer.  Those stand in a room above this one, and
# enter their answers here: so no import goes up, and a method stands where its reader looks for it.
_ANSWERS: dict[str, Callback] = {}


def answers(question: str) -> Callable[[F], F]:
    """Enter the function that answers a question about programs (``type``, ``graph``, ...)."""

    def enter(fn: F) -> F:
        _ANSWERS[question] = fn
        return fn

    return enter


def ask(question: str, p: Callback, *args: Any, **kwargs: Any) -> Any:
    """What the interpretation that answers a question says of a program."""
    return _ANSWERS[question](p, *args, **kwargs)


class Program:
    """A probabilistic program.

    A program is a function that performs effects.  Called inside another program it is one effect,
    so that an interpretation may treat the call as a unit (exactly, equal outcomes merge).
    Without anonymous randomness it is also a Pyro model.
    """

    def __init__(self, fn: Callback) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    @property
    def name(self) -> str:
        return str(getattr(self.fn, "__qualname__", type(self.fn).__name__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return emit("call", functools.partial(self.fn, **kwargs), args, infer={"program": self.fn})

    def __reduce__(self) -> Any:
        """A program that is defined at the top of a module travels to other processes by name."""
        found: Any = sys.modules.get(self.fn.__module__)
        for part in self.name.split("."):
            found = getattr(found, part, None)
        return self.name if found is self else super().__reduce__()

    def __repr__(self) -> str:
        return f"<program {self.name}>"

    def type(self, *args: Any, **kwargs: Any) -> Any:
        """The type of this program for these arguments, inferred without sampling."""
        return ask("type", self, *args, **kwargs)

    def graph(self, *args: Any, **kwargs: Any) -> Any:
        """The dependence graph of this program for these arguments.

        See ``ppl.interpretations.dependence_graph``.
        """
        return ask("graph", self, *args, **kwargs)


class Derived(Program):
    """A program made by a combinator, whose call is not an effect of its own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def derived(fn: Callback, name: str) -> Program:
    """The program of a combinator, under a name that says how it was made."""
    fn.__name__ = fn.__qualname__ = name
    return Derived(fn)


def program(fn: Callback) -> Program:
    """Make a function (or the ``forward`` of a module) a program."""
    return fn if isinstance(fn, Program) else Program(fn)


def program_name(fn: Callback) -> str:
    """A name for messages: of a program, a function or a module."""
    if isinstance(fn, torch.nn.Module):
        return type(fn).__name__
    return str(getattr(fn, "__qualname__", None) or getattr(fn, "name", type(fn).__name__))


def signature(args: tuple[Any, ...]) -> str:
    """What types depend on: shapes and dtypes of tensors, and all other values."""
    return ", ".join(
        f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in tree_leaves(args)
    )
