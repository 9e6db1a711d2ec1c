"""The laws L17 and L18: runs with the same random labels agree, and weighted runs mean the same.

Omega labels every draw with a uniform number, and a draw is the quantile of its law at the label.
Given the same labels, the random element of the reference, a run of the elaborated program and one
lane of a batched run are one run: equal values, and equal weights to 1e-12.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from pyro.poutine.messenger import Messenger
from support.equations import m, run_on
from support.sizes import quick
from support.square import require_equal
from support.terms import terms

from pushforward import condition, marginal, scope, untraced, vmap, weighted
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.elaborate import elaborate, run
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.calculus.pretty import pretty
from pushforward.ppl.calculus.types import BOOL, Fin
from pushforward.semantics import denote, reference
from pushforward.semantics.checks.agreement import collected, plain

PRIME = 10_007  # no label with this denominator lies on the edge of a cell


class Labelled(Messenger):  # type: ignore[misc]
    """Answers each draw by the quantile of its law at the label that ``label`` gives its site."""

    def __init__(self, label: Callable[[str], torch.Tensor]) -> None:
        super().__init__()
        self.label = label

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            support = msg["fn"].enumerate_support(expand=True)
            below = msg["fn"].log_prob(support).exp().cumsum(0)
            flipped = type(getattr(msg["fn"], "base_dist", msg["fn"])).__name__ == "Bernoulli"
            u = self.label(msg["name"])
            if flipped:  # the reference lists true first
                msg["value"] = (u < 1 - below[0]).to(torch.float64)
            else:
                msg["value"] = (u >= below).sum(0).clamp(max=len(support) - 1)
            msg["done"] = True


def labels(count: int, start: int) -> list[F]:
    rng = random.Random(start)
    return [F(rng.randrange(1, PRIME), PRIME) for _ in range(count)]


def in_order(stream: list[F]) -> Callable[[Any], F]:
    """The label of an address: the next of the stream when it is first met."""
    known: dict[Any, F] = {}

    def label(address: Any) -> F:
        return known.setdefault(address, stream[len(known)])

    return label


def has_query(term: s.Term) -> bool:
    return any(isinstance(part, s.Normalize) for part in s.every(term))


def couple(term: s.Term, start: int, flaw: float = 0.0) -> None:
    """Hold one point of Omega against one run of the program; ``flaw`` shifts its labels."""
    stream = labels(500, start)
    value, weight = reference.random_element(term)(reference.Omega(in_order(stream)))
    sites = iter(stream)
    with Labelled(lambda name: torch.tensor((float(next(sites)) + flaw) % 1)):
        found, log_weight = weighted(elaborate(term))()
    assert math.isclose(math.exp(log_weight), weight, abs_tol=1e-12), pretty(term)
    assert weight == 0 or plain(found) == plain(value), pretty(term)


@pytest.mark.parametrize("count", quick(1, [50, 200]))
def test_a_point_of_omega_is_a_run_of_the_program(count: int) -> None:
    def test(term: s.Term) -> None:
        assume(not has_query(term))  # the order of the values of a query is its own
        for start in range(5):
            couple(term, start)

    run_on(terms(), test, count)


def test_other_labels_are_another_run() -> None:
    term = parse("do { x <- discrete(9); y <- discrete(9); return (x, y) }")
    with pytest.raises(AssertionError):
        couple(term, 0, flaw=0.4)


def named(size: int, seed: int) -> Callable[[str], torch.Tensor]:
    """Labels for each lane by the name of the site."""

    def label(name: str) -> torch.Tensor:
        return torch.tensor([float(u) for u in labels(size, zlib.crc32(name.encode()) + seed)])

    return label


@pytest.mark.parametrize(("count", "least"), quick(1, [(60, 40), (150, 100)]))
def test_a_lane_is_a_run(count: int, least: int) -> None:
    """Terms whose arms name their sites otherwise when both of them run are left out."""
    size, compared = 4, 0

    def test(term: s.Term) -> None:
        nonlocal compared
        p, labels = weighted(elaborate(term)), named(size, 0)
        met: set[str] = set()
        with Labelled(lambda name: met.add(name) or labels(name)):  # type: ignore[func-returns-value]
            lanes, log_weights = vmap(p, size=size)()
        for i in range(size):
            alone: set[str] = set()
            with Labelled(lambda name: alone.add(name) or labels(name)[i]):  # noqa: B023
                value, log_weight = p()
            if not alone <= met:
                return
            lane = torch.utils._pytree.tree_map(lambda x: x[i], lanes)  # noqa: B023
            weights = log_weights[i].exp(), log_weight.exp()
            assert math.isclose(*weights, abs_tol=1e-12), pretty(term)
            assert plain(lane) == plain(value), pretty(term)
        compared += 1

    run_on(terms(static=True), test, count)
    assert compared >= least


def meaning(p: Any) -> dict[Any, float]:
    """The measure that a program of (value, log weight) stands for: weights are masses."""
    return collected((x, w * math.exp(lw)) for (x, lw), w in denote(p).items())


REPRESENTED: dict[str, Callable[[Any], dict[Any, float]]] = {
    "weighted": lambda p: meaning(weighted(p)),
    "untraced": lambda p: collected(denote(untraced(p)).items()),
    "weighted and untraced": lambda p: meaning(untraced(weighted(p))),
    "weighted twice": lambda p: meaning(lambda: _flat(weighted(weighted(p))())),
    "marginal": lambda p: collected(denote(marginal(p, [])).items()),
    "conditioned on nothing": lambda p: collected(denote(condition(p, {})).items()),
    "scoped": lambda p: collected(denote(_scoped(p)).items()),
}


def _flat(nested: Any) -> Any:
    (value, inner), outer = nested
    assert float(outer) == 0, "the scores were taken by the inner handler"
    return value, inner


def _scoped(p: Any) -> Callable[[], Any]:
    def inside() -> Any:
        with scope("inner"):
            return p()

    return inside


@pytest.mark.parametrize("count", quick(1, [20, 60]))
@pytest.mark.parametrize("name", REPRESENTED)
def test_l18_a_representation_keeps_the_meaning(name: str, count: int) -> None:
    def test(term: s.Term) -> None:
        p = elaborate(term)
        expected = collected(denote(p).items())
        require_equal(term, ("the program", name), expected, REPRESENTED[name](p))

    run_on(terms(), test, count)


def test_l18_bind_of_weighted_runs() -> None:
    """weighted (x <- m; k x) = do { (x, w) <- weighted m; (y, v) <- weighted (k x); (y, w + v) }"""

    def test(parts: dict[str, s.Term]) -> None:
        whole = s.Bind(s.Name("x"), parts["m"], parts["k"])
        first, then = elaborate(parts["m"]), elaborate(s.Fun(s.Name("x"), BOOL, parts["k"]))()

        def composed() -> Any:
            x, w = untraced(weighted(first))()
            y, v = untraced(weighted(lambda: run(then(x), "k/", "value")))()
            return y, w + v

        expected = collected(denote(elaborate(whole)).items())
        require_equal(whole, ("the program", "its parts"), expected, meaning(composed))

    run_on(st.fixed_dictionaries({"m": m(), "k": m(Fin(3), x=BOOL)}), test, 60)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return 7", {(7.0, 0.0): 1.0}),
        ("score 1/2", {((), math.log(0.5)): 1.0}),
        ("flip(1/4)", {(True, 0.0): 0.25, (False, 0.0): 0.75}),
    ],
)
def test_l18_return_score_and_sample_of_weighted_runs(source: str, expected: Any) -> None:
    found = collected(denote(weighted(elaborate(parse(source)))).items())
    assert found == {plain(x): pytest.approx(w, abs=1e-15) for x, w in expected.items()}
