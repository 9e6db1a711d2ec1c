"""Separators by large steps: acceptance checks of arXiv 2412.08424, figures by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

from pushforward.models.logistic import (
    BatchPerceptron,
    NormalizedLogisticClassifier,
    Perceptron,
    normalized_logistic_step,
)
from pushforward.nn.optim import NormalizedLogisticGD

BARE: dict[str, Any] = {"fit_intercept": False}
LOGISTIC: dict[str, Any] = {**BARE, "scale_rows": False}


def worst(n: int) -> tuple[Any, Any]:
    x = np.tile([-0.5, -1.0], (n, 1))
    x[0] = [0.5, -1.0]
    return x, np.r_[1, -np.ones(n - 1)]


def steps(classifier: Any, n: int) -> int:
    fitted = classifier.fit(*worst(n))
    assert fitted.separated_ and fitted.score(*worst(n)) == 1 and fitted.margin_ > 0
    return int(fitted.n_iter_)


GAMMAS = (100.0, 10.0, 1.0, 0.1)


@pytest.mark.parametrize(
    ("n", "normalized"), [(10, (2, 2, 7, 60)), (100, (2, 2, 11, 110)), (1000, (2, 2, 16, 157))]
)
def test_normalised_steps(n: int, normalized: Any) -> None:
    bounds = []
    for gamma, expected in zip(GAMMAS, normalized, strict=True):
        found = steps(NormalizedLogisticClassifier(gamma, **LOGISTIC), n)
        assert found == expected
        bounds.append(5 + 2 * math.log(2 * n - 1) / (gamma * 0.25))
        assert found <= bounds[-1]
    if n == 1000:
        assert bounds == pytest.approx([5.608, 11.080, 65.80, 613.0], rel=1e-3)


@pytest.mark.parametrize(
    ("n", "gamma", "expected"),
    [(1000, 1000.0, 301), (1000, 100.0, 308), (1000, 10.0, 729), (1000, 1.0, 7313),
     (10, 100.0, 4), (100, 100.0, 31), (100, 1.0, 561)],
)  # fmt: skip
def test_plain_steps(n: int, gamma: float, expected: int) -> None:
    assert steps(NormalizedLogisticClassifier(gamma, normalized=False, **LOGISTIC), n) == expected


def test_perceptrons() -> None:
    assert steps(BatchPerceptron(**BARE), 1000) == 301
    assert steps(BatchPerceptron(normalized=True, **BARE), 1000) == 2
    for order in ("cyclic", "first"):
        assert steps(Perceptron(order, **BARE), 1000) <= 5


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def loss(theta: Tensor, z: Tensor) -> float:
    return float(torch.nn.functional.softplus(-(z @ theta)).mean())


def plain(theta: Tensor, z: Tensor, gamma: float) -> Tensor:
    return theta + gamma * (torch.sigmoid(-(z @ theta)) @ z) / len(z)


def test_a_loss_that_explodes_before_it_separates() -> None:
    z = f([[1, -1], [1, 4]])
    for gamma in (1.0, 100.0):
        one = plain(torch.zeros(2).double(), z, gamma)
        torch.testing.assert_close(one / gamma, f([0.5, 0.75]))
        two = plain(one, z, gamma)
        if gamma == 100:
            assert loss(one, z) == pytest.approx(12.5, abs=1e-9)
            torch.testing.assert_close(two / gamma, f([1, 0.25]), rtol=0, atol=1e-9)
            assert loss(two, z) < 1e-30
        else:
            torch.testing.assert_close(two, f([0.79574437, 0.52753621]), rtol=0, atol=1e-8)
            assert loss(two, z) == pytest.approx(0.3106323602, abs=1e-9)


def test_three_steps_by_hand() -> None:
    z = f([[1, 2], [2, -1], [1, -1]])
    theta = torch.zeros(2, dtype=torch.float64)
    expected = [(1.33333333, 0.0), (2.46807208, 0.29789187), (3.52923359, 0.15238248)]
    for beta, after in zip((2.0, 6.2216626109, 19.1490930534), expected, strict=True):
        assert 1 / float(torch.sigmoid(-(z @ theta)).mean()) == pytest.approx(beta, abs=1e-9)
        theta = normalized_logistic_step(theta, z, 1.0)
        torch.testing.assert_close(theta, f(after), rtol=0, atol=1e-8)
    batch = normalized_logistic_step(torch.zeros(4, 2).double(), z.expand(4, 3, 2), 1.0)
    torch.testing.assert_close(batch, f(expected[0]).expand(4, 2), rtol=0, atol=1e-8)


def test_great_steps_are_the_batch_perceptron() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        w = rng.normal(size=5)
        x = rng.normal(size=(200, 5))
        z = f(x * np.sign(x @ w)[:, None])
        descent = perceptron = torch.zeros(5, dtype=torch.float64)
        for t in range(5):
            descent = plain(descent, z, 1e6)
            wrong = z[(z @ perceptron) <= 0]
            perceptron = perceptron + (0.5 if t == 0 else 1.0) * wrong.sum(0) / len(z)
            torch.testing.assert_close(descent / 1e6, perceptron, rtol=0, atol=1e-4)


def test_great_margins_do_not_underflow() -> None:
    torch.manual_seed(0)
    z = torch.randn(50, 4).abs() * 1e4
    theta = torch.ones(4)
    step = normalized_logistic_step(theta, z, 2.0) - theta
    assert bool(step.isfinite().all())
    assert float(step.norm()) <= 2 * float(z.norm(dim=1).max()) * (1 + 1e-6)


def test_without_a_separator_the_best_step_is_kept() -> None:
    x = np.array([[1.0], [2.0], [3.0], [-1.0]])
    y = np.array([1, 1, 0, 0])
    with pytest.warns(ConvergenceWarning, match="no separator in 50 steps"):
        fitted = NormalizedLogisticClassifier(max_iter=50).fit(x, y)
    assert not fitted.separated_ and fitted.score(x, y) >= 0.75
    assert len(fitted.history_) == 51 and min(fitted.history_) == 1


def test_probabilities_are_no_zeros_and_ones() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    y = (x[:, 0] + 0.8 * rng.normal(size=300) > 0).astype(int)
    with pytest.warns(ConvergenceWarning):
        fitted = NormalizedLogisticClassifier(max_iter=200).fit(x, y)
    p = fitted.predict_proba(x)
    assert float(p.min()) > 1e-6 and np.allclose(p.sum(1), 1)
    likelihood = np.log(p[np.arange(300), y]).mean()
    assert likelihood > math.log(0.5)
    weights = np.ones(300)
    weights[y != fitted.predict(x)] = 0
    assert NormalizedLogisticClassifier().fit(x, y, weights).separated_


def test_sparse_and_one_class() -> None:
    x, y = worst(20)
    dense = NormalizedLogisticClassifier().fit(x, y)
    sparse = NormalizedLogisticClassifier().fit(csr_array(x), y)
    assert np.array_equal(dense.coef_, sparse.coef_)
    assert np.array_equal(sparse.predict(csr_array(x)), y)
    with pytest.warns(ConvergenceWarning, match="one class"):
        assert NormalizedLogisticClassifier().fit(x, np.ones(20)).separated_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [NormalizedLogisticClassifier(max_iter=500), BatchPerceptron(max_iter=500), Perceptron()]
)
def test_they_are_estimators(estimator: Any, check: Any) -> None:
    check(estimator)


def test_polish_widens_the_margin() -> None:
    """Of two classes of points about (2, 0) and (-2, 0); the greatest margin is by a grid."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=(30, 2)) * 0.4 + [2, 0], rng.normal(size=(30, 2)) * 0.4 - [2, 0]]
    y = np.repeat([1, 0], 30)
    angles = np.linspace(-np.pi, np.pi, 20_001)
    margins = (np.where(y == 1, 1, -1)[:, None] * x) @ np.stack([np.cos(angles), np.sin(angles)])
    greatest = margins.min(0).max()
    found = [
        NormalizedLogisticClassifier(polish=k, **BARE).fit(x, y).margin_ for k in (0, 100, 10_000)
    ]
    assert found[0] < found[1] <= found[2] <= greatest + 1e-6
    assert found[2] > 0.98 * greatest


