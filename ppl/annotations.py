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

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, TypeVar, Union

import torch
from torch import Tensor

from .combinators import Conditioned
from .errors import ProgramError, located
from .program import Program, program_name
from .types import (
    Function,
    Kind,
    ListOf,
    Pattern,
    Product,
    Record,
    Site,
    Space,
    Sum,
    Value,
    included,
    space_of_value,
)
from .types.values import M as _M
from .types.values import P as _P
from .validate import is_lane

if TYPE_CHECKING:
    T = TypeVar("T")
    P: TypeAlias = Annotated[T, "probability"]
    M: TypeAlias = Annotated[T, "measure"]
    Real: TypeAlias = Tensor
    Positive: TypeAlias = Tensor
    GreaterThan: TypeAlias = Tensor
    LessThan: TypeAlias = Tensor
    Interval: TypeAlias = Tensor
    UnitInterval: TypeAlias = Tensor
    Circle: TypeAlias = Tensor
    Bool: TypeAlias = Tensor
    Int: TypeAlias = Tensor
    Nat: TypeAlias = Tensor
    Fin: TypeAlias = Tensor
    IntInterval: TypeAlias = Tensor
    Simplex: TypeAlias = Tensor
    Ordered: TypeAlias = Tensor
    PositiveOrdered: TypeAlias = Tensor
    Sphere: TypeAlias = Tensor
    OneHot: TypeAlias = Tensor
    Multinomial: TypeAlias = Tensor
    CorrCholesky: TypeAlias = Tensor
    CorrMatrix: TypeAlias = Tensor
    LowerCholesky: TypeAlias = Tensor
    PositiveDefinite: TypeAlias = Tensor
    Dim: TypeAlias = int
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
    Dim = Kind("Dim")

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
]

_ANYTHING = Pattern("Anything")
_NAMES = re.compile(rf"\b({'|'.join(__all__)})\b")


class AnnotationError(ProgramError):
    """A program, its arguments or its result are not what its annotations declare."""


class Found(NamedTuple):
    """A tensor of a result: the latent site that it is the value of, and whether it is known."""

    tensor: Tensor
    site: tuple[str, Site] | None
    known: bool


