"""Distance covariance and its penalties: acceptance checks of arXiv 2509.08163."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.sizes import quick
from torch import Tensor

from pushforward import assess, dist, draw, program, sample
from pushforward.inference.vi.objective import estimator
from pushforward.models.fairness import (
    DCovPenalty,
    ProtectedEncoder,
    ccdcov,
    chi_square_test,
    conditional_dcov,
    constrain,
    covariance,
    dcor,
    dcov,
    jdcov,
    jsd_groups,
    permutation_test,
    ranked,
    unfairness_ratio,
)
from pushforward.models.fairness.estimators import FairClassifier, FairPoisson, FairRegressor
from pushforward.models.fairness.ranked import distance_products
from pushforward.semantics import check, denote


@pytest.fixture(autouse=True)
def everything_is_double(double: None) -> None:
    """All figures are of float64."""


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


X, Y, S = f([1, 2, 4, 7, 11, 16]), f([2, 1, 5, 3, 9, 8]), f([0, 1, 0, 1, 1, 0])
AGE = (f([30, 25, 41, 52, 38, 60]) - 25) / 35
METHODS = ["naive", "fast", "block"]


def by_definition(x: Any, y: Any, stat: str) -> float:
    """The double-centred matrices, written down in numpy."""
    found = []
    for z in (x, y):
        z = np.asarray(z, dtype=float).reshape(len(z), -1)
        a = np.sqrt(((z[:, None] - z[None]) ** 2).sum(-1))
        n = len(a)
        if stat == "V":
            found.append(a - a.mean(1, keepdims=True) - a.mean(0, keepdims=True) + a.mean())
            continue
        u = a - a.sum(1, keepdims=True) / (n - 2) - a.sum(0, keepdims=True) / (n - 2)
        u += a.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(u, 0)
        found.append(u)
    total = (found[0] * found[1]).sum()
    return float(total / (n * (n - 3)) if stat == "U" else total / n**2)


@pytest.mark.parametrize("method", METHODS)
def test_1_a_small_sample(method: Any) -> None:
    assert float(dcov(X, Y, "V", method)) == pytest.approx(7.8888888889, abs=1e-10)
    assert float(dcov(X, Y, "U", method)) == pytest.approx(7.1111111111, abs=1e-10)
    assert float(dcor(X, Y, "V", method)) == pytest.approx(0.7966862679, abs=1e-10)
    assert float(dcor(X, Y, "U", method)) == pytest.approx(0.7246573018, abs=1e-10)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=4, max_size=40))
@settings(max_examples=40)
def test_1_fast_is_naive_with_ties_and_so_are_derivatives(pairs: list[tuple[int, int]]) -> None:
    x, y = (f([pair[i] for pair in pairs]).requires_grad_() for i in (0, 1))
    for stat in ("U", "V"):
        expected = by_definition(x.detach(), y.detach(), stat)
        slopes = []
        for method in METHODS:
            found = dcov(x, y, stat, method)  # type: ignore[arg-type]
            assert float(found.detach()) == pytest.approx(expected, abs=1e-12)
            slopes.append(torch.cat(torch.autograd.grad(found, (x, y))))
        torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(slopes[2], slopes[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [5, 64, 65, 700])
def test_1_fast_is_naive_at_any_size_and_scale(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    x = 1e6 + torch.randn(n, generator=generator)
    y = x.sin() + (x * torch.rand(n, generator=generator)).round()
    for stat in ("U", "V"):
        expected = by_definition(x, y, stat)
        for method in ("fast", "naive"):
            found = float(dcov(x, y, stat, method))  # type: ignore[arg-type]
            assert found == pytest.approx(expected, rel=1e-8)  # of sizes of 1e6


def test_1_many_data_in_exact_integers() -> None:
    """Of 0, 1, ..., n - 1 with itself; n^4 is no longer a 64-bit integer."""
    n = 100_000
    a = [k * (k + 1) // 2 + (n - 1 - k) * (n - k) // 2 for k in range(n)]
    products, squares, total = n * n * (n * n - 1) // 6, sum(k * k for k in a), sum(a)
    u = Fraction(products, n * (n - 3)) - Fraction(2 * squares, n * (n - 2) * (n - 3))
    u += Fraction(total**2, n * (n - 1) * (n - 2) * (n - 3))
    v = Fraction(products, n**2) - Fraction(2 * squares, n**3) + Fraction(total**2, n**4)
    x = torch.arange(n).double()
    assert float(dcov(x, x)) == pytest.approx(float(u), rel=1e-10)
    assert float(dcov(x, x, "V")) == pytest.approx(float(v), rel=1e-10)


def test_1_ties_in_one_order_only_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: the sign of a tie by the order in which it stands is not zero."""
    x, y = f([0, 0, 1, 1, 2]), f([1, 3, 0, 2, 2])

    def slope() -> Tensor:
        at = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(distance_products(at, y), at)
        return found

    exact = 2 * ((x[:, None] - x).sign() * (y[:, None] - y).abs()).sum(1)
    torch.testing.assert_close(slope(), exact)
    both = ranked._rankings
    monkeypatch.setattr(ranked, "_rankings", lambda x, _: both(x, False))
    assert float((slope() - exact).abs().max()) > 0.1


