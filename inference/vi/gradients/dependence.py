"""Rao-Blackwellisation: scores weigh only those costs of a graph that depend on their choices.

A surrogate V + sum_s cancelled(log q_s) (V - b_s) weighs by each score the whole value V.  Where V
is a sum, the parts that do not depend on choice s have a mean of zero there: they are subtracted.
That holds only if the objective's derivative by the surrogate does not depend on choice s either:
one that is multiplied by weights that do (a choice that is enumerated below s) keeps all its parts.
In a plate, where each element of a choice has a score of its own, so are for each element the parts
that depend on other elements only.  Dependence is that of the graph; where an operation is not
known to keep elements apart, they are taken to mix.

A baseline that learns is told what its score still weighs, the mean of that over elements.  A score
about a number, which is meant for the whole, keeps all parts.

Source: Schulman, Heess, Weber, Abbeel (arXiv 1506.05254), theorem 1; Wingate, Weber (arXiv
1301.1299).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.fx.passes.shape_prop import ShapeProp

from ....ppl.tensors.capture import is_traced
from ....ppl.tensors.seeds import seeded
from .baselines import Constant
from .replay import Score, weighed

aten = torch.ops.aten


class Scored(NamedTuple):
    """A score of a trace: nodes of its choice [*lanes, *batch, *event], of its log densities
    [*lanes, *batch], and of the cost [*lanes] that its baseline learns, if it has one."""

    choice: Node
    elements: Node
    cost: Node | None


@dataclass(frozen=True)
class Weighing:
    """A value of a trace that was weighed by scores: nodes of value and result."""

    value: Node
    result: Node
    scores: list[Scored]


@dataclass
class Recording:
    """Notes, while an objective is traced, what is weighed by which scores."""

    found: list[Weighing] = field(default_factory=list)

    def __call__(self, value: Tensor, scores: list[Score]) -> Tensor:
        result = weighed(value, scores)
        ends = node_of(value), node_of(result)
        known = [s for score in scores if (s := _scored(score)) is not None]
        if known and ends[0] is not None and ends[1] is not None:
            self.found.append(Weighing(ends[0], ends[1], known))
        return result


def _scored(score: Score) -> Scored | None:
    """The nodes of a score, if there are parts that it may not have to weigh."""
    choice, elements = node_of(score.value), node_of(score.elements)
    if choice is None or elements is None or isinstance(score.baseline, Constant):
        return None
    learns = score.baseline is not None and score.cost is not None
    cost = node_of(score.cost) if learns and score.cost is not None else None
    return None if learns and cost is None else Scored(choice, elements, cost)


def node_of(x: Tensor) -> Node | None:
    """The node of the trace in progress that made a tensor, lanes and all."""
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    mode = get_proxy_mode()
    if mode is None or not is_traced(x):
        return None
    node: Node = get_proxy_slot(x, mode.tracer).proxy.node
    return node


def rao_blackwellised(
    graph: GraphModule, weighings: list[Weighing], inputs: list[Tensor]
) -> GraphModule:
    """Subtract from each result, in place, what its scores weigh in vain."""
    if not weighings:
        return graph
    for weighing in weighings:
        with seeded(0):
            ShapeProp(graph).propagate(*inputs)  # type: ignore[no-untyped-call]
        parts = list(_parts(weighing.value, lambda x: x))
        for score in weighing.scores:
            kept = _alignments(graph, score.choice, len(_shape(score.elements)))
            if _is_steady(graph, weighing.result, kept):
                _subtract(graph, weighing, score, parts, kept)
    graph.graph.lint()
    graph.recompile()
    return graph


# ----------------------------------------------------------------------------------- parts of a sum

Build = Callable[[Node], Node]


@dataclass(frozen=True)
class Part:
    """A summand: ``total(node)``, or the sum over the last dimensions of ``rows(node)``."""

    node: Node
    total: Build
    rows: Build | None = None


def _parts(node: Node, after: Build) -> Iterator[Part]:
    """The summands that a node is made of; ``after`` is linear, and is done to it later."""
    target, plain = node.target, not node.kwargs
    args: Any = node.args
    if target is aten.add.Tensor and plain and _alike(node):
        yield from _parts(args[0], after)
        yield from _parts(args[1], after)
    elif target is aten.sub.Tensor and plain and _alike(node):
        yield from _parts(args[0], after)
        yield from _parts(args[1], _then(aten.neg.default, after))
    elif target in (aten.add.Tensor, aten.sub.Tensor) and plain and _beside(*args):
        yield from _parts(args[0], after)
    elif target is aten.neg.default:
        yield from _parts(args[0], _then(target, after))
    elif target in (aten.mul.Tensor, aten.div.Tensor) and _number(args[1]):
        yield from _parts(args[0], _then(target, after, args[1]))
    elif target in (aten.view.default, aten.squeeze.dim, aten.unsqueeze.default) and _same(node):
        yield from _parts(args[0], after)
    elif target in (aten.sum.default, aten.sum.dim_IntList) and _trailing(node):
        source: Any = args[0]
        yield Part(source, _then(target, after, *args[1:]), after)
    else:
        yield Part(node, after)


def _then(target: Any, after: Build, *more: Any) -> Build:
    return lambda x: after(x.graph.call_function(target, (x, *more)))


def _number(x: Any) -> bool:
    return isinstance(x, int | float)


def _beside(x: Any, number: Any) -> bool:
    """Whether a number stands beside a sum, and not within the summand that it is added to."""
    sums = (aten.add.Tensor, aten.sub.Tensor, aten.sum.default, aten.sum.dim_IntList)
    return _number(number) and (number == 0 or x.target in sums)


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _alike(node: Node) -> bool:
    """Whether both operands have the shape of the result."""
    return all(isinstance(x, Node) and _shape(x) == _shape(node) for x in node.args)


def _same(node: Node) -> bool:
    source: Any = node.args[0]
    return _shape(source) == _shape(node)


def _trailing(node: Node) -> bool:
    """Whether a sum is over the last dimensions, which it drops."""
    source: Any = node.args[0]
    rank, left = len(_shape(source)), len(_shape(node))
    if node.target is aten.sum.default or len(node.args) < 2:
        return True
    if len(node.args) > 2 and node.args[2]:
        return False
    dims: Any = node.args[1]
    return sorted(d % rank for d in dims) == list(range(left, rank))


# --------------------------------------------------------------------------------------- dependence

Kept = dict[Node, bool]  # of the nodes that depend on a choice: whether elements are kept apart


def _alignments(graph: GraphModule, choice: Node, rank: int) -> Kept:
    """The nodes that depend on a choice, and whether their first dimensions are its own."""
    kept: Kept = {choice: True}
    lead = _shape(choice)[:rank]
    for node in graph.graph.nodes:
        sources = [x for x in node.all_input_nodes if x in kept]
        if not sources or node in kept:
            continue
        apart = all(kept[x] for x in sources) and "tensor_meta" in node.meta
        apart = apart and hasattr(node.meta["tensor_meta"], "shape")
        kept[node] = apart and _shape(node)[:rank] == lead and _keeps(node, sources, rank)
    return kept


def _keeps(node: Node, sources: list[Node], rank: int) -> bool:
    """Whether element i of a result depends on element i of its sources only."""
    target: Any = node.target
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return all(len(_shape(x)) == len(_shape(node)) for x in sources)
    first: Any = node.args[0] if node.args else None
    others = [x for x in node.all_input_nodes if x is not first]
    if first not in sources or any(x in sources for x in others):
        return False
    if target is aten.expand.default:
        return len(_shape(first)) == len(_shape(node))  # else the new dimensions stand in front
    if target in _SHAPES:
        return True  # these keep the order of elements, and here the first dimensions too
    if target in _REDUCTIONS and len(node.args) > 1:
        given: Any = node.args[1]
        dims = given if isinstance(given, list | tuple) else [given]
        return all(d % len(_shape(first)) >= rank for d in dims)
    return target is aten.mm.default and rank == 1


_SHAPES = (
    *(aten.view.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default),
    *(aten._unsafe_view.default, aten.contiguous.default),
)
_REDUCTIONS = (
    *(aten.sum.dim_IntList, aten.mean.dim, aten.logsumexp.default, aten.amax.default),
    *(aten._softmax.default, aten._log_softmax.default, aten.prod.dim_int, aten.select.int),
    *(aten.slice.Tensor, aten.cumsum.default),
)


# ------------------------------------------------------------------------------- what comes after

_LINEAR = (
    *(aten.add.Tensor, aten.sub.Tensor, aten.neg.default, aten.sum.default, aten.sum.dim_IntList),
    *(aten.mean.default, aten.mean.dim, aten.view.default, aten.squeeze.dim, aten.expand.default),
    *(aten.unsqueeze.default, aten.select.int, aten.slice.Tensor, aten.stack.default),
    *(aten.cat.default, aten.clone.default, aten.alias.default, aten._to_copy.default),
    *(aten.permute.default, aten.transpose.int, aten.view_as_real.default),
)


def _is_steady(graph: GraphModule, result: Node, kept: Kept) -> bool:
    """Whether the derivative of what is returned by a result does not depend on a choice.

    So it is if all that leads there is linear, with coefficients that do not depend on it.
    """
    led = {result}
    for node in graph.graph.nodes:
        sources = [x for x in node.all_input_nodes if x in led]
        if not sources or node.op != "call_function" or not _is_followed(node):
            continue
        if not _is_linear(node, led, kept):
            return False
        led.add(node)
    return True


def _is_followed(node: Node) -> bool:
    """Whether a derivative may go through a node."""
    meta = node.meta.get("tensor_meta")
    real = meta is None or not hasattr(meta, "dtype") or meta.dtype.is_floating_point
    return real and node.target is not aten.detach.default


def _is_linear(node: Node, led: set[Node], kept: Kept) -> bool:
    """Whether a node is linear in those that led there, its coefficients apart from a choice."""
    if node.target in _LINEAR:
        return True
    args: Any = node.args
    if node.target is aten.mul.Tensor:
        others = [x for x in args if x not in led]
        return len(others) == 1 and _is_coefficient(others[0], kept)
    if node.target is aten.div.Tensor:
        return args[1] not in led and _is_coefficient(args[1], kept)
    if node.target is aten.where.self:
        return args[0] not in kept or bool(args[0].meta.get("of infinity"))
    return False


def _is_coefficient(x: Any, kept: Kept) -> bool:
    """Whether a value does not depend on a choice; a factor of a score is one, and zero is zero."""
    if not isinstance(x, Node) or x not in kept:
        return True
    inner: Any = x.args[0] if x.target is aten.exp.default else x
    same = inner.target is aten.sub.Tensor and isinstance(inner.args[1], Node)
    return (
        same
        and inner.args[1].target is aten.detach.default
        and (inner.args[1].args[0] is inner.args[0])
    )


def mark_of_infinity(condition: Tensor) -> Tensor:
    """Note that a condition only asks whether a value is infinite: it moves no finite one."""
    if (node := node_of(condition)) is not None:
        node.meta["of infinity"] = True
    return condition


# --------------------------------------------------------------------------------------- correction


def _above(node: Node) -> set[Node]:
    """A node and all that it is made of."""
    found, pending = set[Node](), [node]
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending += each.all_input_nodes
    return found


def _subtract(
    graph: GraphModule, weighing: Weighing, scored: Scored, parts: list[Part], kept: Kept
) -> None:
    """result - sum_i cancelled(l_i) sg(what does not depend on element i).

    The parts come before the value that they are parts of, and so does what is made of them.
    """
    elements = scored.elements
    lanes, rank = _shape(weighing.value), len(_shape(elements))
    batch = list(range(len(lanes), rank))

    def call(target: Any, *args: Any) -> Node:
        return graph.graph.call_function(target, args)

    def lifted(x: Node) -> Node:
        for _ in batch:
            x = call(aten.unsqueeze.default, x, -1)
        return x

    order = list(graph.graph.nodes)
    early = max(
        (weighing.value, *([scored.cost] if scored.cost is not None else [])), key=order.index
    )
    while early.next.op == "placeholder":
        early = early.next
    with graph.graph.inserting_before(early.next):
        vain: list[Node] = []
        for part in parts:
            if part.node not in kept:
                vain.append(lifted(part.total(part.node)))
            elif part.rows is not None and batch and kept[part.node]:
                inner = list(range(rank, len(_shape(part.node))))
                rows = part.rows(part.node)
                own = call(aten.sum.dim_IntList, rows, inner) if inner else rows
                vain.append(
                    call(aten.sub.Tensor, call(aten.sum.dim_IntList, own, batch, True), own)
                )
        if not vain:
            return
        total = vain[0]
        for more in vain[1:]:
            total = call(aten.add.Tensor, total, more)
        if scored.cost is not None:
            left = call(aten.sub.Tensor, lifted(scored.cost), total)
            left = call(aten.mean.dim, left, batch) if batch else left
            told = call(aten.detach.default, left)
            scored.cost.replace_all_uses_with(
                told, delete_user_cb=lambda user: user not in _above(told), propagate_meta=False
            )
    at = max((weighing.result, elements), key=list(graph.graph.nodes).index)
    with graph.graph.inserting_before(at.next):
        score = call(aten.sub.Tensor, elements, call(aten.detach.default, elements))
        loss = call(aten.mul.Tensor, score, call(aten.detach.default, total))
        if batch:
            loss = call(aten.sum.dim_IntList, loss, batch)
        better = call(aten.sub.Tensor, weighing.result, loss)
    weighing.result.replace_all_uses_with(
        better, delete_user_cb=lambda user: user is not better, propagate_meta=False
    )
    better.meta.update(weighing.result.meta)
