"""Measures as weighted random elements: ``[Omega, alpha, w]`` with a splittable source Omega.

Omega is an infinitely wide and deep tree of independent uniform labels.  A term denotes a pair of
functions of it, its value and its weight, and the measure is the pushforward of ``w * uniform``
along the value.  Each draw reads the label at its own address and hands disjoint subtrees on, so
that nothing depends on the order of evaluation: a memoised function reads the subtree of its
argument when it is asked, and never if it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from ...ppl.calculus import syntax as s
from ...ppl.calculus.check import check
from ...ppl.calculus.errors import BudgetError, CalculusError
from ...ppl.calculus.nesting import deep
from ...ppl.calculus.types import Measure
from .laws import LawValue
from .measure import Finite
from .values import Env, Left, Listed, Number, Right, apply_operation, bind_pattern

Address = tuple[Hashable, ...]


class Source(Protocol):
    """What answers a draw at an address."""

    def draw(self, address: Address, law: LawValue) -> Any: ...


@dataclass(frozen=True)
class Omega:
    """One point of Omega: the label of every address, computed when it is asked for.

    A draw is the quantile of its law at the label.
    """

    label: Callable[[Address], Number]

    def draw(self, address: Address, law: LawValue) -> Any:
        return law.quantile(self.label(address))


Computation = Callable[[Source, Address], tuple[Any, Number]]


class Cut(Exception):
    """A recursion was cut: the weight so far, and a bound on what may still multiply it."""


@dataclass(frozen=True)
class RandomElement:
    """The value and the weight of a term as functions of the source."""

    computation: Computation

    def __call__(self, source: Source) -> tuple[Any, Number]:
        return self.computation(source, ())


@deep()
def random_element(term: s.Term | s.Module, *, depth: int = 50) -> RandomElement:
    """The weighted random element that a closed term of a measure type denotes."""
    typing = check(term)
    if not isinstance(typing.type, Measure):
        raise CalculusError(f"only measures are denoted, not {typing.type}", typing.term.at)
    elaborator = _Tree(depth)
    return RandomElement(elaborator.computation(elaborator.value(typing.term, {})))


@deep()
def integrate(
    element: RandomElement, *, budget: int = 20_000, most: Number = 1, terms: int = 50
) -> Finite:
    """The measure of a weighted random element whose draws are finite, cell by cell.

    The cells of Omega on which the element is constant are found by running it: a draw at a new
    address splits the cell into one for each outcome.  No two cells are merged before the end.

    Args:
        most: a bound on what the rest of a path may multiply its weight by, once it is cut.
        terms: how many terms of an infinite support are listed.
    """
    atoms: list[tuple[Any, Number]] = []
    rest: Number = Fraction(0)
    pending: list[list[tuple[Address, Any, Number]]] = [[]]
    cells = 0
    while pending:
        cells += 1
        if cells > budget:
            raise BudgetError(f"the integral needs more than {budget} cells")
        cell = _Cell(pending.pop(), terms)
        try:
            value, weight = element(cell)
            atoms.append((value, weight * cell.mass()))
        except Cut as cut:
            scale = cut.args[0] * cell.mass()
            rest = math.inf if math.inf in (rest, most) and scale else rest + scale * most
        rest += cell.missed
        pending += cell.others
    return Finite(atoms, rest)


class _Cell:
    """A cell of Omega, given by the outcomes of the draws at some addresses."""

    def __init__(self, known: list[tuple[Address, Any, Number]], terms: int) -> None:
        self.known = {address: (value, mass) for address, value, mass in known}
        self.others: list[list[tuple[Address, Any, Number]]] = []
        self.terms = terms
        self.missed: Number = Fraction(0)

    def mass(self) -> Number:
        return math.prod((mass for _, mass in self.known.values()), start=Fraction(1))

    def draw(self, address: Address, law: LawValue) -> Any:
        if address not in self.known:
            pairs, rest = law.masses(self.terms)
            self.missed += self.mass() * rest
            before = [(a, v, m) for a, (v, m) in self.known.items()]
            self.others += [[*before, (address, v, m)] for v, m in pairs[1:]]
            self.known[address] = pairs[0]
        return self.known[address][0]


class _Tree:
    """Structural recursion: pure terms to values, measures to computations."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def value(self, term: s.Term, env: Env) -> Any:
        match term:
            case s.Var(name):
                return env[name]
            case s.Num(value) | s.Bool(value):
                return value
            case s.Tuple(items):
                return tuple(self.value(item, env) for item in items)
            case s.List(items):
                return Listed(self.value(item, env) for item in items)
            case s.Cons(head, tail):
                return Listed((self.value(head, env), *self.value(tail, env)))
            case s.Inl(value):
                return Left(self.value(value, env))
            case s.Inr(value):
                return Right(self.value(value, env))
            case s.Annotated(inner, _):
                return self.value(inner, env)
            case s.Op(name, args):
                return apply_operation(name, tuple(self.value(a, env) for a in args), term.at)
            case s.If(test, yes, no):
                return self.value(yes if self.value(test, env) else no, env)
            case s.Case(value, x, left, y, right):
                chosen = self.value(value, env)
                if isinstance(chosen, Left):
                    return self.value(left, bind_pattern(x, chosen.value, env))
                return self.value(right, bind_pattern(y, chosen.value, env))
            case s.Let(pattern, value, body):
                return self.value(body, bind_pattern(pattern, self.value(value, env), env))
            case s.Fun(x, _, body):
                return lambda v: self.value(body, bind_pattern(x, v, env))
            case s.App(function, argument):
                return self.value(function, env)(self.value(argument, env))
            case s.Fold(x, xs, acc, start, body):
                state = self.value(start, env)
                for item in reversed(self.value(xs, env)):
                    scope = bind_pattern(acc, state, bind_pattern(x, item, env))
                    state = self.value(body, scope)
                return state
            case s.Law(name, args):
                return LawValue(name, tuple(self.value(arg, env) for arg in args), term.at)
            case s.Return(value):
                known = self.value(value, env)
                return lambda source, at: (known, Fraction(1))
            case s.Score(weight):
                score = self.value(weight, env)
                return lambda source, at: ((), score)
            case s.Observe(value, law):
                density = self.value(law, env).density(self.value(value, env))
                return lambda source, at: ((), density)
            case s.Bind(pattern, measure, body):
                return self.bind(
                    self.value(measure, env),
                    lambda x: self.value(body, bind_pattern(pattern, x, env)),
                )
            case s.Loop(x, xs, state, start, body):
                return self.loop(term, env)
            case s.Fix():
                return self.recursive(term, env)
            case s.Memo(function):
                return self.memo(self.value(function, env))
            case s.Normalize(measure):
                inner_measure = RandomElement(self.computation(self.value(measure, env)))
                return self.normalized(integrate(inner_measure).normalize())
        raise TypeError(f"not a term: {term!r}")

    def computation(self, value: Any) -> Computation:
        """A measure as a computation; a primitive distribution reads one label."""
        if isinstance(value, LawValue):
            return lambda source, at: (source.draw(at, value), Fraction(1))
        return value  # type: ignore[no-any-return]

    def bind(self, first: Any, rest: Callable[[Any], Any]) -> Computation:
        """First with the left subtree, then the rest with the right one; weights multiply."""

        def run(source: Source, at: Address) -> tuple[Any, Number]:
            x, w = self.computation(first)(source, (*at, 0))
            if w == 0:
                return x, w
            try:
                y, v = self.computation(rest(x))(source, (*at, 1))
            except Cut as cut:
                raise Cut(w * cut.args[0]) from None
            return y, w * v

        return run

    def loop(self, term: s.Loop, env: Env) -> Computation:
        items = self.value(term.items, env)

        def at_step(i: int, state: Any) -> Computation:
            if i == len(items):
                return lambda source, at: (state, Fraction(1))
            inner = bind_pattern(term.state, state, bind_pattern(term.item, items[i], env))
            return self.bind(self.value(term.body, inner), lambda after: at_step(i + 1, after))

        return at_step(0, self.value(term.start, env))

    def recursive(self, term: s.Fix, env: Env) -> Callable[[Any], Computation]:
        """The recursive function; its body is only looked at when the call is run."""

        def call(argument: Any) -> Computation:
            def run(source: Source, at: Address) -> tuple[Any, Number]:
                if self.depth == 0:
                    raise Cut(Fraction(1))
                self.depth -= 1
                try:
                    inner = bind_pattern(term.function, call, env)
                    body = self.value(term.body, bind_pattern(term.name, argument, inner))
                    return self.computation(body)(source, at)
                finally:
                    self.depth += 1

            return run

        return call

    def memo(self, function: Callable[[Any], Any]) -> Computation:
        """The function that reads, for each argument, a subtree of its own."""

        def run(source: Source, at: Address) -> tuple[Any, Number]:
            return lambda x: self.computation(function(x))(source, (*at, x))[0], Fraction(1)

        return run

    def normalized(self, value: Left | Right) -> Left | Right:
        if isinstance(value, Left):
            return value
        atoms = list(value.value)
        law = LawValue("categorical", tuple(weight for _, weight in atoms))
        return Right(lambda source, at: (atoms[int(source.draw(at, law))][0], Fraction(1)))
