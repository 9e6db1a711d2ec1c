"""Functions of single numbers, and tensors of equal numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from .pointwise import POWERS, QUESTIONS, REALS, TRUTHS
from .registry import dtype_of, is_whole, mapped, name_of, on, require_real, shape_of
from .statements import variables
from .translation import Scatter, Shape, Translation, Unsupported, Value, at_axes, axes, constant


def pointwise(t: Translation, node: Node, name: str) -> Value:
    """By a template.

    Errors:
        Unsupported: there is none.
    """
    if node.kwargs.keys() - {"alpha", "dtype"} or name not in {**REALS, **QUESTIONS, **TRUTHS}:
        raise Unsupported(str(node.target))
    args = [t.value(x) for x in node.args]
    if "alpha" in node.kwargs:
        args[1] = mapped(t, args[1].shape, "{0} * {1}", args[1].real, t.value(node.kwargs["alpha"]))
    shape = shape_of(node)
    if name in TRUTHS and (name.startswith("logical") or all(x.mask for x in args)):
        return t.stored(mapped(t, shape, TRUTHS[name], *(x.truth for x in args), mask=True))
    if dtype_of(node) == torch.bool and name in _OF_TRUTHS:
        template = TRUTHS[_OF_TRUTHS[name]]
        return t.stored(mapped(t, shape, template, *(x.truth for x in args), mask=True))
    if name in QUESTIONS:
        return t.stored(mapped(t, shape, QUESTIONS[name], *(x.real for x in args), mask=True))
    if name not in REALS or not _is_real(t, node, name):
        raise Unsupported(f"{node.target} of whole numbers")
    return t.stored(mapped(t, shape, REALS[name], *(x.real for x in args)))


# What these are of truth values alone; all others are refused.
_OF_TRUTHS = {"add": "logical_or", "mul": "logical_and", "maximum": "logical_or",
              "minimum": "logical_and"}  # fmt: skip
_EXACT = ("add", "sub", "mul", "neg", "abs", "maximum", "minimum", "sign", "remainder")


def _is_real(t: Translation, node: Node, name: str) -> bool:
    """Whether the machine's reals do what is asked: of whole numbers, with what is exact."""
    dtype = dtype_of(node)
    return dtype == t.dtype or (is_whole(t, dtype) and name in _EXACT)


@on("add")
def _add(t: Translation, node: Node, x: Any, y: Any, alpha: float = 1) -> Value | Scatter:
    """A sum; of tensors that are mostly zero, one of all their parts."""
    found = [t.values.get(arg) if isinstance(arg, Node) else None for arg in (x, y)]
    sparse = any(isinstance(each, Scatter) for each in found)
    if alpha == 1 and dtype_of(node) == t.dtype and sparse:
        parts = [parts_of(t, arg, shape_of(node)) for arg in (x, y)]
        return Scatter(shape_of(node), tuple(part for each in parts for part in each))
    return pointwise(t, node, "add")


def parts_of(t: Translation, arg: Any, shape: Shape) -> tuple[Any, ...]:
    """What is added where, for one argument of a sum of this shape."""
    found = t.values.get(arg) if isinstance(arg, Node) else None
    if isinstance(found, Scatter) and found.shape == shape and len(arg.users) == 1:
        return found.parts
    return ((t.value(arg).real.expanded(shape), lambda i: i),)


