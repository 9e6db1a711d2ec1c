"""The gradient of an objective as one graph of tensor operations: the fast back end.

The surrogate that ``replay`` makes is traced forward; scores are freed of what does not depend on
their choices (``dependence``); repeated subexpressions, of which replays are full, are removed;
then the graph is differentiated.  What it draws, and in which order, is what replay draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.fx import GraphModule, Interpreter, Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ...ppl.compile.beside import Beside
from ...ppl.compile.folding import fold, is_pure
from ...ppl.compile.inductor import Notify, compile_graph
from ...ppl.compile.loops import trace
from ...ppl.distributions.pytrees import flatten, rebuild
from ...ppl.distributions.strategies import is_followed
from ...ppl.errors import ObjectiveError, located
from ...ppl.language.effects import draw
from ...ppl.tensors.capture import is_traced
from ...ppl.tensors.forms import taken_apart
from ...ppl.tensors.seeds import seeded
from .gradients.baselines import Baseline
from .gradients.dependence import Recording, rao_blackwellised
from .objective import Objective

BEFOREHAND = "a tensor was computed from parameters before the objective runs, and does not move"
COMPUTE_INSIDE = "compute it in the objective, model or guide; make lanes by pushforward's vmap"


class Gradient(NamedTuple):
    """An estimate of an objective and of its derivative, each of ``samples`` averaged.

    ``values`` [samples]; ``down``: of each parameter, the derivative of minus the objective, in
    memory of its own; ``costs``: what baselines are to learn; ``sites``: that by the parameters of
    the laws of each choice.
    """

    values: Tensor
    down: list[Tensor]
    costs: list[tuple[str, Baseline, Tensor]]
    sites: list[tuple[str, Tensor]] = []

    @property
    def by(self) -> list[Tensor]:
        """The derivative of the objective by each parameter."""
        return [-x for x in self.down]


class Probes:
    """Adds zeros to the parameters of laws: derivatives by these are those by the parameters."""

    def __init__(self) -> None:
        self.zeros: dict[tuple[str, int], Tensor] = {}

    def __call__(self, name: str, law: Any) -> Any:
        leaves, spec = flatten(law)
        return rebuild(spec, [self._probed((name, i), x) for i, x in enumerate(leaves)])

    def _probed(self, key: tuple[str, int], leaf: Tensor) -> Tensor:
        if not is_followed(leaf):
            return leaf
        if key not in self.zeros:
            with temporarily_clear_interpreter_stack():  # the same zeros for all lanes
                zeros = torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device)
                self.zeros[key] = zeros.requires_grad_()
        return leaf + self.zeros[key]

    def sites(self, found: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Derivatives by the zeros, with the names of their sites."""
        return [(name, by) for (name, _), by in zip(self.zeros, found, strict=True)]


def probed(objective: Objective, probes: Probes | None) -> Objective:
    """The objective with probes in the laws of its choices."""
    if probes is None:
        return objective
    return replace(objective, settings=objective.settings._replace(probe=probes))


