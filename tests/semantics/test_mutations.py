"""A test of the tests: every fault of a list is planted in the library, and must be noticed.

Each fault is looked for by programs whose measure is known by hand, then by the agreement square on
random terms, then by the captured and vmapped evaluation; none of them may complain without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction as F
from functools import cache
from typing import Any

import pytest
import torch
from support.equations import run_on
from support.faults import FAULTS, Fault, planted
from support.square import (
    by_assessment,
    by_capture,
    by_cells,
    by_enumeration,
    by_reference,
    require_equal,
)
from support.terms import terms

from pushforward import (
    assess,
    cond,
    condition,
    dist,
    do,
    draw,
    factor,
    fix,
    iterate,
    mixture,
    observe,
    plate,
    sample,
    scan,
    simulate,
    vmap,
    weighted,
)
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.check import check
from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.calculus.types import Measure
from pushforward.ppl.errors import BudgetError
from pushforward.semantics import denote, reference

pytestmark = pytest.mark.usefixtures("double")


@cache
def pool(static: bool, count: int) -> tuple[s.Term, ...]:
    """Random terms, the same ones for every fault."""
    found: list[s.Term] = []
    run_on(terms(static=static), found.append, count)
    return tuple(found)


def close(found: float, expected: float | F) -> None:
    assert abs(float(found) - float(expected)) < 1e-10, f"{found} is not {expected}"


# -------------------------------------------------------------------------------- known by hand


def coin(chance: torch.Tensor) -> torch.Tensor:
    return sample("x", dist.Bernoulli(chance))


def lanes_are_independent() -> None:
    chances = torch.tensor([1 / 4, 3 / 4])
    found = denote(vmap(coin), chances).pmf()
    close(found[1.0, 1.0], F(3, 16))
    close(found[0.0, 1.0], F(9, 16))
    log_density, _ = assess(vmap(coin), {"x": torch.tensor([1.0, 0.0])}, chances)
    close(log_density, 2 * math.log(1 / 4))
    normal = vmap(lambda: sample("x", dist.Normal(0.0, 1.0)), size=8)
    assert len(set(simulate(normal, seed=0).value.tolist())) == 8


def step(z: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = sample("z", dist.Bernoulli(0.25 + 0.5 * z))
    y = sample("y", dist.Bernoulli(0.2 + 0.6 * z))
    return z, y


def a_chain_is_filtered() -> None:
    """Start 0; P(1) = 1/4 + z/2; seen 1, 0: by hand 1/4 4/5 (3/4 1/5 + 1/4 4/5) + ..."""
    seen = condition(scan(step), {"y": torch.tensor([1.0, 0.0])})
    after_one = F(1, 4) * F(4, 5), F(3, 4) * F(1, 5)
    low = F(3, 4) * F(1, 5) + F(1, 4) * F(4, 5), F(1, 4) * F(1, 5) + F(3, 4) * F(4, 5)
    expected = after_one[0] * low[0] + after_one[1] * low[1]
    close(denote(seen, torch.tensor(0.0), torch.zeros(2)).mass(), expected)


def a_loop_stops() -> None:
    def throw(state: Any) -> Any:
        tosses, _ = state
        return tosses + 1, sample("heads", dist.Bernoulli(0.5))

    loop = iterate(throw, 4, until=lambda state: state[1] == 1)
    found = denote(loop, (torch.tensor(0.0), torch.tensor(0.0)))
    tosses: dict[float, float] = {}
    for (count, _), weight in found.items():
        tosses[float(count)] = tosses.get(float(count), 0) + weight
    for count, weight in ((1.0, 1 / 2), (2.0, 1 / 4), (3.0, 1 / 8), (4.0, 1 / 8)):
        close(tosses[count], weight)


def scores_become_values() -> None:
    def tilt(x: torch.Tensor) -> torch.Tensor:
        x = sample("x", dist.Bernoulli(0.5))
        factor("f", torch.where(x == 1, math.log(0.5), 0.0))
        return x

    found = denote(lambda: weighted(iterate(tilt, 2))(torch.tensor(0.0))[1])
    for value, weight in found.items():
        close(weight, {0: 1 / 4, 1: 1 / 2, 2: 1 / 4}[round(-float(value) / math.log(2))])


def a_mixture_weighs() -> None:
    def scoring(weight: float) -> Callable[[], torch.Tensor]:
        def p() -> torch.Tensor:
            factor("f", torch.tensor(weight).log())
            return torch.tensor(weight)

        return p

    found = denote(mixture([1, 3], [scoring(0.5), scoring(0.25)])).pmf()
    close(found[0.5], F(1, 8))
    close(found[0.25], F(3, 16))


def a_branch_scores_where_it_is_taken() -> None:
    def p(x: torch.Tensor) -> torch.Tensor:
        def yes() -> torch.Tensor:
            factor("a", torch.tensor(0.5).log())
            return torch.tensor(7.0)

        return cond(x == 1, yes, lambda: torch.tensor(9.0))()

    log_density, value = assess(vmap(p), {}, torch.tensor([1.0, 0.0, 1.0]))
    close(log_density, 2 * math.log(0.5))
    assert value.tolist() == [7.0, 9.0, 7.0]


def confounded() -> torch.Tensor:
    z = sample("z", dist.Bernoulli(0.5))
    x = sample("x", dist.Bernoulli(0.25 + 0.5 * z))
    return sample("y", dist.Bernoulli(0.1 + 0.2 * x + 0.4 * z))


def doing_is_not_seeing() -> None:
    one = {"x": torch.tensor(1.0)}
    close(denote(do(confounded, one)).pmf()[1.0], F(1, 2))
    close(denote(condition(confounded, one)).pmf()[1.0], F(1, 8) * F(3, 10) + F(3, 8) * F(7, 10))


def scales_and_masks_count() -> None:
    def p() -> None:
        with plate("data", 4, subsample=torch.tensor([0, 1])):
            observe("y", dist.Bernoulli(torch.tensor(0.5)).mask(torch.tensor([True, False])),
                    torch.tensor([1.0, 1.0]))  # fmt: skip

    close(denote(p).log_mass(), 2 * math.log(0.5))


def an_integral_is_weighed() -> None:
    def p() -> torch.Tensor:
        x = sample("x", dist.Beta(2.0, 1.0))
        observe("y", dist.Bernoulli(x), torch.tensor(1.0))
        return x

    close(denote(p, quadrature=8).mass(), F(2, 3))


def recursion_has_an_interval() -> None:
    """Each round stops with 1/3 or scores 1/2: after ten rounds 1/3 (1 - 3^-10) / (1 - 1/3)."""
    source = """(fix f (u : Unit) : S Unit = do {
      stop <- flip(1/3); if stop then return () else do { score 1/2; f () } }) ()"""
    low, high = denote(elaborate(parse(source)), depth=10, bound=1.0).interval()
    close(low, F(29524, 59049))
    close(high, F(29525, 59049))
    low, high = denote(elaborate(parse("geometric(1/2)")), depth=10, bound=1.0).interval()
    close(low, 1 - F(1, 1024))
    close(high, 1)


def depth_counts_every_call() -> None:
    """f within d calls stops with 1 - (2/3)^d; inside g there is one call less."""

    def toss(again: Any) -> torch.Tensor:
        stop = draw(dist.Bernoulli(torch.tensor(1 / 3)))
        return stop if stop == 1 else again()

    f = fix(toss)
    g = fix(lambda again: f())

    def both() -> torch.Tensor:
        g()
        return f()

    low, _ = denote(both, depth=3, bound=1.0).interval()
    close(low, F(5, 9) * F(19, 27))


def a_query_depends_on_its_arguments() -> None:
    source = """do { x <- flip(1/2); case normalize flip(if x then 1/3 else 1/4) of {
      inl u -> return false; inr p -> p } }"""
    close(by_enumeration(parse(source))[True], F(7, 24))


def a_random_function_is_one_function() -> None:
    source = """do { f <- memo fun (i : Bool) -> flip(if i then 1/3 else 1/4);
      let y = f true;
      z <- loop b in [true], z = false { return f b };
      return (y == z, f false, y) }"""
    found = by_enumeration(parse(source))
    close(found[True, True, True], F(1, 12))
    close(found[True, False, True], F(1, 4))
    close(sum(found.values()), 1)


def values_are_computed() -> None:
    source = """return (fold b in [true, false], z = ([] : List Bool) { b :: z },
      [true] == [true, false], pred(0))"""
    assert by_enumeration(parse(source)) == {(("list", True, False), False, 0.0): 1.0}


def each_lane_has_its_value() -> None:
    found = by_capture(parse("do { x <- flip(1/4); return (if x then 7 else 9) }"), limit=2)
    close(found[7.0], F(1, 4))
    close(found[9.0], F(3, 4))


def types_are_kept() -> None:
    for term in pool(static=False, count=POOL):
        type_ = check(term).type
        assert isinstance(type_, Measure)
        assert reference.space(type_).contains(reference.denote(term))


# ------------------------------------------------------------------------------------------ judges

POOL, STATIC = 120, 60


def square() -> None:
    for term in pool(static=False, count=POOL):
        known = by_reference(term)
        try:
            require_equal(term, ("the reference", "Omega"), known, by_cells(term, 100))
        except BudgetError:
            continue
        require_equal(term, ("the reference", "the evaluator"), known, by_enumeration(term))
        require_equal(term, ("the reference", "assess"), known, by_assessment(term))


def lanes() -> None:
    for term in pool(static=True, count=STATIC):
        try:
            found = by_capture(term, limit=256)
        except BudgetError:
            continue
        require_equal(term, ("the reference", "the captured graph"), by_reference(term), found)


JUDGES = (
    lanes_are_independent,
    a_chain_is_filtered,
    a_loop_stops,
    scores_become_values,
    a_mixture_weighs,
    a_branch_scores_where_it_is_taken,
    doing_is_not_seeing,
    scales_and_masks_count,
    an_integral_is_weighed,
    recursion_has_an_interval,
    depth_counts_every_call,
    a_query_depends_on_its_arguments,
    a_random_function_is_one_function,
    values_are_computed,
    each_lane_has_its_value,
    types_are_kept,
    square,
    lanes,
)


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.__name__)
def test_nothing_is_found_without_a_fault(judge: Callable[[], None]) -> None:
    judge()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_noticed(fault: Fault) -> None:
    def all_judges() -> None:
        for judge in JUDGES:
            judge()

    with planted(fault), pytest.raises(Exception):  # noqa: B017, PT011 - a crash is noticed too
        all_judges()


def test_there_are_enough_faults() -> None:
    assert len({(fault.where, fault.old, fault.new) for fault in FAULTS}) >= 20
