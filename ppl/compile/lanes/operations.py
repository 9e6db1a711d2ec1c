"""The operations of a graph as values and statements; any other is refused by its name."""

from __future__ import annotations

import math
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch.fx import GraphModule, Node

from . import matrices, sums, views, writing  # noqa: F401  # they register what they know
from .arithmetic import pointwise
from .indices import flat, restart_numbers
from .registry import HANDLERS, name_of, shape_of
from .statements import Buffer, Load, Shared
from .translation import Translation, Unsupported, Value


def translate(graph: GraphModule, dtype: torch.dtype) -> Translation:
    """The statements of ``u [d], *rest -> results``, and the tables that they read.

    They read the vector as the buffer ``u`` and the k-th further tensor as ``rest{k}``, which all
    lanes share, and write the k-th result to the buffer ``out{k}``.

    Errors:
        Unsupported: an operation, or a form of one, that lane code does not know.
    """
    restart_numbers()
    t = Translation(dtype)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            t.values[node] = _input(node, t.inputs)
            t.inputs += 1
        elif node.op == "get_attr":
            t.values[node] = t.table(getattr(graph, str(node.target)))
        elif node.op == "output":
            for k, result in enumerate(node.args[0]):
                t.output(t.value(result), k)
        else:
            t.values[node] = _called(t, node)
    return t


def _input(node: Node, k: int) -> Value:
    shape = shape_of(node)
    if k == 0:
        u = Buffer("u", math.prod(shape), whole=True)
        return Value(shape, lambda i: Load(u, flat(i, shape)))
    return Value(shape, lambda i: Shared(f"rest{k}", flat(i, shape)))


def _called(t: Translation, node: Node) -> Any:
    name = name_of(node)
    if name == "getitem":
        source: Any = t.values[node.args[0]]  # type: ignore[index]
        return source[node.args[1]]
    handler = HANDLERS.get(name)
    if handler is not None:
        _require_form(handler, node)
        return handler(t, node, *node.args, **node.kwargs)
    return pointwise(t, node, name)


def _require_form(handler: Any, node: Node) -> None:
    """Raise unless the handler knows all arguments that the operation is given."""
    try:
        _signature(handler).bind(None, node, *node.args, **node.kwargs)
    except TypeError as error:
        raise Unsupported(f"{node.target} with {error}") from error


_signature = cache(signature)
