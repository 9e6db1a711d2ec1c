"""Rewriting: log-sum-exp, log-softmax and their derivatives with as few exponentials as it takes.

Torch writes softmax(x) as exp(x - logsumexp(x)) in derivatives, where the value has had
exp(x - max(x)) and its sum: their ratio is the same, but for rounding, and costs no exponential.
Of two numbers one is the largest, so that exp(x - max(x)) is 1 for it: one exponential does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
VIEWS = ("view", "unsqueeze", "expand", "squeeze", "alias", "detach")


def rewritten(graph: GraphModule) -> GraphModule:
    """The graph, altered in place."""
    for node in list(graph.graph.nodes):
        if _is(node, "exp"):
            found = _softmax(node)
            if found is not None:
                _replace(node, *found)
    for node in list(graph.graph.nodes):
        if _is(node, "exp") and (dim := _dim_of_two(node)) is not None:
            _by_one_exponential(node, dim)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _is(node: Any, name: str) -> bool:
    target = getattr(node, "target", None)
    return isinstance(node, Node) and getattr(target, "overloadpacket", None) is getattr(aten, name)


def _root(node: Any) -> tuple[Any, list[Node]]:
    """What a node is a view of, and the views, innermost first."""
    views: list[Node] = []
    while any(_is(node, name) for name in VIEWS):
        views.insert(0, node)
        node = node.args[0]
    return node, views


def _softmax(node: Node) -> tuple[Node, Node, list[Node]] | None:
    """exp(x - m), its sum, and the views by which that broadcasts, if they give ``node``."""
    difference: Any = node.args[0]
    if not _is(difference, "sub") or difference.kwargs:
        return None
    x, other = difference.args
    root, views = _root(other)
    if _is(root, "log"):  # (x - m) - log(sum(exp(x - m)))
        return _sum_of_exp(root, x, views)
    if not _is(root, "add") or root.kwargs or not isinstance(x, Node):
        return None
    for log, largest in (root.args, reversed(root.args)):  # x - (log(sum(exp(x - m))) + m)
        log_root, log_views = _root(log)
        if not _is(log_root, "log") or log.meta["val"].shape != root.meta["val"].shape:
            continue
        for shifted in x.users:
            if _is(shifted, "sub") and _same(shifted.args, (x, largest)):
                found = _sum_of_exp(log_root, shifted, [*log_views, *views])
                if found is not None:
                    return found
    return None


def _same(args: Any, expected: tuple[Any, Any]) -> bool:
    """Whether a difference is that of a node and a view of another."""
    return args[0] is expected[0] and _root(args[1])[0] is _root(expected[1])[0]


def _sum_of_exp(log: Node, shifted: Any, views: list[Node]) -> tuple[Node, Node, list[Node]] | None:
    total, between = _root(log.args[0])
    if not _is(total, "sum"):
        return None
    exponential: Any = total.args[0]
    if _is(exponential, "exp") and exponential.args[0] is shifted:
        return exponential, total, [*between, *views]
    return None


def _replace(node: Node, exponential: Node, total: Node, views: list[Node]) -> None:
    graph = node.graph
    with graph.inserting_before(node):
        for view in views:
            target: Any = view.target
            moved = graph.call_function(target, (total, *view.args[1:]), view.kwargs)
            moved.meta.update(view.meta)
            total = moved
        ratio = graph.call_function(aten.div.Tensor, (exponential, total))
        ratio.meta.update(node.meta)
    node.replace_all_uses_with(ratio)


def _dim_of_two(node: Node) -> int | None:
    """The dimension of a pair x, if the node is exp(x - max(x)) along it."""
    shifted: Any = node.args[0]
    if not _is(shifted, "sub") or shifted.kwargs or not isinstance(shifted.args[0], Node):
        return None
    largest = _root(shifted.args[1])[0]
    if _is(largest, "where"):  # 0 in place of an infinite one
        largest = _root(largest.args[2])[0]
    if not _is(largest, "amax") or largest.args[0] is not shifted.args[0]:
        return None
    dims, shape = largest.args[1], shifted.args[0].meta["val"].shape
    if len(dims) != 1 or shape[dims[0]] != 2 or node.meta["val"].shape != shape:
        return None
    return int(dims[0])


def _by_one_exponential(node: Node, dim: int) -> None:
    """exp(s) of a pair s, one of which is 0, or both of which are -inf or NaN.

    So their sum is the other.  (With a largest of +inf, both become +inf or NaN, like their sum.)
    """
    graph, shifted = node.graph, node.args[0]

    def made(target: Any, *args: Any) -> Node:
        call = graph.call_function(target, args)
        call.meta["val"] = target(*(x.meta["val"] if isinstance(x, Node) else x for x in args))
        return call

    with graph.inserting_before(node):
        other = made(aten.exp.default, made(aten.sum.dim_IntList, shifted, [dim], True))
        zero = made(aten.eq.Scalar, shifted, 0.0)
        one = made(aten.full_like.default, shifted, 1.0)
        node.replace_all_uses_with(made(aten.where.self, zero, one, other))