def test_1_a_second_derivative_is_that_of_a_bilinear_function() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(7), torch.randn(7)

    def products(x: Tensor, y: Tensor) -> Tensor:
        return ((x[:, None] - x).abs() * (y[:, None] - y).abs()).sum()

    ours, exact = (
        torch.autograd.functional.hessian(g, (x, y)) for g in (distance_products, products)
    )
    for a, b in itertools.product(range(2), range(2)):
        torch.testing.assert_close(ours[a][b], exact[a][b])


def test_2_attributes() -> None:
    assert float(dcov(X, S, "V")) == pytest.approx(0.25, abs=1e-12)
    assert float(dcov(X, S)) == pytest.approx(-0.6666666667, abs=1e-10)
    assert float(dcov(Y, S)) == pytest.approx(-0.4444444444, abs=1e-10)
    assert float(dcov(X, AGE)) == pytest.approx(0.3047619048, abs=1e-10)
    joined = ccdcov(X, {"s": S, "age": AGE})
    assert float(joined) == pytest.approx(-0.1689846083, abs=1e-10)
    assert float(ccdcov(X, [S, AGE], stat="V")) == pytest.approx(0.8401832782, abs=1e-10)
    assert float(joined - dcov(X, S) - dcov(X, AGE)) == pytest.approx(0.1929201536, abs=1e-10)
    weighted = ccdcov(X, torch.stack([S, AGE], 1), weights=[2, 0])
    torch.testing.assert_close(weighted, 2 * dcov(X, S))


@pytest.mark.parametrize("method", ["naive", "block"])
def test_3_joint(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance, "BLOCK", 4)
    found = float(jdcov(X, S, AGE, method=method))
    assert found == pytest.approx(-0.4822222222, abs=1e-10)
    found_v = float(jdcov(X, S, AGE, stat="V", method=method))
    assert found_v == pytest.approx(1.2082010582, abs=1e-10)
    pairs = float(dcov(X, S) + dcov(X, AGE) + dcov(S, AGE))
    assert pairs == pytest.approx(-0.4139682540, abs=1e-10)
    assert found - pairs == pytest.approx(-0.0682539683, abs=1e-10)
    for c in (1.0, 3.0):
        torch.testing.assert_close(jdcov(X, Y, c=c), dcov(X, Y))


def test_4_gerrymandering() -> None:
    a, b = f([0, 0, 1, 1]).repeat(3), f([0, 1, 0, 1]).repeat(3)
    yhat = (a - b).abs()
    for s in (a, b):
        assert abs(float(dcov(yhat, s, "V"))) < 1e-15
        assert float(dcov(yhat, s)) == pytest.approx(-0.0303030303, abs=1e-10)
    assert float(ccdcov(yhat, [a, b], stat="V")) == pytest.approx(0.0732233047, abs=1e-10)
    assert float(jdcov(yhat, a, b, stat="V")) == pytest.approx(0.125, abs=1e-12)
    assert float(ccdcov(yhat, [a, b])) == pytest.approx(0.0459005644, abs=1e-10)
    assert float(jdcov(yhat, a, b)) == pytest.approx(0.0578512397, abs=1e-10)


