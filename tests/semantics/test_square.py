"""The agreement square on random well-typed terms.

For every term: structural recursion in exact rationals = the cells of Omega one by one (both exact)
= the exact evaluator on the elaborated program, merged and not = the density of every trace, summed
by result; and for terms of static structure = one captured graph of all traces at once as lanes.
A counterexample prints as source.  The runs are seeded: they are the same each time.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, seed, settings
from support.sizes import quick
from support.square import (
    Mismatch,
    Plain,
    by_assessment,
    by_capture,
    by_enumeration,
    by_reference,
    require_equal,
)
from support.terms import terms

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.check import check
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.calculus.pretty import pretty
from pushforward.ppl.calculus.types import Measure
from pushforward.ppl.errors import BudgetError
from pushforward.semantics import reference
from pushforward.semantics.checks.agreement import collected

CELLS = 1_000  # terms with more paths are left out


def agree(term: s.Term, paths: list[int]) -> None:
    """Hold all evaluations of one term together; ``paths`` collects how many it has."""
    typing = check(term)
    assert isinstance(typing.type, Measure)
    exact = reference.denote(term)
    space = reference.space(typing.type)
    assert space.contains(exact), f"{exact} is not of type {typing.type}:\n{pretty(term)}"
    known = by_reference(term)
    try:
        cells, count = over_cells(term)
    except BudgetError:
        return
    require_equal(term, ("the reference", "the integral over Omega"), known, cells)
    require_equal(term, ("the reference", "the exact evaluator"), known, by_enumeration(term))
    require_equal(term, ("the reference", "assess, summed"), known, by_assessment(term))
    paths.append(count)


def over_cells(term: s.Term) -> tuple[Plain, int]:
    """The measure over the cells of Omega, and how many paths it has, impossible ones left out."""
    counted = 0
    element = reference.random_element(term)

    def counting(source: object) -> object:
        nonlocal counted
        counted += 1
        return element(source)

    return collected(reference.integrate(counting, budget=CELLS)), counted  # type: ignore[arg-type]


def agree_on(count: int, start: int) -> list[int]:
    """The square on ``count`` random terms; the numbers of their paths."""
    paths: list[int] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(terms())
    def run(term: s.Term) -> None:
        agree(term, paths)

    run()
    return paths


def capture_on(count: int, start: int) -> int:
    """The captured and vmapped evaluation of ``count`` random terms; how many were not too big."""
    captured = 0

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(terms(static=True))
    def run(term: s.Term) -> None:
        nonlocal captured
        try:
            lanes = by_capture(term, limit=1024)
        except BudgetError:
            return
        captured += 1
        require_equal(term, ("the reference", "the captured graph"), by_reference(term), lanes)

    run()
    return captured


@pytest.mark.parametrize(("block", "count"), quick(1, [(0, 150), *((k, 525) for k in range(4))]))
def test_every_evaluation_of_a_term_agrees(block: int, count: int) -> None:
    paths = agree_on(count, start=block)
    assert len(paths) >= count * 20 / 21
    assert sum(paths) / len(paths) < 200
    assert sum(each > 3 for each in paths) > count / 5, "most terms must not be trivial"


@pytest.mark.parametrize(("count", "least"), quick(1, [(44, 40), (220, 200)]))
def test_captured_and_vmapped_evaluation_agrees(count: int, least: int) -> None:
    assert capture_on(count, start=100) >= least


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_terms_agree(block: int) -> None:
    assert len(agree_on(5_200, start=1_000 + block)) >= 5_000


@pytest.mark.slow
def test_many_captured_terms_agree() -> None:
    assert capture_on(2_100, start=2_000) >= 2_000


def test_unmerged_paths_agree() -> None:
    @seed(7)
    @settings(max_examples=100, deadline=None, database=None)
    @given(terms(fuel=4))
    def run(term: s.Term) -> None:
        require_equal(
            term,
            ("the reference", "the evaluator without merging"),
            by_reference(term),
            by_enumeration(term, merge=False),
        )

    run()


def test_a_binomial_that_is_certain_leaves_nothing_else() -> None:
    """A clamped probability would leave the query below a mass of 1e-31 to normalise."""
    term = parse("""case normalize do { observe 0 from binomial(2, 1); return 0 }
      of { inl v1 -> return true; inr v1 -> return false }""")
    assert by_reference(term) == by_enumeration(term) == by_assessment(term)


def test_a_difference_prints_the_term_as_source() -> None:
    term = parse("do { x <- flip(1/3); score if x then 1/2 else 1; return x }")
    with pytest.raises(Mismatch, match=r"a gives True the mass 0.16.*\ndo \{\n  x <- flip\(1/3\);"):
        require_equal(term, ("a", "b"), by_reference(term), {True: 1.0})
