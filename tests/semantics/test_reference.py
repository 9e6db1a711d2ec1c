"""The reference semantics and the exact evaluator on worked examples, by hand in rationals."""

from __future__ import annotations

import math
import time
from fractions import Fraction as F

import pytest
import torch
from support.square import by_cells, by_enumeration, by_reference, require_equal

from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.errors import BudgetError, CalculusError
from pushforward.semantics import denote as evaluate
from pushforward.semantics import reference

COIN = """do { x <- flip(1/3); y <- flip(1/2);
  score if x and y then 9/10 else if x or y then 1/2 else 1/10; return (x, y) }"""
HARD = """do { rain <- flip(0.3); sprinkler <- flip(if rain then 0.1 else 0.4);
  wet <- flip(if rain then (if sprinkler then 0.98 else 0.8) else (if sprinkler then 0.9 else 0));
  score if wet then 0 else 1; return rain }"""
SOFT = """do { rain <- flip(0.3); sprinkler <- flip(if rain then 0.1 else 0.4);
  score if rain then (if sprinkler then 0.02 else 0.2) else (if sprinkler then 0.1 else 1);
  return rain }"""
SSM = """do { x <- flip(1/2); score if x then 3/4 else 1/4; y <- flip(if x then 2/3 else 1/3);
  score if y then 1/2 else 1/8; return (x, y) }"""
GEOMETRIC = """let count = fix count (n : Nat) : S Nat = do {
  stop <- flip(1/3); if stop then return n else do { SCORE count (n + 1) } } in count 0"""
BETA = """do { p <- uniform(0, 1); observe true from flip(p); observe true from flip(p);
  observe true from flip(p); observe false from flip(p); return p }"""
NORMAL = "do { x <- normal(0, 1); observe 1 from normal(x, 1/2); return x }"
LINE = """do { s <- normal(0, 3); b <- normal(0, 3);
  loop p in [(1, 2.5), (2, 3.8), (3, 4.5), (4, 6.2), (5, 8.0)], u = () {
    do { let (x, y) = p; observe y from normal(s * x + b, 1/2) } };
  return (s, b) }"""


def both(source: str, expected: dict[object, F]) -> None:
    """Both reference evaluators exactly, and the elaborated program to 1e-13."""
    term = parse(source)
    assert dict(reference.denote(term).atoms) == expected
    assert dict(reference.integrate(reference.random_element(term)).atoms) == expected
    found = by_enumeration(term)
    assert found.keys() == by_reference(term).keys()
    for value, weight in by_reference(term).items():
        assert abs(found[value] - weight) < 1e-13


def test_coin() -> None:
    expected = {
        (True, True): F(3, 20),
        (True, False): F(1, 12),
        (False, True): F(1, 6),
        (False, False): F(1, 30),
    }
    both(COIN, expected)
    measure = reference.denote(parse(COIN))
    assert measure.mass() == F(13, 30)
    assert measure.normalize().value.atoms[True, True] == F(9, 26)


def test_sprinkler_hard_and_soft_are_one_measure() -> None:
    expected = {True: F(273, 5000), False: F(56, 125)}
    both(HARD, expected)
    both(SOFT, expected)
    assert reference.denote(parse(SOFT)).normalize().value.atoms[True] == F(39, 359)


def test_two_step_state_space_model() -> None:
    both(
        SSM,
        {
            (True, True): F(1, 8),
            (True, False): F(1, 64),
            (False, True): F(1, 48),
            (False, False): F(1, 96),
        },
    )
    assert reference.denote(parse(SSM)).mass() == F(11, 64)


def test_scores_multiply_and_draws_may_be_dropped() -> None:
    both("do { score 2/3; score 3/4; return () }", {(): F(1, 2)})
    both("score 1/2", {(): F(1, 2)})
    both(f"do {{ score 0; {COIN} }}", {})
    both("do { _ <- flip(1/2); return 7 }", {F(7): F(1)})
    both("do { score 1/2; return 7 }", {F(7): F(1, 2)})
    both(
        "case normalize do { score 0; return true } of { inl u -> return 0; inr p -> return 1 }",
        {F(0): F(1)},
    )


