"""The laws of programs (L1 to L9, L14, L16), as equations between programs with random parts.

A law is a pair of sources in which single letters stand for random terms.  Both sides must denote
the same measure: exactly, by the reference, and to 1e-10 by the exact evaluator on the elaborated
programs.  The false laws at the end must each be refuted.  The runs are seeded.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from support.equations import Part, filled, m, p, run_on, scope, scores, v
from support.square import by_enumeration, by_reference, require_equal
from support.terms import law

from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.pretty import pretty
from pushforward.ppl.calculus.types import BOOL, PROB, Fin
from pushforward.semantics import reference


@dataclass(frozen=True)
class Law:
    """``left`` = ``right`` for all terms of the given kinds in place of the letters."""

    number: str
    left: str
    right: str
    parts: dict[str, Part]


TRI = Fin(3)
PAIR = "do { x <- m; y <- n; return (x, y) }"
LAWS = [
    Law("L1 left unit", "do { x <- return e; k }", "let x = e in k", {"e": v(), "k": m(x=BOOL)}),
    Law("L1 right unit", "do { x <- m; return x }", "m", {"m": m(TRI)}),
    Law(
        "L1 associativity",
        "do { y <- do { x <- m; k }; h }",
        "do { x <- m; y <- k; h }",
        {"m": m(), "k": m(TRI, 2, x=BOOL), "h": m(y=TRI)},
    ),
    Law(
        "L2 commutativity",
        PAIR,
        PAIR.replace("x <- m; y <- n", "y <- n; x <- m"),
        {"m": m(), "n": m(TRI)},
    ),
    Law("L3 P is affine", "do { _ <- p; h }", "h", {"p": p(), "h": m()}),
    Law(
        "L4 scores multiply",
        "do { score a; score b; h }",
        "do { score a * b; h }",
        {"a": v(PROB), "b": v(PROB), "h": m()},
    ),
    Law("L4 score one", "do { score 1; h }", "h", {"h": m()}),
    Law("L4 score zero", "do { score 0; h }", "do { score 0; k }", {"h": m(), "k": m()}),
    Law(
        "L5 naturality of strength",
        "do { z <- do { x <- m; return (e, x) }; let (a, x) = z; return (a, g) }",
        "do { x <- m; return (e, g) }",
        {"m": m(), "e": v(), "g": v(TRI, x=BOOL)},
    ),
    Law(
        "L5 marginal of a product",
        f"do {{ z <- {PAIR}; let (a, b) = z; return a }}",
        "do { _ <- n; m }",
        {"m": m(), "n": m(TRI)},
    ),
    Law(
        "L6 functoriality",
        "do { y <- do { x <- m; return f }; return g }",
        "do { x <- m; return let y = f in g }",
        {"m": m(TRI), "f": v(x=TRI), "g": v(TRI, y=BOOL)},
    ),
    Law(
        "L7 Frobenius",
        "do { x <- m; let y = f; score w; return y }",
        "do { y <- do { x <- m; return f }; score w; return y }",
        {"m": m(TRI), "f": v(x=TRI), "w": v(PROB, y=BOOL)},
    ),
    Law(
        "L8 rescaling",
        "do { x <- do { x <- m; score a; return x }; score b; return x }",
        "do { x <- m; score a * b; return x }",
        {"m": m(), "a": v(PROB, x=BOOL), "b": v(PROB, x=BOOL)},
    ),
    Law(
        "L9 normalise forgets constants",
        "case normalize do { score c; m } of { inl u -> h; inr q -> do { x <- q; k } }",
        "case normalize m of { inl u -> h; inr q -> do { x <- q; k } }",
        {"c": scores(), "m": m(), "h": m(fuel=2), "k": m(x=BOOL)},
    ),
    Law(
        "L9 normalise twice",
        "case normalize m of { inl u -> h;"
        " inr q -> case normalize q of { inl u -> h; inr r -> do { x <- r; k } } }",
        "case normalize m of { inl u -> h; inr q -> do { x <- q; k } }",
        {"m": m(), "h": m(fuel=2), "k": m(x=BOOL)},
    ),
    Law(
        "L14 memo remembers",
        "do { f <- memo fun (i : Bool) -> d; return (f e, f e) }",
        "do { x <- let i = e in d; return (x, x) }",
        {"d": law(TRI, scope(i=BOOL), 2), "e": v()},
    ),
    Law(
        "L14 values are independent",
        "do { f <- memo fun (i : Bool) -> d; return (f true, f false) }",
        "do { y <- let i = false in d; x <- let i = true in d; return (x, y) }",
        {"d": law(TRI, scope(i=BOOL), 2)},
    ),
    Law(
        "L16 a loop is its steps",
        "loop b in [e, c], z = a { k }",
        "do { z <- let b = e in let z = a in k; let b = c in k }",
        {"e": v(), "c": v(), "a": v(TRI), "k": m(TRI, b=BOOL, z=TRI)},
    ),
    Law(
        "L16 loops fuse",
        "loop b in [e, c, d], z = a { k }",
        "do { z <- loop b in [e], z = a { k }; loop b in [c, d], z = (z : Fin 3) { k } }",
        {"e": v(), "c": v(), "d": v(), "a": v(TRI), "k": m(TRI, 2, b=BOOL, z=TRI)},
    ),
    Law(
        "L16 a fold is its steps",
        "return fold b in [e, c], z = a { g }",
        "return let z = (let b = c in let z = a in g) in let b = e in g",
        {"e": v(), "c": v(), "a": v(TRI), "g": v(TRI, 3, b=BOOL, z=TRI)},
    ),
    Law("beta", "(fun (x : Bool) -> k) e", "let x = e in k", {"e": v(), "k": m(x=BOOL)}),
    Law(
        "case of a summand",
        "case (inr e : Bool + Bool) of { inl x -> h; inr x -> k }",
        "let x = e in k",
        {"e": v(), "h": m(x=BOOL), "k": m(x=BOOL)},
    ),
    Law(
        "branches meet what follows",
        "do { y <- if e then m else n; h }",
        "if e then do { y <- m; h } else do { y <- n; h }",
        {"e": v(), "m": m(), "n": m(), "h": m(y=BOOL)},
    ),
    Law(
        "observe is zero off the support",
        "do { observe e from d; h }",
        "do { score (case normalize do { x <- d; score if x == e then 1 else 0; return x }"
        " of { inl u -> 0; inr q -> 1 }); observe e from d; h }",
        {"e": v(TRI), "d": law(TRI, scope(), 2), "h": m()},
    ),
]

FALSE = [
    Law("M is not affine", "do { _ <- p; h }", "h", {"p": m(), "h": m()}),
    Law(
        "draws do not copy",
        "do { x <- m; return (x, x) }",
        "do { x <- m; y <- m; return (x, y) }",
        {"m": m()},
    ),
    Law(
        "normalising forgets the evidence",
        "m",
        "case normalize m of { inl u -> m; inr q -> do { x <- q; return x } }",
        {"m": m()},
    ),
    Law(
        "normalising does not commute with bind",
        "case normalize do { x <- m; k } of { inl u -> h; inr q -> q }",
        "do { x <- m; case normalize k of { inl u -> h; inr q -> q } }",
        {"m": p(), "k": m(x=BOOL), "h": m(fuel=1)},
    ),
    Law(
        "memo is not a new draw",
        "do { f <- memo fun (i : Bool) -> d; return (f e, f e) }",
        "do { let f = fun (i : Bool) -> d; x <- f e; y <- f e; return (x, y) }",
        {"d": law(TRI, scope(i=BOOL), 2), "e": v()},
    ),
    Law(
        "a fold starts at the end",
        "return fold b in [true, false], z = a { g }",
        "return fold b in [false, true], z = a { g }",
        {"a": v(TRI), "g": v(TRI, 3, b=BOOL, z=TRI)},
    ),
    Law(
        "steps of a loop do not commute",
        "loop b in [true, false], z = a { k }",
        "loop b in [false, true], z = a { k }",
        {"a": v(TRI), "k": m(TRI, b=BOOL, z=TRI)},
    ),
    Law(
        "scores do not add",
        "do { score a; score b; h }",
        "do { score a + b; h }",
        {"a": v(PROB), "b": v(PROB), "h": m()},
    ),
]


def hold(law: Law, parts: dict[str, s.Term]) -> None:
    left, right = filled(law.left, parts), filled(law.right, parts)
    first, second = reference.denote(left), reference.denote(right)
    assert first == second, f"{law.number}: {first} is not {second} for\n{pretty(left)}"
    require_equal(
        left, ("the left side", "the right side"), by_enumeration(left), by_enumeration(right)
    )
    require_equal(
        left, ("the reference", "the evaluator"), by_reference(left), by_enumeration(left)
    )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.number)
def test_law(law: Law) -> None:
    run_on(st.fixed_dictionaries(law.parts), lambda parts: hold(law, parts))


@pytest.mark.parametrize("law", FALSE, ids=lambda law: law.number)
def test_a_false_law_is_refuted(law: Law) -> None:
    def refuted(parts: dict[str, s.Term]) -> None:
        left, right = (reference.denote(filled(side, parts)) for side in (law.left, law.right))
        assert left == right

    with pytest.raises(AssertionError):
        run_on(st.fixed_dictionaries(law.parts), refuted, 1_000, shrink=False)