def test_5_divergence_between_groups() -> None:
    yhat, groups = f([0.2, 0.3, 0.25, 0.7, 0.6, 0.8, 0.9]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    with pytest.warns(UserWarning, match="3 rows"):
        shares = jsd_groups(yhat, groups)
    with pytest.warns(UserWarning, match="3 rows"):
        equal = jsd_groups(yhat, groups, weights="equal")
    assert float(shares) == pytest.approx(0.6297400572, abs=1e-9)
    assert float(equal) == pytest.approx(0.6431155226, abs=1e-9)
    same, halves = torch.rand(6).repeat(2), torch.arange(2).repeat_interleave(6)
    assert abs(float(jsd_groups(same, halves))) < 1e-12
    assert float(unfairness_ratio(f([1, 1, 3, 3]), f([0, 0, 1, 1]))) == 1
    assert float(unfairness_ratio(f([1, 3, 1, 3]), f([0, 0, 1, 1]))) == 0
    assert float(unfairness_ratio(f([1, 1]), f([0, 1]))) == 0
    assert float(jsd_groups(torch.ones(12), halves)) == 0


@pytest.mark.parametrize("kind", ["ccdcov", "jdcov", "marginal"])
@pytest.mark.parametrize("stat", ["U", "V"])
def test_6_derivatives_away_from_ties(kind: Any, stat: Any) -> None:
    torch.manual_seed(0)
    yhat, race = (
        torch.randn(9, requires_grad=True),
        torch.nn.functional.one_hot(torch.arange(9) % 3),
    )
    attributes = {"s": (torch.arange(9) % 2).double(), "race": race, "age": torch.rand(9)}
    for method in ("naive", "block"):
        penalty = DCovPenalty(kind, 1.5, stat, method=method)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda y, p=penalty: p(y, attributes), (yhat,))
    scalar = DCovPenalty("marginal", 1.5, stat, method="fast")
    about = {name: attributes[name] for name in ("s", "age")}
    assert torch.autograd.gradcheck(lambda y: scalar(y, about), (yhat,))


def test_8_the_mean_over_batches_is_the_penalty_of_all_data() -> None:
    """Exactly, over all 70 batches of four rows out of eight; not for the V statistic."""
    generator = torch.Generator().manual_seed(0)
    yhat = torch.randn(8, generator=generator)
    a, age = f([0, 1, 1, 0, 1, 0, 1, 1]), torch.rand(8, generator=generator)
    batches = torch.tensor(list(itertools.combinations(range(8), 4)))

    def gap(kind: Any, stat: Any) -> float:
        penalty = DCovPenalty(kind, 1.0, stat)
        parts = [penalty(yhat[i], {"a": a[i], "age": age[i]}) for i in batches]
        return abs(float(torch.stack(parts).mean() - penalty(yhat, {"a": a, "age": age})))

    for kind in ("ccdcov", "marginal"):
        assert gap(kind, "U") < 1e-14
        assert gap(kind, "V") > 0.01


ATOMS = f([[0.0, 0.0], [1.0, 1.0], [2.5, 1.0], [-0.7, 0.0]])  # features and attributes
CHANCES = f([0.3, 0.2, 0.4, 0.1])


def predictions(at: Tensor, features: Tensor) -> Tensor:
    return (at[0] * features + at[1]).tanh()


def population(at: Tensor) -> Tensor:
    """E|X - X'||S - S'| + E|X - X'| E|S - S'| - 2 E|X - X'||S - S''| of the finite law."""
    yhat = predictions(at, ATOMS[:, 0])
    a, b = (z[:, None] - z for z in (yhat, ATOMS[:, 1]))
    a, b = a.abs(), b.abs()
    first = CHANCES @ (a * b) @ CHANCES + (CHANCES @ a @ CHANCES) * (CHANCES @ b @ CHANCES)
    return first - 2 * CHANCES @ ((a @ CHANCES) * (b @ CHANCES))


