"""Views: the same entries at other places, selected by slices and by known indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from .indices import Index, flat, number, strides, unflat
from .registry import on, shape_of
from .translation import At, Shape, Translation, Unsupported, Value


@on("view", "_unsafe_view")
def _view(t: Translation, node: Node, x: Any, *_: Any) -> Value:
    value, shape = t.value(x), shape_of(node)
    if value.shape == shape:
        return value
    return value.viewed(shape, lambda i: unflat(flat(i, shape), value.shape))


@on("expand")
def _expand(t: Translation, node: Node, x: Any, *_: Any, **about: Any) -> Value:
    return t.value(x).expanded(shape_of(node))


@on("permute")
def _permute(t: Translation, node: Node, x: Any, order: Sequence[int]) -> Value:
    value, rank = t.value(x), len(order)

    def back(i: At) -> At:
        where = {source % rank: k for source, k in zip(order, i, strict=True)}
        return tuple(where[k] for k in range(rank))

    return value.viewed(shape_of(node), back)


@on("t", "transpose")
def _transpose(t: Translation, node: Node, x: Any, a: int = 0, b: int = 1) -> Value:
    value = t.value(x)
    rank = len(value.shape)
    if rank < 2:
        return value
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return _permute(t, node, x, order)


@on("unsqueeze")
def _unsqueeze(t: Translation, node: Node, x: Any, dim: int) -> Value:
    k = dim % (len(t.value(x).shape) + 1)
    return t.value(x).viewed(shape_of(node), lambda i: i[:k] + i[k + 1 :])


@on("squeeze")
def _squeeze(t: Translation, node: Node, x: Any, *_: Any) -> Value:
    return _view(t, node, x)


@on("select")
def _select(t: Translation, node: Node, x: Any, dim: int, at: int) -> Value:
    value = t.value(x)
    k = dim % len(value.shape)
    fixed = (number(at % value.shape[k]),)
    return value.viewed(shape_of(node), lambda i: i[:k] + fixed + i[k:])


@on("slice")
def _slice(
    t: Translation, node: Node, x: Any, dim: int = 0, start: Any = None, end: Any = None,
    step: int = 1,
) -> Value:  # fmt: skip
    value = t.value(x)
    k = dim % len(value.shape)
    first = start_of(start, value.shape[k])
    return value.viewed(shape_of(node), lambda i: (*i[:k], i[k] * step + first, *i[k + 1 :]))


def start_of(start: Any, size: int) -> int:
    first: int = 0 if start is None else int(start)
    return min(max(first + size if first < 0 else first, 0), size)


@on("diagonal")
def _diagonal(
    t: Translation, node: Node, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Value:
    value = t.value(x)
    place = on_diagonal(len(value.shape), offset, dim1, dim2)
    return value.viewed(shape_of(node), place)


def on_diagonal(rank: int, offset: int, dim1: int, dim2: int) -> Callable[[At], At]:
    """Where in a tensor of this rank an entry of its diagonal is."""
    a, b = dim1 % rank, dim2 % rank
    others = [k for k in range(rank) if k not in (a, b)]

    def back(i: At) -> At:
        where = dict(zip(others, i[:-1], strict=True))
        where[a], where[b] = i[-1] + max(-offset, 0), i[-1] + max(offset, 0)
        return tuple(where[k] for k in range(rank))

    return back


@on("unfold")
def _unfold(t: Translation, node: Node, x: Any, dim: int, size: int, step: int) -> Value:
    value = t.value(x)
    k = dim % max(len(value.shape), 1)
    return value.viewed(shape_of(node), lambda i: (*i[:k], i[k] * step + i[-1], *i[k + 1 : -1]))


@on("flip")
def _flip(t: Translation, node: Node, x: Any, dims: Sequence[int]) -> Value:
    value = t.value(x)
    turned = {k % len(value.shape) for k in dims}

    def back(i: At) -> At:
        ends = enumerate(zip(i, value.shape, strict=True))
        return tuple(number(n - 1) - j if k in turned else j for k, (j, n) in ends)

    return value.viewed(shape_of(node), back)


@on("as_strided")
def _as_strided(
    t: Translation, node: Node, x: Any, size: Any, stride: Sequence[int], offset: int = 0
) -> Value:
    """Of a tensor that is laid out contiguously, which those of a functional graph are."""
    value = t.value(x)
    require_contiguous(x, value.shape)
    place = strided(stride, offset or 0)
    return value.viewed(shape_of(node), lambda i: unflat(place(i), value.shape))


def strided(stride: Sequence[int], offset: int) -> Callable[[At], Index]:
    def place(i: At) -> Index:
        total = number(offset)
        for k, step in zip(i, stride, strict=True):
            total = total + k * step
        return total

    return place


def require_contiguous(x: Node, shape: Shape) -> None:
    meta = x.meta["val"]
    if tuple(meta.stride()) != strides(shape) or meta.storage_offset():
        raise Unsupported("as_strided of a view")


# -------------------------------------------------------------------------------- entries by index


def indexed(
    t: Translation, shape: Shape, indices: Sequence[Any], common: Shape = ()
) -> Callable[[At], At]:
    """Where in a tensor of this shape an entry of what ``indices`` select is.

    ``common``: a shape to which indices are broadcast besides.
    """
    known = {k: t.places(i, shape[k]) for k, i in enumerate(indices) if i is not None}
    common = tuple(torch.broadcast_shapes(common, *(v.shape for v in known.values())))
    wide = {k: v.expanded(common) for k, v in known.items()}
    part = selected(indices, len(common))

    def back(i: At) -> At:
        selecting, others = i[part], iter(i[: part.start] + i[part.stop :])
        return tuple(_place(wide[k], selecting) if k in wide else next(others)
                     for k in range(len(shape)))  # fmt: skip

    return back


def selected(indices: Sequence[Any], rank: int) -> slice:
    """Which dimensions of what indices of this rank select are theirs."""
    dims = [k for k, i in enumerate(indices) if i is not None]
    first = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    return slice(first, first + rank)


def _place(value: Value, at: At) -> Index:
    assert value.place is not None
    return value.place(at)


def along(t: Translation, shape: Shape, dim: int, index: Any) -> Callable[[At], At]:
    """Where in a tensor of this shape an entry is that an index selects along a dimension."""
    k = dim % max(len(shape), 1)
    chosen = t.places(index, shape[k])
    if chosen.shape == ():
        place = _place(chosen, ())
        return lambda i: (*i[:k], place, *i[k + 1 :])
    return lambda i: (*i[:k], _place(chosen, i), *i[k + 1 :])
