"""The text of the calculus: what is printed reads back, and types are kept."""

from __future__ import annotations

from fractions import Fraction as F

import pytest
from hypothesis import strategies as st
from support.equations import run_on
from support.mistakes import MISTAKES, Mistake
from support.sizes import quick
from support.terms import terms

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.check import check
from pushforward.ppl.calculus.parse import parse, parse_module, parse_type
from pushforward.ppl.calculus.pretty import pretty
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
    join,
    subtype,
)
from pushforward.ppl.errors import CalculusError

# ------------------------------------------------------------------------------ any syntax at all

NAMES = st.sampled_from(["x", "y", "f", "rain'", "a_b", "inlet", "iffy", "doing", "order", "notes"])
names = NAMES.map(s.Name)
binders = st.one_of(names, st.just(s.Name("_")))
patterns = st.recursive(
    binders, lambda p: st.lists(p, min_size=2, max_size=3).map(lambda i: s.Parts(tuple(i)))
)
numbers = st.fractions(min_value=0, max_value=9, max_denominator=9).map(s.Num)
types: st.SearchStrategy[Type] = st.recursive(
    st.one_of(
        st.sampled_from([UNIT, BOOL, NAT, PROB, WEIGHT, REAL, VOID]),
        st.integers(1, 9).map(Fin),
    ),
    lambda t: st.one_of(
        st.lists(t, min_size=2, max_size=3).map(lambda parts: Product(tuple(parts))),
        st.builds(Sum, t, t),
        st.builds(ListOf, t),
        st.builds(Function, t, t),
        st.builds(Measure, st.sampled_from("DPSM"), t),
    ),
    max_leaves=5,
)


def many(t: st.SearchStrategy[s.Term], least: int) -> st.SearchStrategy[tuple[s.Term, ...]]:
    return st.lists(t, min_size=least, max_size=3).map(tuple)


def compound(t: st.SearchStrategy[s.Term]) -> st.SearchStrategy[s.Term]:
    """One construction of every kind over the terms of a strategy, whatever their types are."""
    operators = st.sampled_from(sorted(s.OPERATORS))
    unary = st.sampled_from(sorted(n for n, arity in s.FUNCTIONS.items() if arity == 1))
    laws = st.sampled_from(sorted(s.DISTRIBUTIONS))
    return st.one_of(
        many(t, 2).map(s.Tuple),
        st.builds(s.Inl, t),
        st.builds(s.Inr, t),
        many(t, 0).map(s.List),
        st.builds(s.Cons, t, t),
        st.builds(lambda name, a, b: s.Op(name, (a, b)), operators, t, t),
        st.builds(lambda name, a: s.Op(name, (a,)), unary, t),
        st.builds(lambda name, a, b: s.Op(name, (a, b)), st.sampled_from(["min", "max"]), t, t),
        st.builds(s.If, t, t, t),
        st.builds(s.Case, t, names, t, names, t),
        st.builds(s.Let, patterns, t, t),
        st.builds(s.Fun, names, types, t),
        st.builds(s.App, t, t),
        st.builds(s.Fold, names, t, names, t, t),
        st.builds(s.Loop, names, t, names, t, t),
        st.builds(s.Annotated, t, types),
        st.builds(
            lambda name, args: s.Law(name, (args * 3)[: s.DISTRIBUTIONS[name] or len(args)]),
            laws,
            many(t, 1),
        ),
        st.builds(s.Return, t),
        st.builds(s.Bind, patterns, t, t),
        st.builds(s.Score, t),
        st.builds(s.Observe, t, t),
        st.builds(s.Fix, names, names, types, types, t),
        st.builds(s.Memo, t),
        st.builds(s.Normalize, t),
    )


LEAVES = st.one_of(
    NAMES.map(s.Var), numbers, st.booleans().map(s.Bool), st.just(s.Tuple(())), st.just(s.List(()))
)
syntax = st.recursive(LEAVES, compound, max_leaves=12)


def test_what_is_printed_reads_back() -> None:
    met: set[type] = set()

    def test(term: s.Term) -> None:
        assert parse(pretty(term)) == term
        met.update(map(type, s.every(term)))

    run_on(syntax, test, 1_000)
    assert met == set(s.Term.__args__), "every construction must have been printed"


def test_types_read_back() -> None:
    def test(type_: Type) -> None:
        assert parse_type(str(type_)) == type_

    run_on(types, test, 500)


def test_a_module_reads_back() -> None:
    module = parse_module("""
      def chance : Prob = 1/3   # a comment
      def toss (n : Nat) (p : Prob) : P Bool = do { x <- flip(p); return x and n == 1 }
      def main : P Bool = do { x <- toss 1 chance; return not x }""")
    assert parse_module(pretty(module)) == module
    assert check(module).type == Measure("P", BOOL)