def drawn(statistic: Callable[[Tensor, Tensor], Tensor], n: int) -> Any:
    """A program of estimates of value and gradient, from n draws of the law."""

    def build(at: Tensor) -> Tensor:
        rows = ATOMS[draw(dist.Categorical(CHANCES), (n,))]
        return statistic(predictions(at, rows[:, 0]), rows[:, 1])

    return estimator(build)


@pytest.mark.parametrize("n", quick(1, [4, 5]))
@pytest.mark.parametrize("method", ["naive", "fast"])
def test_the_u_statistic_is_unbiased_over_all_samples_of_a_finite_law(n: int, method: Any) -> None:
    found = drawn(lambda yhat, s: dcov(yhat, s, "U", method), n)
    check.unbiased(found, population, f([0.8, 0.1])).require()


@pytest.mark.parametrize(
    "faulty",
    quick(
        2,
        [
            lambda yhat, s: dcov(yhat, s, "V"),
            lambda yhat, s: dcov(yhat, s) * (len(s) - 3) / len(s),
            lambda yhat, s: dcov(yhat, s, "V") * len(s) / (len(s) - 3),
            lambda yhat, s: -dcov(yhat, s),
            lambda yhat, s: dcov(yhat.detach(), s) + 0 * yhat.sum(),
        ],
    ),
)
def test_other_scalings_are_biased(faulty: Any) -> None:
    assert check.unbiased(drawn(faulty, 4), population, f([0.8, 0.1])).verdict == "fail"