@pytest.mark.parametrize(("gamma", "expected"), [(100.0, 2), (10.0, 2), (1.0, 16), (0.1, 157)])
def test_the_optimiser_makes_the_same_steps(gamma: float, expected: int) -> None:
    x, y = worst(1000)
    rows = torch.as_tensor(y[:, None] * x)
    theta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = NormalizedLogisticGD([theta], lr=gamma)
    made = 0
    while not bool((rows @ theta > 0).all()):
        made += 1
        before = theta.detach().clone()
        optimizer.step(lambda: rows @ theta)
        torch.testing.assert_close(
            theta.detach(), normalized_logistic_step(before, rows, gamma), rtol=1e-12, atol=1e-12
        )
    assert made == expected


def test_the_optimiser_on_a_network() -> None:
    """Rings, which no line separates; and what is refused."""
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(200)
    radius = torch.where(torch.arange(200) < 100, 1.0, 2.0)
    x = torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None]
    label = torch.where(torch.arange(200) < 100, 1.0, -1.0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = NormalizedLogisticGD(net.parameters(), lr=0.1)
    for _ in range(500):
        margins = optimizer.step(lambda: label * net(x)[:, 0])
        if bool((margins > 0).all()):
            break
    assert bool((margins > 0).all())
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="lr is positive"):
        NormalizedLogisticGD(net.parameters(), lr=0.0)
    with pytest.raises(ValueError, match="finite margins"):
        optimizer.step(lambda: net(x))


X, Y = worst(4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: NormalizedLogisticClassifier(0.0).fit(X, Y), "gamma is positive"),
        (lambda: NormalizedLogisticClassifier(max_iter=0).fit(X, Y), "max_iter"),
        (lambda: NormalizedLogisticClassifier().fit(X, [0, 1, 2, 1]), "binary"),
        (lambda: NormalizedLogisticClassifier().fit(X / 0, Y), "inf|NaN"),
        (lambda: BatchPerceptron(**BARE).fit(0 * X, Y), "row 0 is zero"),
        (lambda: NormalizedLogisticClassifier().fit(X[:0], Y[:0]), "0 sample"),
        (lambda: NormalizedLogisticClassifier().fit(X, Y, [-1, 1, 1, 1]), "[Nn]egative"),
        (lambda: Perceptron("random").fit(X, Y), "not 'random'"),  # type: ignore[arg-type]
        (lambda: NormalizedLogisticClassifier(polish=-1).fit(X, Y), "not negative"),
        (lambda: normalized_logistic_step(torch.zeros(2), torch.ones(3, 2), 0.0), "gamma"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
