"""Entries at places that each lane chooses, as by the value of a discrete variable.

Vectors have no entries of their own, so each place is compared with what the lane asks for.  A
negative place counts from the end; one out of range, for which torch raises, gives NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from .registry import dtype_of
from .statements import Apply, Expr, Number
from .translation import ZERO, At, Translation, Unsupported, Value, apply
from .views import along, indexed, selected

MOST = 64  # places that are compared

Back = Callable[[At], At]
Here = Callable[[At], Expr]
Case = tuple[Here, Back]


def chosen_by_lanes(t: Translation, indices: Sequence[Any]) -> bool:
    """Whether one of these indices is known only when a lane has its numbers."""
    nodes = [i for i in indices if isinstance(i, Node) and t.value(i).place is None]
    if any(dtype_of(i) != torch.int64 for i in nodes):
        raise Unsupported("an index by truth values")
    return bool(nodes)


def index_cases(t: Translation, shape: Sequence[int], indices: Sequence[Any]) -> list[Case]:
    """Each choice of places in a tensor: whether the lane's is this one, and what it selects."""
    values = {k: t.value(i) for k, i in enumerate(indices) if i is not None}
    open_dims = [k for k, v in values.items() if v.place is None]
    common = tuple(torch.broadcast_shapes(*(v.shape for v in values.values())))
    part = selected(indices, len(common))
    wide = {k: values[k].real.expanded(common) for k in open_dims}
    cases: list[Case] = []
    for places in _places([shape[k] for k in open_dims]):
        chosen = dict(zip(open_dims, places, strict=True))
        known = [chosen.get(k, i) for k, i in enumerate(indices)]

        def here(i: At, chosen: dict[int, int] = chosen) -> Expr:
            return _all([_equal(wide[k].at(i[part]), p, shape[k]) for k, p in chosen.items()])

        cases.append((here, indexed(t, tuple(shape), known, common)))
    return cases


def along_cases(t: Translation, shape: Sequence[int], dim: int, index: Any) -> list[Case]:
    """The same for an index along one dimension, as of ``gather``."""
    k, chosen = dim % max(len(shape), 1), t.value(index).real
    cases: list[Case] = []
    for (place,) in _places([shape[k]]):

        def here(i: At, place: int = place) -> Expr:
            return _equal(chosen.at(i), place, shape[k])

        cases.append((here, along(t, tuple(shape), dim, place)))
    return cases


def picked(value: Value, shape: tuple[int, ...], cases: list[Case]) -> Value:
    """The entries of a value in the case that is each lane's."""

    def at(i: At) -> Expr:
        found: Expr = Number(math.nan)
        for here, back in cases:
            found = apply("pick({0}, {1}, {2})", here(i), value.at(back(i)), found)
        return found

    return Value(shape, at)


def spread(part: Value, cases: list[Case]) -> list[tuple[Value, Back]]:
    """A part of a tensor for each case: the values where it is the lane's, and zero elsewhere."""

    def where(here: Here) -> Value:
        return Value(part.shape, lambda i: apply("pick({0}, {1}, {2})", here(i), part.at(i), ZERO))

    return [(where(here), back) for here, back in cases]


def _places(sizes: list[int]) -> itertools.product[tuple[int, ...]]:
    if math.prod(sizes) > MOST:
        raise Unsupported(f"an index that lanes choose among {math.prod(sizes)}")
    return itertools.product(*map(range, sizes))


def _equal(asked: Expr, place: int, size: int) -> Apply:
    same = (apply("{0} == {1}", asked, Number(float(p)), mask=True) for p in (place, place - size))
    return apply("{0} | {1}", *same, mask=True)


def _all(truths: list[Apply]) -> Apply:
    found = truths[0]
    for each in truths[1:]:
        found = apply("{0} & {1}", found, each, mask=True)
    return found
