"""Parameters that an objective moves with: their names, and what an optimiser cannot move."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...ppl.errors import ObjectiveError, located
from ...ppl.interpretations.abstract_run import UNTYPED
from ...ppl.tensors.seeds import seeded
from .captured import BEFOREHAND, COMPUTE_INSIDE
from .objective import Objective


def names_of(objective: Objective, parameters: Sequence[Tensor]) -> list[str]:
    """The names of parameters in the modules that an objective is about, else their numbers."""
    known = _names(objective)
    return [known.get(id(p), f"parameter {i}") for i, p in enumerate(parameters)]


def tell_of_strangers(
    objective: Objective, parameters: Sequence[Tensor], args: tuple[Any, ...]
) -> None:
    """Warn of parameters that the objective moves with, and the optimiser does not hold.

    Errors:
        ObjectiveError: a tensor was computed from parameters before the objective runs.
    """
    held = {id(p) for p in parameters}
    with seeded(0), suppress(*UNTYPED):
        first, again = (_nodes(objective.surrogate(*args)) for _ in range(2))
        if any(_leaf(node) is None for node in first.keys() & again.keys()):
            raise ObjectiveError(located(BEFOREHAND, hint=COMPUTE_INSIDE))
        met = [leaf for leaf in map(_leaf, first) if leaf is not None]
        strangers = [p for p in met if id(p) not in held]
        if not strangers:
            return
        names = _names(objective)
        store = pyro.get_param_store()
        names |= {id(x): f"pyro.param {n!r}" for n, x in store._params.items()}
        shown = ", ".join(names.get(id(p), f"one of shape {list(p.shape)}") for p in strangers)
        what = f"the objective moves with parameters that the optimiser does not hold: {shown}"
        hint = "give it their module's parameters(), or requires_grad_(False)"
        warnings.warn(f"{what}; {hint}", RuntimeWarning, stacklevel=2)


def _names(objective: Objective) -> dict[int, str]:
    """The names of the parameters of the modules that an objective is about."""
    modules = [m for m in tree_leaves(objective.bound) if isinstance(m, torch.nn.Module)]
    return {
        id(p): f"{type(module).__name__}.{name}"
        for module in modules
        for name, p in module.named_parameters()
    }


def _leaf(node: Any) -> Tensor | None:
    """The parameter that a node of a computation graph stands for."""
    return getattr(node, "variable", None)


def _nodes(surrogate: Tensor) -> dict[Any, None]:
    """The nodes of the computation graph of a number, in the order in which they are met."""
    pending, seen = [surrogate.grad_fn], dict[Any, None]()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen[node] = None
            pending += [before for before, _ in node.next_functions]
    return seen
