"""The measure that a term denotes, by structural recursion; equal outcomes merge at each bind.

``return`` is a unit mass, bind is the integral of a kernel, ``score`` is a mass at the unit value.
A body is computed once for each distinct environment of its free variables.  A random function on
an infinite space is no finite table: a term with one is integrated over Omega (see ``tree``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...ppl.calculus import syntax as s
from ...ppl.calculus.check import Typing, check
from ...ppl.calculus.errors import BudgetError, CalculusError
from ...ppl.calculus.nesting import deep
from ...ppl.calculus.types import Function, Measure, values
from .laws import LawValue
from .measure import Finite, dirac, scaled
from .spaces import space
from .tree import integrate, random_element
from .values import Env, Left, Listed, Number, Right, apply_operation, bind_pattern

BUDGET = 100_000


@deep()
def denote(
    term: s.Term | s.Module,
    *,
    depth: int = 50,
    nodes: int | None = None,
    about: dict[str, tuple[float, float]] | None = None,
    budget: int = BUDGET,
) -> Finite:
    """The measure of a closed term of type D, P, S or M, in exact rationals.

    Args:
        depth: how many calls of recursive functions may be nested, and how many terms of an
            infinite support are listed; the measure says what may be missing.
        nodes: quadrature nodes for each continuous draw; numbers are then floats.
        about: (centre, scale) of the quadrature for the normal draws bound to these names.
        budget: the most atoms of any one measure.

    Errors:
        CalculusError: the term is ill-typed, divides by zero, or draws continuously without nodes.
        BudgetError: a measure has more than ``budget`` atoms.
    """
    typing = check(term)
    if not isinstance(typing.type, Measure):
        raise CalculusError(f"only measures are denoted, not {typing.type}", typing.term.at)
    if _asks_infinitely(typing.term, typing):
        element = random_element(typing.term, depth=depth)
        return integrate(element, budget=budget, most=most(typing.type), terms=depth)
    evaluator = _Reference(typing, depth, nodes, about or {}, budget)
    return evaluator.measure(evaluator.value(typing.term, {}))


def _asks_infinitely(term: s.Term, typing: Typing) -> bool:
    """Whether a random function with infinitely many arguments is drawn anywhere in a term."""
    functions = (typing.of(part.function) for part in s.every(term) if isinstance(part, s.Memo))
    return any(isinstance(f, Function) and values(f.argument) is None for f in functions)


@deep()
def value(term: s.Term | s.Module, *, depth: int = 50) -> Any:
    """The value of a closed term of any other type; functions are callable.

    Errors:
        CalculusError: the term is ill-typed, or divides by zero.
    """
    typing = check(term)
    return _Reference(typing, depth, None, {}, BUDGET).value(typing.term, {})


@dataclass(frozen=True, slots=True)
class Closure:
    """A function of the calculus with the values of its free variables."""

    node: int
    env: tuple[tuple[str, Any], ...]
    call: Callable[[Any], Any]

    def __call__(self, argument: Any) -> Any:
        return self.call(argument)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Closure) and (self.node, self.env) == (other.node, other.env)

    def __hash__(self) -> int:
        return hash((self.node, self.env))


@dataclass(frozen=True, slots=True)
class Table:
    """A function on a finite space, by its values: equal to any other with the same ones."""

    values: tuple[tuple[Any, Any], ...]

    def __call__(self, argument: Any) -> Any:
        return next(y for x, y in self.values if x == argument)


class _Reference:
    def __init__(
        self,
        typing: Typing,
        depth: int,
        nodes: int | None,
        about: dict[str, tuple[float, float]],
        budget: int,
    ) -> None:
        self.typing, self.depth, self.terms = typing, depth, depth
        self.nodes, self.about, self.budget = nodes, about, budget
        self.free = s.FreeVariables()
        self._known: dict[Hashable, Any] = {}

    # -------------------------------------------------------------------------------------- values

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
                return self.closure(term, env, lambda v: self.value(body, bind_pattern(x, v, env)))
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
            case s.Fix():
                return self.recursive(term, env)
            case s.Normalize(measure):
                return self.measure(self.value(measure, env)).normalize()
        return self.computation(term, env)

    def closure(self, term: s.Term, env: Env, call: Callable[[Any], Any]) -> Closure:
        return Closure(id(term), self.restricted(term, env), call)

    def restricted(self, term: s.Term, env: Env) -> tuple[tuple[str, Any], ...]:
        """The values of the free variables of a term."""
        return tuple((name, env[name]) for name in sorted(self.free(term)))

    def recursive(self, term: s.Fix, env: Env) -> Closure:
        """The recursive function, of which ``depth`` nested calls are computed, the next cut."""
        result = term.result
        assert isinstance(result, Measure)

        def call(argument: Any) -> Any:
            if self.depth == 0:
                return Finite(rest=most(result))
            self.depth -= 1
            try:
                inner = bind_pattern(term.function, function, env)
                return self.value(term.body, bind_pattern(term.name, argument, inner))
            finally:
                self.depth += 1

        function = self.closure(term, env, call)
        return function

    # ------------------------------------------------------------------------------------ measures

    def computation(self, term: s.Term, env: Env) -> Finite:
        """The measure of a term that is one, computed once for each environment."""
        key = (id(term), self.depth, self.restricted(term, env))
        if key not in self._known:
            self._known[key] = self._within(self._computation(term, env), term)
        return self._known[key]  # type: ignore[no-any-return]

    def _computation(self, term: s.Term, env: Env) -> Finite:
        match term:
            case s.Return(value):
                return dirac(self.value(value, env))
            case s.Score(weight):
                return scaled(self.value(weight, env))
            case s.Observe(value, law):
                return scaled(self.value(law, env).density(self.value(value, env)))
            case s.Bind(pattern, measure, body):
                first = self.measure(self.value(measure, env), s.bound(pattern))
                return first.bind(
                    lambda x: self.measure(self.value(body, bind_pattern(pattern, x, env))),
                    most(self.typing.of(body)),
                )
            case s.Loop(x, xs, state, start, body):
                front = dirac(self.value(start, env))
                for item in self.value(xs, env):
                    scope = bind_pattern(x, item, env)
                    front = front.bind(
                        lambda v, scope=scope: self.measure(  # type: ignore[misc]
                            self.value(body, bind_pattern(state, v, scope))
                        ),
                        most(self.typing.of(body)),
                    )
                    self._within(front, term)
                return front
            case s.Memo(function):
                return self.tables(term, self.value(function, env))
        raise TypeError(f"not a term: {term!r}")

    def _within(self, found: Finite, term: s.Term) -> Finite:
        if len(found) > self.budget:
            raise BudgetError(
                f"{term.at}: the measure has {len(found)} values, over the budget of "
                f"{self.budget}; return less of the history (equal values merge), or raise budget="
            )
        return found

    def measure(self, value: Any, names: tuple[str, ...] = ()) -> Finite:
        """A measure as its atoms: a primitive distribution is enumerated or integrated."""
        if not isinstance(value, LawValue):
            return value  # type: ignore[no-any-return]
        if not value.continuous or self.nodes is None:
            pairs, rest = value.masses(self.terms)
            return Finite(pairs, rest)
        if value.name == "normal" and names and names[0] in self.about:
            return Finite(value.nodes_about(self.nodes, *self.about[names[0]]))
        return Finite(value.nodes(self.nodes))

    def tables(self, term: s.Memo, function: Callable[[Any], Any]) -> Finite:
        """The law of a memoised function on a finite space: all its values, independently."""
        type_ = self.typing.of(term.function)
        assert isinstance(type_, Function)
        arguments = space(type_.argument).enumerate(term.at)
        joint = dirac(())
        for x in arguments:
            row = self.measure(function(x))
            joint = joint.product(row).map(lambda pair, x=x: (*pair[0], (x, pair[1])))  # type: ignore[misc]
        return joint.map(Table)


def most(type_: Any) -> Number:
    """A bound on the mass of a measure, from its type."""
    return math.inf if isinstance(type_, Measure) and type_.kind == "M" else Fraction(1)
