"""The steps of a kernel from many states at once, in lanes.

A kernel that cannot be run so is evaluated path by path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ...ppl.distributions.validate import no_validation
from ...ppl.errors import BudgetError
from ...ppl.tensors.keys import settled
from ..evaluation.lanes import LANES, Apart, paths_of, require_alike
from ..evaluation.measure import Measure
from ..evaluation.sources import Sources
from ..evaluation.waves import ordered
from .clouds import Cloud


def steps(
    kernel: Callable[..., Any], before: Measure, count: int, *, kept: bool, budget: int
) -> Cloud | None:
    """Where a kernel's steps from a measure lead, by ``count`` nodes for each continuous choice.

    With ``kept`` the rows hold the state before a step, too, in front.  None if the kernel cannot
    be run at many states at once, or is not seen to do the same in lanes and again.

    Errors:
        BudgetError: there are more than 20 lanes for each path of the budget.
    """
    try:
        states = _stacked([value for value, _ in before.atoms])
        sources = Sources(kernel)
        kernel = _of_one_form(kernel)
        with no_validation():
            found = list(paths_of(kernel, states, count, LANES * budget))
            require_alike(kernel, states, count, found)
        if sources.moved():
            return None
    except BudgetError:
        raise
    except Exception:  # the kernel's own errors arise again path by path, and are told there
        return None
    logs = torch.tensor([log_weight for _, log_weight in before.atoms], dtype=torch.float64)
    rows = [torch.cat([_rows(states)[f.origin], f.rows], 1) if kept else f.rows for f in found]
    weights = torch.cat([logs[f.origin] + f.log_weights for f in found])
    possible = weights > -math.inf
    resolution = max(before.resolution, *(f.resolution for f in found))
    return Cloud(torch.cat(rows)[possible], weights[possible], resolution)


def _of_one_form(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, which must leave states in the form that they have."""

    def step(state: Any) -> Any:
        form, value = _form(state), tree_map(settled, kernel(state))
        if _form(value) != form:
            raise Apart
        return value

    return step


def _stacked(values: list[Any]) -> Any:
    """States of one form, their tensors stacked."""
    columns, specs = zip(*map(tree_flatten, values), strict=True)
    if any(spec != specs[0] for spec in specs):
        raise Apart
    leaves = [
        torch.stack([torch.as_tensor(x) for x in column]) for column in zip(*columns, strict=True)
    ]
    return tree_unflatten(leaves, specs[0])


def _form(value: Any) -> tuple[Any, ...]:
    """How the numbers of a value stand in it."""
    leaves, spec = tree_flatten(value)
    return (spec, *(torch.as_tensor(x).shape for x in leaves))


def _rows(states: Any) -> Tensor:
    """The numbers of states [n], as rows, in the order of ``row_of``."""
    leaves = tree_leaves(ordered(states))
    return torch.cat([leaf.double().reshape(len(leaf), -1) for leaf in leaves], 1)
