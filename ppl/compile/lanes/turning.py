"""Turns: loops of a graph as loops over statements, forward and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.fx import Node

from ...tensors.turns import Turns, turns
from .graphs import placeholders, results_of
from .indices import Index, Var, number, of_atom
from .registry import on
from .statements import Buffer, Counted, Load
from .translation import ZERO, At, Scatter, Shape, Translation, Value, laid


@on("turns")
def _forward(t: Translation, node: Node, given: Sequence[Any], loop: int) -> tuple[Any, ...]:
    known = turns(loop)
    inputs = [t.stored(t.value(x)) for x in given]
    over = Var(known.length)
    k = of_atom(over)
    state = _State(t, inputs[: known.carry])
    shapes = [tuple(x.meta["val"].shape) for x in _results(known)]
    outputs = [_Column(t, known.length, shape) for shape in shapes[known.carry :]]
    before = [
        _Column(t, known.length, x.shape) if used else None
        for x, used in zip(inputs, _looked_at(known), strict=False)
    ]
    with t.turns(over):
        for column, value in zip(before, state.values, strict=True):
            if column is not None:
                column.write(value, k)
        results = results_of(t, known.step, [_counted(k + known.first), *state.values,
                                             *_turn(known, inputs, k)])  # fmt: skip
        values = [t.value(x) for x in results]
        for column, value in zip(outputs, values[known.carry :], strict=True):
            column.write(value, k)
        state.become(values[: known.carry])
    columns = [*outputs, *before]
    return (*state.values, *(None if column is None else column.value for column in columns))


@on("turns_back")
def _back(t: Translation, node: Node, given: Sequence[Any], loop: int) -> tuple[Any, ...]:
    known = turns(loop)
    used = [*_looked_at(known), *(True for _ in given[known.carry :])]
    inputs: list[Any] = [
        t.stored(t.value(x)) if looked else None for x, looked in zip(given, used, strict=True)
    ]
    count = len(given) - len(_results(known))
    before, by = inputs[:count], inputs[count:]
    over = Var(known.length)
    k = number(known.length - 1) - of_atom(over)
    state = _State(t, by[: known.carry])
    rows = [_Column(t, known.length, x.shape[1:])
            for x in before[known.carry : known.carry + known.rows]]  # fmt: skip
    shared = [_Sum(t, x.shape) for x in before[known.carry + known.rows :]]
    with t.turns(over):
        carry = [_nothing() if x is None else _row(x, k) for x in before[: known.carry]]
        outputs = [_row(x, k) for x in by[known.carry :]]
        turn = [_counted(k + known.first), *carry, *_turn(known, before, k)]
        results = results_of(t, known.back, [*turn, *state.values, *outputs])
        for total, result in zip(shared, results[known.carry + known.rows :], strict=True):
            total.add(result)
        values = [t.value(x) for x in results[: known.carry + known.rows]]
        for column, value in zip(rows, values[known.carry :], strict=True):
            column.write(value, k)
        state.become(values[: known.carry])
    return (*state.values, *(x.value for x in rows), *(x.value for x in shared))


def _results(known: Turns) -> tuple[Node, ...]:
    """The nodes of the results of one turn."""
    output = next(iter(reversed(known.step.graph.nodes)))
    results: tuple[Node, ...] = output.args[0]
    return results


def _looked_at(known: Turns) -> list[bool]:
    """Of each tensor of the carry, whether its value before a turn matters on the way back."""
    return [bool(node.users) for node in placeholders(known.back)[1 : 1 + known.carry]]


def _turn(known: Turns, inputs: Sequence[Value], k: Index) -> list[Value]:
    """The rows of turn k, and what all turns share."""
    first = known.carry + known.rows
    return [*(_row(x, k) for x in inputs[known.carry : first]), *inputs[first:]]


def _row(x: Value, k: Index) -> Value:
    return x.viewed(x.shape[1:], lambda i: (k, *i))


def _counted(k: Index) -> Value:
    return Value((), lambda i: Counted(k), place=lambda i: k)


def _nothing() -> Value:
    """What nothing looks at."""
    return Value((), lambda i: ZERO)


class _State:
    """Tensors that a turn leaves to the next."""

    def __init__(self, t: Translation, starts: Sequence[Value]) -> None:
        self.t, self.shapes = t, [x.shape for x in starts]
        self.buffers = [t.buffer(math.prod(shape)) for shape in self.shapes]
        self._write(self.buffers, starts)

    @property
    def values(self) -> list[Value]:
        return self._of(self.buffers)

    def become(self, values: Sequence[Value]) -> None:
        """All of them at once, since each may be made of the others."""
        after = [self.t.buffer(buffer.size) for buffer in self.buffers]
        self._write(after, values)
        self._write(self.buffers, self._of(after))

    def _write(self, buffers: Sequence[Buffer], values: Sequence[Value]) -> None:
        for buffer, value in zip(buffers, values, strict=True):
            self.t.write(buffer, value.real, partial(laid, shape=value.shape), "=")

    def _of(self, buffers: Sequence[Buffer]) -> list[Value]:
        pairs = zip(buffers, self.shapes, strict=True)
        return [self.t.from_buffer(buffer, shape) for buffer, shape in pairs]


class _Column:
    """A tensor with an entry of this shape for each turn."""

    def __init__(self, t: Translation, length: int, shape: Shape) -> None:
        self.t, self.shape, self.size = t, shape, math.prod(shape)
        self.length, self.buffer = length, t.buffer(length * math.prod(shape))

    def _place(self, k: Index, i: At) -> Index:
        return k * self.size + laid(i, self.shape)

    def write(self, value: Value, k: Index) -> None:
        self.t.write(self.buffer, value.real, lambda i: self._place(k, i), "=")

    @property
    def value(self) -> Value:
        shape = (self.length, *self.shape)
        return Value(shape, lambda i: Load(self.buffer, self._place(i[0], i[1:])))


class _Sum:
    """The sum of what all turns give for a tensor."""

    def __init__(self, t: Translation, shape: Shape) -> None:
        self.t, self.shape, self.buffer = t, shape, t.buffer(math.prod(shape))
        t.fill(self.buffer, shape, ZERO)

    def add(self, result: Node) -> None:
        found = self.t.values[result]
        whole = (
            found if isinstance(found, Scatter) else Scatter(self.shape, ((found, lambda i: i),))
        )
        self.t.write_parts(self.buffer, whole)

    @property
    def value(self) -> Value:
        return self.t.from_buffer(self.buffer, self.shape)
