"""The laws of measures (L9 to L13, L15): the algebra of the reference on random measures."""

from __future__ import annotations

import math
from fractions import Fraction as F
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from support.equations import filled, m, run_on
from support.sizes import quick

from pushforward import assess, dist, sample
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.check import check
from pushforward.ppl.calculus.types import BOOL, Fin, Measure, Type
from pushforward.ppl.errors import ZeroMassError
from pushforward.semantics import reference
from pushforward.semantics.reference.laws import LawValue
from pushforward.semantics.reference.measure import Finite, dirac
from pushforward.semantics.reference.values import Left

TRI = Fin(3)


pytestmark = pytest.mark.usefixtures("double")


def denoted(of: Type = TRI, fuel: int = 4) -> st.SearchStrategy[Finite]:
    return m(of, fuel).map(reference.denote)


def test_l9_the_mass_and_the_normalised_measure_recompose() -> None:
    def recompose(mu: Finite) -> None:
        assume(mu.mass() > 0)
        mass = mu.mass()
        assert mu.normalize().value.reweight(lambda x: mass) == mu  # type: ignore[union-attr]

    run_on(denoted(), recompose)
    assert Finite().normalize() == Left(())


@pytest.mark.parametrize("count", quick(1, [25, 100]))
def test_l10_radon_nikodym(count: int) -> None:
    """nu = (d nu / d mu) mu wherever nu << mu, and the chain rule."""

    def hold(triple: tuple[Finite, Finite, Finite]) -> None:
        mu, nu, kappa = triple
        assume(set(kappa.atoms) <= set(nu.atoms) <= set(mu.atoms) and mu.atoms)
        assert mu.reweight(nu.derivative(mu)) == nu
        for x in mu.atoms:
            if x in nu.atoms:
                chain = kappa.derivative(nu)(x) * nu.derivative(mu)(x)
                assert kappa.derivative(mu)(x) == chain

    run_on(st.tuples(denoted(), denoted(), denoted()), hold, count)
    with pytest.raises(ZeroMassError, match="not absolutely continuous"):
        dirac(F(1)).derivative(dirac(F(2)))


WEIGHTS = st.tuples(*(st.integers(0, 4) for _ in range(3))).filter(any)
POSITIVE = st.tuples(*(st.integers(1, 4) for _ in range(3)))


def categorical(weights: tuple[int, ...]) -> s.Law:
    return s.Law("categorical", tuple(s.Num(F(w)) for w in weights))


