"""Layers as small graphs of elementary operations, to be searched over.

Nodes 0 to 3 are the input, zeros, and two trainable vectors of the channels that start at 0 and 1;
every other node applies an operation to earlier ones, and the last is the output, behind which
there is an affine map.  Every node has the shape of the input.

Source: Liu, Brock, Simonyan, Le, Evolving Normalization-Activation Layers (arXiv 2004.02967), whose
list of operations is partly recalled.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

GIVEN = 4
INPUT, ZERO, FROM_ZERO, FROM_ONE = range(GIVEN)
SETS = ("bwh", "whc", "wh", "whg")  # over batch, space, channels, groups of channels
MOMENTS = ("mean", "rms", "std")
UNARY = ("neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt")
BINARY = ("add", "mul", "div", "max")


@dataclass(frozen=True)
class Node:
    """An operation on earlier nodes."""

    op: str
    inputs: tuple[int, ...]


def operations(batch_free: bool) -> tuple[str, ...]:
    """All names of operations; without moments over the batch if asked."""
    sets = SETS[1:] if batch_free else SETS
    return (*UNARY, *(f"{moment}_{over}" for moment in MOMENTS for over in sets), *BINARY)


@dataclass(frozen=True)
class Graph:
    """Nodes 4, 5, ... of a layer.

    Errors:
        ValueError: no node, an unknown operation, or a node that does not read earlier ones.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a graph has a node")
        for i, node in enumerate(self.nodes, GIVEN):
            if node.op not in operations(batch_free=False):
                raise ValueError(f"node {i}: there is no operation {node.op!r}")
            if len(node.inputs) != (2 if node.op in BINARY else 1):
                raise ValueError(f"node {i}: {node.op} does not take {len(node.inputs)} inputs")
            if not all(0 <= j < i for j in node.inputs):
                raise ValueError(f"node {i} reads {node.inputs}, not earlier nodes")

    @property
    def batch_free(self) -> bool:
        """Whether no moment is over the batch."""
        return not any(node.op.endswith("_bwh") for node in self.nodes)

    def __str__(self) -> str:
        names = ["x", "0", "v0", "v1"]
        for node in self.nodes:
            names.append(f"{node.op}({', '.join(names[j] for j in node.inputs)})")
        return names[-1]

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        return json.dumps([[node.op, *node.inputs] for node in self.nodes])

    @staticmethod
    def from_json(text: str) -> Graph:
        """The graph of a text.

        Errors:
            ValueError: it is no graph.
        """
        return Graph(tuple(Node(op, tuple(inputs)) for op, *inputs in json.loads(text)))


def _random_node(at: int, batch_free: bool, rng: random.Random) -> Node:
    op = rng.choice(operations(batch_free))
    return Node(op, tuple(rng.randrange(at) for _ in range(2 if op in BINARY else 1)))


def random_graph(rng: random.Random, batch_free: bool = False, nodes: int = 10) -> Graph:
    """A graph of random operations on random earlier nodes."""
    return Graph(tuple(_random_node(i, batch_free, rng) for i in range(GIVEN, GIVEN + nodes)))


def mutate(graph: Graph, rng: random.Random, batch_free: bool = False) -> Graph:
    """The graph with a new operation and new inputs for one of its nodes."""
    at = rng.randrange(len(graph.nodes))
    nodes = list(graph.nodes)
    nodes[at] = _random_node(at + GIVEN, batch_free, rng)
    return Graph(tuple(nodes))


def _nodes(*nodes: tuple[Any, ...]) -> Graph:
    return Graph(tuple(Node(op, tuple(inputs)) for op, *inputs in nodes))


