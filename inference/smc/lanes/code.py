"""Functions of a particle's numbers and of noise, in lane code."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ....ppl.compile.folding import fold, is_pure
from ....ppl.compile.lanes.function import LaneFunction
from ....ppl.compile.lanes.graphs import placeholders
from ....ppl.compile.lanes.registry import name_of
from ....ppl.compile.lanes.rewrites import rewritten
from ....ppl.compile.lanes.translation import Unsupported
from ....ppl.distributions.validate import no_validation
from ....ppl.tensors.capture import Unread, capture_values
from ....ppl.tensors.noise import Noise, Shape

Function = Callable[..., tuple[Tensor, ...]]
LANES = 64  # particles, in an example of many


class Given(Noise):
    """The numbers of a vector, in order; ``normal`` says which of those so far are."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector, self.normal = vector, list[bool]()

    def numbers(self, shape: Shape, like: Tensor, *, normal: bool) -> Tensor:
        first = len(self.normal)
        self.normal += [normal] * math.prod(shape)
        if len(self.normal) > len(self.vector):
            raise Unsupported(f"more than {len(self.vector)} draws in one step")
        return self.vector[first : len(self.normal)].reshape(shape).to(like.dtype)


MOST = 4096  # draws of one step


class Code:
    """A function ``(u [size], noise, *rest) -> tensors`` of a particle's numbers, in lane code.

    ``graph`` and ``function`` take both in one vector; ``normal`` says which noise is.  The last
    ``points`` of the numbers are coordinates of a point of a net.
    """

    def __init__(
        self, fn: Function, u: Tensor, *rest: Tensor, places: int, points: int = 0
    ) -> None:
        self.points = points
        self.graph, self.normal = traced(fn, u, *rest)
        graph = rewritten(fold(deepcopy(self.graph)))
        both = u.new_zeros(LANES, max(len(u) + len(self.normal), 1))
        self.function = LaneFunction(graph, both, *rest, places=places)


def traced(fn: Function, u: Tensor, *rest: Tensor) -> tuple[GraphModule, list[bool]]:
    """The graph of such a function, and which of its noise is normal."""
    size, noises = len(u), list[Given]()

    def whole(both: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        with Given(both[size:]) as noise:
            noises[:] = [noise]
            return fn(both[:size], *rest)

    graph = captured(whole, torch.cat([u, u.new_full((MOST,), 0.25)]), *rest)
    vector = placeholders(graph)[0]
    normal = noises[0].normal
    vector.meta["val"] = vector.meta["val"][: max(size + len(normal), 1)]
    return graph, normal


def captured(function: Function, u: Tensor, *rest: Tensor) -> GraphModule:
    """The graph of a function of a vector, without what is computed for nothing."""

    def plain(*given: Tensor) -> tuple[Tensor, ...]:
        with Unread():
            return function(*given)

    with no_validation():
        graph = capture_values(plain, u, *rest)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def looked_at(graph: GraphModule, size: int) -> list[bool]:
    """Which of the first numbers of its vector a graph looks at, but for what it cuts off."""
    found = [False] * size

    def look(node: Node, first: int, count: int) -> None:
        for user in node.users:
            if user.target is torch.ops.aten.slice.Tensor and user.args[1] == 0:
                start, end = (min(int(x), count) for x in user.args[2:4])  # type: ignore[arg-type]
                look(user, first + start, end - start)
            else:
                for k in range(first, min(first + count, size)):
                    found[k] = True

    vector = placeholders(graph)[0]
    look(vector, 0, len(vector.meta["val"]))
    return found


_VIEWS = {"alias", "clone", "expand", "select", "slice", "squeeze", "unsqueeze", "view"}


def passed_on(graph: GraphModule, size: int) -> list[Tensor] | None:
    """Which numbers of its vector make up each result of a graph, if it but passes them on.

    The last result must be zero, whatever the vector.
    """
    *values, last = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    vector, *rest = placeholders(graph)
    if not all(_is_view_of(vector, value) for value in values) or _depends(last):
        return None
    counted = torch.arange(size, dtype=torch.float64)
    *places, zero = graph(counted, *(None for _ in rest))
    return [x.long() for x in places] if float(zero) == 0 else None


def _is_view_of(vector: Node, node: Node) -> bool:
    while node is not vector and node.op == "call_function" and name_of(node) in _VIEWS:
        node = node.args[0]  # type: ignore[assignment]
    return node is vector


def _depends(node: Node) -> bool:
    """Whether a node depends on an input, or on chance."""
    if node.op == "placeholder" or not (node.op == "get_attr" or is_pure(node)):
        return True
    return any(map(_depends, node.all_input_nodes))
