"""Compiling by Inductor: a captured graph as machine code."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from .cache import CACHE, compiler

Notify = Callable[[str], None]
Call = Callable[..., Any]

# What the code would assert at each call holds of the shapes and strides that it is made for.
OPTIONS = {
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
    if compiler() is None:
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
            options = {**OPTIONS, "fallback_random": random, "cpp_wrapper": often}
            compiled = inductor.compile(graph, list(example), options)  # type: ignore[no-untyped-call]
            agree = agreeing(graph, compiled, example, random)
    except Exception as error:  # Inductor's failures have no common class
        warnings.warn(f"running the uncompiled graph: {error}", RuntimeWarning, stacklevel=2)
        return graph
    if not agree:
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
    call = with_constants(code, graph)
    try:
        same = _agree(_same_draws(compiled, example), _same_draws(call, example), 1.0)
        return call if same else None
    except Exception:  # wrong guesses about private code have no common class
        return None


def with_constants(code: Call, graph: GraphModule) -> Call:
    """What Inductor makes of a graph takes the graph's constants first, all in one list."""
    targets = dict.fromkeys(n.target for n in graph.graph.nodes if n.op == "get_attr")
    constants = [getattr(graph, str(target)) for target in targets]

    def call(*inputs: Tensor) -> Any:
        return code([*constants, *inputs])

    return call


def agreeing(graph: Call, compiled: Call, example: tuple[Tensor, ...], random: bool) -> bool:
    """Whether code does what its graph does, by the same draws; a few of these may round apart."""
    expected, found = _same_draws(graph, example), _same_draws(compiled, example)
    return _agree(expected, found, 0.98 if random else 1.0)


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
