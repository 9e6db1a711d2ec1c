"""Writing into tensors: into some entries of one, or of zeros; tensors made of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from .arithmetic import parts_of
from .choosing import Case, along_cases, chosen_by_lanes, index_cases, spread
from .indices import Index, Var, flat, number, unflat
from .registry import dtype_of, name_of, on, shape_of
from .statements import Apply, Load
from .translation import (
    At,
    Scatter,
    Shape,
    Translation,
    Unsupported,
    Value,
    at_axes,
    axes,
    constant,
)
from .views import along, indexed, on_diagonal, require_contiguous, start_of, strided


def _scattered(
    t: Translation, node: Node, base: Any, part: Value, to: Callable[[At], At], add: bool
) -> Value | Scatter:
    """``base`` with ``part`` written, or added, to some of its places."""
    if add and dtype_of(node) == torch.bool:
        raise Unsupported(f"{node.target} of truth values")
    shape = shape_of(node)
    if _is_zero(t, base):
        if add or part.shape == () or _different(part.shape, lambda i: flat(to(i), shape)):
            return Scatter(shape, ((part.real, to),))
    elif add:
        parts = parts_of(t, base, shape)
        return Scatter(shape, (*parts, (part.real, to)))
    return t.overwritten(t.value(base).expanded(shape), part, to)


def _is_zero(t: Translation, base: Any) -> bool:
    found = t.values[base]
    if not isinstance(found, Value) or found.mask:
        return False
    entry = found.at(tuple(number(0) for _ in found.shape))
    return not isinstance(entry, Apply | Load) and getattr(entry, "value", None) == 0.0


def _different(shape: Shape, to: Callable[[At], Index]) -> bool:
    """Whether the entries of a part go to different places, as those of a slice do."""
    at = to(at_axes(axes(shape)))
    left = 1
    for k, n in sorted((abs(k), a.size) for a, k in at.terms if isinstance(a, Var)):
        if k < left:
            return False
        left = k * n
    return all(isinstance(atom, Var) for atom, _ in at.terms)


@on("slice_scatter")
def _slice_scatter(
    t: Translation, node: Node, base: Any, part: Any, dim: int = 0, start: Any = None,
    end: Any = None, step: int = 1,
) -> Value | Scatter:  # fmt: skip
    shape, value = shape_of(node), t.value(part)
    k = dim % len(shape)
    first = start_of(start, shape[k])

    def to(i: At) -> At:
        return (*i[:k], i[k] * step + first, *i[k + 1 :])

    narrow = tuple(value.shape[k] if j == k else n for j, n in enumerate(shape))
    return _scattered(t, node, base, value.expanded(narrow), to, add=False)


@on("select_scatter")
def _select_scatter(
    t: Translation, node: Node, base: Any, part: Any, dim: int, at: int
) -> Value | Scatter:
    shape, value = shape_of(node), t.value(part)
    k = dim % len(shape)
    fixed = (number(at % shape[k]),)
    narrow = shape[:k] + shape[k + 1 :]
    return _scattered(t, node, base, value.expanded(narrow), lambda i: i[:k] + fixed + i[k:], False)


@on("diagonal_scatter")
def _diagonal_scatter(
    t: Translation, node: Node, base: Any, part: Any, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value | Scatter:
    shape = shape_of(node)
    place = on_diagonal(len(shape), offset, dim1, dim2)
    return _scattered(t, node, base, t.value(part), place, add=False)


@on("as_strided_scatter")
def _as_strided_scatter(
    t: Translation, node: Node, base: Any, part: Any, size: Any, stride: Sequence[int],
    offset: int = 0,
) -> Value | Scatter:  # fmt: skip
    require_contiguous(base, shape_of(node))
    place = strided(stride, offset or 0)
    shape = shape_of(node)
    return _scattered(t, node, base, t.value(part), lambda i: unflat(place(i), shape), add=False)


@on("constant_pad_nd")
def _pad(
    t: Translation, node: Node, x: Any, pad: Sequence[int], by: float = 0.0
) -> Value | Scatter:
    value, shape = t.value(x), shape_of(node)
    rank, before, inner = len(shape), [0] * len(shape), list(value.shape)
    for k in range(len(pad) // 2):
        low, high = pad[2 * k], pad[2 * k + 1]
        dim = rank - 1 - k
        before[dim] = low
        inner[dim] += min(low, 0) + min(high, 0)
    cut = value.viewed(
        tuple(inner), lambda i: tuple(j + max(-b, 0) for j, b in zip(i, before, strict=True))
    )

    def to(i: At) -> At:
        return tuple(j + max(b, 0) for j, b in zip(i, before, strict=True))

    if by == 0.0 and not value.mask:
        return Scatter(shape, ((cut, to),))
    return t.overwritten(constant(bool(by) if value.mask else by, shape), cut, to)


@on("index_put", "_unsafe_index_put")
def _index_put(
    t: Translation, node: Node, base: Any, indices: Sequence[Any], part: Any,
    accumulate: bool = False,
) -> Value | Scatter:  # fmt: skip
    shape = shape_of(node)
    known = [t.value(i).shape for i in indices if i is not None]
    common = tuple(torch.broadcast_shapes(*known))
    selecting = [k for k, i in enumerate(indices) if i is not None]
    together = selecting == list(range(selecting[0], selecting[0] + len(selecting)))
    others = [n for k, n in enumerate(shape) if k not in selecting]
    first = selecting[0] if together else 0
    narrow = (*others[:first], *common, *others[first:])
    value = t.value(part).expanded(narrow)
    if chosen_by_lanes(t, indices):
        return _spread(t, node, base, value, index_cases(t, shape, indices), accumulate)
    return _scattered(t, node, base, value, indexed(t, shape, indices), accumulate)


def _spread(
    t: Translation, node: Node, base: Any, part: Value, cases: list[Case], add: bool
) -> Scatter:
    """``base`` with ``part`` added at places that lanes choose."""
    if not add or dtype_of(node) != t.dtype:
        raise Unsupported(f"{node.target} at places that lanes choose")
    shape = shape_of(node)
    before = () if _is_zero(t, base) else parts_of(t, base, shape)
    return Scatter(shape, (*before, *spread(part.real, cases)))


@on("scatter", "scatter_add")
def _scatter(
    t: Translation, node: Node, base: Any, dim: int, index: Any, part: Any, **about: Any
) -> Value | Scatter:
    if about:
        raise Unsupported(f"{node.target} with {sorted(about)}")
    shape, chosen = shape_of(node), t.value(index)
    value = t.value(part)
    if value.shape != ():
        size = chosen.shape
        value = value.viewed(size, lambda i: i)
    value = value.expanded(chosen.shape)
    add = name_of(node) == "scatter_add"
    if chosen_by_lanes(t, [index]):
        return _spread(t, node, base, value, along_cases(t, shape, dim, index), add)
    return _scattered(t, node, base, value, along(t, shape, dim, index), add)


@on("index_add")
def _index_add(
    t: Translation, node: Node, base: Any, dim: int, index: Any, part: Any, alpha: float = 1
) -> Value | Scatter:
    if alpha != 1:
        raise Unsupported("index_add with alpha")
    shape = shape_of(node)
    k = dim % len(shape)
    place = indexed(t, shape, [None] * k + [index])
    return _scattered(t, node, base, t.value(part), place, True)


@on("cat")
def _cat(t: Translation, node: Node, parts: Sequence[Any], dim: int = 0) -> Value:
    values = [v for v in map(t.value, parts) if v.shape != (0,)]
    return t.joined(values, shape_of(node), dim % len(shape_of(node)))


@on("stack")
def _stack(t: Translation, node: Node, parts: Sequence[Any], dim: int = 0) -> Value:
    shape = shape_of(node)
    k = dim % len(shape)
    one = (*shape[:k], 1, *shape[k + 1 :])
    values = [t.value(p).viewed(one, lambda i: i[:k] + i[k + 1 :]) for p in parts]
    return t.joined(values, shape, k)
