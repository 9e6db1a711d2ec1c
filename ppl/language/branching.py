"""Branching combinators: ``cond``, ``switch`` and ``mixture``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import ProgramError, located
from ..tensors.hidden import is_hidden, is_known
from .effects import emit, sample
from .handlers import Taken
from .program import Callback, Program, derived, program_name


@dataclass(frozen=True)
class Branches:
    """The message of ``cond`` and ``switch``: programs, of which an index picks one."""

    programs: tuple[Callback, ...]

    def run(self, index: Tensor | int, *args: Any) -> Any:
        """Run the branch that a known index picks, or all where the index differs by lane."""
        if is_hidden(index):
            return self.run_all(index, *args)  # type: ignore[arg-type]
        if isinstance(index, Tensor) and index.numel() != 1:
            what = f"one branch is to be taken, by {index.numel()} values"
            raise ProgramError(located(what, hint="branch in each lane, under vmap"))
        number = float(index)
        if number not in range(len(self.programs)):
            raise ProgramError(
                located(f"switch has {len(self.programs)} branches, and no branch {number:g}")
            )
        return self.programs[int(number)](*args)

    def run_all(self, index: Tensor, *args: Any) -> Any:
        """Run every branch, scoring each only where it is taken, and select the results."""
        results = []
        for i, p in enumerate(self.programs):
            with Taken(index == i):
                results.append(p(*args))
        chosen = results[-1]
        for i in range(len(results) - 2, -1, -1):
            chosen = _select(index == i, results[i], chosen)
        return chosen


def _select(pred: Tensor, yes: Any, no: Any) -> Any:
    """Lane by lane, the result of the branch that is taken."""

    def one(a: Any, b: Any) -> Any:
        if a is None and b is None:
            return None
        if a is None or b is None:
            raise TypeError("one returns None where another returns a value")
        return torch.where(pred, a, b)

    try:
        return tree_map(one, yes, no)
    except (TypeError, ValueError) as error:
        raise ProgramError(
            located(
                f"the branches return different structures: {error}",
                hint="return trees of tensors of one structure from all of them",
            )
        ) from error


def cond(pred: Tensor | bool, on_true: Callback, on_false: Callback) -> Program:
    """``cond(pred, p, q)(*args)`` is p where pred holds and q elsewhere.

    Where pred is one known value, only that branch runs.  In lanes and under capture both run:
    observations and factors of a branch count only where it is taken, and its latents keep their
    prior elsewhere, which leaves the measure on results unchanged.
    """

    def chosen(*args: Any) -> Any:
        index = (pred == 0).long() if isinstance(pred, Tensor) else int(not pred)
        branches = Branches((on_true, on_false))
        return emit("cond", branches.run, (index, *args), infer={"branches": branches})

    return derived(chosen, f"cond({program_name(on_true)}, {program_name(on_false)})")


def switch(index: Tensor | int, *programs: Callback) -> Program:
    """``switch(i, p0, p1, ...)(*args)`` is the program number i; lanes are treated as by ``cond``.

    Errors:
        ProgramError: there is no program of that number.
    """
    if not programs:
        raise ProgramError(located("switch needs at least one program"))

    def chosen(*args: Any) -> Any:
        branches = Branches(programs)
        known = _in_range(index, len(programs))
        return emit("cond", branches.run, (known, *args), infer={"branches": branches})

    return derived(chosen, f"switch({', '.join(map(program_name, programs))})")


def _in_range(index: Tensor | int, count: int) -> Tensor | int:
    """The index; raises if it is that of no branch, also where Python cannot look at it."""
    if not isinstance(index, Tensor) or not is_hidden(index):
        return index
    whole = index.long()
    whole = torch.where(whole == index, whole, count)
    numbers = torch.arange(count, device=whole.device)
    try:
        return numbers.index_select(0, whole.reshape(1)).squeeze(0)
    except (IndexError, RuntimeError) as error:
        raise ProgramError(
            located(f"switch has {count} branches, and a lane wants another one")
        ) from error


def mixture(weights: Any, programs: list[Callback], name: str = "component") -> Program:
    """``mixture(w, [p0, p1, ...])(*args)`` is program i with probability w_i / sum(w).

    The choice is the latent ``name``.  Scores count: a program of small mass gets a small share of
    the posterior.

    Errors:
        ProgramError: the weights are not one for each program, negative, not finite, or all zero.
    """
    probs = torch.as_tensor(weights)
    if not probs.is_floating_point():
        probs = probs.to(torch.get_default_dtype())
    if probs.shape != (len(programs),):
        raise ProgramError(
            located(f"mixture has {len(programs)} programs, but weights {tuple(probs.shape)}")
        )
    if is_known(probs) and not _are_weights(probs):
        raise ProgramError(
            located(
                f"{probs.tolist()} are no weights",
                hint="give finite numbers that are not negative, and one that is positive",
            )
        )

    def mixed(*args: Any) -> Any:
        index = sample(name, dist.Categorical(probs))
        return switch(index, *programs)(*args)

    return derived(mixed, f"mixture({', '.join(map(program_name, programs))})")


def _are_weights(values: Tensor) -> bool:
    return bool((values >= 0).all() and values.sum() > 0 and values.sum().isfinite())
