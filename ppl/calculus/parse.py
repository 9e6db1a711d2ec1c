"""From text to terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import lark

from ..errors import CalculusError
from ..tensors.nesting import deep
from . import syntax as s
from . import types as t


@deep()
def parse(text: str) -> s.Term:
    """The term that a text writes.

    Errors:
        CalculusError: the text is not a term; the message names line and column.
    """
    return _read(text, "start_term")  # type: ignore[no-any-return]


@deep()
def parse_module(text: str) -> s.Module:
    """The definitions of a file; the last must be called ``main``."""
    module: s.Module = _read(text, "module")
    names = [d.name for d in module.definitions]
    for i, definition in enumerate(module.definitions):
        if definition.name in names[:i]:
            raise CalculusError(f"'{definition.name}' is defined twice", definition.at)
    if "main" in names[:-1]:
        raise CalculusError("main must be the last definition", module.definitions[-1].at)
    if names[-1] != "main":
        raise CalculusError("the last definition of a file must be main", module.definitions[-1].at)
    return module


def parse_type(text: str) -> t.Type:
    """The type that a text writes."""
    return _read(text, "type")  # type: ignore[no-any-return]


def _read(text: str, start: str) -> Any:
    try:
        return _Build().transform(_grammar().parse(text, start=start))
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from None
    except lark.UnexpectedToken as error:
        found = "the end" if error.token.type == "$END" else repr(str(error.token))
        expected = sorted({_SHOWN.get(name, name.lower()) for name in error.accepts or ()})
        hint = f"expected {', '.join(expected[:8])}" if expected else ""
        line, column = error.line, error.column
        if error.token.type == "$END":
            line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        raise CalculusError(f"unexpected {found}", s.Position(line, column), hint) from None
    except lark.UnexpectedCharacters as error:
        where = s.Position(error.line, error.column)
        raise CalculusError(f"unexpected character {error.char!r}", where) from None


_SHOWN = {
    "LPAR": "(",
    "RPAR": ")",
    "LBRACE": "{",
    "RBRACE": "}",
    "LSQB": "[",
    "RSQB": "]",
    "SEMICOLON": ";",
    "COMMA": ",",
    "COLON": ":",
    "EQUAL": "=",
    "NAME": "a name",
    "NUMBER": "a number",
    "$END": "the end",
    "__ANON_0": "->",
    "__ANON_1": "::",
    "__ANON_2": "<-",
}


@cache
def _grammar() -> lark.Lark:
    text = (Path(__file__).parent / "grammar.lark").read_text()
    starts = ["module", "start_term", "type"]
    return lark.Lark(text, parser="lalr", start=starts, propagate_positions=True)


def _at(meta: Any) -> s.Position:
    return s.NOWHERE if meta.empty else s.Position(meta.line, meta.column)


def _number(token: lark.Token) -> Fraction:
    where = s.Position(token.line or 0, token.column or 0)
    try:
        return Fraction(str(token))
    except ZeroDivisionError:
        raise CalculusError(f"{token} divides by zero", where) from None


def _name(token: lark.Token) -> s.Name:
    where = s.Position(token.line or 0, token.column or 0)
    if str(token) in s.keywords():
        raise CalculusError(f"'{token}' is a keyword, not a name", where)
    return s.Name(str(token), at=where)


def _pattern(term: s.Term) -> s.Pattern:
    match term:
        case s.Var(name):
            return s.Name(name, at=term.at)
        case s.Tuple(items) if items:
            return s.Parts(tuple(map(_pattern, items)), at=term.at)
    raise CalculusError("only names and tuples of names stand before <-", term.at)


def _arity(kind: str, name: str, wanted: int | None, found: int, at: s.Position) -> None:
    if wanted is not None and wanted != found:
        raise CalculusError(f"{kind} {name} takes {wanted} arguments, not {found}", at)


_Items = list[Any]
_Parameters = list[tuple[s.Name, t.Type]]


@lark.v_args(meta=True)
class _Build(lark.Transformer[Any, Any]):
    """One method for each rule of the grammar."""

    def module(self, meta: Any, parts: _Items) -> s.Module:
        return s.Module(tuple(parts), at=_at(meta))

    def definition(self, meta: Any, parts: _Items) -> s.Definition:
        name, parameters, type_, term = parts
        for parameter, argument in reversed(parameters or []):
            type_ = t.Function(argument, type_)
            term = s.Fun(parameter, argument, term, at=parameter.at)
        return s.Definition(_name(name).name, type_, term, at=_at(meta))

    def parameters(self, meta: Any, parts: _Items) -> _Parameters:
        return [(_name(parts[i]), parts[i + 1]) for i in range(0, len(parts), 2)]

    def let(self, meta: Any, parts: _Items) -> s.Term:
        return s.Let(*parts, at=_at(meta))

    def fun(self, meta: Any, parts: _Items) -> s.Term:
        name, type_, body = parts
        return s.Fun(_name(name), type_, body, at=_at(meta))

    def fix(self, meta: Any, parts: _Items) -> s.Term:
        function, name, type_, result, body = parts
        return s.Fix(_name(function), _name(name), type_, result, body, at=_at(meta))

    def op(self, meta: Any, parts: _Items) -> s.Term:
        left, operator, right = parts
        return s.Op(str(operator), (left, right), at=_at(meta))

    def neg(self, meta: Any, parts: _Items) -> s.Term:
        return s.Op("neg", (parts[1],), at=_at(meta))

    def not_(self, meta: Any, parts: _Items) -> s.Term:
        return s.Op("not", (parts[1],), at=_at(meta))

    def var(self, meta: Any, parts: _Items) -> s.Term:
        return s.Var(_name(parts[0]).name, at=_at(meta))

    def num(self, meta: Any, parts: _Items) -> s.Term:
        return s.Num(_number(parts[0]), at=_at(meta))

    def true(self, meta: Any, parts: _Items) -> s.Term:
        return s.Bool(True, at=_at(meta))

    def false(self, meta: Any, parts: _Items) -> s.Term:
        return s.Bool(False, at=_at(meta))

    def unit(self, meta: Any, parts: _Items) -> s.Term:
        return s.Tuple((), at=_at(meta))

    def tuple(self, meta: Any, parts: _Items) -> s.Term:
        return s.Tuple(tuple(parts), at=_at(meta))

    def list(self, meta: Any, parts: _Items) -> s.Term:
        return s.List(tuple(part for part in parts if part is not None), at=_at(meta))

    def function(self, meta: Any, parts: _Items) -> s.Term:
        name, *args = parts
        _arity("the function", name, s.FUNCTIONS[str(name)], len(args), _at(meta))
        return s.Op(str(name), tuple(args), at=_at(meta))

    def law(self, meta: Any, parts: _Items) -> s.Term:
        name, *args = parts
        _arity("the distribution", name, s.DISTRIBUTIONS[str(name)], len(args), _at(meta))
        return s.Law(str(name), tuple(args), at=_at(meta))

    def case(self, meta: Any, parts: _Items) -> s.Term:
        value, x, left, y, right = parts
        return s.Case(value, _name(x), left, _name(y), right, at=_at(meta))

    def fold(self, meta: Any, parts: _Items) -> s.Term:
        item, items, state, start, body = parts
        return s.Fold(_name(item), items, _name(state), start, body, at=_at(meta))

    def loop(self, meta: Any, parts: _Items) -> s.Term:
        item, items, state, start, body = parts
        return s.Loop(_name(item), items, _name(state), start, body, at=_at(meta))

    def do(self, meta: Any, parts: _Items) -> s.Term:
        return replace(parts[0], at=_at(meta))  # type: ignore[no-any-return]

    def statements(self, meta: Any, parts: _Items) -> s.Term:
        *before, term = parts
        for step in reversed(before):
            term = step(term)
        return term  # type: ignore[no-any-return]

    def bind(self, meta: Any, parts: _Items) -> Callable[[s.Term], s.Term]:
        pattern, measure = _pattern(parts[0]), parts[1]
        return lambda body: s.Bind(pattern, measure, body, at=_at(meta))

    def let_statement(self, meta: Any, parts: _Items) -> Callable[[s.Term], s.Term]:
        pattern, value = parts
        return lambda body: s.Let(pattern, value, body, at=_at(meta))

    def run(self, meta: Any, parts: _Items) -> Callable[[s.Term], s.Term]:
        return lambda body: s.Bind(s.Name("_", at=_at(meta)), parts[0], body, at=_at(meta))

    def name(self, meta: Any, parts: _Items) -> s.Name:
        return _name(parts[0])

    def parts(self, meta: Any, parts: _Items) -> s.Parts:
        return s.Parts(tuple(parts), at=_at(meta))

    def base(self, meta: Any, parts: _Items) -> t.Type:
        return t.Base(str(parts[0]))

    def fin(self, meta: Any, parts: _Items) -> t.Type:
        size = _number(parts[0])
        if size.denominator != 1 or size < 1:
            raise CalculusError(f"Fin needs a whole number of at least 1, not {size}", _at(meta))
        return t.Fin(int(size))

    def list_of(self, meta: Any, parts: _Items) -> t.Type:
        return t.ListOf(parts[0])

    def measure(self, meta: Any, parts: _Items) -> t.Type:
        return t.Measure(str(parts[0]), parts[1])

    def function_type(self, meta: Any, parts: _Items) -> t.Type:
        return t.Function(*parts)

    def sum_of(self, meta: Any, parts: _Items) -> t.Type:
        return t.Sum(*parts)

    def product_of(self, meta: Any, parts: _Items) -> t.Type:
        return t.Product(tuple(parts))


for _rule, _class in {
    "if_": s.If,
    "return_": s.Return,
    "score": s.Score,
    "observe": s.Observe,
    "memo": s.Memo,
    "normalize": s.Normalize,
    "inl": s.Inl,
    "inr": s.Inr,
    "cons": s.Cons,
    "app": s.App,
    "annotated": s.Annotated,
}.items():

    def _make(self: _Build, meta: Any, parts: _Items, made: Any = _class) -> s.Term:
        return made(*parts, at=_at(meta))  # type: ignore[no-any-return]

    setattr(_Build, _rule, lark.v_args(meta=True)(_make))
