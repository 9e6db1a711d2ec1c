"""Logistic regression by gradient-normalised Newton steps, beside scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from pushforward.models.newton_logistic import GNSLogisticRegression


def standardised() -> tuple[Any, Any]:
    data = load_breast_cancer()
    return (data.data - data.data.mean(0)) / data.data.std(0), data.target


@pytest.mark.parametrize(("hessian", "most"), [("exact", 14), ("fisher", 400)])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_agrees_with_another_solver(hessian: Any, most: int, weighted: bool) -> None:
    """Its objective is ours with C = 1 / (alpha times the weight of the data)."""
    x, y = standardised()
    weights = np.random.default_rng(0).integers(0, 3, len(y)) if weighted else np.ones(len(y))
    ours = GNSLogisticRegression(alpha=1e-3, hessian=hessian).fit(x, y, weights)
    theirs = LogisticRegression(
        C=1 / (1e-3 * weights.sum()), tol=1e-12, solver="newton-cholesky", max_iter=1000
    ).fit(x, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    assert ours.n_iter_ <= most
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-5)


def test_the_optimum_of_the_specification() -> None:
    """Without intercept: 10 steps to the loss .0598397745424."""
    x, y = standardised()
    found = GNSLogisticRegression(fit_intercept=False, alpha=1e-3).fit(x, y)
    margins = np.where(y == 1, 1, -1) * (x @ found.coef_[0])
    loss = np.logaddexp(0, -margins).mean() + 5e-4 * (found.coef_**2).sum()
    assert loss == pytest.approx(0.0598397745424, abs=1e-12)
    assert found.n_iter_ == 10


def test_the_laplace_approximation() -> None:
    """Two points at one place: the variance of the intercept is 1 / (n p (1 - p))."""
    x, y = np.zeros((8, 1)), np.repeat([1, 0], [6, 2])
    found = GNSLogisticRegression(alpha=0.5).fit(x, y)
    assert found.intercept_[0] == pytest.approx(np.log(3), abs=1e-7)
    np.testing.assert_allclose(
        found.covariance_, np.diag([1 / (8 * 0.5), 1 / (8 * 0.75 * 0.25)]), atol=1e-6
    )


def test_separable_data_are_told_of() -> None:
    """Without a ridge the loss has no minimum; with one it is found."""
    x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    with pytest.warns(ConvergenceWarning, match="alpha > 0"):
        GNSLogisticRegression(max_iter=5).fit(x, y)
    found = GNSLogisticRegression(alpha=0.1).fit(x, y)
    assert found.score(x, y) == 1 and np.isfinite(found.covariance_).all()
    with pytest.warns(ConvergenceWarning, match="one class"):
        GNSLogisticRegression().fit(x, np.ones(4))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([GNSLogisticRegression(), GNSLogisticRegression(hessian="fisher")])
def test_it_is_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"alpha": -1.0}, "not negative"),
        ({"tol": 0.0}, "positive"),
        ({"max_iter": 0}, "positive"),
        ({"hessian": "zero"}, "not 'zero'"),
    ],
)
def test_bad_input(about: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GNSLogisticRegression(**about).fit([[0.0], [1.0]], [0, 1])
