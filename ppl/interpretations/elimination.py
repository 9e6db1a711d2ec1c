"""Sums over finitely many joint values, one variable after the other.

A factor is a table of logs with one axis for each of its variables, and a last axis for independent
copies of the whole problem (the elements of a plate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, located
from ..tensors.logs import logsumexp

Variable = Hashable
LIMIT = 10_000_000  # numbers in a table


class Factor(NamedTuple):
    """``table``: logs [*sizes of the variables, copies]."""

    variables: tuple[Variable, ...]
    table: Tensor


class Bucket(NamedTuple):
    """A variable, and the product of the factors that it was in when it was summed out."""

    variable: Variable
    factor: Factor


def order_of(factors: Sequence[Factor]) -> list[Variable]:
    """An order of elimination: at each step the variable whose table is smallest.

    Errors:
        BudgetError: a table would have over ten million numbers.
    """
    sizes = {v: n for f in factors for v, n in zip(f.variables, f.table.shape, strict=False)}
    near: dict[Variable, set[Variable]] = {v: set() for v in sizes}
    for family, _ in factors:
        for v in family:
            near[v] |= set(family) - {v}
    order: list[Variable] = []
    weights = {v: _weight(v, near, sizes) for v in near}
    while near:
        v = min(weights, key=weights.__getitem__)
        if weights[v] > math.log(LIMIT):
            what = f"exact elimination needs a table of {math.exp(weights[v]):.0f} numbers at '{v}'"
            raise BudgetError(located(what, hint="too many choices depend on each other: sample"))
        around = near.pop(v)
        del weights[v]
        for other in around:
            near[other] |= around - {other}
            near[other].discard(v)
        for other in around:
            weights[other] = _weight(other, near, sizes)
        order.append(v)
    return order


def _weight(v: Variable, near: dict[Variable, set[Variable]], sizes: dict[Variable, int]) -> float:
    return sum(math.log(sizes[other]) for other in near[v]) + math.log(sizes[v])


def product(factors: Sequence[Factor], first: Variable) -> Factor:
    """The factor over all variables of these factors, ``first`` on the first axis."""
    found = dict.fromkeys(v for factor in factors for v in factor.variables)
    variables = (first, *(v for v in found if v != first))
    table: Tensor | None = None
    for factor in factors:
        aligned = _aligned(factor, variables)
        table = aligned if table is None else table + aligned
    assert table is not None
    return Factor(variables, table)


def _aligned(factor: Factor, variables: tuple[Variable, ...]) -> Tensor:
    """The table with its axes in the order of these variables, size one where one is missing."""
    here = [v for v in variables if v in factor.variables]
    axes = [factor.variables.index(v) for v in here]
    table = factor.table.permute(*axes, len(axes))
    sizes = iter(table.shape)
    shape = [next(sizes) if v in here else 1 for v in variables]
    return table.reshape(*shape, table.shape[-1])


def largest(table: Tensor) -> Tensor:
    """The largest number along the first axis."""
    return table.amax(0)


def eliminated(
    factors: Sequence[Factor],
    order: Sequence[Variable],
    reduced: Callable[[Tensor], Tensor] = logsumexp,
) -> tuple[Tensor, list[Bucket]]:
    """The log of the sum over all variables of the product of all factors: [copies].

    Returns the buckets too, in this order.  Each variable must be in a factor.  With ``largest`` in
    place of the sum, the log of the largest product.
    """
    left, buckets = list(factors), list[Bucket]()
    for v in order:
        inside = [factor for factor in left if v in factor.variables]
        left = [factor for factor in left if v not in factor.variables]
        joint = product(inside, v)
        buckets.append(Bucket(v, joint))
        left.append(Factor(joint.variables[1:], reduced(joint.table)))
    total = left[0].table
    for factor in left[1:]:
        total = total + factor.table
    return total, buckets


def expected(
    factors: Sequence[Factor], costs: Sequence[Factor], order: Sequence[Variable]
) -> Tensor:
    """The mean of the sum of all costs, under the law of the product of the factors: [copies].

    Each step keeps, beside the log weight of a partial sum, the mean cost in it.
    """
    weighted = [(factor, Factor((), factor.table.new_zeros(1))) for factor in factors]
    left = [*weighted, *((Factor((), cost.table.new_zeros(1)), cost) for cost in costs)]
    for v in order:
        inside = [pair for pair in left if any(v in part.variables for part in pair)]
        left = [pair for pair in left if not any(v in part.variables for part in pair)]
        shape = [Factor((v,), torch.zeros(1, 1))]  # so that both parts have v first
        logs = product([*shape, *(pair[0] for pair in inside)], v)
        cost = product([*shape, *(pair[1] for pair in inside)], v)
        variables = tuple(dict.fromkeys((*logs.variables, *cost.variables)))
        weight, value = _aligned(logs, variables), _aligned(cost, variables)
        total = logsumexp(weight.expand(torch.broadcast_shapes(weight.shape, value.shape)))
        share = torch.where(torch.isneginf(weight), 0.0, (weight - total).exp())
        mean = torch.where(share == 0, 0.0, share * torch.where(share == 0, 0.0, value)).sum(0)
        left.append((Factor(variables[1:], total), Factor(variables[1:], mean)))
    found = left[0][1].table
    for _, cost in left[1:]:
        found = found + cost.table
    return found
