"""Compiling: a captured graph as machine code, with its constants folded in."""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..tensors.capture import TO_BE_FILLED, capture
from ..tensors.decompositions import OF_BATCHES

Notify = Callable[[str], None]
Call = Callable[..., Any]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pushforward"


class Potential:
    """A log density with its gradient: ``u [chains, d], *rest -> ([chains], [chains, d])``.

    It is compiled for the shapes and dtypes of the example.  Chains are kept contiguous in memory
    (each coordinate a vector over chains), so that the machine's vectors run over chains.  Where a
    matrix had no decomposition, it tells ``OF_BATCHES``.
    """

    def __init__(
        self,
        density: Callable[..., Tensor],
        u: Tensor,
        *rest: Tensor,
        compiled: bool = True,
        notify: Notify | None = None,
    ) -> None:
        u = by_columns(u)
        self._strides = u.stride()
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            self.graph = fold(capture(density, u, *rest, failures=True))
        self._call = compile_graph(self.graph, u, *rest, notify=notify) if compiled else self.graph

    def __call__(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        if u.stride() != self._strides:
            u = by_columns(u)
        value, gradient, *failed = self._call(u, *rest)
        for each in failed:
            OF_BATCHES.tell(each)
        return value, gradient


def by_columns(u: Tensor) -> Tensor:
    """The same vectors [chains, d] with each coordinate contiguous over chains."""
    return u.t().contiguous().t() if len(u) > 1 else u.contiguous()


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
    if value.numel() == 0 or not bool((value == value.flatten()[0]).all()):
        return None
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


# What the code would assert at each call holds of the shapes and strides that it is made for.
_OPTIONS = {
    "size_asserts": False,
    "alignment_asserts": False,
    "reorder_for_locality": False,  # draws stay in their order
}


def compile_graph(
    graph: GraphModule,
    *example: Tensor,
    notify: Notify | None = None,
    random: bool = False,
    often: bool = False,
) -> Call:
    """Compile a captured graph with Inductor, or return it as it is where that is impossible.

    Args:
        random: it draws, from torch's generator, compiled or not.
        often: so many calls are to come that the calls of torch's own kernels are compiled too,
            which takes seconds longer, and saves microseconds at each.

    Inductor keeps its results on disk (in ``~/.cache/pushforward``, unless the environment's
    ``TORCHINDUCTOR_CACHE_DIR`` says otherwise), so that a model compiles once per machine.
    """
    say = notify or (lambda message: None)
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        say("no C++ compiler found: running the uncompiled graph")
        return graph
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))
    import torch._inductor as inductor

    for node in graph.graph.nodes:
        node.meta.clear()  # notes of the trace, of which Inductor wants none but its own
    start = time.perf_counter()
    say("compiling (seconds the first time, then from the disk cache)")
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            options = {**_OPTIONS, "fallback_random": random, "cpp_wrapper": often}
            compiled = inductor.compile(graph, list(example), options)  # type: ignore[no-untyped-call]
            expected, found = _same_draws(graph, example), _same_draws(compiled, example)
    except Exception as error:  # Inductor's failures have no common class
        warnings.warn(f"running the uncompiled graph: {error}", RuntimeWarning, stacklevel=2)
        return graph
    if not _agree(expected, found, 0.98 if random else 1.0):
        warnings.warn(
            "the compiled graph disagrees with the traced one; running the latter",
            RuntimeWarning,
            stacklevel=2,
        )
        return graph
    say(f"compiled in {time.perf_counter() - start:.1f} s")
    return _unwrapped(compiled, graph, example) or compiled  # type: ignore[no-any-return]


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, Inductor does not log what it has no quicker way for."""
    log = logging.getLogger("torch._inductor")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _unwrapped(compiled: Any, graph: GraphModule, example: tuple[Tensor, ...]) -> Call | None:
    """The compiled code without the wrapper around it, which costs as much as a small graph.

    This is no public interface of Inductor: where it is not what we know, None.
    """
    code = getattr(compiled, "current_callable", None)
    if code is None:
        return None
    targets = dict.fromkeys(n.target for n in graph.graph.nodes if n.op == "get_attr")
    constants = [getattr(graph, str(target)) for target in targets]

    def call(*inputs: Tensor) -> Any:
        return code([*constants, *inputs])

    try:
        same = _agree(_same_draws(compiled, example), _same_draws(call, example), 1.0)
        return call if same else None
    except Exception:  # wrong guesses about private code have no common class
        return None


def _same_draws(call: Call, inputs: tuple[Tensor, ...]) -> Any:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return call(*inputs)


def _agree(expected: Any, found: Any, share: float) -> bool:
    """Whether this share of each result is equal up to the rounding of float32.

    Rounding may send a few draws to the neighbouring cell.
    """

    def same(a: Tensor, b: Tensor) -> bool:
        close = torch.isclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
        return bool(close.sum() >= share * close.numel() - 1e-9)

    return len(expected) == len(found) and all(map(same, expected, found))