def test_recursion_is_answered_by_an_interval() -> None:
    plain = parse(GEOMETRIC.replace("SCORE", ""))
    scored = parse(GEOMETRIC.replace("SCORE", "score 1/2;"))
    measure = reference.denote(plain, depth=10)
    assert measure.mass() == F(58025, 59049)
    assert measure.expect() == F(35270, 19683)
    assert measure.interval() == (F(58025, 59049), 1)
    assert reference.denote(scored, depth=10).interval() == (F(29524, 59049), F(29525, 59049))
    cells = reference.integrate(reference.random_element(scored, depth=10))
    assert cells.interval() == (F(29524, 59049), F(29525, 59049))
    low, high = evaluate(elaborate(scored), depth=10, bound=1.0).interval()
    assert low == pytest.approx(29524 / 59049, abs=1e-13)
    assert high == pytest.approx(29525 / 59049, abs=1e-13)
    assert low < 0.5 < high


NESTED = """let g = fix g (n : Nat) : M Bool = if n == 0 then flip(1/3) else do {
    x <- g (pred(n));
    y <- (fix h (k : Nat) : M Bool = if k == 0 then g (pred(n)) else do {
      z <- flip(1/4); w <- h (pred(k)); return z == w }) 2;
    return x == y } in g 2"""
AGENTS = """let f = fix f (n : Nat) : M Bool = if n == 0 then flip(1/3) else
    case normalize do {
        x <- f (pred(n)); y <- f (pred(n)); score if x == y then 1 else 1/2; return x } of {
      inl u -> return false;
      inr p -> do { a <- p; b <- p; score if a then 1/2 else 1; return b } } in f 2"""


def test_recursion_within_recursion_and_within_a_query() -> None:
    """x == y of independent coins leans, by 2 P(true) - 1, as the product of what they lean by."""
    lean = {0: F(1, 3)}  # up to its sign
    for n in (1, 2):
        lean[n] = lean[n - 1] ** 2 * F(1, 2) ** 2
    both(NESTED, {True: (1 + lean[2]) / 2, False: (1 - lean[2]) / 2})
    term = parse(AGENTS)
    exact = reference.denote(term)
    cells = reference.integrate(reference.random_element(term))
    assert exact == cells
    require_equal(term, ("a", "b"), by_reference(term), by_enumeration(term))


def test_without_a_bound_on_the_scores_nothing_is_claimed() -> None:
    wild = parse(GEOMETRIC.replace("SCORE", "score 2;").replace("S Nat", "M Nat"))
    assert reference.denote(wild, depth=10).interval()[1] == math.inf
    assert evaluate(elaborate(wild), depth=10).interval()[1] == math.inf


def test_beta_bernoulli() -> None:
    assert reference.denote(parse(BETA), nodes=3).mass() == pytest.approx(1 / 20, abs=1e-15)
    measure = reference.denote(parse(BETA), nodes=8)
    assert measure.expect() / measure.mass() == pytest.approx(2 / 3, abs=1e-13)
    assert evaluate(elaborate(parse(BETA)), quadrature=8).mass() == pytest.approx(0.05, abs=1e-9)


def test_normal_normal() -> None:
    measure = reference.denote(parse(NORMAL), nodes=64)
    mass = measure.mass()
    assert mass == pytest.approx(0.239186831934564, abs=1e-9)
    mean = measure.expect() / mass
    assert mean == pytest.approx(4 / 5, abs=1e-9)
    assert measure.expect(lambda x: (x - mean) ** 2) / mass == pytest.approx(1 / 5, abs=1e-9)
    found = evaluate(elaborate(parse(NORMAL)), quadrature=64)
    assert found.mass() == pytest.approx(0.239186831934564, abs=1e-9)


def test_random_line() -> None:
    about = {"s": (1.34, 0.2), "b": (0.96, 0.6)}
    measure = reference.denote(parse(LINE), nodes=80, about=about)
    mass = measure.mass()
    assert math.log(mass) == pytest.approx(-7.685329241799972, abs=1e-9)
    assert measure.expect(lambda v: v[0]) / mass == pytest.approx(450072 / 334805, abs=1e-9)
    at_six = measure.expect(lambda v: 6 * v[0] + v[1]) / mass
    assert at_six == pytest.approx(9.027499589313184, abs=1e-8)
    found = evaluate(elaborate(parse(LINE)), quadrature=64)
    assert found.log_mass() == pytest.approx(-7.685329241799972, abs=1e-9)