class Declaration:
    """What the annotations of one program say, and the sizes that its arguments have given."""

    def __init__(self, name: str, line: str, arguments: dict[str, Value], result: Value) -> None:
        self.name, self.line, self.arguments = name, line, arguments
        self.law: type[_P] | type[_M] | None = None
        self.result = result
        if isinstance(result, _P | _M):
            self.law, self.result = type(result), result.value
        self.sizes: dict[str, tuple[int, str]] = {}

    @property
    def known(self) -> dict[str, int]:
        return {name: size for name, (size, _) in self.sizes.items()}

    @property
    def shown(self) -> Value | None:
        """The declared result, if it says something of every part of it."""
        return None if "Anything" in str(self.result) else self.result

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Raise unless the arguments have the declared shapes and lie in the declared spaces."""
        leaves = [
            leaf
            for name, value in given.items()
            if name in self.arguments
            for leaf in self._pairs(self.arguments[name], value, f"argument '{name}'")
        ]
        for who, pattern, value in leaves:
            self._fit_shape(who, pattern, value)
        for who, pattern, value in leaves:
            self._fit_values(who, pattern, torch.as_tensor(value))

    def check_result(
        self, value: Any, look: Callable[[Any], Found], scores: Mapping[str, str]
    ) -> None:
        """Raise unless the result and the law of a program are as declared.

        A part of the result that is the value of a site has the space of the site, and one that
        depends on no choice is looked at; of everything else only shape and dtype are known.
        """
        if self.law is _P and scores:
            name, line = next(iter(scores.items()))
            what = f"{self.name}: declared P but the program observes '{name}' at {line}"
            raise self._error(what, "declare M, or leave out the observation")
        for who, pattern, part in self._pairs(self.result, value, "the result"):
            found = look(part)
            self._fit_shape(who, pattern, found.tensor)
            if found.site is not None:
                self._fit_site(who, pattern, *found.site)
            elif found.known:
                self._fit_values(who, pattern, found.tensor)
            else:
                self._fit_dtype(who, pattern, found.tensor)

    def _pairs(self, declared: Value, value: Any, who: str) -> list[tuple[str, Pattern, Any]]:
        """The tensors of a value with their patterns, and words for each.

        Errors:
            AnnotationError: the structure is not the declared one.
        """
        parts: list[tuple[str, Value, Any]] | None = None
        match declared:
            case Pattern("Anything"):
                return []
            case Pattern() if isinstance(value, Tensor | bool | int | float):
                return [(who, declared, value)]
            case Product(types) if isinstance(value, tuple | list) and len(value) == len(types):
                parts = [
                    (f"part {i} of {who}", t, v)
                    for i, (t, v) in enumerate(zip(types, value, strict=True))
                ]
            case ListOf(item) if isinstance(value, tuple | list):
                parts = [(f"part {i} of {who}", item, v) for i, v in enumerate(value)]
            case Record(fields) if (
                isinstance(value, Mapping) and value.keys() == dict(fields).keys()
            ):
                parts = [(f"'{name}' of {who}", t, value[name]) for name, t in fields]
            case Sum(options):
                parts = [(who, self._option(options, value, who, declared), value)]
            case Function() if callable(value):
                parts = []
            case Space("Unit") if value is None:
                parts = []
        if parts is None:
            what = f"{self.name}: {who} is {_described(value)} where {declared} is declared"
            raise self._error(what, f"give a value of type {declared}")
        return [leaf for name, t, v in parts for leaf in self._pairs(t, v, name)]

    def _option(self, options: tuple[Value, ...], value: Any, who: str, declared: Value) -> Value:
        """The first type of a sum whose structure and rank the value has."""
        for option in options:
            try:
                leaves = self._pairs(option, value, who)
            except AnnotationError:
                continue
            if all(torch.as_tensor(v).ndim == len(pattern.shape) for _, pattern, v in leaves):
                return option
        what = f"{self.name}: {who} is {_described(value)} where {declared} is declared"
        raise self._error(what, f"give a value of type {declared}")

    def _fit_shape(self, who: str, pattern: Pattern, value: Any) -> None:
        """Raise unless the shape is the declared one; named sizes are what it makes them."""
        if pattern.kind == "Dim":
            if isinstance(value, bool) or not isinstance(value, int):
                what = f"{self.name}: {who} is {_described(value)} where {pattern} is declared"
                raise self._error(what, "give an integer")
            self._bind(who, pattern.parameters[0], value)
            return
        shape = tuple(torch.as_tensor(value).shape)
        fits = len(shape) == len(pattern.shape)
        fixed = (s == d for s, d in zip(shape, pattern.shape, strict=False) if isinstance(d, int))
        if not fits or not all(fixed):
            what = f"{self.name}: {who} has shape {list(shape)} where {pattern} is declared"
            raise self._error(what, f"the shape of {pattern} is {_listed(pattern.shape)}")
        for declared, size in zip(pattern.shape, shape, strict=True):
            self._bind(who, declared, size)

    def _bind(self, who: str, name: int | float | str, size: int) -> None:
        if not isinstance(name, str):
            return
        known, first = self.sizes.setdefault(name, (size, who))
        if known != size:
            what = f"{self.name}: {name} is {known} by {first} and {size} by {who}"
            raise self._error(what, "make the sizes equal, or give them two names")

    def _fit_values(self, who: str, pattern: Pattern, value: Tensor) -> None:
        space = pattern.space(self.known)
        if space is None or pattern.kind == "Dim" or is_lane(value) or value.is_meta:
            return
        wide = value if value.is_floating_point() or value.is_complex() else value.double()
        inside = torch.as_tensor(False if value.is_complex() else space.contains(wide))
        if not bool(inside.all()):
            wrong = value[~inside.expand(value.shape[: inside.ndim])] if inside.ndim else value
            shown = (
                wrong.flatten()[0].item() if space.batch_shape == space.shape else wrong.tolist()
            )
            what = f"{self.name}: {who} holds {shown} where {pattern} is declared"
            raise self._error(what, f"give values in {pattern.name}")

    def _fit_site(self, who: str, pattern: Pattern, name: str, site: Site) -> None:
        if pattern.kind == "Fin" and site.space.kind in {"Bool", "Fin"}:
            size = (*site.space.parameters, 2)[0]
            if isinstance(pattern.parameters[0], str) and isinstance(size, int):
                self._bind(who, pattern.parameters[0], size)
        space = pattern.space(self.known)
        if space is not None and included(site.space, space) is False:
            what = (
                f"{self.name}: {who} is the site '{name}' ({site.line}), in {site.space.name}"
                f" where {pattern} is declared"
            )
            raise self._error(what, f"declare {site.space}, or return another value")

    def _fit_dtype(self, who: str, pattern: Pattern, value: Tensor) -> None:
        """Whole numbers are no values of a continuous space but ``Real``."""
        space = pattern.space(self.known)
        whole = not value.is_floating_point()
        if value.is_complex() or (
            space is not None and space.smooth and space.kind != "Real" and whole
        ):
            what = f"{self.name}: {who} has dtype {value.dtype} where {pattern} is declared"
            raise self._error(what, "return floating values")

    def _error(self, what: str, hint: str) -> AnnotationError:
        return AnnotationError(located(what, line=self.line, hint=hint))


def declaration(p: Any) -> Declaration | None:
    """What the annotations of a program declare; None if they name no space.

    Errors:
        AnnotationError: an annotation that names a space cannot be read.
    """
    conditioned = False
    while isinstance(p, Program):
        conditioned |= isinstance(p, Conditioned)
        p = p.base if isinstance(p, Conditioned) else p.fn
    fn = type(p).forward if isinstance(p, torch.nn.Module) else p
    code = getattr(fn, "__code__", None)
    if code is None:
        return None
    line = f"{code.co_filename}:{code.co_firstlineno}"
    found = {name: _read(fn, name, program_name(p), line) for name in fn.__annotations__}
    declared = {name: value for name, value in found.items() if value is not None}
    if not declared:
        return None
    result = declared.pop("return", _ANYTHING)
    made = Declaration(program_name(p), line, declared, result)
    if conditioned:  # data make a measure of a probability
        made.law = None
    return made


def bound_arguments(p: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, without defaults; empty if the call does not fit."""
    while isinstance(p, Program):
        p = p.base if isinstance(p, Conditioned) else p.fn
    try:
        fn = p.forward if isinstance(p, torch.nn.Module) else p
        return dict(inspect.signature(fn).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {}


def _read(fn: Any, name: str, program: str, line: str) -> Value | None:
    """The type that one annotation declares; None if it names no space."""
    written = fn.__annotations__[name]
    holder = types.SimpleNamespace(__annotations__={name: written})
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False)
    try:
        local = {free: cell.cell_contents for free, cell in cells}
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
    return _ANYTHING


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


def _described(value: Any) -> str:
    if isinstance(value, Tensor | bool | int | float | tuple | list | Mapping) or value is None:
        return str(space_of_value(value))
    return f"a {type(value).__name__}"


def _listed(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
