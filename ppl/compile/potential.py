"""A log density with its gradient, for many vectors: in lane code, by Inductor, or as it is."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from subprocess import CalledProcessError

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule

from ..tensors.capture import capture, capture_vector, value_and_gradient
from ..tensors.decompositions import OF_BATCHES
from ..tensors.turns import Loops
from .agreement import Reference, agrees
from .cache import compiler
from .folding import fold
from .inductor import Call, Notify, compile_graph
from .lanes.function import LaneFunction
from .lanes.rewrites import rewritten
from .lanes.translation import Unsupported

Density = Callable[..., Tensor]


class Potential:
    """A log density with its gradient: ``u [chains, d], *rest -> ([chains], [chains, d])``.

    It is compiled for the shapes and dtypes of the example.  Chains are kept contiguous in memory
    (each coordinate a vector over chains), so that the machine's vectors run over chains.  Where a
    matrix had no decomposition, it tells ``OF_BATCHES``.

    On a CPU it is lane code (``lanes``), which takes any number of chains; of a density with an
    operation that lane code does not know, and elsewhere, Inductor's.
    """

    def __init__(
        self,
        density: Density,
        u: Tensor,
        *rest: Tensor,
        compiled: bool = True,
        notify: Notify | None = None,
    ) -> None:
        u = by_columns(u)
        say = notify or (lambda message: None)
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            self.lanes = _in_lanes(density, u, *rest, say=say) if compiled else None
            self._call: Call
            if self.lanes is not None:
                self._call = self.lanes
                return
            self._strides, self._shape = u.stride(), u.shape
            graph = fold(capture(density, u, *rest, failures=True))
        self._call = compile_graph(graph, u, *rest, notify=notify) if compiled else graph

    def __call__(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        if self.lanes is None:
            if u.shape != self._shape:  # which the graph has taken for granted
                raise ValueError(f"made for vectors {list(self._shape)}, not {list(u.shape)}")
            if u.stride() != self._strides:
                u = by_columns(u)
        value, gradient, *failed = self._call(u, *rest)
        for each in failed:
            OF_BATCHES.tell(each)
        return value, gradient


LONG = 10_000  # operations of a graph, which no program has that a person has written out


def by_columns(u: Tensor) -> Tensor:
    """The same vectors [chains, d] with each coordinate contiguous over chains."""
    return u.t().contiguous().t() if len(u) > 1 else u.contiguous()


def _in_lanes(
    density: Density, u: Tensor, *rest: Tensor, say: Notify, loops: bool = True
) -> LaneFunction | None:
    """The density in lane code, or None where it is left to Inductor.

    Its loops stay loops, unless what comes of that is not the density itself, as where a step
    changes what the next one sees otherwise than by its carry.
    """
    if u.device.type != "cpu" or compiler() is None:
        return None
    start = time.perf_counter()
    say("compiling")
    try:
        graph = _graph(density, u[0], *rest, loops=loops)
    except Exception as error:  # whatever a kept step meets, the program itself decides
        if not loops:
            raise
        say(f"unrolling loops: {error}")
        return _in_lanes(density, u, *rest, say=say, loops=False)
    found: Loops = graph.meta["loops"]
    for why in found.unrolled:
        say(f"unrolling a loop: {why}")
    if found.tried:  # steps that were run for nothing, and may have left something behind
        return _in_lanes(density, u, *rest, say=say, loops=False)
    looped = bool(found.kept)
    if (count := len(graph.graph.nodes)) > LONG:
        said = f"the program is a graph of {count} operations, which takes long to compile: write a"
        said += " loop of Python's as scan(...) or iterate(...), whose step is compiled once"
        warnings.warn(said, RuntimeWarning, stacklevel=4)
    try:
        function = LaneFunction(graph, u, *rest)
    except Unsupported as error:
        if looped:
            return _in_lanes(density, u, *rest, say=say, loops=False)
        say(f"compiling by Inductor, since lane code does not know {error}")
        return None
    except (CalledProcessError, OSError) as error:
        what = getattr(error, "stderr", None) or error
        warnings.warn(f"no lane code: {what}", RuntimeWarning, stacklevel=3)
        return None
    itself: Reference = partial(value_and_gradient, density) if looped else graph
    if not agrees(function, itself, u, *rest):
        if looped:
            say("unrolling loops: kept as one step, they are not the program itself")
            return _in_lanes(density, u, *rest, say=say, loops=False)
        what = "the lane code disagrees with the traced graph; compiling by Inductor"
        warnings.warn(what, RuntimeWarning, stacklevel=3)
        return None
    say(f"compiled in {time.perf_counter() - start:.1f} s")
    return function


def _graph(density: Density, u: Tensor, *rest: Tensor, loops: bool) -> GraphModule:
    """The traced density and its loops, each computed from as little as can be."""
    graph = rewritten(fold(capture_vector(density, u, *rest, loops=loops)))
    for loop in graph.meta["loops"].kept:
        loop.step, loop.back = rewritten(fold(loop.step)), rewritten(fold(loop.back))
    return graph
