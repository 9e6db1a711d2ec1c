"""Entries selected by index: at places that are known, or that each lane chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from .choosing import along_cases, chosen_by_lanes, index_cases, picked
from .registry import on, require_real, shape_of
from .translation import Translation, Value
from .views import along, indexed


@on("index", "_unsafe_index")
def _index(t: Translation, node: Node, x: Any, indices: Sequence[Any]) -> Value:
    value = t.value(x)
    if not chosen_by_lanes(t, indices):
        return value.viewed(shape_of(node), indexed(t, value.shape, indices))
    require_real(t, node)
    return t.stored(picked(value, shape_of(node), index_cases(t, value.shape, indices)))


@on("index_select")
def _index_select(t: Translation, node: Node, x: Any, dim: int, index: Any) -> Value:
    value = t.value(x)
    k = dim % max(len(value.shape), 1)
    return _index(t, node, x, [None] * k + [index])


@on("gather")
def _gather(t: Translation, node: Node, x: Any, dim: int, index: Any, **about: Any) -> Value:
    value = t.value(x)
    if not chosen_by_lanes(t, [index]):
        return value.viewed(shape_of(node), along(t, value.shape, dim, index))
    require_real(t, node)
    return t.stored(picked(value, shape_of(node), along_cases(t, value.shape, dim, index)))