class Replayed:
    """The gradient by replay.

    Args:
        monitor: whether it is also taken by the parameters of the laws of choices.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[Tensor],
        samples: int,
        monitor: bool = False,
    ) -> None:
        self.probes = Probes() if monitor else None
        self.objective = probed(objective, self.probes)
        self.parameters, self.samples = list(parameters), samples

    def __call__(self, *args: Any) -> Gradient:
        values, costs = self.objective.surrogates(self.samples, *args)
        zeros = list(self.probes.zeros.values()) if self.probes else []
        n = len(self.parameters)
        found = derivatives(values.mean(), [*self.parameters, *zeros])
        down = [-x for x in found]  # in memory of its own, which autograd does not promise
        sites = self.probes.sites(down[n:]) if self.probes else []
        return Gradient(values.detach(), down[:n], costs, sites)


class Captured:
    """The gradient by a graph that is traced, and compiled, for the shapes of the arguments.

    Args:
        compiled: whether Inductor compiles it.
        monitor: whether it is also taken by the parameters of the laws of choices.

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
        monitor: bool = False,
    ) -> None:
        self.probes = Probes() if monitor else None
        objective = probed(objective, self.probes)
        self.parameters, self.count = list(parameters), len(parameters)
        with seeded(0):
            met = objective.surrogates(samples, *args).costs
            self.parameters += self.probes.zeros.values() if self.probes else ()
            self.costs = [(site, baseline) for site, baseline, _ in met]
            states = {id(x): x for _, baseline in self.costs for x in baseline.state}
            self.states = list(states.values())
            data, form = taken_apart(args)
            self.graph = _gradient(
                objective, self.parameters, self.states, data, form.tree, samples
            )
            self.example = [x.detach() for x in self._inputs(args)]
            self.beside: Beside | None = None
        if compiled:
            self.finish(notify)
        else:
            self._use(self.graph)

    def begin(self) -> None:
        """Let another process compile the graph."""
        self.beside = Beside(self.graph, *self.example, random=True)

    def finish(self, notify: Notify | None = None) -> None:
        """Run compiled code from now on: that which was begun, else it is made here."""
        beside, self.beside = self.beside, None
        if beside is None:
            with seeded(0):
                made = compile_graph(self.graph, *self.example, notify=notify, random=True)
        else:
            made = beside.call(notify)
        self._use(made)

    def stop(self) -> None:
        """End what was begun and not finished."""
        beside, self.beside = self.beside, None
        if beside is not None:
            beside.stop()

    def _use(self, call: Callable[..., Any]) -> None:
        with torch.no_grad(), seeded(0):
            self.shared = _shared(call, self.example, 1, 1 + self.count)
        self.call = call

    def _inputs(self, args: tuple[Any, ...]) -> list[Tensor]:
        return [*self.parameters, *self.states, *taken_apart(args)[0]]

    def __call__(self, *args: Any) -> Gradient:
        with torch.no_grad():
            found = list(self.call(*self._inputs(args)))
            for i in self.shared:
                found[i] = found[i].clone(memory_format=torch.contiguous_format)
            return self._read(*found)

    def drawing(self, parameters: Sequence[Tensor], *args: Any) -> Gradient:
        """The same, run operation by operation, with its random numbers as effects of a program.

        So ``check.unbiased`` evaluates the very graph that is compiled.
        """
        rest = [x.detach() for x in self._inputs(args)[self.count :]]
        return self._read(*Drawing(self.graph).run(*parameters, *rest))

    def _read(self, values: Tensor, *rest: Tensor) -> Gradient:
        n, all_of = self.count, len(self.parameters)
        costs = [(*known, cost) for known, cost in zip(self.costs, rest[all_of:], strict=True)]
        sites = self.probes.sites(rest[n:all_of]) if self.probes else []
        return Gradient(values, list(rest[:n]), costs, sites)

    @property
    def code(self) -> str:
        """The source text of the graph."""
        return str(self.graph.code)


class Drawing(Interpreter):
    """Runs a graph whose random operations are draws.

    Errors:
        ObjectiveError: of such an operation the law is not known here.
    """

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function" or torch.Tag.nondeterministic_seeded not in _tags(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        law = _LAWS.get(n.target)
        if law is None:
            raise ObjectiveError(located(f"the law of {n.target} is not known"))
        with torch.no_grad():
            return law(*args, **kwargs)


def _tags(node: Node) -> Any:
    return getattr(node.target, "tags", ())


def _normal(size: list[int], **about: Any) -> Tensor:
    zeros = torch.zeros(size, dtype=about.get("dtype"), device=about.get("device"))
    return draw(dist.Normal(zeros, 1.0))


def _uniform(size: list[int], **about: Any) -> Tensor:
    zeros = torch.zeros(size, dtype=about.get("dtype"), device=about.get("device"))
    return draw(dist.Uniform(zeros, 1.0))


def _indices(weights: Tensor, count: int, replacement: bool = False) -> Tensor:
    if not replacement and count != 1:
        raise ObjectiveError(located("draws without replacement are not known"))
    drawn = [draw(dist.Categorical(weights, validate_args=False)) for _ in range(count)]
    return torch.stack(drawn, -1)


_LAWS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.randn.default: _normal,
    torch.ops.aten.normal_.default: lambda x: draw(dist.Normal(torch.zeros_like(x), 1.0)),
    torch.ops.aten.exponential_.default: lambda x: draw(dist.Exponential(torch.ones_like(x))),
    torch.ops.aten.rand.default: _uniform,
    torch.ops.aten.bernoulli_.Tensor: lambda x, p: draw(dist.Bernoulli(p, validate_args=False)),
    torch.ops.aten.multinomial.default: _indices,
    torch.ops.aten.poisson.default: lambda rate: draw(dist.Poisson(rate)),
    torch.ops.aten._standard_gamma.default: lambda a: draw(dist.Gamma(a, 1.0)),
}