@on("div")
def _div(t: Translation, node: Node, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    """By what is the same in many entries, as a product with its reciprocal."""
    if rounding_mode is not None:
        raise Unsupported(f"{node.target} that rounds")
    require_real(t, node)
    shape = shape_of(node)
    above, below = t.value(x).real, t.value(y).real
    at = at_axes(axes(shape))
    varies = variables(above.expanded(shape).at(at)) - variables(below.expanded(shape).at(at))
    if varies and isinstance(y, Node):
        once = t.stored(mapped(t, below.shape, "splat(1) / {0}", below))
        return t.stored(mapped(t, shape, "{0} * {1}", above, once))
    return t.stored(mapped(t, shape, "{0} / {1}", above, below))


@on("rsub")
def _rsub(t: Translation, node: Node, x: Any, y: Any, alpha: float = 1) -> Value:
    require_real(t, node)
    args = t.value(y).real, t.value(x).real, t.value(alpha)
    template = "{0} - {1}" if alpha == 1 else "{0} - {2} * {1}"
    return t.stored(mapped(t, shape_of(node), template, *args))


@on("pow")
def _pow(t: Translation, node: Node, x: Any, y: Any) -> Value:
    require_real(t, node)
    known = POWERS.get(float(y)) if isinstance(y, int | float) else None
    args = (t.value(x).real,) if known else (t.value(x).real, t.value(y).real)
    return t.stored(mapped(t, shape_of(node), known or "each(OF(std::pow), {0}, {1})", *args))


@on("where")
def _where(t: Translation, node: Node, condition: Any, x: Any, y: Any) -> Value:
    a, b = t.value(x), t.value(y)
    mask = a.mask and b.mask
    args = (t.value(condition).truth, a if mask else a.real, b if mask else b.real)
    template = "({0} & {1}) | (~{0} & {2})" if mask else "pick({0}, {1}, {2})"
    return t.stored(mapped(t, shape_of(node), template, *args, mask=mask))


@on("masked_fill")
def _masked_fill(t: Translation, node: Node, x: Any, mask: Any, by: Any) -> Value:
    return _where(t, node, mask, by, x)


@on("clamp", "clamp_min", "clamp_max")
def _clamp(t: Translation, node: Node, x: Any, min: Any = None, max: Any = None) -> Value:
    """NaN stays."""
    if name_of(node) == "clamp_max":
        min, max = None, min
    value = t.value(x).real
    for bound, how in ((min, "largest"), (max, "least")):
        if bound is not None:
            value = mapped(t, shape_of(node), f"{how}({{0}}, {{1}})", value, t.value(bound).real)
    return t.stored(value)


def converted(t: Translation, x: Any, dtype: torch.dtype) -> Value:
    """The entries of a node as numbers of another kind."""
    value = t.value(x)
    if dtype == torch.bool:
        return value.truth
    if value.place is not None:
        return value
    if is_whole(t, dtype):
        whole = value.mask or not dtype_of(x).is_floating_point
        template = "{0}" if whole else "each(OF(std::trunc), {0})"
        return mapped(t, value.shape, template, value.real)
    if dtype != t.dtype:
        raise Unsupported(f"a tensor of {dtype} beside {t.dtype}")
    return value.real


@on("_to_copy")
def _to_copy(t: Translation, node: Node, x: Any, **about: Any) -> Value:
    return t.stored(converted(t, x, dtype_of(node)))


@on("alias", "clone", "detach", "lift_fresh_copy")
def _same(t: Translation, node: Node, x: Any, **about: Any) -> Value | Scatter:
    return t.value(x)


@on("copy")
def _copy(t: Translation, node: Node, x: Any, source: Any, *_: Any) -> Value:
    return t.stored(converted(t, source, dtype_of(node)).expanded(shape_of(node)))


@on("full", "full_like", "new_full", "zeros", "zeros_like", "new_zeros", "ones", "ones_like",
    "new_ones", "scalar_tensor", "empty", "empty_like", "new_empty", "new_empty_strided",
    "empty_strided")  # fmt: skip
def _full(t: Translation, node: Node, *args: Any, **about: Any) -> Value:
    """A tensor of equal numbers; of an empty one, which is to be overwritten, zeros."""
    name = name_of(node)
    by: Any = 0.0
    if "full" in name:
        by = about.get("fill_value", args[-1])
    elif name == "scalar_tensor":
        by = args[0]
    elif "ones" in name:
        by = 1.0
    if isinstance(by, Node):
        return t.value(by).expanded(shape_of(node))
    return constant(bool(by) if dtype_of(node) == torch.bool else by, shape_of(node))