def test_within_strata() -> None:
    """By hand in numpy; and unbiased, given how many rows each stratum has."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(11, generator=generator), torch.randn(11, generator=generator)
    z = f([0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1])
    for stat in ("U", "V"):
        parts = [
            float((z == k).double().mean()) * by_definition(x[z == k], y[z == k], stat)
            for k in (0, 1)
        ]
        found = conditional_dcov(x, y, z, stat)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(sum(parts), abs=1e-14)
        penalty = DCovPenalty("jdcov", 2.0, stat)  # type: ignore[arg-type]
        torch.testing.assert_close(penalty(x, y, given=z), 2 * found)
    label = f([0, 0, 0, 0, 1, 1, 1, 1])
    attribute = f([0, 0, 0, 1, 1, 1, 1, 0])
    assert float(dcov(label, attribute, "V")) > 0.01  # the true label depends on the attribute,
    assert abs(float(conditional_dcov(label, attribute, label, "V"))) < 1e-15  # and is no error
    with pytest.raises(ValueError, match="stratum has 1 rows"):
        conditional_dcov(x, y, f([0] * 10 + [1]))


def test_a_penalty_is_a_factor_of_a_program() -> None:
    """The evidence by hand, over three slopes; and the derivative of the density."""
    features, attribute = f([0.1, 0.9, 0.4, 1.5, 2.0]), f([0, 1, 0, 1, 1])
    slopes, penalty = f([-0.5, 0.0, 1.0]), DCovPenalty("jdcov", 3.0, "V")

    @program
    def fair() -> Tensor:
        slope = slopes[sample("slope", dist.Categorical(torch.ones(3)))]
        constrain(penalty, slope * features, attribute)
        return slope

    weights = [
        math.exp(-3 * abs(s) * by_definition(features, attribute, "V")) for s in slopes.tolist()
    ]
    measure = denote(fair)
    assert float(measure.mass()) == pytest.approx(sum(weights) / 3, rel=1e-12)
    assert float(measure.normalize().expect()) == pytest.approx(
        sum(w * s for w, s in zip(weights, slopes.tolist(), strict=True)) / sum(weights)
    )

    @program
    def sloped() -> None:
        slope = sample("slope", dist.Normal(0.0, 1.0))
        constrain(penalty, slope * features, attribute)

    assert str(sloped.type()).startswith("{slope: Real} -> M")
    at = f(0.7)
    slope = torch.func.grad(lambda z: assess(sloped, {"slope": z})[0])(at)
    exact = -0.7 - 3 * by_definition(features, attribute, "V")
    assert float(slope) == pytest.approx(exact, rel=1e-12)


def test_tests_of_independence() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(60, generator=generator) for _ in range(2))
    assert permutation_test(x, x.square(), 99, generator=generator) == 0.01
    assert permutation_test(x, noise, 99, generator=generator) > 0.05
    assert chi_square_test(x, x.square()) < 0.01 < chi_square_test(x, noise)
    with pytest.raises(ValueError, match="at least one shuffle"):
        permutation_test(x, noise, 0)


def test_many_rows_are_taken_by_blocks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(covariance, "LARGE", 1000)
    monkeypatch.setattr(covariance, "BLOCK", 7)
    x, y = torch.rand(30), torch.rand(30, 2)
    with caplog.at_level(logging.INFO):
        assert float(dcov(x, y)) == pytest.approx(by_definition(x, y, "U"), abs=1e-14)
    assert "blocks of 7" in caplog.text


def test_attributes_are_encoded() -> None:
    people = {
        "gender": np.array(["f", "m", "m", "f"]),
        "region": np.array([3, 1, 7, 1]),
        "age": np.array([20.0, 30.0, 60.0, 20.0]),
    }
    encoder = ProtectedEncoder({"region": "categorical"}).fit(people)
    assert encoder.types_ == {"gender": "binary", "region": "categorical", "age": "continuous"}
    found = encoder.transform(people)
    assert found["gender"].tolist() == [0, 1, 1, 0]
    assert found["region"].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert found["age"].tolist() == [0, 0.25, 1, 0]
    assert encoder.groups(people).tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match=r"'region' has \[9\]"):
        encoder.transform({**people, "region": np.array([3, 1, 9, 1])})
    with pytest.raises(ValueError, match="3 whole numbers"):
        ProtectedEncoder().fit(people)
    with pytest.raises(ValueError, match=r"'age'.* NaN"):
        encoder.transform({**people, "age": np.array([20.0, np.nan, 60.0, 20.0])})
    with pytest.raises(ValueError, match="attributes are"):
        encoder.transform({"gender": people["gender"]})
    with pytest.raises(ValueError, match="given of"):
        ProtectedEncoder({"sex": "binary"}).fit(people)
    with pytest.raises(ValueError, match="has 3 values"):
        ProtectedEncoder({"region": "binary"}).fit(people)
    with pytest.warns(UserWarning, match="'0' is constant"):
        constant = ProtectedEncoder().fit(np.ones((4, 1))).transform(np.ones((4, 1)))
    assert float(dcov(torch.rand(4), constant["0"])) == pytest.approx(0, abs=1e-15)


def test_bad_inputs() -> None:
    for stat, n in (("U", 3), ("V", 1)):
        with pytest.raises(ValueError, match="rows or more"):
            dcov(X[:n], Y[:n], stat)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lengths differ"):
        dcov(X, Y[:5])
    with pytest.raises(ValueError, match="'age' has entries"):
        DCovPenalty()(X, {"s": S, "age": AGE / 0})
    with pytest.raises(ValueError, match="'y' has entries"):
        dcov(X, Y.where(Y > 1, math.nan))
    with pytest.warns(UserWarning, match="constant"):
        assert float(dcor(X, torch.ones(6))) == 0
    with pytest.raises(ValueError, match="two scalars"):
        ccdcov(X, [S, AGE], method="fast")
    with pytest.raises(ValueError, match="two scalars"):
        jdcov(X, S, AGE, method="fast")
    wrong: list[Callable[[], Any]] = [
        lambda: DCovPenalty(lam=-1.0),
        lambda: DCovPenalty("pairs"),  # type: ignore[arg-type]
        lambda: DCovPenalty("jdcov", weights=[1.0]),
        lambda: DCovPenalty(weights=[1.0])(X, [S, AGE]),
        lambda: dcov(X, Y, "W"),  # type: ignore[arg-type]
        lambda: dcov(X, Y, method="quick"),  # type: ignore[arg-type]
        lambda: jdcov(X),
        lambda: ccdcov(X, []),
        lambda: ccdcov(X, [S], weights=[-1.0]),
        lambda: jsd_groups(X, S[:4]),
        lambda: jsd_groups(X, S, bandwidth=0.0),
        lambda: FairPoisson().fit(np.ones((6, 1)), -np.ones(6)),
        lambda: FairPoisson().fit(np.ones((6, 1)), np.ones(6), exposure=np.zeros(6)),
        lambda: FairRegressor(steps=0).fit(np.ones((6, 1)), np.ones(6)),
        lambda: FairRegressor().fit(np.ones((6, 1)), np.ones(6), np.eye(5)[:, :1]),
        lambda: FairRegressor().calibrate(np.ones((6, 1)), np.ones(6), S[:, None], []),
    ]
    for make in wrong:
        with pytest.raises(ValueError):  # noqa: PT011  # each says its own
            make()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        FairRegressor(steps=60, lr=0.03, hidden=(8,)),
        FairClassifier(steps=60, lr=0.03, hidden=(8,)),
        FairPoisson(steps=60, lr=0.03, hidden=(8,)),
    ]
)
def test_they_are_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


def coins(n: int, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Two fair coins, of which the target knows the exclusive or, and an age."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 2, (2, n)).astype(float)
    age, xor = random.random(n), np.abs(a - b)
    noise = random.standard_normal((4, n))
    X = np.stack([2 * xor - 1 + 0.5 * noise[0], age + 0.2 * noise[1], noise[2]], 1)
    y = xor + 0.8 * age + X[:, 2] + 0.3 * noise[3]
    return X, y, {"a": a, "b": b, "age": age}


def test_a_penalty_moves_groups_together() -> None:
    X, y, attributes = coins(300, 0)
    about: dict[str, Any] = {"steps": 150, "lr": 0.01, "hidden": (16,), "random_state": 0}
    groups = ProtectedEncoder().fit(attributes).groups(attributes)
    ratios = [
        float(unfairness_ratio(torch.tensor(model.fit(X, y, attributes).predict(X)), groups))
        for model in (FairRegressor(lam=0.0, **about), FairRegressor(lam=30.0, **about))
    ]
    assert ratios[1] < 0.3 * ratios[0]
    again = FairRegressor(lam=30.0, **about).fit(X, y, attributes).predict(X)
    first = FairRegressor(lam=30.0, **about).fit(X, y, attributes).predict(X)
    assert np.array_equal(again, first)  # a seed fixes all
    found = FairClassifier(kind="jdcov", **about).calibrate(X, y > 1, attributes, [30.0], 0.9)
    assert [row.lam for row in found.rows] == [0.0, 30.0]
    assert found.lam == 30.0 and found.rows[1].loss > found.rows[0].loss
    counts = np.random.default_rng(0).poisson(2 * np.exp(0.5 * X[:, 1]))
    rates = FairPoisson(lam=0.0, **about).fit(X, counts, attributes, exposure=np.full(300, 2.0))
    assert rates.predict(X).mean() == pytest.approx(counts.mean() / 2, rel=0.1)


@pytest.mark.slow
def test_7_intersections() -> None:
    """Marginal penalties leave the divergence between intersections; the others halve it."""
    X, y, attributes = coins(4000, 0)
    X_test, y_test, about = coins(2000, 1)
    groups = ProtectedEncoder().fit(about).groups(about)
    found = {}
    settings: list[tuple[Any, float]] = [("ccdcov", 0.0), ("marginal", 10.0)]
    for kind, lam in [*settings, ("ccdcov", 30.0), ("jdcov", 10.0)]:
        model = FairRegressor(kind, lam, steps=480, random_state=0).fit(X, y, attributes)
        yhat = model.predict(X_test)
        loss = float(np.square(yhat - y_test).mean())
        found[kind, lam] = loss, float(jsd_groups(torch.tensor(yhat), groups))
    plain = found["ccdcov", 0.0][1]
    assert found["marginal", 10.0][1] >= 0.9 * plain
    for key in (("ccdcov", 30.0), ("jdcov", 10.0)):
        assert found[key][1] <= 0.5 * plain
    assert max(loss for loss, _ in found.values()) <= 0.25