def test_a_random_function_remembers() -> None:
    source = "do { f <- memo fun (i : Fin 3) -> flip(1/3); return (f 0, f 0, f 1) }"
    both(
        source,
        {
            (True, True, True): F(1, 9),
            (True, True, False): F(2, 9),
            (False, False, True): F(2, 9),
            (False, False, False): F(4, 9),
        },
    )


def test_a_dirichlet_process_is_answered_by_an_interval() -> None:
    source = """do { stick <- memo fun (k : Nat) -> do { i <- discrete(2);
        return if i == 0 then 1/3 else 2/3 };
      atom <- memo fun (k : Nat) -> discrete(3);
      let pick = fix pick (k : Nat) : S Nat = do {
        stop <- flip(stick k); if stop then return k else pick (k + 1) };
      i <- pick 0; j <- pick 0; return atom i == atom j }"""
    term = parse(source)
    cells = reference.integrate(reference.random_element(term, depth=3))
    found = evaluate(elaborate(term), depth=3, bound=1.0)
    require_equal(term, ("cells", "evaluator"), by_cells_at(term, 3), dict(found.pmf()))
    assert cells.interval()[1] == 1
    assert found.interval()[1] == pytest.approx(1.0, abs=1e-12)


def by_cells_at(term: object, depth: int) -> dict[object, float]:
    measure = reference.integrate(reference.random_element(term, depth=depth))  # type: ignore[arg-type]
    return {value: float(weight) for value, weight in measure}


def hmm(steps: int, whole_path: bool = False) -> str:
    seen = ", ".join("true" if i % 3 else "false" for i in range(steps))
    move = "categorical(2, 1, 1)", "categorical(1, 2, 1)", "categorical(1, 1, 2)"
    step = f"if z == 0 then {move[0]} else if z == 1 then {move[1]} else {move[2]}"
    if whole_path:
        return f"""loop y in [{seen}], path = ([0] : List (Fin 3)) {{ do {{
          let z = fold z in path, a = (0 : Fin 3) {{ z }}; after <- {step};
          observe y from flip(if after == 0 then 1/4 else if after == 1 then 1/2 else 3/4);
          return after :: path }} }}"""
    return f"""loop y in [{seen}], z = (0 : Fin 3) {{ do {{ after <- {step};
      observe y from flip(if after == 0 then 1/4 else if after == 1 then 1/2 else 3/4);
      return after }} }}"""


def forward(steps: int) -> list[float]:
    """The forward algorithm, by hand."""
    move = torch.tensor([[2, 1, 1], [1, 2, 1], [1, 1, 2]], dtype=torch.float64) / 4
    up = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    at = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for i in range(steps):
        at = (at @ move) * (up if i % 3 else 1 - up)
    return at.tolist()  # type: ignore[no-any-return]


def test_a_hidden_markov_model_merges_its_states() -> None:
    took = {}
    for steps in (12, 24):
        term = parse(hmm(steps))
        start = time.perf_counter()
        found = evaluate(elaborate(term))
        took[steps] = time.perf_counter() - start
        exact = reference.denote(term)
        for state, weight in enumerate(forward(steps)):
            assert float(exact.atoms[F(state)]) == pytest.approx(weight, rel=1e-12)
            assert found.pmf()[float(state)] == pytest.approx(weight, rel=1e-12)
    assert took[12] < 2


def test_a_whole_path_goes_over_the_budget_and_says_what_to_do() -> None:
    term = parse(hmm(12, whole_path=True))
    with pytest.raises(BudgetError, match=r"1:1.*return less of the history"):
        reference.denote(term, budget=500)
    with pytest.raises(BudgetError, match="less of the history"):
        evaluate(elaborate(term), budget=500)
    small = parse(hmm(3, whole_path=True))
    require_equal(small, ("a", "b"), by_cells(small, 1_000), by_enumeration(small))


def test_what_the_reference_cannot_say_is_an_error() -> None:
    with pytest.raises(CalculusError, match="normal is continuous"):
        reference.denote(parse("normal(0, 1)"))
    with pytest.raises(CalculusError, match="1:14: division by zero"):
        reference.denote(parse("do { return (1 / 0) }"))
    with pytest.raises(CalculusError, match="only measures are denoted"):
        reference.denote(parse("1 + 1"))
