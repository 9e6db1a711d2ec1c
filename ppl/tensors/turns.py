"""Turns: a loop as one operation of a graph, with graphs of one turn forward and of one back.

A turn takes a carry, its row of some tensors, and tensors that all turns share; it makes the next
carry, and outputs.  The operation back runs from the last turn to the first: it has the carry that
each turn began with, and computes the turn again as far as its derivative needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.fx import GraphModule

_numbers = count()
_known: WeakValueDictionary[int, Turns] = WeakValueDictionary()


@dataclass(eq=False)
class Turns:
    """A loop of ``length`` turns, number ``first`` the first; every tensor is of real numbers.

    ``step``: number of the turn, *carry, *row, *shared -> *carry, *outputs.
    ``back``: the same and then derivatives by the results of ``step`` -> those by carry, row and
    shared.
    """

    length: int
    first: int
    carry: int
    rows: int
    step: GraphModule
    back: GraphModule

    def __post_init__(self) -> None:
        self.number = next(_numbers)
        _known[self.number] = self

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        """*carry, *rows, *shared -> *last carry, *outputs of all turns, *carries before them."""
        carry, rows, shared = self._parted(given)
        outputs, before = [], []
        for k in range(self.length):
            before.append(carry)
            row = [x[k] for x in rows]
            found = self.step(torch.tensor(self.first + k), *carry, *row, *shared)
            carry, y = list(found[: self.carry]), found[self.carry :]
            outputs.append(y)
        columns = (*zip(*outputs, strict=True), *zip(*before, strict=True))
        return [x.clone() for x in carry] + [torch.stack(column) for column in columns]

    def backward(self, given: list[Tensor]) -> list[Tensor]:
        """*carries before turns, *rows, *shared, *derivatives by what ``forward`` gives
        -> *by carry, *by rows, *by shared."""
        inputs = len(given) - self.results
        before, rows, shared = self._parted(given[:inputs])
        by_carry = list(given[inputs : inputs + self.carry])
        by_outputs = given[inputs + self.carry :]
        by_rows: list[Any] = []
        by_shared = [torch.zeros_like(x) for x in shared]
        for k in reversed(range(self.length)):
            turn = [x[k] for x in (*before, *rows)]
            by = [*by_carry, *(x[k] for x in by_outputs)]
            found = self.back(torch.tensor(self.first + k), *turn, *shared, *by)
            by_carry = list(found[: self.carry])
            by_rows.insert(0, found[self.carry : self.carry + self.rows])
            parts = zip(by_shared, found[self.carry + self.rows :], strict=True)
            by_shared = [total + part for total, part in parts]
        stacked = [torch.stack(column) for column in zip(*by_rows, strict=True)]
        return [x.clone() for x in by_carry] + stacked + by_shared

    def _parted(self, given: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        rows = self.carry + self.rows
        return given[: self.carry], given[self.carry : rows], given[rows:]

    @property
    def results(self) -> int:
        """How many results one turn has."""
        return len(shapes_of_results(self.step))


def shapes_of_results(graph: GraphModule) -> list[tuple[int, ...]]:
    output = next(iter(reversed(graph.graph.nodes)))
    return [tuple(result.meta["val"].shape) for result in output.args[0]]


def turns(number: int) -> Turns:
    """The loop of an operation, which lives as long as its graph."""
    return _known[number]


def is_loop(node: Any) -> bool:
    """Whether a node of a graph is a loop on its way there, whose second argument is its number."""
    return bool(node.target is torch.ops.pushforward.turns.default)


_library = torch.library.Library("pushforward", "DEF")
_library.define("turns(Tensor[] given, int loop) -> Tensor[]")
_library.define("turns_back(Tensor[] given, int loop) -> Tensor[]")

_EAGER = "CompositeExplicitAutograd"
_library.impl("turns", lambda given, loop: turns(loop).forward(given), _EAGER)
_library.impl("turns_back", lambda given, loop: turns(loop).backward(given), _EAGER)


def _fake_forward(given: list[Tensor], loop: int) -> list[Tensor]:
    known = turns(loop)
    like, n, shapes = given[0], known.length, shapes_of_results(known.step)
    outputs = [like.new_empty((n, *shape)) for shape in shapes[known.carry :]]
    last = [torch.empty_like(x) for x in given[: known.carry]]
    return [*last, *outputs, *(like.new_empty((n, *x.shape)) for x in given[: known.carry])]


def _fake_backward(given: list[Tensor], loop: int) -> list[Tensor]:
    known = turns(loop)
    inputs = given[: len(given) - known.results]
    carry = [x.new_empty(x.shape[1:]) for x in inputs[: known.carry]]
    return [*carry, *(torch.empty_like(x) for x in inputs[known.carry :])]


torch.library.register_fake("pushforward::turns", _fake_forward, lib=_library)
torch.library.register_fake("pushforward::turns_back", _fake_backward, lib=_library)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(loop: int, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ops.pushforward.turns(list(given), loop))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        loop, *given = inputs
        known = turns(loop)
        before = output[known.results :]
        ctx.loop = loop
        ctx.mark_non_differentiable(*before)
        ctx.save_for_backward(*before, *given[known.carry :])

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Any, ...]:
        given = [*ctx.saved_tensors, *by[: turns(ctx.loop).results]]
        return (None, *torch.ops.pushforward.turns_back(given, ctx.loop))


def turned(loop: Turns, *given: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The loop as one operation: *carry, *rows, *shared -> last carry, outputs of all turns."""
    found = _Turned.apply(loop.number, *given)
    return list(found[: loop.carry]), list(found[loop.carry : loop.results])


# ------------------------------------------------------------------------------- in a trace of them


@dataclass
class Loops:
    """Those of a trace that are operations of its graph, and why others are not.

    ``tried``: whether steps of those others were run besides.
    """

    kept: list[Turns] = field(default_factory=list)
    unrolled: list[str] = field(default_factory=list)
    tried: bool = False


class Keeping:
    """Whether loops are kept as loops in the trace that is being made, and what came of them."""

    def __init__(self) -> None:
        self.loops: Loops | None = None

    @contextmanager
    def collected(self, wanted: bool) -> Iterator[Loops]:
        """Within, traces keep their loops if wanted; they must live as long as what comes of it."""
        loops = Loops()
        before, self.loops = self.loops, loops if wanted else None
        try:
            yield loops
        finally:
            self.loops = before


KEEPING = Keeping()
