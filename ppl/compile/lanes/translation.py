"""From a graph of one vector to statements: what values are, and how they are stored and summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .indices import Entry, Index, Var, flat, number, of_atom
from .statements import (
    Apply,
    Assign,
    Block,
    Buffer,
    Counted,
    Expr,
    Load,
    Number,
    Shared,
    Statement,
    Turns,
    variables,
)

Shape = tuple[int, ...]
At = tuple[Index, ...]


class Unsupported(Exception):
    """A graph has what lane code does not know; the message names it."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its shape, and the expression of the entry at an index.

    ``place`` gives that entry as an index, where it is a whole number that is known.
    """

    shape: Shape
    at: Callable[[At], Expr]
    mask: bool = False
    place: Callable[[At], Index] | None = None

    def viewed(self, shape: Shape, back: Callable[[At], At]) -> Value:
        """The same entries in another order: ``back`` says where that of an index was."""
        at, place = self.at, self.place
        moved = None if place is None else (lambda i: place(back(i)))
        return Value(shape, lambda i: at(back(i)), self.mask, moved)

    def expanded(self, shape: Shape) -> Value:
        """Broadcast to a shape."""
        if shape == self.shape:
            return self
        kept = len(self.shape)

        def back(i: At) -> At:
            last = i[len(i) - kept :]
            return tuple(number(0) if n == 1 else k for k, n in zip(last, self.shape, strict=True))

        return self.viewed(shape, back)

    @property
    def real(self) -> Value:
        """Truth values as 0 and 1."""
        if not self.mask:
            return self
        return Value(self.shape, lambda i: apply("pick({0}, {1}, {2})", self.at(i), ONE, ZERO))

    @property
    def truth(self) -> Value:
        """Whether each number is not zero."""
        if self.mask:
            return self
        return Value(self.shape, lambda i: apply("{0} != {1}", self.at(i), ZERO, mask=True), True)


@dataclass(frozen=True)
class Scatter:
    """A tensor that is zero but for a sum of parts, each added to some of its entries.

    Each part is a value, and to which entry of the tensor its entry at an index is added.
    """

    shape: Shape
    parts: tuple[tuple[Value, Callable[[At], At]], ...]


ZERO, ONE = Number(0.0), Number(1.0)


def apply(template: str, *args: Expr, mask: bool = False) -> Apply:
    return Apply(template, args, mask)


def constant(x: float | bool, shape: Shape = ()) -> Value:
    """A tensor of equal numbers."""
    whole = (lambda i: number(int(x))) if float(x).is_integer() else None
    return Value(shape, lambda i: Number(float(x), isinstance(x, bool)), isinstance(x, bool), whole)


def known_places(table: str, shape: Shape, bounds: tuple[int, int]) -> Value:
    """The whole numbers of a table, all within bounds."""

    def place(i: At) -> Index:
        return of_atom(Entry(table, flat(i, shape), bounds))

    return Value(shape, lambda i: Counted(place(i)), place=place)


def axes(shape: Shape) -> tuple[Var, ...]:
    """New variables, one for each dimension."""
    return tuple(map(Var, shape))


def at_axes(vs: Sequence[Var]) -> At:
    return tuple(map(of_atom, vs))


def longest_first(vs: Sequence[Var]) -> tuple[Var, ...]:
    """The variables of real loops; the longest is outermost, so that passes over data fuse."""
    return tuple(sorted((v for v in vs if v.size != 1), key=lambda v: -v.size))


def laid(at: Sequence[Index], shape: Shape) -> Index:
    """The place of an entry in a buffer, in which the longest dimension is outermost too.

    So each turn of the outer loop has one stretch of the buffer.
    """
    order = sorted(range(len(shape)), key=lambda k: -shape[k])
    return flat([at[k] for k in order], tuple(shape[k] for k in order))


@dataclass
class Translation:
    """The statements so far, and the tables that they read."""

    dtype: torch.dtype
    inputs: list[torch.dtype] = field(default_factory=list)  # their types, the vector's first
    statements: list[Statement] = field(default_factory=list)
    tables: dict[str, Tensor] = field(default_factory=dict)
    values: dict[Node, Value | Scatter] = field(default_factory=dict)
    _buffers: int = 0
    _turns: list[Turns] = field(default_factory=list)

    # ----------------------------------------------------------------------------------- arguments

    def value(self, x: Any) -> Value:
        """An argument of a node: of a tensor its value, of a number a tensor of one."""
        if isinstance(x, Node):
            found = self.values[x]
            if isinstance(found, Scatter):
                found = self.values[x] = self.gathered(found)
            return found
        if isinstance(x, bool | int | float):
            return constant(x)
        raise Unsupported(f"the argument {x!r}")

    def table(self, x: Tensor) -> Value:
        """A tensor that is known."""
        name = f"k{len(self.tables)}"
        shape = tuple(x.shape)
        if x.numel() == 0:
            return constant(0.0, shape)
        if x.dtype == torch.bool:
            self.tables[name] = x
            return Value(shape, lambda i: Shared(name, flat(i, shape), True), True)
        if not x.is_floating_point():
            self.tables[name] = x.long()
            return known_places(name, shape, (int(x.min()), int(x.max())))
        if torch.promote_types(x.dtype, self.dtype) != self.dtype:
            raise Unsupported(f"{x.dtype} beside {self.dtype}")
        self.tables[name] = x.to(self.dtype)
        return Value(shape, lambda i: Shared(name, flat(i, shape)))

    def places(self, x: Any, size: int) -> Value:
        """An argument that holds places within a dimension of this size."""
        value = self.value(x)
        if value.place is None:
            raise Unsupported("an index that lanes choose")
        place = value.place
        low, high = place(at_axes(axes(value.shape))).bounds
        if high < 0:
            value = Value(value.shape, value.at, place=lambda i: place(i) + size)
        elif low < 0:
            value = self.table(self._known(x).remainder(size))
        if low < -size or high >= size:
            raise Unsupported("an index out of range")
        return value

    def _known(self, x: Node) -> Tensor:
        if x.op != "get_attr":
            raise Unsupported("a view of negative places")
        table: Tensor = getattr(x.graph.owning_module, str(x.target))
        return table.long()

    # ---------------------------------------------------------------------------------- statements

    def add(self, statement: Statement) -> None:
        """One more statement, unless a loop around it makes no turn."""
        if all(v.size for v in statement.space):
            self.statements.append(statement)

    def buffer(self, size: int, **about: bool) -> Buffer:
        self._buffers += 1
        made = Buffer(f"b{self._buffers}", size, **about)
        if self._turns:
            self._turns[-1].own.append(made)
        return made

    @contextmanager
    def turns(self, over: Var) -> Iterator[None]:
        """Within, statements are those of each turn of a loop, and buffers of one turn alone."""
        turns, outside = Turns(over), self.statements
        self.statements = turns.body
        self._turns.append(turns)
        try:
            yield
        finally:
            self.statements = outside
            self._turns.pop()
        self.add(turns)

    def stored(self, value: Value, *, whole: bool = False) -> Value:
        """The value computed into a buffer, once for each index that it depends on.

        ``whole``: once for each index, laid out as a contiguous tensor.
        """
        vs = axes(value.shape)
        entry = value.at(at_axes(vs))
        if isinstance(entry, Load | Number | Shared | Counted) and not whole:
            return value
        used = [k for k, v in enumerate(vs) if whole or v in variables(entry)]
        shape = tuple(value.shape[k] for k in used)
        target = self.buffer(_size(shape), mask=value.mask)
        own = [vs[k] for k in used]
        place = flat if whole else laid
        self.add(Assign(longest_first(own), target, place(at_axes(own), shape), entry))
        return Value(
            value.shape, lambda i: Load(target, place([i[k] for k in used], shape)), value.mask
        )

    def whole(self, value: Value) -> Buffer:
        """A buffer with all entries, for blocks."""
        stored = self.stored(value.real, whole=True)
        entry = stored.at(tuple(number(0) for _ in stored.shape))
        assert isinstance(entry, Load)
        return entry.buffer

    def from_buffer(self, target: Buffer, shape: Shape) -> Value:
        place = flat if target.whole else laid
        return Value(shape, lambda i: Load(target, place(i, shape)), target.mask)

    def block(self, text: str, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        for buffer in (*inputs, *outputs):
            buffer.whole = True
        self.add(Block(text, tuple(inputs), tuple(outputs)))

    def reduced(self, value: Value, dims: Sequence[int], keep: bool, how: str) -> Value:
        """Joined over ``dims``: "+", "*", "max", "min", "or", "and"."""
        rank = len(value.shape)
        over = {k % rank for k in dims} if rank else set()
        vs = axes(value.shape)
        entry = value.at(at_axes(vs))
        used = variables(entry)
        times = 1
        for k in over:
            if vs[k] not in used and how == "+":
                times *= vs[k].size
        if times != 1:
            entry = apply("{0} * {1}", entry, Number(float(times)))
        looped = [k for k in range(rank) if vs[k] in used or (k in over and how == "*")]
        left = [k for k in looped if k not in over]
        shape = tuple(value.shape[k] for k in left)
        target = self.buffer(_size(shape), mask=value.mask)
        self.fill(target, shape, Number(NEUTRAL[how], value.mask))
        space = longest_first([vs[k] for k in looped])
        to = laid(at_axes([vs[k] for k in left]), shape)
        if all(vs[k].size for k in over):  # else there is nothing to join
            self.add(Assign(space, target, to, entry, how))
        kept = [k for k in range(rank) if keep or k not in over]
        out = tuple(1 if k in over else value.shape[k] for k in kept)

        def at(i: At) -> Expr:
            where = dict(zip(kept, i, strict=True))
            return Load(target, laid([where[k] for k in left], shape))

        return Value(out, at, value.mask)

    def accumulated(self, value: Value, dim: int, how: str) -> Value:
        """The running sums or products along a dimension."""
        rank = len(value.shape)
        dim %= max(rank, 1)
        if rank == 0 or value.shape[dim] == 1:
            return value
        others = [k for k in range(rank) if k != dim]
        shape = tuple(value.shape[k] for k in others)
        carry = self.buffer(_size(shape), running=True)
        self.fill(carry, shape, Number(NEUTRAL[how]))

        def under() -> tuple[tuple[Var, ...], tuple[Var, ...], Index]:
            vs = axes(value.shape)
            rest = [vs[k] for k in others]
            return vs, (vs[dim], *longest_first(rest)), laid(at_axes(rest), shape)

        vs, space, to = under()
        self.add(Assign(space, carry, to, value.at(at_axes(vs)), how))
        target = self.buffer(_size(value.shape))
        vs, space, to = under()
        order = (dim, *others)
        turned = tuple(value.shape[k] for k in order)

        def place(i: At) -> Index:
            return flat([i[k] for k in order], turned)

        self.add(Assign(space, target, place(at_axes(vs)), Load(carry, to)))
        return Value(value.shape, lambda i: Load(target, place(i)))

    def gathered(self, scatter: Scatter) -> Value:
        """The sum of the parts."""
        target = self.buffer(_size(scatter.shape))
        self.fill(target, scatter.shape, ZERO)
        self.write_parts(target, scatter)
        return self.from_buffer(target, scatter.shape)

    def overwritten(self, base: Value, part: Value, to: Callable[[At], At]) -> Value:
        """``base`` with the entries of ``part`` in place of those at ``to``."""
        base, part = (base, part) if base.mask else (base.real, part.real)
        target = self.buffer(_size(base.shape), mask=base.mask)
        self.write(target, base, lambda i: laid(i, base.shape), "=")
        self.write(target, part, lambda i: laid(to(i), base.shape), "=")
        return self.from_buffer(target, base.shape)

    def joined(self, parts: Sequence[Value], shape: Shape, dim: int) -> Value:
        """The parts one behind the other along a dimension."""
        mask = all(part.mask for part in parts)
        target = self.buffer(_size(shape), mask=mask, pieces=True)
        start = 0
        for part in parts:

            def to(i: At, start: int = start) -> Index:
                return laid((*i[:dim], i[dim] + start, *i[dim + 1 :]), shape)

            self.write(target, part if mask else part.real, to, "=")
            start += part.shape[dim]
        return self.from_buffer(target, shape)

    def output(self, value: Value, k: int) -> None:
        """Store all entries of a result."""
        target = Buffer(f"out{k}", _size(value.shape), whole=True)
        self.write(target, value.real, lambda i: flat(i, value.shape), "=")

    def write(self, target: Buffer, value: Value, to: Callable[[At], Index], how: str) -> None:
        """Store, or add, all entries of a value."""
        vs = axes(value.shape)
        at = at_axes(vs)
        place = to(at)
        entry = value.at(at)
        space = longest_first(vs)
        self.add(Assign(space, target, place, entry, how))

    def write_parts(self, target: Buffer, scatter: Scatter) -> None:
        """Add the parts to a buffer for the whole."""
        for value, to in scatter.parts:

            def place(i: At, to: Callable[[At], At] = to) -> Index:
                return laid(to(i), scatter.shape)

            self.write(target, value.real, place, "+")

    def fill(self, target: Buffer, shape: Shape, by: Number) -> None:
        """Store one number in all entries."""
        vs = axes(shape)
        self.add(Assign(longest_first(vs), target, laid(at_axes(vs), shape), by))


NEUTRAL = {"+": 0.0, "*": 1.0, "max": float("-inf"), "min": float("inf"), "or": 0.0, "and": 1.0}


def _size(shape: Shape) -> int:
    return torch.Size(shape).numel()
