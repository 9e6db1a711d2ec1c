"""Folding: what a captured graph computes from no input is computed once, before it is compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..tensors.capture import TO_BE_FILLED


def fold(graph: GraphModule) -> GraphModule:
    """Compute what depends on no input, in place; a tensor of one number becomes a literal.

    Inductor writes literals into the code, and passes every other constant at each call.
    """
    known = _constants(graph)
    _name_places(graph, known)
    for i, (node, value) in enumerate(known.items()):
        if all(user in known for user in node.users):
            continue
        with graph.graph.inserting_before(node):
            new = _literal(graph, value) or _buffer(graph, f"_folded{i}", value)
            new.meta.update(node.meta)
        node.replace_all_uses_with(new)
    graph.graph.eliminate_dead_code()
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [n for n, x in _tensors(graph) if n not in used]:
        delattr(graph, name)
    graph.recompile()
    return graph


_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)


def _name_places(graph: GraphModule, known: dict[Node, Tensor]) -> None:
    """Index by numbers in place of masks that are known, whose entries Inductor cannot count.

    Triangular matrices are made from vectors so, and data select what is observed.
    """
    for node in list(graph.graph.nodes):
        if node.target not in _INDEXING:
            continue
        indices: list[Any] = []
        for i, index in enumerate(node.args[1]):
            mask = known.get(index)
            if mask is None or mask.dtype != torch.bool:
                indices.append(index)
                continue
            with graph.graph.inserting_before(node):
                for k, places in enumerate(mask.nonzero(as_tuple=True)):
                    indices.append(_buffer(graph, f"_places_{node.name}_{i}_{k}", places))
        node.update_arg(1, indices)


def _constants(graph: GraphModule) -> dict[Node, Tensor]:
    """The nodes whose value depends on no input and on no randomness, with their values."""
    known: dict[Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target)
        elif node.op == "call_function" and is_pure(node):
            if any(source not in known for source in node.all_input_nodes):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: known[n])
            value = node.target(*args, **kwargs)
        else:
            continue
        if isinstance(value, Tensor) and not value.requires_grad:
            known[node] = value
    return known


def is_pure(node: Node) -> bool:
    target: Any = node.target
    if node.is_impure() or not isinstance(target, torch._ops.OpOverload):
        return False
    if target in TO_BE_FILLED:
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _literal(graph: GraphModule, value: Tensor) -> Node | None:
    """A node that fills a tensor with one number, if all entries of ``value`` are equal."""
    first = value.flatten()[:1]
    if not len(first) or not bool((value == first).all()):
        return None
    if not value.is_complex() and bool((value.signbit() != first.signbit()).any()):
        return None  # 0 and -0 are equal
    like: dict[str, Any] = {"dtype": value.dtype, "device": value.device, "pin_memory": False}
    number = value.flatten()[0].item()
    return graph.graph.call_function(torch.ops.aten.full.default, ([*value.shape], number), like)


def _buffer(graph: GraphModule, name: str, value: Tensor) -> Node:
    graph.register_buffer(name, value.clone())
    return graph.graph.get_attr(name)


def _tensors(graph: GraphModule) -> list[tuple[str, Tensor]]:
    """The tensors that a graph holds, by name."""
    plain = [(name, x) for name, x in vars(graph).items() if isinstance(x, Tensor)]
    return plain + list(graph.named_buffers()) + list(graph.named_parameters())
