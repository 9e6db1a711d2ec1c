"""Linear classifiers that look for a separator, by large steps on the logistic loss.

With Z_i = y_i a_i and margins m_i = Z_i theta, gradient descent with a large step tends to the
batch perceptron, whose number of steps grows with the number of data.  Normalised by the mean
misfit, a step is gamma times a weighted mean of the Z_i with weights softmax(-softplus(m)), and at
most R^2 / mu^2 + 2 log(2 n - 1) / (gamma mu^2) of them are needed, for rows of norm at most R and a
margin mu.  On balanced data plain descent may need fewer steps: the gain is for imbalanced data.

Source: Tyurin, From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
with Large Step Sizes (arXiv 2412.08424).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

Array = npt.NDArray[Any]
Step = Callable[[Array, Array], Array]  # from margins [n] and rows Z [n, d] to a step [d]


def normalized_logistic_step(theta: Tensor, Z: Tensor, gamma: float) -> Tensor:
    """theta + gamma times the mean of rows Z weighted by softmax(-softplus(margins)).

    It never underflows, and its length is at most gamma times the greatest norm of a row.

    Args:
        theta: [..., d].
        Z: rows times their labels +-1, [..., n, d].

    Errors:
        ValueError: gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is positive, which {gamma} is not")
    margins = (Z @ theta[..., None])[..., 0]
    weights = (-torch.nn.functional.softplus(margins)).softmax(-1)
    return theta + gamma * (weights[..., None, :] @ Z)[..., 0, :]


def _softplus(m: Array) -> Array:
    result: Array = np.logaddexp(0.0, m)
    return result


def _logistic(gamma: float, normalized: bool, sample: Array) -> Step:
    def step(m: Array, rows: Array) -> Array:
        if not normalized:
            result: Array = gamma * ((expit(-m) * sample) @ rows) / sample.sum()
            return result
        log_weights = -_softplus(m)
        weights = np.exp(log_weights - log_weights.max()) * sample
        result = gamma * (weights @ rows) / weights.sum()
        return result

    return step


def _batch(normalized: bool, sample: Array) -> Step:
    def step(m: Array, rows: Array) -> Array:
        wrong = (m <= 0) * sample
        total = wrong.sum() if normalized else sample.sum()
        # at the start every margin is zero, and plain descent takes half of every row
        half = 0.5 if not normalized and not m.any() else 1.0
        result: Array = half * (wrong @ rows) / total
        return result

    return step


def _one(order: str) -> Step:
    place = -1

    def step(m: Array, rows: Array) -> Array:
        nonlocal place
        wrong = np.flatnonzero(m <= 0)
        later = wrong[wrong > place]
        place = int(later[0] if order == "cyclic" and len(later) else wrong[0])
        result: Array = rows[place]
        return result

    return step


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """What linear classifiers of two classes share: tags, and answers from coefficients."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def _read(self, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array, Array]:
        """Data [n, d], labels and weights of what has weight, and ``classes_``."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        X = X.toarray() if hasattr(X, "toarray") else X
        check_classification_targets(y)
        sample = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not sample.any():
            raise ValueError("every sample has weight zero")
        self.classes_ = np.unique(y)
        if len(self.classes_) > 2:
            what = (
                f"Only binary classification is supported; there are {len(self.classes_)} classes"
            )
            raise ValueError(f"{what}. The type of the target is multiclass.")
        kept = sample > 0
        return X[kept], np.where(y[kept] == self.classes_[-1], 1.0, -1.0), sample[kept]

    def decision_function(self, X: Any) -> Array:
        """Signed scores [n], positive for the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float64)
        scores: Array = np.asarray(X @ self.coef_[0] + self.intercept_[0])
        return scores

    def predict(self, X: Any) -> Array:
        """Classes [n]."""
        scores = self.decision_function(X)
        if len(self.classes_) == 1:
            labels: Array = np.repeat(self.classes_, len(scores))
            return labels
        labels = self.classes_[(scores > 0).astype(int)]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Probabilities [n, 2]."""
        scores = self.decision_function(X)
        if len(self.classes_) == 1:
            return np.ones((len(scores), 1))
        p = expit(self._confidence() * scores)
        result: Array = np.column_stack([1 - p, p])
        return result

    def _confidence(self) -> float:
        """By what scores are multiplied to be log odds."""
        return 1.0


