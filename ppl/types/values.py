"""Types of values: a space, or products, records, lists, sums and functions of types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from pyro.distributions import constraints
from torch import Tensor

from .patterns import Pattern
from .spaces import Space


@dataclass(frozen=True, repr=False)
class Product:
    """The type of a tuple or list of values."""

    parts: tuple[Value, ...]

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self.parts))}{',' if len(self.parts) == 1 else ''})"


@dataclass(frozen=True, repr=False)
class Record:
    """The type of a dict of values."""

    fields: tuple[tuple[str, Value], ...]

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {value}' for name, value in self.fields)}}}"


@dataclass(frozen=True, repr=False)
class Sum:
    """The type of a value that has one of several types."""

    parts: tuple[Value, ...]

    def __repr__(self) -> str:
        return " + ".join(map(_nested, self.parts))


@dataclass(frozen=True, repr=False)
class ListOf:
    """The type of a list of values of one type, of any length."""

    item: Value

    def __repr__(self) -> str:
        return f"List {_nested(self.item)}"


@dataclass(frozen=True, repr=False)
class Function:
    """The type of a function: of a program, if its result is a ``P`` or an ``M``."""

    arguments: tuple[Value, ...]
    result: Value

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self.arguments))}) -> {self.result}"


@dataclass(frozen=True, repr=False)
class P:
    """The type of a program that scores nothing: a probability on the values of a type."""

    value: Value

    def __class_getitem__(cls, value: Any) -> P:
        """``P[Positive]`` in an annotation is ``P(Positive)``."""
        return cls(value)

    def __repr__(self) -> str:
        return f"P {_nested(self.value)}"


@dataclass(frozen=True, repr=False)
class M:
    """The type of a program that may score: a measure, of any mass, on the values of a type."""

    value: Value

    def __class_getitem__(cls, value: Any) -> M:
        """``M[Positive]`` in an annotation is ``M(Positive)``."""
        return cls(value)

    def __repr__(self) -> str:
        return f"M {_nested(self.value)}"


Value: TypeAlias = "Space | Product | Record | Sum | ListOf | Function | P | M | Pattern"


def _nested(value: Value) -> str:
    """A type as an operand: in parentheses where it would be read otherwise."""
    return f"({value})" if isinstance(value, Sum | ListOf | Function | P | M) else str(value)


def space_of_value(value: Any) -> Value:
    """The type of a value: by dtype and shape only, so every floating tensor is ``Real[shape]``."""
    if value is None:
        return Space("Unit")
    if isinstance(value, tuple | list):
        return Product(tuple(map(space_of_value, value)))
    if isinstance(value, Mapping):
        return Record(tuple((str(name), space_of_value(part)) for name, part in value.items()))
    if not isinstance(value, Tensor | bool | int | float):
        return Space("Unknown")
    tensor = torch.as_tensor(value)
    shape = tuple(tensor.shape)
    if tensor.is_floating_point():
        return Space("Real", (), shape, constraints.real)
    if tensor.dtype == torch.bool:
        return Space("Bool", (), shape, constraints.boolean)
    return Space("Unknown" if tensor.is_complex() else "Int", (), shape, constraints.integer)
