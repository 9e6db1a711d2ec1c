"""Quasi-Borel spaces: random elements are closed under what the axioms name, and under terms."""

from __future__ import annotations

import random
from fractions import Fraction as F
from typing import Any

import pytest
from support.equations import run_on, v
from support.terms import COMPOUND, SMALL

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.types import (
    BOOL,
    NAT,
    PROB,
    REAL,
    UNIT,
    VOID,
    WEIGHT,
    Fin,
    Function,
    ListOf,
    Measure,
    Product,
    Sum,
    Type,
)
from pushforward.ppl.errors import CalculusError
from pushforward.semantics import reference
from pushforward.semantics.reference import space
from pushforward.semantics.reference.measure import Finite
from pushforward.semantics.reference.spaces import glue
from pushforward.semantics.reference.values import Left, Listed, Right

EMPTY_LIST = Sum(VOID, ListOf(VOID))  # has one value
TYPES: tuple[Type, ...] = (
    *SMALL,
    *COMPOUND,
    NAT,
    WEIGHT,
    ListOf(Sum(UNIT, Fin(3))),
    EMPTY_LIST,
    Measure("P", BOOL),
    Measure("M", Product((REAL, BOOL))),
    Function(BOOL, Fin(3)),
    Function(REAL, REAL),
    Function(Fin(2), Measure("P", BOOL)),
)
POINTS = [F(i, 37) for i in range(37)]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_random_elements_satisfy_the_axioms(type_: Type) -> None:
    of = space(type_)
    rng = random.Random(1)
    elements = [of.random_element(rng) for _ in range(6)]
    for alpha in elements:
        constant = alpha(F(1, 3))
        for r in POINTS:
            assert of.contains(alpha(r))
            assert of.contains(constant)
            assert of.contains(alpha(r * r))
            assert of.contains(glue(elements)(r))


LARGE = [t for t in TYPES if t != UNIT and not isinstance(t, Function) and t != EMPTY_LIST]


@pytest.mark.parametrize("type_", LARGE, ids=str)
def test_random_elements_are_not_only_constants(type_: Type) -> None:
    rng = random.Random(2)
    seen = {repr(space(type_).random_element(rng)(r)) for _ in range(6) for r in POINTS}
    assert len(seen) > 1


@pytest.mark.parametrize("source", SMALL + COMPOUND, ids=str)
@pytest.mark.parametrize("target", [BOOL, Fin(3), REAL, Sum(UNIT, BOOL)], ids=str)
def test_terms_are_morphisms(source: Type, target: Type) -> None:
    """A term with a free variable of A sends the random elements of A to random elements of B."""
    rng = random.Random(3)

    def test(body: s.Term) -> None:
        alpha = space(source).random_element(rng)
        f = reference.value(s.Fun(s.Name("x"), source, body))
        for r in POINTS[::6]:
            assert space(target).contains(f(alpha(r)))

    run_on(v(target, 3, x=source), test, 15)


def test_random_functions_are_random_elements_of_pairs() -> None:
    """alpha : R -> (A -> B) is a random element if and only if (r, a) -> alpha(r)(a) is one."""
    rng = random.Random(4)
    for argument, result in ((BOOL, Fin(3)), (Fin(2), REAL), (REAL, BOOL)):
        alpha = space(Function(argument, result)).random_element(rng)
        a = space(argument).random_element(rng)
        for r in POINTS:
            assert space(result).contains(alpha(r)(a(r)))


OUTSIDE: list[tuple[Type, Any]] = [
    (VOID, ()),
    (UNIT, (F(0),)),
    (BOOL, F(1)),
    (NAT, F(1, 2)),
    (NAT, F(-1)),
    (Fin(3), F(3)),
    (PROB, F(9, 8)),
    (WEIGHT, F(-1, 8)),
    (REAL, True),
    (Product((BOOL, BOOL)), (True,)),
    (Sum(UNIT, BOOL), Left(True)),
    (Sum(UNIT, BOOL), Right(())),
    (ListOf(BOOL), Listed((F(0),))),
    (ListOf(BOOL), (True,)),
    (Measure("P", BOOL), Finite([(True, F(1, 2))])),
    (Measure("S", BOOL), Finite([(True, F(3, 2))])),
    (Measure("M", BOOL), Finite([(F(1), F(1))])),
    (Function(BOOL, BOOL), True),
]


@pytest.mark.parametrize(("type_", "value"), OUTSIDE)
def test_what_is_not_in_a_space(type_: Type, value: Any) -> None:
    assert not space(type_).contains(value)


FINITE = [UNIT, BOOL, Fin(4), *COMPOUND[:2], Product((BOOL, Fin(3)))]


@pytest.mark.parametrize("type_", FINITE, ids=str)
def test_a_finite_space_lists_its_values_once(type_: Type) -> None:
    listed = space(type_).enumerate()
    assert len(set(listed)) == len(listed)
    assert all(map(space(type_).contains, listed))


@pytest.mark.parametrize("type_", [NAT, REAL, ListOf(BOOL), Product((BOOL, REAL))], ids=str)
def test_an_infinite_space_is_not_listed(type_: Type) -> None:
    with pytest.raises(CalculusError, match="has infinitely many values"):
        space(type_).enumerate()
