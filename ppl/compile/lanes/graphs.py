"""A graph node by node: what each operation makes of the values of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import signature
from typing import Any

from torch.fx import GraphModule, Node

from .arithmetic import pointwise
from .registry import HANDLERS, name_of
from .translation import Translation, Unsupported, Value


def placeholders(graph: GraphModule) -> list[Node]:
    """The nodes of its inputs."""
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def results_of(t: Translation, graph: GraphModule, inputs: Sequence[Value]) -> tuple[Node, ...]:
    """Translate a graph with these inputs; the nodes of its results.

    Errors:
        Unsupported: an operation, or a form of one, that lane code does not know.
    """
    t.values.update(zip(placeholders(graph), inputs, strict=True))
    results: tuple[Node, ...] = ()
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            t.values[node] = t.table(getattr(graph, str(node.target)))
        elif node.op == "output":
            results = node.args[0]
        elif node.op == "call_function":
            t.values[node] = _called(t, node)
    return results


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
