"""The gradient of an objective as one graph of tensor operations: the fast back end.

The surrogate that ``replay`` makes is traced forward; repeated subexpressions, which replays are
full of, are removed; then the graph is differentiated.  What it draws and in which order is what
replay draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ...ppl.compiling import Notify, compile_graph, fold, is_pure
from ...ppl.stepping import taken_apart, trace
from .baselines import Baseline
from .language import Objective


class Gradient(NamedTuple):
    """An estimate of an objective and of its derivative, each of ``samples`` averaged.

    ``values`` [samples]; ``by``: of each parameter; ``costs``: what baselines are to learn.
    """

    values: Tensor
    by: list[Tensor]
    costs: list[tuple[str, Baseline, Tensor]]


class Replayed:
    """The gradient by replay."""

    def __init__(self, objective: Objective, parameters: Sequence[Tensor], samples: int) -> None:
        self.objective, self.parameters, self.samples = objective, list(parameters), samples

    def __call__(self, *args: Any) -> Gradient:
        values, costs = self.objective.surrogates(self.samples, *args)
        return Gradient(values.detach(), derivatives(values.mean(), self.parameters), costs)


class Captured:
    """The gradient by a graph that is traced, and compiled, for the shapes of the arguments.

    Args:
        compiled: whether Inductor compiles it.

    Errors:
        BranchError: the objective looks at a random value in Python.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[Tensor],
        samples: int,
        *args: Any,
        compiled: bool = True,
        notify: Notify | None = None,
    ) -> None:
        self.parameters = list(parameters)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            met = objective.surrogates(samples, *args).costs
            self.costs = [(site, baseline) for site, baseline, _ in met]
            states = {id(x): x for _, baseline in self.costs for x in baseline.state}
            self.states = list(states.values())
            data, form = taken_apart(args)
            self.graph = _gradient(
                objective, self.parameters, self.states, data, form.tree, samples
            )
            inputs = self._inputs(args)
            self.call: Callable[..., Any] = self.graph
            if compiled:
                self.call = compile_graph(self.graph, *inputs, notify=notify, random=True)

    def _inputs(self, args: tuple[Any, ...]) -> list[Tensor]:
        return [x.detach() for x in (*self.parameters, *self.states, *taken_apart(args)[0])]

    def __call__(self, *args: Any) -> Gradient:
        with torch.no_grad():
            values, *rest = self.call(*self._inputs(args))
        n = len(self.parameters)
        costs = [(*known, cost) for known, cost in zip(self.costs, rest[n:], strict=True)]
        return Gradient(values, rest[:n], costs)

    @property
    def code(self) -> str:
        """The source text of the graph."""
        return str(self.graph.code)


class Standing(TorchFunctionMode):
    """Puts other tensors in the place of some, wherever an operation meets them."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.instead = {id(own): other for own, other in pairs}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(
            Tensor, lambda x: self.instead.get(id(x), x), (args, kwargs or {})
        )
        return func(*args, **kwargs)


def _gradient(
    objective: Objective,
    parameters: list[Tensor],
    states: list[Tensor],
    data: list[Tensor],
    tree: Callable[[list[Tensor]], Any],
    samples: int,
) -> GraphModule:
    """The graph of parameters, states, data -> surrogates [samples], gradients, costs."""
    known = [*parameters, *states]

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        args = tree(list(inputs[len(known) :]))
        with Standing(list(zip(known, inputs, strict=False))):
            values, costs = objective.surrogates(samples, *args)
        return (values, *(cost for _, _, cost in costs))

    inner = without_repeats(trace(forward, *_leaves(parameters), *states, *data))

    def whole(*inputs: Tensor) -> tuple[Tensor, ...]:
        values, *costs = inner(*inputs)
        found = derivatives(values.mean(), inputs[: len(parameters)])
        return (values, *found, *costs)

    graph = _undetached(trace(whole, *_leaves(parameters), *states, *data))
    return fold(without_repeats(graph))


def _undetached(graph: GraphModule) -> GraphModule:
    """Without what held tensors constant, in place: there is nothing left to differentiate."""
    for node in list(graph.graph.nodes):
        if node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    return graph


def _leaves(parameters: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in parameters]


def derivatives(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The derivative of a number by each parameter; zero where it does not depend on one."""
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(value, list(parameters), allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def without_repeats(graph: GraphModule) -> GraphModule:
    """Compute equal expressions once, in place, and drop what nothing uses."""
    first: dict[Hashable, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Hashable = ("get_attr", node.target)
        elif node.op == "call_function" and is_pure(node):
            key = (node.target, repr(node.args), repr(node.kwargs))
        else:
            continue
        if key in first:
            node.replace_all_uses_with(first[key])
            graph.graph.erase_node(node)
        else:
            first[key] = node
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