def test_l10_importance_weights_change_the_proposal_into_the_target() -> None:
    source = "do { x <- q; score if x == 0 then a else if x == 1 then b else c; return x }"

    def hold(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        target, proposal = pair
        ratios = [F(t, sum(target)) / F(q, sum(proposal)) for t, q in zip(*pair, strict=True)]
        parts = dict(zip("abc", map(s.Num, ratios), strict=True))
        weighted = filled(source, {"q": categorical(proposal), **parts})
        assert reference.denote(weighted).atoms == reference.denote(categorical(target)).atoms

    run_on(st.tuples(WEIGHTS, POSITIVE), hold)


def test_l11_disintegration() -> None:
    """mu = marginal (x) kernel, each kernel is a probability, and it is unique on the support."""
    pairs = st.fixed_dictionaries({"m": m(), "k": m(TRI, x=BOOL)}).map(
        lambda parts: reference.denote(filled("do { x <- m; y <- k; return (x, y) }", parts))
    )

    def hold(mu: Finite) -> None:
        marginal, kernel = mu.disintegrate()
        for x in marginal.atoms:
            assert kernel(x).mass() == 1
            for y, weight in kernel(x):
                assert weight == mu.atoms[x, y] / marginal.atoms[x]
        assert marginal.bind(lambda x: kernel(x).map(lambda y: (x, y))) == mu

    run_on(pairs, hold, 100)


def test_l13_a_categorical_is_a_chain_of_flips_and_a_quantile() -> None:
    chain = "do { x <- flip(a); if x then return 0 else"
    chain += " do { y <- flip(b); return if y then 1 else 2 } }"

    def hold(weights: tuple[int, int, int]) -> None:
        a, b, c = weights
        flips = {"a": s.Num(F(a, a + b + c)), "b": s.Num(F(b, b + c) if b + c else F(0))}
        once = reference.denote(categorical(weights))
        assert reference.denote(filled(chain, flips)) == once
        total = 60 * (a + b + c)  # labels at the midpoints of cells that no boundary cuts
        law = LawValue("categorical", tuple(map(F, weights)))
        labels = [F(2 * i + 1, 2 * total) for i in range(total)]
        assert Finite((law.quantile(u), F(1, total)) for u in labels) == once

    run_on(WEIGHTS, hold)


def test_l15_a_choice_is_a_mixture() -> None:
    def hold(parts: dict[str, Any]) -> None:
        chance = parts.pop("chance")
        flip = s.Law("flip", (s.Num(chance),))
        mixed = reference.denote(filled("do { b <- d; if b then m else n }", {"d": flip, **parts}))
        one, other = (reference.denote(parts[name]) for name in "mn")
        sum_ = Finite([(x, chance * w) for x, w in one] + [(x, (1 - chance) * w) for x, w in other])
        assert mixed == sum_

    chances = st.sampled_from([F(0), F(1, 3), F(1, 2), F(1)])
    run_on(st.fixed_dictionaries({"chance": chances, "m": m(TRI), "n": m(TRI)}), hold)


def test_every_denotation_has_its_type() -> None:
    def hold(term: s.Term) -> None:
        type_ = check(term).type
        assert isinstance(type_, Measure)
        assert reference.space(type_).contains(reference.denote(term))

    run_on(m(TRI, 4), hold, 200)


# ---------------------------------------------------------------------------------------- conjugacy


def beta_first(a: float, b: float) -> None:
    x = sample("x", dist.Beta(a, b))
    sample("y", dist.Bernoulli(x))


def bernoulli_first(a: float, b: float) -> None:
    y = sample("y", dist.Bernoulli(torch.tensor(a / (a + b))))
    sample("x", dist.Beta(a + y, b + 1 - y))


def normal_first(a: float, b: float) -> None:
    x = sample("x", dist.Normal(0.5, a))
    sample("y", dist.Normal(x, b))


def data_first(a: float, b: float) -> None:
    y = sample("y", dist.Normal(0.5, math.hypot(a, b)))
    precision = 1 / a**2 + 1 / b**2
    mean = (0.5 / a**2 + y / b**2) / precision
    sample("x", dist.Normal(mean, precision**-0.5))


def gamma_first(a: float, b: float) -> None:
    x = sample("x", dist.Gamma(a, b))
    sample("y", dist.Poisson(x))


def counts_first(a: float, b: float) -> None:
    y = sample("y", dist.NegativeBinomial(torch.tensor(a), probs=torch.tensor(1 / (1 + b))))
    sample("x", dist.Gamma(a + y, b + 1))


def dirichlet_first(a: float, b: float) -> None:
    x = sample("x", dist.Dirichlet(torch.tensor([a, b, 1.5])))
    sample("y", dist.Categorical(x))


def category_first(a: float, b: float) -> None:
    alpha = torch.tensor([a, b, 1.5])
    y = sample("y", dist.Categorical(alpha / alpha.sum()))
    sample("x", dist.Dirichlet(alpha + torch.nn.functional.one_hot(y, 3)))


def forgetful(a: float, b: float) -> None:
    y = sample("y", dist.Bernoulli(torch.tensor(a / (a + b))))
    sample("x", dist.Beta(a + y, b))


POINTS = {
    "unit": [({"x": x, "y": y}) for x in (0.1, 0.5, 0.83) for y in (0.0, 1.0)],
    "line": [({"x": x, "y": y}) for x in (-1.3, 0.2, 2.0) for y in (-2.0, 0.7)],
    "count": [({"x": x, "y": y}) for x in (0.3, 1.0, 4.2) for y in (0.0, 1.0, 7.0)],
    "simplex": [({"x": [0.2, 0.3, 0.5], "y": y}) for y in (0, 1, 2)],
}


def largest_gap(first: Any, second: Any, where: str) -> float:
    """The largest difference of the joint log densities of parameter and data."""
    gaps = []
    for a, b in ((0.5, 2.0), (1.0, 1.0), (3.5, 0.25)):
        for point in POINTS[where]:
            choices = {name: torch.tensor(x) for name, x in point.items()}
            one, other = (assess(p, choices, a, b)[0] for p in (first, second))
            gaps.append(abs(float(one - other)))
    return max(gaps)


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        (beta_first, bernoulli_first, "unit"),
        (normal_first, data_first, "line"),
        (gamma_first, counts_first, "count"),
        (dirichlet_first, category_first, "simplex"),
    ],
    ids=["beta-bernoulli", "normal-normal", "gamma-poisson", "dirichlet-categorical"],
)
def test_l12_conjugate_pairs(first: Any, second: Any, where: str) -> None:
    assert largest_gap(first, second, where) < 1e-10


def test_l12_a_wrong_posterior_is_seen() -> None:
    assert largest_gap(beta_first, forgetful, "unit") > 0.1
