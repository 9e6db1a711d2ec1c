"""Sums and products over dimensions, running ones, and products of matrices."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from .matrices import for_each
from .registry import mapped, name_of, on, require_real, shape_of
from .statements import Apply, Counted, Number
from .translation import At, Translation, Unsupported, Value, apply, constant


def _dims(value: Value, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(value.shape)))
    return [dim] if isinstance(dim, int) else list(dim)


@on("sum", "mean", "prod", "amax", "amin", "any", "all")
def _reduce(
    t: Translation, node: Node, x: Any, dim: Any = None, keepdim: bool = False, **about: Any
) -> Value:
    name, value = name_of(node), t.value(x)
    if name not in ("any", "all"):
        require_real(t, node)
    value = value.truth if name in ("any", "all") else value.real
    how = {"sum": "+", "mean": "+", "prod": "*", "amax": "max", "amin": "min", "any": "or",
           "all": "and"}[name]  # fmt: skip
    dims = _dims(value, dim)
    found = t.reduced(value, dims, keepdim, how)
    if name != "mean":
        return found
    count = float(math.prod(value.shape[k] for k in dims))
    return t.stored(mapped(t, found.shape, "{0} / {1}", found, constant(count)))


@on("max", "min")
def _extremes(
    t: Translation, node: Node, x: Any, dim: int | None = None, keepdim: bool = False
) -> Value | tuple[Value, Value | None]:
    """Along a dimension, and the first place where it is."""
    how = name_of(node)
    value = t.value(x).real
    if dim is None:
        return t.reduced(value, range(len(value.shape)), False, how)
    asked = any(user.args[1] == 1 and user.users for user in node.users)
    place = _first_place(t, value, dim, keepdim, how) if asked else None
    return t.reduced(value, [dim], keepdim, how), place


@on("argmax", "argmin")
def _place_of_extreme(
    t: Translation, node: Node, x: Any, dim: int | None = None, keepdim: bool = False
) -> Value:
    if dim is None:
        raise Unsupported(f"{node.target} of all entries")
    return _first_place(t, t.value(x).real, dim, keepdim, name_of(node).removeprefix("arg"))


def _first_place(t: Translation, value: Value, dim: int, keepdim: bool, how: str) -> Value:
    if not value.shape:
        return constant(0.0)
    extreme = t.reduced(value, [dim], True, how).expanded(value.shape)

    def where(i: At) -> Apply:
        here = apply("{0} == {1}", value.at(i), extreme.at(i), mask=True)
        return apply("pick({0}, {1}, {2})", here, Counted(i[dim]), Number(math.inf))

    return t.reduced(Value(value.shape, where), [dim], keepdim, "min")


@on("cumsum", "cumprod")
def _cumulated(t: Translation, node: Node, x: Any, dim: int, **about: Any) -> Value:
    require_real(t, node)
    return t.accumulated(t.value(x).real, dim, "+" if name_of(node) == "cumsum" else "*")


TILED = 16  # rows and columns of a product from which on tiles are worth a copy of both matrices


@on("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "baddbmm")
def _product(t: Translation, node: Node, *args: Any, beta: float = 1, alpha: float = 1) -> Value:
    """Sums of products over the last dimension of one and the next to last of the other."""
    require_real(t, node)
    added = args[0] if name_of(node) in ("addmm", "addmv", "baddbmm") else None
    x, y = (t.value(arg) for arg in args[-2:])
    batch, inner = max(len(x.shape) - 2, 0), x.shape[-1]
    rows, columns = x.shape[batch:-1], y.shape[-1:] if len(y.shape) > 1 else ()
    full = (*x.shape[:batch], *rows, *columns, inner)

    def entry(i: At) -> Apply:
        lead, k = i[:batch], i[-1:]
        row, column = i[batch : batch + len(rows)], i[batch + len(rows) : -1]
        return apply("{0} * {1}", x.at((*lead, *row, *k)), y.at((*lead, *k, *column)))

    if columns and min(*rows, *columns) >= TILED:
        found = for_each(
            t,
            f"product<{rows[0]}, {inner}, {columns[0]}>",
            x.shape[:batch],
            [x, y],
            [(*rows, *columns)],
        )[0]
    else:
        found = t.reduced(Value(full, entry), [len(full) - 1], False, "+")
    if added is None:
        return found
    terms = (found, t.value(added), t.value(alpha), t.value(beta))
    template = "{0} + {1}" if alpha == beta == 1 else "{2} * {0} + {3} * {1}"
    if beta == 0:  # what is added is not looked at, be it NaN
        template = "{2} * {0}"
    return t.stored(mapped(t, shape_of(node), template, *terms))