@pytest.mark.parametrize("examples", quick(1, [300, 1_000]))
def test_well_typed_terms_keep_their_type_in_print(examples: int) -> None:
    def test(term: s.Term) -> None:
        again = parse(pretty(term))
        assert again == term
        assert check(again).type == check(term).type

    run_on(terms(), test, examples)


# ------------------------------------------------------------------------------------------ order


def test_types_are_ordered() -> None:
    """Subtyping is reflexive and transitive, and a join is an upper bound."""

    def test(three: tuple[Type, Type, Type]) -> None:
        a, b, c = three
        assert subtype(a, a)
        assert subtype(VOID, a)
        if subtype(a, b) and subtype(b, c):
            assert subtype(a, c)
        if (both := join(a, b)) is not None:
            assert subtype(a, both)
            assert subtype(b, both)

    run_on(st.tuples(types, types, types), test, 1_000)
    run_on(st.tuples(*(st.integers(1, 4).map(Fin) | types for _ in range(3))), test, 500)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("Fin 2", "Prob"),
        ("Fin 9", "Nat"),
        ("Nat", "Weight"),
        ("Prob", "Weight"),
        ("Weight", "Real"),
        ("P Bool", "M Bool"),
        ("D (Fin 2)", "P Nat"),
        ("Real -> Fin 2", "Nat -> Real"),
        ("List (Fin 3)", "List Real"),
        ("Fin 2 * Prob", "Nat * Weight"),
        ("Void + Bool", "Real + Bool"),
    ],
)
def test_one_type_is_within_another(smaller: str, larger: str) -> None:
    a, b = parse_type(smaller), parse_type(larger)
    assert subtype(a, b)
    assert not subtype(b, a)


@pytest.mark.parametrize(
    ("source", "type_"),
    [
        ("1 + 1", "Fin 3"),
        ("1 / 2", "Weight"),
        ("1/2 * 1/2", "Prob"),
        ("1 - 1/2", "Prob"),
        ("1/2 - 1", "Real"),
        ("exp(-1)", "Weight"),
        ("range(3)", "List (Fin 3)"),
        ("[1, 1/2]", "List Prob"),
        ("if true then 0 else -1", "Real"),
        ("fun (x : Fin 3) -> x + 1", "Fin 3 -> Fin 4"),
        ("fold x in [1, 2], n = 0 { x + n }", "Nat"),
        ("flip(1/2)", "D Bool"),
        ("do { x <- flip(1/2); return x }", "P Bool"),
        ("do { x <- flip(1/2); score if x then 1/2 else 1; return x }", "S Bool"),
        ("do { x <- flip(1/2); score if x then 2 else 1; return x }", "M Bool"),
        ("observe 1 from normal(0, 1)", "M Unit"),
        ("observe 1 from poisson(2)", "S Unit"),
        ("normalize score 2", "Unit + P Unit"),
        ("memo fun (n : Nat) -> flip(1/2)", "P (Nat -> Bool)"),
        ("categorical(1, 1, 2)", "D (Fin 3)"),
        ("binomial(4, 1/2)", "D (Fin 5)"),
        ("uniform(0, 1)", "D Prob"),
        ("uniform(0, 2)", "D Real"),
        ("inl true", "Bool + Void"),
        ("[]", "List Void"),
    ],
)
def test_the_type_of_a_term(source: str, type_: str) -> None:
    assert check(parse(source)).type == parse_type(type_)


# --------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.message)
def test_a_mistake_is_refused_where_it_stands(mistake: Mistake) -> None:
    source, where = mistake.place()
    with pytest.raises(CalculusError) as caught:
        check(parse_module(source) if mistake.module else parse(source))
    assert str(caught.value).startswith(f"{where}: "), f"not at {where}: {caught.value}"
    assert mistake.message in str(caught.value)


def test_there_are_enough_mistakes() -> None:
    assert len({mistake.text for mistake in MISTAKES}) >= 40


def test_no_mistake_hides_behind_a_right_reading() -> None:
    """A number and a name next to each other, and precedence, as one would expect them."""
    assert parse("1/3") == s.Num(F(1, 3))
    assert parse("1 / 3") == s.Op("/", (s.Num(F(1)), s.Num(F(3))))
    assert parse("a + b * c :: d == e and f or g") == parse(
        "((((a + (b * c)) :: d) == e) and f) or g"
    )
    assert parse("not a and b") == parse("(not a) and b")
    assert parse("- a * b") == parse("(-a) * b")
    assert parse("f x y") == parse("(f x) y")
    assert parse("return if a then b else c + d") == parse("return (if a then b else (c + d))")
