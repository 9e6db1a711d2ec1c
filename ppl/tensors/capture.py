"""Capture: a density of one vector as one tensor graph of values and gradients of many.

It is traced by ``make_fx`` through Pyro's handlers into a ``torch.fx`` graph.  What a program
computes from its data alone is computed while tracing; control flow on random values is refused
with the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    make_fx,
)
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ..errors import (
    BranchError,
    ImpureProgramError,
    ProgramError,
    UnsupportedDistributionError,
    located,
    raising_line,
)
from .decompositions import IN_LANES
from .turns import KEEPING, Turns, is_loop, turns


def capture(
    density: Callable[..., Tensor], *example: Tensor, failures: bool = False
) -> GraphModule:
    """Trace ``u [chains, d], *rest -> (log density [chains], gradient [chains, d])`` into a graph.

    ``density`` maps one vector [d], and further tensors that all chains share, to a scalar.  What
    it computes from other tensors alone becomes a constant of the graph.  Where a matrix has no
    decomposition the gradient is zero.  With ``failures``, of a density that decomposes matrices, a
    third result [chains] is 1 there, and else 0.

    Errors:
        BranchError: ``density`` looks at its argument in Python.
        ImpureProgramError: ``density`` draws from torch.
    """

    def batched(u: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        shared = (0, *(None for _ in rest))
        with DataStayReal():
            each = torch.func.grad_and_value(_noting(density), has_aux=True)
            gradient, (value, failed) = torch.func.vmap(each, shared)(u, *rest)
            if not failed:
                return value, gradient
            dead = torch.stack(failed).any(0)
            gradient = gradient.masked_fill(dead[:, None], 0.0)
            return (value, gradient, *([dead.to(value.dtype)] if failures else []))

    with refusing():
        graph = traced(batched)(*example)
    _detach_constants(graph)
    return graph


def capture_vector(
    density: Callable[..., Tensor], u: Tensor, *rest: Tensor, loops: bool = False
) -> GraphModule:
    """Trace ``u [d], *rest -> log density, gradient [d]`` into a graph of few kinds of operations.

    Of a density that decomposes matrices, a third result says whether one had no decomposition.
    With ``loops`` those of the density that can be are operations of the graph (``turns``); its
    ``meta`` holds them, as ``Loops``.  Otherwise as ``capture``.
    """

    with KEEPING.collected(loops) as found:
        graph = capture_values(partial(value_and_gradient, density), u, *rest)
    graph.meta["loops"] = found
    return graph


def capture_values(function: Callable[..., tuple[Tensor, ...]], *example: Tensor) -> GraphModule:
    """Trace a function of tensors into a graph of few kinds of operations.

    Errors:
        As of ``capture``.
    """

    def one(*given: Tensor) -> tuple[Tensor, ...]:
        with DataStayReal():
            return function(*given)

    with refusing():
        graph = traced(one, _core())(*example)
    if not _made_functional(graph):  # not while the program runs, whose modes it breaks
        functional = torch.func.functionalize(graph)
        graph = traced(functional, _core())(*example)
    _detach_constants(graph)
    return graph


def value_and_gradient(
    density: Callable[..., Tensor], u: Tensor, *rest: Tensor
) -> tuple[Tensor, ...]:
    """What ``capture_vector`` traces, as it is."""
    each = torch.func.grad_and_value(_noting(density), has_aux=True)
    gradient, (value, failed) = each(u, *rest)
    if not failed:
        return value, gradient
    dead = torch.stack(failed).any(0)
    return value, gradient.masked_fill(dead, 0.0), dead.to(value.dtype)


def capture_apart(function: Callable[..., tuple[Tensor, ...]], *example: Tensor) -> GraphModule:
    """Within a trace, trace a function of these tensors alone into a graph of its own.

    ``example`` are no tensors of the trace around it (see ``untraced``).
    """

    def alone(*given: Tensor) -> tuple[Tensor, ...]:
        with DataStayReal():
            return function(*given)

    with apart():
        graph: GraphModule = make_fx(alone, _core())(*example)
        if not _made_functional(graph):
            graph = make_fx(torch.func.functionalize(graph), _core())(*example)
    _detach_constants(graph)
    return graph


def same_graph(one: GraphModule, other: GraphModule) -> bool:
    """Whether two graphs are of the same operations on the same numbers, also within loops."""
    nodes = list(one.graph.nodes), list(other.graph.nodes)
    if len(nodes[0]) != len(nodes[1]):
        return False
    number = {node: k for each in nodes for k, node in enumerate(each)}

    def told(node: Any) -> Any:
        given = (node.args[:1],) if is_loop(node) else (node.args, node.kwargs)
        args = map_arg(given, lambda n: f"node {number[n]}")
        return node.op, node.target if node.op == "call_function" else None, repr(args)

    def alike(a: Any, b: Any) -> bool:
        if is_loop(a) and is_loop(b) and not _same_loop(turns(a.args[1]), turns(b.args[1])):
            return False
        if a.op != "get_attr" or b.op != "get_attr":
            return bool(told(a) == told(b))
        x, y = getattr(one, a.target), getattr(other, b.target)
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        return bool(((x == y) | (x.isnan() & y.isnan())).all())

    return all(map(alike, *nodes))


def _same_loop(one: Turns, other: Turns) -> bool:
    sizes = ((loop.length, loop.first, loop.carry, loop.rows) for loop in (one, other))
    return len(set(sizes)) == 1 and same_graph(one.step, other.step)


@contextmanager
def apart() -> Iterator[None]:
    """Within, the trace that is being made sees nothing, nor do gradients."""
    with _disable_current_modes(), temporarily_clear_interpreter_stack():
        yield


def untraced(x: Tensor) -> Tensor:
    """The numbers of a tensor of a trace."""
    with apart():
        return _unwrapped(x).detach().clone()


def belongs(x: Tensor, tracer: Any) -> bool:
    """Whether a tensor is one of a trace, be it followed by gradients there."""
    return get_proxy_slot(_unwrapped(x), tracer, None) is not None


def without_gradient(x: Tensor) -> Tensor:
    """A tensor that is not traced, as it is outside of the gradient that it was made in."""
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _unwrapped(x: Tensor) -> Tensor:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _made_functional(graph: GraphModule) -> bool:
    """Write new tensors in place of what is written into tensors that nothing else looks into.

    Whether no other write is left.
    """
    for node in list(graph.graph.nodes):
        if not _writes(node):
            continue
        base, pure = node.args[0], _pure(node.target)
        before = [user for user in base.users if user < node]
        if pure is None or not _is_new(base) or any(map(_is_view, before)):
            return False
        if not _is_like(base, pure(*_noted(node.args), **_noted(node.kwargs))):
            return False  # what is written takes the type of what it is written into
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(pure, node.args, node.kwargs)
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        base.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user > new)
        graph.graph.erase_node(node)
    graph.recompile()
    return True


def _noted(arguments: Any) -> Any:
    """Arguments of a node, with fake tensors in place of the nodes among them."""
    return map_arg(arguments, lambda node: node.meta["val"])


def _is_like(base: Any, new: Any) -> bool:
    old = base.meta["val"]
    return bool(old.dtype == new.dtype and old.shape == new.shape)


def _writes(node: Any) -> bool:
    return hasattr(node.target, "_schema") and _mutates(node.target)


def _is_view(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(each.alias_info for each in schema.returns)


def _is_new(node: Any) -> bool:
    return node.op == "call_function" and hasattr(node.target, "_schema") and not _is_view(node)


def _pure(target: Any) -> Any:
    """The operation that returns what this one writes into its first argument, or None."""
    packet, _, overload = str(target).removeprefix("aten.").partition(".")
    found = getattr(getattr(torch.ops.aten, packet.rstrip("_"), None), overload, None)
    return found if packet.endswith("_") and found is not None and not _mutates(found) else None


def _mutates(operation: Any) -> bool:
    return bool(operation._schema.is_mutable)


def traced(
    function: Callable[..., Any], table: dict[Any, Callable[..., Any]] | None = None
) -> Callable[..., GraphModule]:
    """``make_fx`` with one fake mode for what it notes of nodes; it would make one for each."""

    def trace(*example: Any) -> GraphModule:
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
            graph: GraphModule = make_fx(function, decomposition_table=table)(*example)
        return graph

    return trace


def _noting(density: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, tuple[Tensor, ...]]]:
    """The density, and where it was zero for want of a decomposition."""

    def noting(*inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        with IN_LANES.collected() as failed:
            value = density(*inputs)
        return value, tuple(failed)

    return noting


@cache
def _core() -> dict[Any, Callable[..., Any]]:
    """How operations are written by fewer, as exported graphs are, and by still fewer."""
    aten = torch.ops.aten
    more = (
        *(aten._log_softmax.default, aten._softmax.default, aten.linalg_cholesky.default),
        *(aten.linalg_vector_norm.default, aten.logsumexp.default, aten.mv.default),
        *(aten.softplus.default, aten.split_with_sizes.default),
        *(aten.softplus_backward.default, aten.stack.default, aten.xlogy.Tensor),
        *(aten.var.correction, aten.std.correction, aten.repeat.default, aten.embedding.default),
        *(aten.elu.default, aten.elu_backward.default, aten.gelu.default),
        *(aten.gelu_backward.default, aten.leaky_relu.default, aten.leaky_relu_backward.default),
        *(aten.native_layer_norm.default, aten.native_layer_norm_backward.default),
    )
    table = {**core_aten_decompositions(), **get_decompositions(more)}
    table.pop(aten.linalg_solve_triangular.default, None)
    return table


def _detach_constants(graph: GraphModule) -> None:
    """Fix what the graph took from parameters of modules and of Pyro's store, gradient and all."""
    tensors = [*graph.named_parameters(recurse=False), *graph.named_buffers(recurse=False)]
    for name, tensor in tensors:
        if tensor.requires_grad:
            delattr(graph, name)
            graph.register_buffer(name, tensor.detach().clone())


