"""Terms of the calculus: a small typed lambda calculus with measures.

Two terms are equal if they are the same tree; where they were written (``at``) does not count.
Every node is its own identity in memory, so that an evaluator may memoise by node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

from .types import Type


class Position(NamedTuple):
    """Where a term begins in its source; both count from one."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


NOWHERE = Position(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Anything with a place in the source."""

    at: Position = field(default=NOWHERE, compare=False, repr=False)


# ---------------------------------------------------------------------------------------- patterns


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A variable to bind; ``_`` binds nothing."""

    name: str


@dataclass(frozen=True, slots=True)
class Parts(Node):
    """A pattern for the components of a tuple, two or more."""

    items: tuple[Pattern, ...]


Pattern = Name | Parts


def bound(pattern: Pattern) -> tuple[str, ...]:
    """The variables that a pattern binds, in order."""
    if isinstance(pattern, Name):
        return () if pattern.name == "_" else (pattern.name,)
    return tuple(name for item in pattern.items for name in bound(item))


# ------------------------------------------------------------------------------------------- terms


@dataclass(frozen=True, slots=True)
class Var(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Num(Node):
    """A rational number that is not negative."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Bool(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Tuple(Node):
    """``()``, or a tuple of two or more."""

    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Inl(Node):
    value: Term


@dataclass(frozen=True, slots=True)
class Inr(Node):
    value: Term


@dataclass(frozen=True, slots=True)
class List(Node):
    """``[a, b, c]``."""

    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Cons(Node):
    """``head :: tail``."""

    head: Term
    tail: Term


@dataclass(frozen=True, slots=True)
class Op(Node):
    """A pure primitive: an operator or a named function (see ``OPERATORS`` and ``FUNCTIONS``)."""

    name: str
    args: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class If(Node):
    test: Term
    yes: Term
    no: Term


@dataclass(frozen=True, slots=True)
class Case(Node):
    """``case e of { inl x -> left; inr y -> right }``."""

    value: Term
    left_name: Name
    left: Term
    right_name: Name
    right: Term


@dataclass(frozen=True, slots=True)
class Let(Node):
    """``let pattern = value in body``."""

    pattern: Pattern
    value: Term
    body: Term


@dataclass(frozen=True, slots=True)
class Fun(Node):
    """``fun (x : A) -> body``."""

    name: Name
    type: Type
    body: Term


@dataclass(frozen=True, slots=True)
class App(Node):
    function: Term
    argument: Term


@dataclass(frozen=True, slots=True)
class Fold(Node):
    """``fold x in xs, acc = start { body }``: structural recursion, from the right.

    ``fold [] = start`` and ``fold (x :: xs) = body`` with ``acc = fold xs``.
    """

    item: Name
    items: Term
    state: Name
    start: Term
    body: Term


@dataclass(frozen=True, slots=True)
class Annotated(Node):
    """``(term : A)``."""

    term: Term
    type: Type


@dataclass(frozen=True, slots=True)
class Law(Node):
    """A primitive distribution (see ``DISTRIBUTIONS``)."""

    name: str
    args: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Return(Node):
    value: Term


@dataclass(frozen=True, slots=True)
class Bind(Node):
    """``do { pattern <- measure; body }``."""

    pattern: Pattern
    measure: Term
    body: Term


@dataclass(frozen=True, slots=True)
class Score(Node):
    weight: Term


@dataclass(frozen=True, slots=True)
class Observe(Node):
    """``observe value from law``."""

    value: Term
    law: Term


@dataclass(frozen=True, slots=True)
class Loop(Node):
    """``loop x in xs, s = start { body }``: thread a state through effects, from the left."""

    item: Name
    items: Term
    state: Name
    start: Term
    body: Term


@dataclass(frozen=True, slots=True)
class Fix(Node):
    """``fix f (x : A) : M B = body``: the least recursive function."""

    function: Name
    name: Name
    type: Type
    result: Type
    body: Term


@dataclass(frozen=True, slots=True)
class Memo(Node):
    """``memo f``: a random function that draws each of its values once."""

    function: Term


@dataclass(frozen=True, slots=True)
class Normalize(Node):
    """``normalize m``: ``inr`` of the probability proportional to m, or ``inl ()`` if none is."""

    measure: Term


Term = (
    Var
    | Num
    | Bool
    | Tuple
    | Inl
    | Inr
    | List
    | Cons
    | Op
    | If
    | Case
    | Let
    | Fun
    | App
    | Fold
    | Annotated
    | Law
    | Return
    | Bind
    | Score
    | Observe
    | Loop
    | Fix
    | Memo
    | Normalize
)


@dataclass(frozen=True, slots=True)
class Definition(Node):
    """``def name : A = term``."""

    name: str
    type: Type
    term: Term


@dataclass(frozen=True, slots=True)
class Module(Node):
    """A file: definitions, each of which may use those above it; the last is called ``main``."""

    definitions: tuple[Definition, ...]

    def term(self) -> Term:
        """The whole file as one term: nested ``let``, with ``main`` innermost."""
        *above, main = self.definitions
        term: Term = Annotated(main.term, main.type, at=main.at)
        for d in reversed(above):
            term = Let(Name(d.name, at=d.at), Annotated(d.term, d.type, at=d.at), term, at=d.at)
        return term


# Operators by binding strength, loosest first; comparisons do not associate.
OPERATORS: dict[str, int] = {
    "or": 1,
    "and": 2,
    "==": 3,
    "<": 3,
    "<=": 3,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
}
# Named pure functions and their number of arguments.
FUNCTIONS: dict[str, int] = {
    "not": 1,
    "neg": 1,
    "exp": 1,
    "log": 1,
    "sqrt": 1,
    "abs": 1,
    "min": 2,
    "max": 2,
    "pred": 1,
    "range": 1,
}
# Primitive distributions and their number of arguments (None: one or more).
DISTRIBUTIONS: dict[str, int | None] = {
    "flip": 1,
    "categorical": None,
    "discrete": 1,
    "binomial": 2,
    "poisson": 1,
    "geometric": 1,
    "uniform": 2,
    "normal": 2,
    "exponential": 1,
    "gamma": 2,
    "beta": 2,
}


def subterms(term: Term | Pattern) -> Iterator[Term]:
    """The terms directly inside one, in the order of their text."""
    for f in fields(term):
        value: Any = getattr(term, f.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Node) and not isinstance(part, Name | Parts):
                yield part  # type: ignore[misc]


def every(term: Term) -> Iterator[Term]:
    """A term and all that is in it."""
    pending = [term]
    while pending:
        term = pending.pop()
        yield term
        pending += subterms(term)


def binders(term: Term) -> dict[int, frozenset[str]]:
    """For each subterm that is in the scope of variables bound here: those variables, by id."""
    match term:
        case Let(pattern, _, body) | Bind(pattern, _, body):
            return {id(body): frozenset(bound(pattern))}
        case Fun(name=name, body=body):
            return {id(body): frozenset(bound(name))}
        case Fix(function=function, name=name, body=body):
            return {id(body): frozenset(bound(function) + bound(name))}
        case Fold(item=item, state=state, body=body) | Loop(item=item, state=state, body=body):
            return {id(body): frozenset(bound(item) + bound(state))}
        case Case(left_name=x, left=left, right_name=y, right=right):
            return {id(left): frozenset(bound(x)), id(right): frozenset(bound(y))}
    return {}


class FreeVariables:
    """The free variables of the subterms of one term, each computed once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Term, frozenset[str]]] = {}

    def __call__(self, term: Term) -> frozenset[str]:
        if (known := self._known.get(id(term))) is not None:
            return known[1]
        if isinstance(term, Var):
            free = frozenset({term.name})
        else:
            scopes = binders(term)
            free = frozenset[str]().union(
                *(self(part) - scopes.get(id(part), frozenset()) for part in subterms(term))
            )
        self._known[id(term)] = term, free
        return free


@cache
def keywords() -> frozenset[str]:
    """Words that are not variables."""
    structure = (
        "true false inl inr let in fun if then else case of do fold loop fix def "
        "return score observe from memo normalize range"
    )
    types = "Unit Bool Fin Nat Prob Weight Real List D P S M Void"
    words = [w for w in (*OPERATORS, *FUNCTIONS, *DISTRIBUTIONS) if w.isalpha()]
    return frozenset([*structure.split(), *types.split(), *words])
