"""Combinators: programs to programs, each one an effect with a meaning in every interpretation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..distributions.data import as_data, has_dtype
from ..errors import ProgramError, PushforwardError, located
from ..tensors.hidden import is_hidden
from .batching import run_batched
from .coverage import Entry
from .effects import emit
from .handlers import Conditioning, Scoping, Step, Taken, Untracing, Weighing, at_step
from .program import Callback, Derived, Program, derived, program_name

# ------------------------------------------------------------------------------------------- loops


@dataclass(frozen=True)
class Loop:
    """The message of ``scan`` and ``iterate``: a step, what it runs over, and how long."""

    step: Callback
    length: int
    until: Callable[[Any], Any] | None
    has_outputs: bool

    def advance(self, t: int | Tensor, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Run step ``t`` (its sites are named ``name[t]``) and return (carry, output)."""
        row = tree_map(lambda x: at_step(x, t), xs) if self.has_outputs else None
        return self.advance_by(t, carry, row)

    def advance_by(self, t: int | Tensor, carry: Any, row: Any) -> tuple[Any, Any]:
        """The same, with the entries of step ``t`` of what it runs over."""
        with Step(t, self._entry(t)):
            if not self.has_outputs:
                return self.step(carry), None
            result = self.step(carry, row)
        if not isinstance(result, tuple) or len(result) != 2:
            what = f"{program_name(self.step)} returns a {type(result).__name__}"
            hint = "a step of scan returns a pair: the next carry, and an output or None"
            raise ProgramError(located(what, hint=hint))
        return result

    def _entry(self, t: int | Tensor) -> Entry:
        """Where step t stands; for all, if it is traced or if the loop may stop early."""
        if isinstance(t, Tensor) or self.until is not None:
            return Entry(slice(0, self.length), self.length)
        return Entry(t, self.length)

    def done(self, carry: Any) -> Tensor | None:
        """Whether the loop may stop before a step: ``until`` holds in every lane."""
        return None if self.until is None else torch.as_tensor(self.until(carry)).all()

    def result(self, carry: Any, ys: list[Any]) -> Any:
        if not self.has_outputs:
            return carry
        try:
            return carry, stack_outputs(ys)
        except PushforwardError:
            raise
        except (ValueError, RuntimeError) as error:
            what = f"the steps of {program_name(self.step)} return outputs of different structures"
            hint = (
                "return one tree of tensors of one shape; where choices are recorded step by step,"
            )
            hint += " give data and interventions for all steps of the loop, or use smc(...)"
            raise ProgramError(located(what, hint=hint)) from error


def stack_outputs(ys: list[Any]) -> Any:
    """Stack a list of equal trees along a new leading axis; ``None`` stays ``None``."""
    if not ys:
        return None
    return tree_map(_stack, *ys)


def _stack(*leaves: Any) -> Tensor | None:
    return None if leaves[0] is None else torch.stack([torch.as_tensor(leaf) for leaf in leaves])


def run_loop(loop: Loop, carry: Any, xs: Any) -> Any:
    """The meaning of a loop where no handler knows better: run it."""
    ys = []
    for t in range(loop.length):
        done = loop.done(carry)
        if is_hidden(done):
            carry = _advance_unless(cast(Tensor, done), loop, t, carry)
            continue
        if done is not None and bool(done):
            break
        carry, y = loop.advance(t, carry, xs)
        ys.append(y)
    return loop.result(carry, ys)


def _advance_unless(done: Tensor, loop: Loop, t: int, carry: Any) -> Any:
    """One step in those lanes that are not done; the others score nothing and keep their carry."""
    with Taken(~done):
        after, _ = loop.advance(t, carry, None)
    return tree_map(lambda old, new: torch.where(done, old, new), carry, after)


def scan(step: Callback) -> Program:
    """``scan(step)(carry, xs)`` runs ``carry, y = step(carry, x)`` over the leading axis of ``xs``.

    Returns (carry, ys) with the outputs stacked.  The sites of step t are called ``name[t]``; data
    for them may be given one by one or stacked under ``name``.  No steps have the outputs None.

    Errors:
        ProgramError: ``xs`` are no tensors of one length, or the step does not return a pair.
    """

    def scanned(carry: Any, xs: Any) -> Any:
        leaves = tree_leaves(xs)
        if not all(isinstance(x, Tensor) and x.ndim for x in leaves):
            what = "scan runs over the leading axis of tensors, and was given something else"
            raise ProgramError(located(what, hint="give tensors of one leading size, as xs"))
        lengths = {len(x) for x in leaves}
        if len(lengths) != 1:
            raise ProgramError(
                located(f"scan needs inputs of one length, not {sorted(lengths) or 'none'}")
            )
        loop = Loop(step, lengths.pop(), None, True)
        return emit("loop", lambda c, x: run_loop(loop, c, x), (carry, xs), infer={"loop": loop})

    return derived(scanned, f"scan({program_name(step)})")


