"""Programs held to their annotations: shapes, spaces and laws, where they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..errors import AnnotationError, located, user_line
from ..language.combinators import Conditioned
from ..language.effects import Message, is_deterministic
from ..language.program import Callback, Program, program_name
from ..tensors.hidden import is_hidden
from ..types import (
    Function,
    ListOf,
    M,
    P,
    Pattern,
    Product,
    Record,
    Site,
    Size,
    Space,
    Sum,
    Value,
    included,
    space_of_value,
    unify,
)
from ..types.annotations import ANYTHING, read_annotations


class Found(NamedTuple):
    """A tensor of a run: the latent site that it is the value of, and whether it is known."""

    tensor: Tensor
    site: tuple[str, Site] | None
    known: bool


Look = Callable[[Any], Found]
Part = tuple[str, Pattern, Any]  # words for a part of a value, what is declared of it, the part


class Declaration:
    """What the annotations of a program say, and the sizes that one call of it has given."""

    def __init__(self, name: str, line: str, declared: dict[str, Value]) -> None:
        self.name, self.line = name, line
        result = declared.get("return", ANYTHING)
        self.arguments = {n: value for n, value in declared.items() if n != "return"}
        self.probability = isinstance(result, P)
        self.result = result.value if isinstance(result, P | M) else result
        self.sizes: dict[str, Size] = {}
        self.givers: dict[str, str] = {}

    @property
    def shown(self) -> Value | None:
        """The declared result, if it says something of every part of it."""
        return None if "Anything" in str(self.result) else self.result

    def check_arguments(self, given: Iterable[tuple[str, Any]], look: Look) -> None:
        """Raise unless the arguments have the declared shapes and lie in the declared spaces."""
        self._check(
            [
                part
                for name, value in given
                if name in self.arguments
                for part in self._parts(self.arguments[name], value, f"argument '{name}'")
            ],
            look,
        )

    def check_result(self, value: Any, scores: Mapping[str, str], look: Look) -> None:
        """Raise unless the result and the law of a program are as declared.

        A part of the result that is the value of a site has the space of the site, and one that
        depends on no choice is looked at; of everything else only shape and dtype are known.
        """
        if self.probability and scores:
            name, line = next(iter(scores.items()))
            what = f"declared P, but it scores '{name}' at {line}"
            raise self._error(what, "declare M, or leave the observation to condition(...)")
        self._check(self._parts(self.result, value, "the result"), look)

    def _check(self, parts: list[Part], look: Look) -> None:
        for who, pattern, part in parts:  # first, since a space may need a size that comes later
            self._fit_shape(who, pattern, part)
        for who, pattern, part in parts:
            if pattern.kind not in {"Dim", "Anything"}:
                self._fit_space(who, pattern, look(part))

    def _parts(self, declared: Value, value: Any, who: str) -> list[Part]:
        """The tensors of a value with their patterns, and words for each.

        Errors:
            AnnotationError: the structure is not the declared one.
        """
        inner: list[tuple[str, Value, Any]] | None = None
        match declared:
            case Pattern("Anything"):
                return []
            case Pattern() if isinstance(value, Tensor | bool | int | float):
                return [(who, declared, value)]
            case Product(types) if isinstance(value, tuple | list) and len(value) == len(types):
                inner = [
                    (f"part {i} of {who}", t, v)
                    for i, (t, v) in enumerate(zip(types, value, strict=True))
                ]
            case ListOf(item) if isinstance(value, tuple | list):
                inner = [(f"part {i} of {who}", item, v) for i, v in enumerate(value)]
            case Record(fields) if (
                isinstance(value, Mapping) and value.keys() == dict(fields).keys()
            ):
                inner = [(f"'{name}' of {who}", t, value[name]) for name, t in fields]
            case Sum(options):
                inner = [(who, self._option(options, value, who, declared), value)]
            case Function() if callable(value):
                inner = []
            case Space("Unit") if value is None:
                inner = []
        if inner is None:
            raise self._not_of(declared, value, who)
        return [part for name, t, v in inner for part in self._parts(t, v, name)]

    def _option(self, options: tuple[Value, ...], value: Any, who: str, declared: Value) -> Value:
        """The first type of a sum whose structure and rank the value has."""
        for option in options:
            try:
                parts = self._parts(option, value, who)
            except AnnotationError:
                continue
            if all(torch.as_tensor(v).ndim == len(pattern.shape) for _, pattern, v in parts):
                return option
        raise self._not_of(declared, value, who)

    def _fit_shape(self, who: str, pattern: Pattern, value: Any) -> None:
        """Raise unless the shape is the declared one; named sizes are what it makes them."""
        if pattern.kind == "Dim":
            if isinstance(value, bool) or not isinstance(value, int):
                raise self._not_of(pattern, value, who)
            self._unify(who, f"is {value}", pattern, pattern.parameters[:1], (value,))
            return
        shape = tuple(torch.as_tensor(value).shape)
        self._unify(who, f"has shape {list(shape)}", pattern, pattern.shape, shape)

    def _unify(
        self,
        who: str,
        what: str,
        pattern: Pattern,
        declared: tuple[Any, ...],
        found: tuple[int, ...],
    ) -> None:
        sizes = unify(declared, found, self.sizes)
        if sizes is None:
            known = [
                f"{name} is {self.sizes[name]} by {self.givers[name]}"
                for name in dict.fromkeys(declared)
                if name in self.sizes
            ]
            because = f" ({', '.join(known)})" if known else ""
            what = f"{who} {what} where {pattern} is declared{because}"
            raise self._error(what, "make the sizes equal, or declare what they are")
        self.sizes = sizes
        for name in sizes:
            self.givers.setdefault(name, who)

    def _fit_space(self, who: str, pattern: Pattern, found: Found) -> None:
        if found.site is not None:
            self._fit_site(who, pattern, *found.site)
            return
        space, value = pattern.space(self.sizes), found.tensor
        whole = not (value.is_floating_point() or value.is_complex())
        smooth = space is not None and space.smooth and space.kind != "Real"
        if value.is_complex() or (smooth and whole):
            what = f"{who} has dtype {value.dtype} where {pattern} is declared"
            raise self._error(what, "give floating values")
        if space is not None and found.known and not is_hidden(value) and not value.is_meta:
            self._fit_values(who, pattern, space, value.double() if whole else value)

    def _fit_values(self, who: str, pattern: Pattern, space: Space, value: Tensor) -> None:
        inside = torch.as_tensor(space.contains(value))
        if not bool(inside.all()):
            wrong = value[~inside.expand(value.shape[: inside.ndim])] if inside.ndim else value
            scalar = space.batch_shape == space.shape
            shown = wrong.flatten()[0].item() if scalar else wrong.tolist()
            what = f"{who} holds {shown} where {pattern} is declared"
            raise self._error(what, f"give values in {pattern.name}")

    def _fit_site(self, who: str, pattern: Pattern, name: str, site: Site) -> None:
        if pattern.kind == "Fin" and site.space.kind in {"Bool", "Fin"}:
            size = (*site.space.parameters, 2)[0]
            assert isinstance(size, int)
            if isinstance(pattern.parameters[0], str):
                self._unify(who, f"is {site.space}", pattern, pattern.parameters, (size,))
        space = pattern.space(self.sizes)
        if space is not None and included(site.space, space) is False:
            what = (
                f"{who} is the site '{name}' ({site.line}), in {site.space.name}"
                f" where {pattern} is declared"
            )
            raise self._error(what, f"declare {site.space}, or give another value")

    def _not_of(self, declared: Value, value: Any, who: str) -> AnnotationError:
        what = f"{who} is {_described(value)} where {declared} is declared"
        return self._error(what, f"give a value of type {declared}")

    def _error(self, what: str, hint: str) -> AnnotationError:
        return AnnotationError(located(f"{self.name}: {what}", line=self.line, hint=hint))


class Scores(Messenger):  # type: ignore[misc]
    """Notes what a program scores of itself, and where; data given from outside do not count."""

    def __enter__(self) -> Any:
        self.lines: dict[str, str] = {}
        return super().__enter__()

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_deterministic(msg):
            self.lines[msg["name"]] = user_line()


def declaration(p: Callback) -> Declaration | None:
    """What the annotations of a program declare; None if they name no space.

    Errors:
        AnnotationError: an annotation that names a space cannot be read.
    """
    fn = unconditioned(p)
    while isinstance(fn, Program):
        fn = fn.fn
    fn = type(fn).forward if isinstance(fn, torch.nn.Module) else fn
    code = getattr(fn, "__code__", None)
    if code is None:
        return None
    line = f"{code.co_filename}:{code.co_firstlineno}"
    declared = read_annotations(fn, program_name(fn), line)
    return Declaration(program_name(fn), line, declared) if declared else None


def unconditioned(p: Callback) -> Callback:
    """The program to which data were given."""
    while isinstance(p, Conditioned):
        p = p.base
    return p


def held(p: Callback, look: Look, *, law: bool = True) -> Callback:
    """The program, which raises if a call of it is not as its annotations declare.

    Args:
        p: a program, or a function.
        look: what is known of a tensor of the run.
        law: whether a ``P`` may not score.
    """
    declared = declaration(p)
    if declared is None:
        return p

    def run(*args: Any, **kwargs: Any) -> Any:
        declared.check_arguments(_bound(p, args, kwargs), look)
        with Scores() as scores:
            value = p(*args, **kwargs)
        declared.check_result(value, scores.lines if law else {}, look)
        return value

    return run


def _bound(p: Callback, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments of a call by name, without defaults; none if the call does not fit."""
    fn = unconditioned(p)
    fn = fn.forward if isinstance(fn, torch.nn.Module) else fn
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, part) for part in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from ((name, part) for part in value.values())
        else:
            yield name, value


def _described(value: Any) -> str:
    if isinstance(value, Tensor | bool | int | float | tuple | list | Mapping) or value is None:
        return str(space_of_value(value))
    return f"a {type(value).__name__}"
