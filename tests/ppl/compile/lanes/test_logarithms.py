"""Sums of logarithms by products, and pairs by one exponential: the same numbers for less."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes import logarithms
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.compile.lanes.rewrites import rewritten
from pushforward.ppl.tensors.capture import capture_vector

pytestmark = pytest.mark.usefixtures("double")

Of = Callable[[Tensor], Tensor]
N = 40
DATA = torch.linspace(-2.0, 2.0, N, dtype=torch.float64)


def in_lanes(f: Of, u: Tensor) -> LaneFunction:
    return LaneFunction(fold(capture_vector(f, u[0])), u)


def held(f: Of, u: Tensor, *, by_product: bool = True) -> None:
    """Lane code of f gives f's values, and uses a product or does not."""
    code = in_lanes(f, u)
    assert ("multiply(" in code.text) == by_product
    exact = torch.stack([f(x) for x in u])
    torch.testing.assert_close(code(u)[0], exact, rtol=1e-13, atol=1e-13, equal_nan=True)


def spread(u: Tensor) -> Tensor:
    """N positive numbers that depend on u."""
    return (u[0] * DATA + u[1]).exp()


POINTS = torch.tensor([[0.3, -0.2], [5.0, 1.0], [-300.0, 40.0], [340.0, -3.0], [0.0, 700.0]])


def random_term(rng: random.Random, x: Tensor, depth: int = 0) -> Tensor:
    """A term with one logarithm somewhere among sums, differences, signs and choices."""
    if depth == 4 or rng.random() < 0.2:
        return rng.choice((lambda y: y.log(), lambda y: (1.0 / (1.0 + y)).log1p()))(x)
    inner = random_term(rng, x, depth + 1)
    other = DATA.sin() * rng.choice((1.0, x.clamp(max=1.0)))
    return rng.choice(
        (
            lambda: inner + other,
            lambda: other + inner,
            lambda: inner - other,
            lambda: other - inner,
            lambda: -inner,
            lambda: torch.where(DATA > 0.1, inner, other),
            lambda: torch.where(x > 1.0, other, inner),
        )
    )()


@pytest.mark.parametrize("seed", range(20))
def test_random_terms(seed: int) -> None:
    u = POINTS[: 1 + 4 * (seed % 2)].double()
    held(lambda x: random_term(random.Random(seed), spread(x)).sum(), u)


def test_sums_over_one_of_two_dimensions() -> None:
    def f(x: Tensor) -> Tensor:
        y = spread(x)
        return ((y.reshape(20, 2) + 0.1).log().sum(0) * torch.tensor([2.0, -1.0])).sum()

    held(f, POINTS.double())


TINY = torch.tensor([5e-324, 1e-310, 3e-308, 1e-300, 1.0, 1e300, 1.7e308], dtype=torch.float64)


@pytest.mark.parametrize("odd", [0.0, float("inf"), float("nan"), -1.0, -0.0, float("-inf")])
def test_what_has_no_logarithm(odd: float) -> None:
    """One zero, infinite, negative or undefined factor, or two whose product has the other sign."""
    for places in ([0], [39], [3, 4], [10, 11, 12]):
        marks = torch.zeros(N, dtype=torch.bool).index_fill(0, torch.tensor(places), True)
        u = torch.tensor([[odd, 1.0], [2.0, 1.0]])
        held(
            lambda x, marks=marks: torch.where(marks, x[0], spread(x[1:].repeat(2))).log().sum(), u
        )


def test_zero_and_infinity_together() -> None:
    u = torch.tensor([[0.0, float("inf")], [float("inf"), 0.0]])
    held(lambda x: torch.where(DATA > 0.0, x[0], x[1]).log().sum(), u)


def test_at_the_ends_of_the_range() -> None:
    for x in TINY.tolist():
        for y in TINY.tolist():
            u = torch.tensor([[x, y], [1.0, 1.0]])
            held(lambda v: torch.where(DATA > 0.3, v[0] * 1.0, v[1] * 1.0).log().sum(), u)


def test_left_alone() -> None:
    """Few terms; a logarithm that something else needs; one in a factor; float32."""
    u = POINTS[:2].double()
    held(lambda x: spread(x)[:8].log().sum(), u, by_product=False)

    def twice(x: Tensor) -> Tensor:
        logs = (spread(x) + 1.0).log()
        return logs.sum() + (logs * logs).sum()

    held(twice, u, by_product=False)
    held(lambda x: (spread(x).log() * DATA).sum(), u, by_product=False)
    assert "multiply(" not in in_lanes(lambda x: (x.exp().repeat(N)).log().sum(), u.float()).text


def test_a_wrong_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose rest is forgotten, and one whose sign is."""
    u = POINTS[:2].double()
    whole = logarithms._by_product

    def forgotten(t, added, term):  # type: ignore[no-untyped-def]
        return [each for each in whole(t, added, term) if each.value is not term.rest]

    monkeypatch.setattr(logarithms, "_by_product", forgotten)
    with pytest.raises(AssertionError):
        held(lambda x: (spread(x).log() + DATA.cos()).sum(), u)
    monkeypatch.undo()
    split = logarithms._with

    def unsigned(found, rest, factor=lambda x: x, sign=1):  # type: ignore[no-untyped-def]
        return split(found, rest, factor)

    monkeypatch.setattr(logarithms, "_with", unsigned)
    with pytest.raises(AssertionError):
        held(lambda x: (DATA.cos() - spread(x).log()).sum(), u)


# ------------------------------------------------------------------------------------------- pairs

inf, nan = float("inf"), float("nan")
PAIRS = [(0.3, -1.2), (-1.2, 0.3), (2.0, 2.0), (0.0, -800.0), (-inf, 1.0), (1.0, -inf),
         (-inf, -inf), (nan, 1.0), (1.0, nan), (1e300, -1e300), (-5e-324, 0.0)]  # fmt: skip


@pytest.mark.parametrize("function", [torch.logsumexp, torch.log_softmax])
def test_pairs_take_one_exponential(function: Callable[[Tensor, int], Tensor]) -> None:
    def density(v: Tensor) -> Tensor:
        x = v[:2] * torch.tensor([1.0, 1.0])
        return (function(x, 0) * torch.tensor([0.25, 0.75])).sum()

    u = torch.tensor(PAIRS)
    graph = capture_vector(density, u[0])
    plain = [graph(x) for x in u]
    before = str(graph.code).count("aten.exp.")
    fewer = rewritten(graph)
    assert str(fewer.code).count("aten.exp.") == 1 < before
    code = LaneFunction(fewer, u)
    for k in (0, 1):
        exact = torch.stack([x[k] for x in plain])
        for found in (torch.stack([fewer(x)[k] for x in u]), code(u)[k]):
            torch.testing.assert_close(found, exact, rtol=1e-14, atol=1e-15, equal_nan=True)
