"""A graph of one vector as a function of many, in lane code."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from .build import built, widest
from .emit import source
from .operations import translate
from .translation import Unsupported

REALS = {torch.float64: "double", torch.float32: "float"}


class LaneFunction:
    """``u [lanes, d], *rest -> results [lanes, ...]``, by the graph of ``u [d], *rest``.

    Each coordinate is contiguous over lanes in its results, and quickest so in ``u``.  Those of
    ``rest`` that are whole numbers are places, all below ``places``.  It travels to other processes
    as its text and tables, and is built again there, or read from the cache.

    Errors:
        Unsupported: the graph has an operation that lane code does not know.
    """

    def __init__(self, graph: GraphModule, u: Tensor, *rest: Tensor, places: int = 0) -> None:
        if u.device.type != "cpu" or any(x.device.type != "cpu" for x in rest):
            raise Unsupported("a device that is no CPU")
        if u.dtype not in REALS or any(x.dtype not in (u.dtype, torch.int64) for x in rest):
            raise Unsupported(f"inputs of {u.dtype}")
        t = translate(graph, u.dtype, places)
        output = next(node for node in graph.graph.nodes if node.op == "output")
        self._shapes = [tuple(result.meta["val"].shape) for result in output.args[0]]
        sizes = [torch.Size(shape).numel() for shape in self._shapes]
        self.dtype, self.size = u.dtype, u.shape[1]
        self._rest = [(x.dtype, x.shape) for x in rest]
        real = REALS[u.dtype]
        self.lanes = _lanes(len(u), real)
        wide = 2 * self.lanes <= widest(real)
        self.text, work = source(t, self.size, sizes, wide=wide)
        self.results = len(sizes)
        self._tables = [x.contiguous() for x in t.tables.values()]
        self._work = (work + self.size + sum(sizes)) * self.lanes
        self._load()

    def _load(self) -> None:
        self._call = built(self.text, REALS[self.dtype], self.lanes)
        self._addresses = [x.data_ptr() for x in self._tables]

    def __getstate__(self) -> dict[str, Any]:
        return {k: x for k, x in vars(self).items() if k not in ("_call", "_addresses")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._load()

    def __call__(self, u: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        if u.dtype != self.dtype or u.ndim != 2 or u.shape[1] != self.size:
            raise ValueError(
                f"compiled for {self.dtype} [lanes, {self.size}], not {u.dtype} {list(u.shape)}"
            )
        if [(x.dtype, x.shape) for x in rest] != self._rest:
            raise ValueError(f"compiled for further tensors {self._rest}")
        columns = u.t().contiguous()
        count = len(u)
        flat = [columns.new_empty(torch.Size(shape).numel(), count) for shape in self._shapes]
        shared = [x.contiguous() for x in rest]
        tables = self.tables(*shared)
        results = _pointers([x.data_ptr() for x in flat])
        work = _aligned(columns, self._work)
        self._call(count, columns.data_ptr(), tables, results, work.data_ptr())
        return tuple(
            x.t().reshape(count, *shape) if len(shape) != 1 else x.t()
            for x, shape in zip(flat, self._shapes, strict=True)
        )

    @property
    def address(self) -> int:
        """Of the function in memory: (count, vectors, tables, results, work)."""
        return ctypes.cast(self._call, ctypes.c_void_p).value or 0

    def tables(self, *rest: Tensor) -> ctypes.Array[ctypes.c_void_p]:
        """Its argument of that name, for further tensors that are contiguous and stay alive."""
        return _pointers([x.data_ptr() for x in rest] + self._addresses)

    def work(self) -> Tensor:
        """Memory for one call of it at a time."""
        return _aligned(torch.empty(0, dtype=self.dtype), self._work)


def _pointers(addresses: list[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)


def _aligned(like: Tensor, size: int) -> Tensor:
    """Memory for ``size`` numbers, from a multiple of 64 bytes on."""
    step = 64 // like.element_size()
    memory = like.new_empty(size + step)
    past = (memory.data_ptr() // like.element_size()) % step
    return memory[(step - past) % step :]


def _lanes(count: int, real: str) -> int:
    """The narrowest vector that holds all lanes and half of the widest, or the widest."""
    lanes = max(widest(real) // 2, 2)
    while lanes < min(count, widest(real)):
        lanes *= 2
    return lanes