class _Separator(LinearClassifier):
    """What the classifiers share: rows, the loop and the pocket."""

    fit_intercept: bool
    max_iter: int

    def _step(self, sample: Array) -> Step:
        raise NotImplementedError

    def _radius(self, rows: Array) -> float:
        """By what rows are divided."""
        return 1.0

    def _start(self, size: int) -> Array:
        return np.zeros(size)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Step until every margin is positive, or ``max_iter`` times.

        Args:
            X: [n, d], finite; sparse matrices are made dense.
            y: two classes.
            sample_weight: [n], not negative.

        Errors:
            ValueError: other numbers of classes, or a row of zeros without an intercept.
        """
        if self.max_iter < 1:
            raise ValueError(f"max_iter is positive, which {self.max_iter} is not")
        X, label, sample = self._read(X, y, sample_weight)
        if len(self.classes_) == 1:
            warnings.warn(
                "there is one class: everything is of it", ConvergenceWarning, stacklevel=2
            )
            self._answer(np.zeros(X.shape[1]), 1.0, 0, [], True, np.inf, 1.0)
            return self
        radius = float(np.sqrt((X**2).sum(1).max())) or 1.0
        if self.fit_intercept:
            X = np.column_stack([X, np.full(len(X), radius)])
        empty = np.flatnonzero(~X.any(1))
        if len(empty):
            raise ValueError(
                f"row {empty[0]} is zero, and has no positive margin without intercept"
            )
        scale = self._radius(X)
        rows = label[:, None] * X / scale
        theta, made, history, separated = self._run(rows, sample)
        margins = rows @ theta
        margin = scale * _margin(rows, theta)
        confidence = _calibrated(margins, sample)
        coefficients, intercept = theta / scale, 0.0
        if self.fit_intercept:
            intercept = float(coefficients[-1]) * radius
            coefficients = coefficients[:-1]
        self._answer(coefficients, intercept, made, history, separated, margin, confidence)
        if not separated:
            what = f"no separator in {self.max_iter} steps: the data may have none"
            warnings.warn(what, ConvergenceWarning, stacklevel=2)
        return self

    def _run(self, rows: Array, sample: Array) -> tuple[Array, int, list[float], bool]:
        """The loop; of theta with the fewest errors, unless the last one separates."""
        step, theta = self._step(sample), self._start(rows.shape[1])
        best, fewest = theta, np.inf
        history: list[float] = []
        for made in range(self.max_iter + 1):
            m = rows @ theta
            errors = float(sample[m <= 0].sum())
            history.append(errors)
            if errors < fewest:
                best, fewest = theta, errors
            if errors == 0 or made == self.max_iter:
                break
            theta = theta + step(m, rows)
        return best, made, history, fewest == 0

    def _answer(
        self,
        coefficients: Array,
        intercept: float,
        made: int,
        history: list[float],
        separated: bool,
        margin: float,
        confidence: float,
    ) -> None:
        self.coef_, self.intercept_ = coefficients[None], np.array([intercept])
        self.n_iter_, self.history_, self.separated_ = made, history, separated
        self.margin_, self.confidence_ = margin, confidence

    def _confidence(self) -> float:
        """One scale of the scores, fitted to the training data."""
        return self.confidence_


def _margin(rows: Array, theta: Array) -> float:
    """The least distance of a row from the plane."""
    length = float(np.linalg.norm(theta))
    return float((rows @ theta).min()) / length if length else 0.0


def _calibrated(m: Array, sample: Array) -> float:
    """The factor c of margins with the greatest likelihood, and a normal prior for log c.

    Without a prior separated data would ask for an infinite one.
    """
    spread = float(np.average(np.abs(m), weights=sample)) or 1.0
    m, log_c = m / spread, 0.0
    for _ in range(50):
        c = np.exp(log_c)
        p = expit(-c * m)
        slope = float((sample * p * m).sum() * c - log_c)
        curve = float((sample * (p * m * c - p * (1 - p) * (c * m) ** 2)).sum() - 1)
        move = slope / max(1.0, -curve)
        log_c += float(np.clip(move, -1, 1))
        if abs(move) < 1e-10:
            break
    return float(np.exp(log_c)) / spread


class NormalizedLogisticClassifier(_Separator):
    """Logistic regression by large, normalised steps of gradient descent, until data are separated.

    Args:
        gamma: the step; great ones separate fast, small ones tend to the greatest margin.
        normalized: else plain gradient descent.
        fit_intercept: add a constant column, as great as the greatest row.
        max_iter: steps, at most.
        scale_rows: divide rows by the greatest norm, so that gamma means the same for all data.
        polish: further steps once the data are separated, of which that with the greatest margin
            is kept; with a great gamma they add the worst row each, and tend to the greatest.

    Attributes:
        coef_ [1, d], intercept_ [1], n_iter_ (without polish); separated_, margin_ (the least
        distance, signed);
        history_, the weight of errors before every step.  Without a separator the step with the
        fewest errors counts, and a ``ConvergenceWarning`` says so.
    """

    def __init__(
        self,
        gamma: float = 100.0,
        normalized: bool = True,
        fit_intercept: bool = True,
        max_iter: int = 10_000,
        scale_rows: bool = True,
        polish: int = 0,
    ) -> None:
        self.gamma, self.normalized, self.fit_intercept = gamma, normalized, fit_intercept
        self.max_iter, self.scale_rows, self.polish = max_iter, scale_rows, polish

    def _run(self, rows: Array, sample: Array) -> tuple[Array, int, list[float], bool]:
        if self.polish < 0:
            raise ValueError(f"a number of further steps is not negative: {self.polish}")
        theta, made, history, separated = super()._run(rows, sample)
        if not separated:
            return theta, made, history, separated
        step, best, widest = _logistic(self.gamma, True, sample), theta, _margin(rows, theta)
        for _ in range(self.polish):
            theta = theta + step(rows @ theta, rows)
            margin = _margin(rows, theta)
            if margin > widest:
                best, widest = theta, margin
        return best, made, history, True

    def _step(self, sample: Array) -> Step:
        if not self.gamma > 0:
            raise ValueError(f"gamma is positive, which {self.gamma} is not")
        return _logistic(self.gamma, self.normalized, sample)

    def _radius(self, rows: Array) -> float:
        return float(np.sqrt((rows**2).sum(1).max())) if self.scale_rows else 1.0


class BatchPerceptron(_Separator):
    """The limit of great steps: add the mean of all misfit rows; see the module for the source.

    Args:
        normalized: divide by the number of misfits, rather than of all data.
        fit_intercept, max_iter: of :class:`NormalizedLogisticClassifier`.
    """

    def __init__(
        self, normalized: bool = False, fit_intercept: bool = True, max_iter: int = 10_000
    ) -> None:
        self.normalized, self.fit_intercept, self.max_iter = normalized, fit_intercept, max_iter

    def _step(self, sample: Array) -> Step:
        return _batch(self.normalized, sample)


class Perceptron(_Separator):
    """Rosenblatt's perceptron: add one misfit row.

    Args:
        order: the "first" misfit row, or the next one ("cyclic").
        fit_intercept, max_iter: of :class:`NormalizedLogisticClassifier`.
    """

    def __init__(
        self,
        order: Literal["cyclic", "first"] = "cyclic",
        fit_intercept: bool = True,
        max_iter: int = 10_000,
    ) -> None:
        self.order, self.fit_intercept, self.max_iter = order, fit_intercept, max_iter

    def _step(self, sample: Array) -> Step:
        if self.order not in ("cyclic", "first"):
            raise ValueError(f"the order is 'cyclic' or 'first', not {self.order!r}")
        return _one(self.order)
