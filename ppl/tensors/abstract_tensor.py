"""Tensors without values that remember which choices they come from, and whether smoothly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import BranchError, ImpureProgramError, located, user_line

_LOOKS = {
    getattr(Tensor, name)
    for name in (
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "__contains__",
        "item",
        "tolist",
        "numpy",
        "__array__",
    )
    if hasattr(Tensor, name)
} | {torch.equal, torch.allclose, Tensor.equal, Tensor.allclose}
# Operations whose results have as many entries as the values of their arguments say.
_COUNTS = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"}
# Operations to real numbers that are constant, or that jump, in between; or hide a derivative.
STEPS = {"floor", "ceil", "round", "trunc", "fix", "frac", "sign", "sgn", "heaviside", "detach"}
STEPS |= {
    name
    for op in ("floordiv", "floor_divide", "remainder", "fmod", "mod")
    for name in (op, f"r{op}")
}
# Operations that take no more than shape, type and device of one of their arguments: the place of
# the one whose values they keep.
_KEEPS = {name: 0 for name in ("type_as", "expand_as", "view_as", "reshape_as", "to")}
_KEEPS["new_tensor"] = 1


class Mark(NamedTuple):
    """That a value comes from a choice.

    ``smooth``: the choice is of real numbers.  ``jump``: the operation and the line by which the
    value stopped to be a function of it whose derivative is followed; empty as long as it is one.
    """

    choice: str
    smooth: bool = False
    jump: str = ""


Marks = frozenset[Mark]


class Abstract(Tensor):
    """A tensor whose values mean nothing; ``marks`` tell the choices that they come from.

    A choice depends on itself only: what its law depends on are its parents.
    """

    marks: Marks

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        marks = marks_of(_kept(name, args, kwargs))
        if func in _LOOKS and marks:
            _refuse("Python looks at a random value", marks, "cond(...) or torch.where")
        if marks and _counts(func, name, args, kwargs):
            _refuse("a shape depends on a random value", marks, "torch.where or a factor by zero")
        if _in_place(name) and marks:
            _require_own(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if func is torch.broadcast_tensors:  # each result depends on its own argument only
            given = args[0] if isinstance(args[0], list | tuple) else args
            return tuple(abstract(r, marks_of(a)) for r, a in zip(result, given, strict=True))
        if _in_place(name) and args and isinstance(args[0], Tensor):
            _written(args[0], _after(name, marks, args[0]))
            return result
        return tree_map(lambda leaf: abstract(leaf, _after(name, marks, leaf)), result)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<abstract {tuple(self.shape)} of {_listed(dependence(self))}>"


def _kept(name: str, args: Any, kwargs: Any) -> Any:
    """The arguments on whose values a result depends."""
    place = _KEEPS.get(name)
    return (args, kwargs) if place is None else args[place : place + 1] or kwargs


def _refuse(what: str, marks: Marks, instead: str) -> None:
    depends = _listed(mark.choice for mark in marks)
    raise BranchError(
        located(
            f"{what} (it depends on {depends})",
            hint=f"use {instead}; replay interpretations can still run it",
        )
    )


def _counts(func: Any, name: str, args: Any, kwargs: Any) -> bool:
    """Whether the shape of a result depends on a value that is marked."""
    if name == "repeat_interleave":  # of a value, so often; or of places, as often as they say
        return bool(marks_of((args[1:], kwargs) if len(args) > 1 or kwargs else args))
    if name in _COUNTS or (func is torch.where and len(args) == 1):
        return True
    if name != "__getitem__":
        return False
    return any(isinstance(i, Abstract) and i.dtype == torch.bool for i in tree_leaves(args[1]))


def _after(name: str, marks: Marks, result: Any) -> Marks:
    """The marks of a result: whole numbers and truth values of smooth choices are jumps of them."""
    if not isinstance(result, Tensor) or all(m.jump or not m.smooth for m in marks):
        return marks
    operation = name.strip("_")
    if operation not in STEPS and (result.is_floating_point() or result.is_complex()):
        return marks
    jump = f"{operation} at {user_line()}"
    return frozenset(m._replace(jump=m.jump or jump) if m.smooth else m for m in marks)


def _in_place(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(set(names))) or "no choice"


def abstract(value: Any, marks: Marks) -> Any:
    """The tensor, marked as coming from choices; anything else as it is."""
    if not isinstance(value, Tensor) or not marks:
        return value
    with torch._C.DisableTorchFunctionSubclass():
        marked = value.as_subclass(Abstract)
    marked.marks = marks | getattr(value, "marks", frozenset())
    return marked


def marks_of(tree: Any) -> Marks:
    """The marks of the tensors of a tree."""
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Abstract))
    return frozenset[Mark]().union(*(getattr(leaf, "marks", frozenset()) for leaf in leaves))


def choices_of(marks: Marks) -> frozenset[str]:
    """The choices that some marks are of."""
    return frozenset(mark.choice for mark in marks)


def dependence(tree: Any) -> frozenset[str]:
    """The choices that the tensors of a tree depend on."""
    return choices_of(marks_of(tree))


def concrete(tree: Any) -> Any:
    """The same tree with its abstract tensors as plain placeholders."""
    return tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, Abstract) else x, tree)


# ---------------------------------------------------------------------------------- in-place writes

WRITTEN: list[Tensor] = []  # plain tensors that were made abstract by a write into them
ARGUMENTS: set[int] = set()  # the storages of the arguments of the program that is run


def _written(target: Tensor, marks: Marks) -> None:
    """Mark a tensor that was written in place; ``abstract_run`` unmarks it at the end."""
    if marks:
        if type(target) is Tensor:
            WRITTEN.append(target)
            target.__class__ = Abstract
        target.marks = marks | getattr(target, "marks", frozenset())  # type: ignore[attr-defined]


def _require_own(target: Any) -> None:
    """Raise before a placeholder would overwrite the data of an argument."""
    if isinstance(target, Tensor) and storage(target) in ARGUMENTS - {0}:
        raise ImpureProgramError(
            located(
                "a random value is written in place into an argument of the program",
                hint="write into a copy: y = y.clone()",
            )
        )


def storage(tensor: Tensor) -> int:
    """The address of the data of a tensor; 0 if it has none (lanes, meta and empty tensors)."""
    try:
        return int(concrete(tensor).untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0
