"""From terms to text that reads back as the same term."""

from __future__ import annotations

from fractions import Fraction

from ..tensors.nesting import deep
from . import syntax as s

_EXPR, _CONS, _UNARY, _APP, _ATOM = 0, 4, 7, 8, 9
_STEP = "  "


@deep()
def pretty(term: s.Term | s.Module) -> str:
    """The text of a term: ``parse(pretty(t)) == t``; of a module, that of its file."""
    if isinstance(term, s.Module):
        return "\n\n".join(
            f"def {d.name} : {d.type} =\n{_STEP}{_text(d.term, _EXPR, 1)}" for d in term.definitions
        )
    return _text(term, _EXPR, 0)


def _text(term: s.Term, level: int, depth: int) -> str:
    """The text of a term where something of strength ``level`` or more is wanted."""
    strength, text = _written(term, depth)
    return text if strength >= level else f"({text})"


def _written(term: s.Term, depth: int) -> tuple[int, str]:
    """The strength of a term's outermost construction, and its text."""

    def at(part: s.Term, level: int = _EXPR) -> str:
        return _text(part, level, depth)

    def block(part: s.Term) -> str:
        inner = _text(part, _EXPR, depth + 1)
        return _braces([inner], depth) if "\n" in inner else f"{{ {inner} }}"

    match term:
        case s.Var(name):
            return _ATOM, name
        case s.Num(value):
            return _ATOM, number(value)
        case s.Bool(value):
            return _ATOM, "true" if value else "false"
        case s.Tuple(items):
            return _ATOM, f"({', '.join(map(at, items))})"
        case s.List(items):
            return _ATOM, f"[{', '.join(map(at, items))}]"
        case s.Annotated(inner, type_):
            return _ATOM, f"({at(inner)} : {type_})"
        case s.Law(name, args):
            return _ATOM, f"{name}({', '.join(map(at, args))})"
        case s.Op("neg", (value,)):
            return _UNARY, f"-{at(value, _UNARY)}"
        case s.Op("not", (value,)):
            return _UNARY, f"not {at(value, _UNARY)}"
        case s.Op(name, args) if name in s.FUNCTIONS:
            return _ATOM, f"{name}({', '.join(map(at, args))})"
        case s.Op(name, (left, right)):
            mine = s.OPERATORS[name]
            first = mine + 1 if mine == s.OPERATORS["<"] else mine
            return mine, f"{at(left, first)} {name} {at(right, mine + 1)}"
        case s.Cons(head, tail):
            return _CONS, f"{at(head, _CONS + 1)} :: {at(tail, _CONS)}"
        case s.App(function, argument):
            return _APP, f"{at(function, _APP)} {at(argument, _ATOM)}"
        case s.Bind():
            return _ATOM, f"do {_braces(_statements(term, depth + 1), depth)}"
        case s.Case(value, x, left, y, right):
            arms = f"inl {x.name} -> {at(left)}; inr {y.name} -> {at(right)}"
            return _ATOM, f"case {at(value)} of {{ {arms} }}"
        case s.Fold(x, xs, acc, start, body) | s.Loop(x, xs, acc, start, body):
            word = "fold" if isinstance(term, s.Fold) else "loop"
            over = f"{word} {x.name} in {at(xs)}, {acc.name} = {at(start)}"
            return _ATOM, f"{over} {block(body)}"
        case s.Let(pattern, value, body):
            return _EXPR, f"let {_pattern(pattern)} = {at(value)} in {at(body)}"
        case s.Fun(x, type_, body):
            return _EXPR, f"fun ({x.name} : {type_}) -> {at(body)}"
        case s.If(test, yes, no):
            return _EXPR, f"if {at(test)} then {at(yes)} else {at(no)}"
        case s.Fix(f, x, type_, result, body):
            return _EXPR, f"fix {f.name} ({x.name} : {type_}) : {result} = {at(body)}"
        case s.Observe(value, law):
            return _EXPR, f"observe {at(value)} from {at(law)}"
        case s.Inl(value):
            return _EXPR, f"inl {at(value)}"
        case s.Inr(value):
            return _EXPR, f"inr {at(value)}"
        case s.Return(value):
            return _EXPR, f"return {at(value)}"
        case s.Score(value):
            return _EXPR, f"score {at(value)}"
        case s.Memo(value):
            return _EXPR, f"memo {at(value)}"
        case s.Normalize(value):
            return _EXPR, f"normalize {at(value)}"
    raise TypeError(f"not a term: {term!r}")


def number(value: Fraction) -> str:
    """A rational as the calculus writes it: ``3`` or ``1/3``."""
    return str(value)


def _statements(term: s.Term, depth: int) -> list[str]:
    """The lines of a do block: ``let`` and bind as statements, then the result."""
    lines = []
    while isinstance(term, s.Bind | s.Let):
        value = term.measure if isinstance(term, s.Bind) else term.value
        text = _text(value, _EXPR, depth)
        match term:
            case s.Bind(s.Name("_")):
                # a bare `let` would be read as a statement of this block
                bare = f"({text})" if isinstance(value, s.Let) else text
                lines.append(f"{bare};")
            case s.Bind(pattern):
                lines.append(f"{_pattern(pattern)} <- {text};")
            case s.Let(pattern):
                lines.append(f"let {_pattern(pattern)} = {text};")
        term = term.body
    return [*lines, _text(term, _EXPR, depth)]


def _braces(lines: list[str], depth: int) -> str:
    inside = "".join(f"\n{_STEP * (depth + 1)}{line}" for line in lines)
    return f"{{{inside}\n{_STEP * depth}}}"


def _pattern(pattern: s.Pattern) -> str:
    if isinstance(pattern, s.Name):
        return pattern.name
    return f"({', '.join(map(_pattern, pattern.items))})"
