"""Annotations of programs by spaces: ``x: Annotated[Tensor, Real("n")]``, ``-> P[Positive]``.

``Real``, ``Simplex`` and the others take their parameters, then the sizes of a batch; a size is an
integer or a name, and one name is one number across the arguments and the result.  ``Dim("n")`` is
for an integer argument that gives the size.  A result is declared as ``P[...]`` (nothing is scored)
or ``M[...]``; tuples, lists and unions of these are read too.

To a type checker the spaces are tensors, and ``P[T]`` and ``M[T]`` are ``T``.  So ``x: Positive``,
``-> P[Positive]`` and ``-> P[tuple[Real, Tensor]]`` are accepted by mypy as they are; a call is no
type to it and goes into ``Annotated``: ``-> P[Annotated[Tensor, Real("n")]]``, or equivalently
``-> Annotated[Tensor, P(Real("n"))]``.  Where no type checker reads it,
``-> P[Real("n")]`` will do.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union

from torch import Tensor

from ..errors import AnnotationError, located
from ..tensors.keys import Unassigned, closed_over
from . import Either, Function, Kind, ListOf, Pattern, Product, Record, Space, Sum, Value
from .values import M as _M
from .values import P as _P

if TYPE_CHECKING:
    T = TypeVar("T")
    P: TypeAlias = Annotated[T, "probability"]
    """A result by which nothing is scored: a probability measure, ``P[Real]``."""
    M: TypeAlias = Annotated[T, "measure"]
    """A result of a program that observes or scores: a measure of any mass, ``M[Real]``."""
    Real: TypeAlias = Tensor
    """Real numbers: ``Real("n")``."""
    Positive: TypeAlias = Tensor
    """Numbers above zero: ``Positive("n")``."""
    GreaterThan: TypeAlias = Tensor
    """Numbers above a bound: ``GreaterThan(2.0, "n")``."""
    LessThan: TypeAlias = Tensor
    """Numbers below a bound: ``LessThan(2.0, "n")``."""
    Interval: TypeAlias = Tensor
    """Numbers between two bounds: ``Interval(0.0, 2.0, "n")``."""
    UnitInterval: TypeAlias = Tensor
    """Numbers between zero and one: ``UnitInterval("n")``."""
    Circle: TypeAlias = Tensor
    """Angles from -π to π, whose ends are one point: ``Circle("n")``."""
    Bool: TypeAlias = Tensor
    """Zero or one: ``Bool("n")``."""
    Int: TypeAlias = Tensor
    """Integers: ``Int("n")``."""
    Nat: TypeAlias = Tensor
    """Integers from zero on: ``Nat("n")``."""
    Fin: TypeAlias = Tensor
    """The integers 0, ..., k - 1: ``Fin("k", "n")``."""
    IntInterval: TypeAlias = Tensor
    """The integers from one bound to another, both included: ``IntInterval(1, 6, "n")``."""
    Simplex: TypeAlias = Tensor
    """Vectors [k] of numbers from zero on whose sum is one: ``Simplex("k", "n")``."""
    Ordered: TypeAlias = Tensor
    """Vectors [k] of increasing numbers: ``Ordered("k", "n")``."""
    PositiveOrdered: TypeAlias = Tensor
    """Vectors [k] of increasing numbers above zero: ``PositiveOrdered("k", "n")``."""
    Sphere: TypeAlias = Tensor
    """Vectors [k] of length one: ``Sphere("k", "n")``."""
    OneHot: TypeAlias = Tensor
    """Vectors [k] of zeros and a single one: ``OneHot("k", "n")``."""
    Multinomial: TypeAlias = Tensor
    """Vectors [k] of counts with a given sum, first: ``Multinomial(3, "k", "n")``."""
    CorrCholesky: TypeAlias = Tensor
    """Lower Cholesky factors [k, k] of correlation matrices: ``CorrCholesky("k", "n")``."""
    CorrMatrix: TypeAlias = Tensor
    """Correlation matrices [k, k]: ``CorrMatrix("k", "n")``."""
    LowerCholesky: TypeAlias = Tensor
    """Lower triangular matrices [k, k], positive on the diagonal: ``LowerCholesky("k", "n")``."""
    PositiveDefinite: TypeAlias = Tensor
    """Positive definite matrices [k, k]: ``PositiveDefinite("k", "n")``."""
    ZeroSum: TypeAlias = Tensor
    """Vectors [k] whose sum is zero: ``ZeroSum("k", "n")``."""
    Dim: TypeAlias = int
    """An integer that is the size of something: ``Dim("n")``."""
else:
    P, M = _P, _M
    Real, Positive, GreaterThan = Kind("Real"), Kind("Positive"), Kind("GreaterThan")
    LessThan, Interval, UnitInterval = Kind("LessThan"), Kind("Interval"), Kind("UnitInterval")
    Circle, Bool, Int, Nat = Kind("Circle"), Kind("Bool"), Kind("Int"), Kind("Nat")
    Fin, IntInterval, Simplex = Kind("Fin"), Kind("IntInterval"), Kind("Simplex")
    Ordered, PositiveOrdered = Kind("Ordered"), Kind("PositiveOrdered")
    Sphere, OneHot, Multinomial = Kind("Sphere"), Kind("OneHot"), Kind("Multinomial")
    CorrCholesky, CorrMatrix = Kind("CorrCholesky"), Kind("CorrMatrix")
    LowerCholesky, PositiveDefinite = Kind("LowerCholesky"), Kind("PositiveDefinite")
    ZeroSum, Dim = Kind("ZeroSum"), Kind("Dim")

__all__ = [
    "Bool",
    "Circle",
    "CorrCholesky",
    "CorrMatrix",
    "Dim",
    "Fin",
    "GreaterThan",
    "Int",
    "IntInterval",
    "Interval",
    "LessThan",
    "LowerCholesky",
    "M",
    "Multinomial",
    "Nat",
    "OneHot",
    "Ordered",
    "P",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "Real",
    "Simplex",
    "Sphere",
    "UnitInterval",
    "ZeroSum",
]

ANYTHING = Pattern("Anything")
_NAMES = re.compile(rf"\b({'|'.join(__all__)})\b")


def read_annotations(fn: Any, program: str, line: str) -> dict[str, Value]:
    """The types that the annotations of a function declare, by argument and for ``return``.

    Those that name no space are left out.

    Errors:
        AnnotationError: an annotation that names a space cannot be read.
    """
    found = {name: _read(fn, name, program, line) for name in fn.__annotations__}
    return {name: value for name, value in found.items() if value is not None}


def _read(fn: Any, name: str, program: str, line: str) -> Value | None:
    """The type that one annotation declares; None if it names no space."""
    written = fn.__annotations__[name]
    holder = types.SimpleNamespace(__annotations__={name: written})
    cells = zip(fn.__code__.co_freevars, closed_over(fn), strict=False)
    local = {free: value for free, value in cells if value is not Unassigned}
    try:
        hints = typing.get_type_hints(holder, fn.__globals__, local, include_extras=True)
        value = _parsed(hints[name])
        return value if _names_a_space(value) else None
    except (NameError, SyntaxError, TypeError, AttributeError, ValueError) as error:
        if not _NAMES.search(str(written)):
            return None
        what = f"{program}: the annotation of {name} cannot be read: {error}"
        hint = "import its names where the program is defined, not only for type checking"
        raise AnnotationError(located(what, line=line, hint=hint)) from error


def _parsed(annotation: Any) -> Value:
    """The type that an annotation stands for, ``Anything`` where it says nothing of spaces."""
    if isinstance(annotation, Kind):
        return annotation()
    if isinstance(annotation, Pattern):
        return annotation
    if isinstance(annotation, _P | _M):
        return type(annotation)(_parsed(annotation.value))
    if isinstance(annotation, Either):
        return Sum(tuple(map(_parsed, annotation.options)))
    if annotation is None or annotation is type(None):
        return Space("Unit")
    if isinstance(annotation, dict):
        return Record(tuple((str(name), _parsed(part)) for name, part in annotation.items()))
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        said = (_parsed(note) for note in annotation.__metadata__)
        return next((value for value in said if _names_a_space(value)), _parsed(parts[0]))
    if origin is tuple and Ellipsis not in parts:
        return Product(tuple(map(_parsed, parts)))
    if origin in (list, tuple) and parts:
        return ListOf(_parsed(parts[0]))
    if origin in (Union, types.UnionType):
        return Sum(tuple(map(_parsed, parts)))
    if origin is Callable and isinstance(parts[0], list):
        return Function(tuple(map(_parsed, parts[0])), _parsed(parts[1]))
    return ANYTHING


def _names_a_space(value: Value) -> bool:
    match value:
        case Pattern(kind):
            return kind != "Anything"
        case _P() | _M():
            return True
        case Product(parts) | Sum(parts):
            return any(map(_names_a_space, parts))
        case Record(fields):
            return any(_names_a_space(part) for _, part in fields)
        case ListOf(item):
            return _names_a_space(item)
        case Function(arguments, result):
            return any(map(_names_a_space, (*arguments, result)))
    return False