TO_BE_FILLED = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
)


class DataStayReal(TorchDispatchMode):
    """While tracing, what is computed from data alone is computed at once and not recorded.

    So data may be looked at (``if y[0] > 0``, ``range(int(n))``, ``y[~isnan(y)]``) as they may
    outside a trace, and what comes of them is a constant of the graph.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        drawn = torch.Tag.nondeterministic_seeded in func.tags or func in TO_BE_FILLED
        if drawn or any(map(is_traced, leaves)):
            if func._schema.is_mutable and isinstance(args[0], Tensor) and not is_traced(args[0]):
                raise RuntimeError("would mutate a captured Tensor")
            return func(*args, **kwargs)
        with disable_proxy_modes_tracing():
            return func(*args, **kwargs)


def is_tracing() -> bool:
    """Whether a trace is being made."""
    return get_proxy_mode() is not None


def is_traced(value: Any) -> bool:
    """Whether a value is a tensor of the trace that is being made."""
    mode = get_proxy_mode()
    return mode is not None and isinstance(value, Tensor) and belongs(value, mode.tracer)


class Unread(TorchFunctionMode):
    """While tracing, no traced tensor is turned into Python's or NumPy's numbers.

    All other ways to look at one are refused by the trace itself; to read at a place looks at none.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _READERS and any(map(is_traced, args)):
            raise RuntimeError("a tracing tensor is read")
        if func is Tensor.new:  # as distributions make what they fill with noise
            return args[0].new_empty(*args[1:])
        if getattr(func, "__name__", "") == "one_hot" and len(args) == 2:
            classes = torch.arange(args[1], device=args[0].device)
            return (args[0][..., None] == classes).long()  # torch looks whether all are in range
        if func is Tensor.__getitem__ and any(map(_is_place, _as_tuple(args[1]))):
            return _entry(args[0], _as_tuple(args[1]))
        if (read := _READS.get(getattr(func, "__name__", ""))) is not None:
            given = (*args[1:], *(kwargs or {}).values())
            if args and any(map(_are_places, given)):
                return read(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_place(index: Any) -> bool:
    """Whether an index is one whole number, traced or in lanes, which torch would read."""
    return _are_places(index) and index.ndim == 0


def _are_places(index: Any) -> bool:
    """Whether an index is of whole numbers, traced or in lanes."""
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
        return False
    return is_traced(index) or _has_lanes(index)


def _has_lanes(x: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def _entry(x: Tensor, index: tuple[Any, ...]) -> Tensor:
    """x[index], of which some are places (``_is_place``): each takes one dimension away.

    As of torch, a place from the end is negative, and one out of range an error.
    """
    used = [_dims(i) for i in index]
    if Ellipsis in [i for i in index if not isinstance(i, Tensor)]:
        k = next(k for k, i in enumerate(index) if i is Ellipsis)
        used[k] = x.ndim - sum(used)
    rest = list(index)
    for k in reversed(range(len(index))):
        if _is_place(index[k]):
            dim = sum(used[:k])
            place = index[k].reshape(1).to(x.device).long()
            place = torch.where(place < 0, place + x.shape[dim], place)
            x = x.index_select(dim, place).squeeze(dim)
            del rest[k]
    return x[tuple(rest)] if rest else x


def _taken(x: Tensor, index: Tensor) -> Tensor:
    place = torch.where(index < 0, index + x.numel(), index).flatten()
    return x.flatten().index_select(0, place).reshape(index.shape)


def _selected(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return _entry(x, (*(slice(None),) * (dim % x.ndim), index))


def _index_selected(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return x.index_select(dim, index.flatten())


# How entries are read at places by functions that would look at them, by their names.
_READS: dict[str, Callable[..., Tensor]] = {
    "take": _taken,
    "select": _selected,
    "index_select": _index_selected,
}


def _dims(index: Any) -> int:
    """How many dimensions an index selects from, if it is no ellipsis."""
    if index is None or index is Ellipsis or isinstance(index, bool):
        return 0
    return index.ndim if isinstance(index, Tensor) and index.dtype == torch.bool else 1


_READERS = ("tolist", "numpy", "__array__", "__dlpack__")


class Fillable(TorchFunctionMode):
    """Tensors that are made inside have a place for each lane, so that lanes may be written in."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.zero = torch.zeros_like(like.sum())

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in _FACTORIES:
            return result
        return result + self.zero.to(result.dtype)


_FACTORIES = {"clone", "eye"} | {
    prefix + kind + suffix
    for kind in ("empty", "full", "ones", "zeros")
    for prefix, suffix in (("", ""), ("new_", ""), ("", "_like"))
}

# What torch says, the error that it is, what happened, and what to do.
_REFUSALS = [
    (
        ("must override the setup_context",),
        UnsupportedDistributionError,
        "a distribution computes its derivative in a way that lanes cannot follow",
        "write the site by simpler distributions",
    ),
    (
        ("random operation",),
        ImpureProgramError,
        "randomness is drawn outside the program's effects",
        "draw it with sample(...), or outside the program and pass it as an argument",
    ),
    (
        ("vmap: inplace arithmetic", "would mutate a captured Tensor"),
        ProgramError,
        "a random value is written in place into a tensor that holds none",
        "write into a copy, y = y.clone(), or make it from a random value, x.new_zeros(...)",
    ),
    (
        (
            *("tracing tensor", ".item()", "data-dependent control flow", "dynamic shape"),
            "have storage",
        ),
        BranchError,
        "Python looks at a random value",
        "use cond(...) or torch.where; replay interpretations can still run it",
    ),
]


@contextmanager
def refusing() -> Iterator[None]:
    """Within, what torch cannot trace or run in lanes is a named error with the user's line."""
    try:
        yield
    except RuntimeError as error:
        for texts, kind, what, hint in _REFUSALS:
            if any(text in str(error) for text in texts):
                raise kind(located(what, line=raising_line(error), hint=hint)) from error
        raise