def iterate(step: Callback, n: int, until: Callable[[Any], Any] | None = None) -> Program:
    """``iterate(step, n)(carry)`` applies ``carry = step(carry)`` n times.

    With ``until`` the loop stops before a step once ``until(carry)`` holds in every lane.

    Errors:
        ProgramError: n is no natural number.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ProgramError(located(f"iterate needs a number of steps, not {n!r}"))

    def iterated(carry: Any) -> Any:
        loop = Loop(step, n, until, False)
        return emit("loop", lambda c, x: run_loop(loop, c, x), (carry, None), infer={"loop": loop})

    return derived(iterated, f"iterate({program_name(step)}, {n})")


# ------------------------------------------------------------------------------------------- lanes


@dataclass(frozen=True)
class Lanes:
    """The message of ``vmap``: a function, and which of its arguments carry the lane axis."""

    fn: Callback
    mapped: tuple[bool, ...]
    size: int

    def arguments(self, args: tuple[Any, ...], i: int) -> tuple[Any, ...]:
        """The arguments of lane i."""
        return tuple(
            tree_map(lambda x: x[i] if isinstance(x, Tensor) else x, arg) if mapped else arg
            for arg, mapped in zip(args, self.mapped, strict=True)
        )


def vmap(
    fn: Callback, in_axes: tuple[int | None, ...] | None = None, size: int | None = None
) -> Program:
    """``vmap(p)(*args)`` runs p once per lane, independently; results are stacked.

    Every tensor of an argument is mapped over its leading axis, unless ``in_axes`` (one entry per
    argument, 0 or None) says otherwise.  Without a mapped tensor, give ``size``.  Batched, each
    inner site becomes one outer site with the lane axis leftmost; exactly, it is a product.
    """

    def vmapped(*args: Any) -> Any:
        axes = in_axes if in_axes is not None else (0,) * len(args)
        if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
            raise ProgramError(located("vmap: in_axes needs 0 or None for each argument"))
        mapped = tuple(
            axis == 0 and any(isinstance(leaf, Tensor) for leaf in tree_leaves(arg))
            for axis, arg in zip(axes, args, strict=True)
        )
        sizes = {
            leaf.shape[0] if leaf.ndim else -1
            for arg, on in zip(args, mapped, strict=True)
            if on
            for leaf in tree_leaves(arg)
            if isinstance(leaf, Tensor)
        } | ({size} if size is not None else set())
        if len(sizes) != 1 or min(sizes) < 0:
            found = sorted(sizes) or "none"
            raise ProgramError(
                located(f"vmap: the mapped arguments need one leading size, not {found}")
            )
        lanes = Lanes(fn, mapped, sizes.pop())
        return emit(
            "vmap",
            lambda *a: run_batched(lanes.fn, a, lanes.mapped, lanes.size),
            args,
            infer={"lanes": lanes},
        )

    return derived(vmapped, f"vmap({program_name(fn)})")


# --------------------------------------------------------------------------------- transformations


def weighted(p: Callback) -> Program:
    """``weighted(p)(*args)`` returns (value, log_weight): the scores of p become a value."""

    def weighing(*args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        with Weighing() as handler:
            value = p(*args, **kwargs)
        return value, torch.as_tensor(handler.log_weight)

    return derived(weighing, f"weighted({program_name(p)})")


def untraced(p: Callback) -> Program:
    """The program p as a part of an algorithm: its choices are draws, and names may repeat."""

    def running(*args: Any, **kwargs: Any) -> Any:
        with Untracing():
            return p(*args, **kwargs)

    return derived(running, f"untraced({program_name(p)})")


Missing = Literal["refuse", "ignore"]


class Conditioned(Derived):
    """A program with data for some of its sites; ``missing`` says what NaN among them are."""

    def __init__(self, p: Callback, data: dict[str, Any], missing: Missing = "refuse") -> None:
        if missing not in get_args(Missing):
            raise ValueError(f"missing is one of {get_args(Missing)}, not {missing!r}")
        self.base, self.missing = p, missing
        self.data = {name: as_data(name, value) for name, value in data.items()}
        tensors, name = self.data, program_name(p)
        exact = {name for name, value in data.items() if has_dtype(value)}
        gaps = {name for name, x in tensors.items() if missing == "ignore" and _has_nan(x)}

        def conditioned(*args: Any, **kwargs: Any) -> Any:
            with Conditioning(tensors, exact, name, gaps):
                return p(*args, **kwargs)

        super().__init__(conditioned)
        conditioned.__qualname__ = self.__qualname__ = f"condition({name}, {sorted(data)})"


def _has_nan(x: Tensor) -> bool:
    return x.is_floating_point() and bool(x.isnan().any())


def condition(p: Callback, data: dict[str, Any], missing: Missing = "refuse") -> Conditioned:
    """The program p with the sites named in ``data`` observed.

    Args:
        missing: what NaN and the masked entries of numpy's arrays are.  "refuse": an error, which
            names site and rows.  "ignore": entries that were not seen, and count nothing; an event
            that lacks one of its numbers, such as of a vector, counts nothing as a whole.
    """
    return Conditioned(p, data, missing)


@contextmanager
def scope(prefix: str) -> Iterator[None]:
    """Within, the site ``z`` is called ``prefix/z``."""
    with Scoping(prefix):
        yield
