"""Statements: what a graph of one vector does, as assignments under loops to entries of buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .indices import Index, Var


@dataclass(eq=False)
class Buffer:
    """``size`` numbers, or truth values, of each lane.

    ``running``: read between the additions to it, as a cumulative sum is.  ``pieces``: statements
    that assign to it assign to different entries.  ``whole``: a block has it, as an array.
    """

    name: str
    size: int
    mask: bool = False
    running: bool = False
    pieces: bool = False
    whole: bool = False

    @property
    def single(self) -> bool:
        """Whether it is a variable, and no array."""
        return self.size == 1 and not self.whole

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Number:
    """A number that all lanes share; for a truth value ``mask`` holds."""

    value: float
    mask: bool = False


@dataclass(frozen=True)
class Shared:
    """An entry of a table or input that all lanes share, as a number or truth value."""

    table: str
    at: Index
    mask: bool = False


@dataclass(frozen=True)
class Counted:
    """A whole number that is an index."""

    at: Index
    mask: bool = False


@dataclass(frozen=True)
class Load:
    """An entry of a buffer."""

    buffer: Buffer
    at: Index

    @property
    def mask(self) -> bool:
        return self.buffer.mask


@dataclass(frozen=True)
class Apply:
    """A function of the header, or an operator, of expressions; ``{}`` stands for each of them."""

    template: str
    args: tuple[Expr, ...]
    mask: bool = False


Expr: TypeAlias = "Number | Shared | Counted | Load | Apply"

# How the value of a statement joins what the entry held; "=" replaces it.  There is "log" besides:
# it multiplies a product that is kept in two entries, as a number and an exponent (see logarithms).
JOINS: dict[str, str] = {
    "=": "{1}",
    "+": "{0} + {1}",
    "*": "{0} * {1}",
    "max": "largest({0}, {1})",
    "min": "least({0}, {1})",
    "or": "{0} | {1}",
    "and": "{0} & {1}",
}


@dataclass(eq=False)
class Assign:
    """Under loops over ``space``, outermost first, ``target[at]`` becomes ``how`` of ``value``."""

    space: tuple[Var, ...]
    target: Buffer
    at: Index
    value: Expr
    how: str = "="

    @property
    def reads(self) -> list[tuple[Buffer, Index]]:
        """What it depends on, among it the target, unless it is the first to write to it."""
        return [(load.buffer, load.at) for load in loads(self.value)]

    @property
    def writes(self) -> list[tuple[Buffer, Index | None]]:
        return [(self.target, self.at)]


@dataclass(eq=False)
class Block:
    """C++ that computes whole buffers from whole buffers, as a matrix decomposition does."""

    text: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    space: tuple[Var, ...] = ()

    @property
    def reads(self) -> list[tuple[Buffer, Index | None]]:
        return [(buffer, None) for buffer in self.inputs]

    @property
    def writes(self) -> list[tuple[Buffer, Index | None]]:
        return [(buffer, None) for buffer in self.outputs]


@dataclass(eq=False)
class Turns:
    """Statements for each turn of a loop, which may read what earlier turns wrote.

    ``own``: the buffers that each turn writes before it reads them, and nothing else sees.
    """

    over: Var
    body: list[Statement] = field(default_factory=list)
    own: list[Buffer] = field(default_factory=list)
    space: tuple[Var, ...] = ()

    @property
    def reads(self) -> list[tuple[Buffer, Index | None]]:
        return self._seen([buffer for each in self.body for buffer, _ in each.reads])

    @property
    def writes(self) -> list[tuple[Buffer, Index | None]]:
        return self._seen([buffer for each in self.body for buffer, _ in each.writes])

    def _seen(self, buffers: list[Buffer]) -> list[tuple[Buffer, Index | None]]:
        return [(buffer, None) for buffer in dict.fromkeys(buffers) if buffer not in self.own]


Statement: TypeAlias = "Assign | Block | Turns"


@dataclass(eq=False)
class Loop:
    """``body`` for each value of a variable; ``own`` are the buffers that no other turn sees.

    ``ordered``: a turn reads what earlier ones wrote.
    """

    over: Var
    body: list[Item]
    own: list[Buffer] = field(default_factory=list)
    ordered: bool = False


Item: TypeAlias = "Assign | Block | Loop"  # of a schedule, in which loops are explicit


def loads(value: Expr) -> Iterator[Load]:
    """All entries of buffers that an expression reads."""
    if isinstance(value, Load):
        yield value
    elif isinstance(value, Apply):
        for arg in value.args:
            yield from loads(arg)


def variables(value: Expr) -> frozenset[Var]:
    """The variables that the value depends on."""
    if isinstance(value, Apply):
        return frozenset(v for arg in value.args for v in variables(arg))
    return frozenset() if isinstance(value, Number) else value.at.variables


def reindexed(value: Expr, change: Callable[[Expr], Index]) -> Expr:
    """The expression with each index changed; ``change`` sees what the index is of."""
    if isinstance(value, Apply):
        return replace(value, args=tuple(reindexed(arg, change) for arg in value.args))
    return value if isinstance(value, Number) else replace(value, at=change(value))


def replaced(value: Expr, by: Mapping[Var, Index]) -> Expr:
    """The expression with variables replaced."""

    def change(part: Expr) -> Index:
        assert not isinstance(part, Number | Apply)
        return part.at.replace(by)

    return reindexed(value, change)