class Standing(TorchFunctionMode):
    """While tracing, puts its inputs in the place of tensors, wherever an operation meets them.

    Errors:
        Another: an operation meets a further tensor with a derivative, which is to be an input too.
        ObjectiveError: it meets one that was computed from parameters beforehand.
    """

    def __init__(self, known: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.instead = {id(own): each for own, each in zip(known, inputs, strict=False)}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Tensor, self._input, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _input(self, x: Tensor) -> Tensor:
        if id(x) in self.instead:
            return self.instead[id(x)]
        with torch._C.DisableTorchFunctionSubclass():
            inner = x
            while functorch.is_functorch_wrapped_tensor(inner):
                inner = functorch.get_unwrapped(inner)
            if not inner.requires_grad or is_traced(inner):
                return x
            if inner is x and x.is_leaf:
                raise Another(x)
        raise ObjectiveError(located(BEFOREHAND, hint=COMPUTE_INSIDE))


class Another(BaseException):
    """A tensor that the graph must have as an input."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _gradient(
    objective: Objective,
    parameters: list[Tensor],
    states: list[Tensor],
    data: list[Tensor],
    tree: Callable[[list[Tensor]], Any],
    samples: int,
) -> GraphModule:
    """The graph of parameters, states, data -> surrogates [samples], their negative's gradients,
    costs.

    ``states`` grow by what else has a derivative and is met.
    """

    weighings = Recording()
    recorded = replace(objective, settings=objective.settings._replace(weigh=weighings))

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        known = [*parameters, *states]
        args = tree(list(inputs[len(known) :]))
        weighings.found.clear()
        with Standing(known, inputs):
            values, costs = recorded.surrogates(samples, *args)
        return (values, *(cost for _, _, cost in costs))

    while True:
        try:
            traced = trace(forward, *_leaves(parameters), *_fixed(states), *data)
            break
        except Another as found:
            states.append(found.tensor)
    example = [x.detach() for x in (*parameters, *states, *data)]
    inner = without_repeats(rao_blackwellised(traced, weighings.found, example))

    def whole(*inputs: Tensor) -> tuple[Tensor, ...]:
        values, *costs = inner(*inputs)
        found = derivatives(-values.mean(), inputs[: len(parameters)])
        return (values, *found, *costs)

    graph = _undetached(trace(whole, *_leaves(parameters), *_fixed(states), *data))
    return fold(without_repeats(graph))


def _shared(call: Callable[..., Any], inputs: list[Tensor], start: int, end: int) -> list[int]:
    """Which of the results from start to end are not in memory of their own.

    They share it with another result, an input or a constant, or their entries with each other.
    """
    found, again = list(call(*inputs)), list(call(*inputs))
    place = [x.untyped_storage().data_ptr() for x in found]
    taken = {x.untyped_storage().data_ptr() for x in (*inputs, *again)}
    outer = [p for i, p in enumerate(place) if not start <= i < end]
    shared = []
    for i in range(start, end):
        x = found[i]
        alone = place[i] not in taken and place[i] not in outer and place[i] not in place[start:i]
        if x.numel() and not (alone and _dense(x)):
            shared.append(i)
    return shared


def _dense(x: Tensor) -> bool:
    """Whether each entry has a place of its own, and all lie together."""
    sizes = sorted((stride, n) for stride, n in zip(x.stride(), x.shape, strict=True) if n > 1)
    below = 1
    for stride, n in sizes:
        if stride != below:
            return False
        below *= n
    return True


def _fixed(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().clone() for x in tensors]


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


def _writes(node: Node) -> bool:
    """Whether a node changes its first argument."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and bool(target._schema.is_mutable)


def _anew(target: Any) -> Any:
    """The operation that gives a new tensor in place of writing, if it is not random."""
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if torch.Tag.nondeterministic_seeded in target.tags or overload not in (
        packet.overloads() if packet is not None else ()
    ):
        return target
    return getattr(packet, overload)


def without_repeats(graph: GraphModule) -> GraphModule:
    """Compute equal expressions once, in place, and drop what nothing uses.

    A tensor that is written into is no expression; what writes into what nothing else uses is
    replaced by what makes a new tensor.
    """
    first: dict[Hashable, Node] = {}
    for node in list(graph.graph.nodes):
        if _writes(node) and len(node.args[0].users) == 1:
            node.target = _anew(node.target)
    for node in list(graph.graph.nodes):
        if any(_writes(user) and user.args[0] is node for user in node.users):
            continue
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