NAMED = {
    "B0": _nodes(
        ("std_bwh", INPUT), ("mul", FROM_ONE, INPUT), ("std_wh", INPUT),
        ("add", 5, 6), ("max", 4, 7), ("div", INPUT, 8),
    ),
    "B1": _nodes(
        ("std_bwh", INPUT), ("add", INPUT, FROM_ONE), ("rms_wh", INPUT),
        ("mul", 5, 6), ("max", 4, 7), ("div", INPUT, 8),
    ),
    "B2": _nodes(
        ("std_bwh", INPUT), ("neg", INPUT), ("rms_wh", INPUT),
        ("add", 5, 6), ("max", 4, 7), ("div", INPUT, 8),
    ),
    "S0": _nodes(
        ("mul", FROM_ONE, INPUT), ("sigmoid", 4), ("mul", INPUT, 5), ("std_whg", INPUT),
        ("div", 6, 7),
    ),
    "S1": _nodes(("sigmoid", INPUT), ("mul", INPUT, 4), ("std_whg", INPUT), ("div", 5, 6)),
    "S2": _nodes(("sigmoid", INPUT), ("mul", INPUT, 4), ("rms_whg", INPUT), ("div", 5, 6)),
}  # fmt: skip
"""The six layers of the paper; B1's constant one is trainable here."""


class GraphLayer(nn.Module):
    """The layer of a graph, for [n, c, *space]; moments over the batch are always its own.

    Args:
        graph: what is computed.
        num_features: channels.
        groups: of channels.
        eps: added to variances and mean squares in roots; what is divided by, or taken a logarithm
            or a root of, is kept at least as great as it.

    Errors:
        ValueError: groups do not divide the channels.
    """

    def __init__(
        self,
        graph: Graph,
        num_features: int,
        groups: int = 8,
        eps: float = 1e-5,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features % groups:
            raise ValueError(f"{groups} groups do not divide {num_features} channels")
        self.graph, self.num_features, self.groups, self.eps = graph, num_features, groups, eps
        about = {"device": device, "dtype": dtype}
        for name, fill in (("weight", 1.0), ("bias", 0.0), ("v0", 0.0), ("v1", 1.0)):
            self.register_parameter(name, nn.Parameter(torch.full((num_features,), fill, **about)))

    def forward(self, x: Tensor) -> Tensor:
        def spread(name: str) -> Tensor:
            vector = self.get_parameter(name).reshape(-1, *(1 for _ in x.shape[2:]))
            return vector.expand_as(x)

        values = [x, torch.zeros_like(x), spread("v0"), spread("v1")]
        for node in self.graph.nodes:
            values.append(self._applied(node.op, *(values[j] for j in node.inputs)))
        return values[-1] * spread("weight") + spread("bias")

    def _applied(self, op: str, *inputs: Tensor) -> Tensor:
        if op in PLAIN:
            return PLAIN[op](*inputs)
        if op == "div":
            return inputs[0] / self._away(inputs[1])
        (x,) = inputs
        if op == "log":
            return x.sign() * x.abs().clamp(min=self.eps).log()
        if op == "sqrt":
            return x.sign() * x.abs().clamp(min=self.eps).sqrt()
        moment, over = op.split("_")
        return self._moment(x, moment, over)

    def _away(self, x: Tensor) -> Tensor:
        """x, kept away from zero."""
        least = torch.full_like(x, self.eps)
        return torch.where(x.abs() < self.eps, torch.where(x < 0, -least, least), x)

    def _moment(self, x: Tensor, moment: str, over: str) -> Tensor:
        parts, dims = x, tuple(range(2, x.ndim))
        if over == "bwh":
            dims = (0, *dims)
        elif over == "whc":
            dims = (1, *dims)
        elif over == "whg":
            parts = x.unflatten(1, (self.groups, -1))
            dims = tuple(range(2, parts.ndim))
        if not dims:
            value = parts if moment == "mean" else (parts**2 + self.eps).sqrt()
        elif moment == "mean":
            value = parts.mean(dims, keepdim=True)
        elif moment == "rms":
            value = ((parts**2).mean(dims, keepdim=True) + self.eps).sqrt()
        else:
            value = (parts.var(dims, correction=0, keepdim=True) + self.eps).sqrt()
        return value.expand_as(parts).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.graph}, num_features={self.num_features}, groups={self.groups}"


PLAIN: dict[str, Callable[..., Tensor]] = {
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "abs": torch.abs,
    "square": torch.square,
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
}


def to_module(graph: Graph, num_features: int, **settings: Any) -> GraphLayer:
    """The :class:`GraphLayer` of a graph."""
    return GraphLayer(graph, num_features, **settings)
