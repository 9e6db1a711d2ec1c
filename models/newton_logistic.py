"""Logistic regression by gradient-normalised Newton steps, with a Laplace approximation for free.

Source: Semenov, Jaggi, Doikov, Gradient-Normalized Smoothness for Optimization with Approximate
Hessians (arXiv 2506.13710).
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ..nn.optim import GradNormSmooth
from .logistic import LinearClassifier


class GNSLogisticRegression(LinearClassifier):
    """The minimum of the mean logistic loss, plus alpha / 2 times the squares of the coefficients.

    No step size or smoothness constant is given.  Separable data have no minimum without a ridge:
    then the loss is followed down to the tolerance, or for ``max_iter`` steps.

    Args:
        fit_intercept: an intercept, which the ridge leaves alone.
        alpha: the ridge.
        hessian: "exact"; or "fisher", the mean of squares of the gradients, by which separable data
            need more steps, though still equally many for each decade.
        tol: of the norm of the gradient.
        max_iter: steps.

    Attributes:
        coef_ [1, d], intercept_ [1], n_iter_; covariance_ [d, d] or, with the intercept last,
        [d + 1, d + 1]: of the Laplace approximation of the posterior whose prior is normal with
        precision alpha times the weight of the data, and flat for the intercept.  No numbers where
        the second derivative is singular.
    """

    def __init__(
        self,
        fit_intercept: bool = True,
        alpha: float = 0.0,
        hessian: Literal["exact", "fisher"] = "exact",
        tol: float = 1e-8,
        max_iter: int = 1000,
    ) -> None:
        self.fit_intercept, self.alpha, self.hessian = fit_intercept, alpha, hessian
        self.tol, self.max_iter = tol, max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> GNSLogisticRegression:
        """Fit.

        Args:
            X: [n, d], finite; sparse matrices are made dense.
            y: two classes.
            sample_weight: [n], not negative.

        Errors:
            ValueError: another number of classes, or a setting is out of range.
        """
        if self.alpha < 0 or not self.tol > 0 or self.max_iter < 1:
            what = f"{self.alpha}, {self.tol}, {self.max_iter}"
            raise ValueError(f"alpha is not negative, tol and max_iter are positive: {what}")
        if self.hessian not in ("exact", "fisher"):
            raise ValueError(f"the Hessian is 'exact' or 'fisher', not {self.hessian!r}")
        X, label, sample = self._read(X, y, sample_weight)
        if len(self.classes_) == 1:
            warnings.warn(
                "there is one class: everything is of it", ConvergenceWarning, stacklevel=2
            )
            self.coef_, self.intercept_ = np.zeros((1, X.shape[1])), np.ones(1)
            self.n_iter_, self.covariance_ = (
                0,
                np.full([X.shape[1] + self.fit_intercept] * 2, np.nan),
            )
            return self
        if self.fit_intercept:
            X = np.column_stack([X, np.ones(len(X))])
        rows = torch.as_tensor(label[:, None] * X)
        loss = _Loss(rows, torch.as_tensor(sample / sample.sum()), self._ridges(X.shape[1]))
        theta = torch.nn.Parameter(torch.zeros(rows.shape[1], dtype=rows.dtype))
        made = GradNormSmooth(
            [theta], hessian=loss.exact if self.hessian == "exact" else loss.fisher
        )
        self.n_iter_ = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no smaller loss in this precision
            while float(loss.gradient(theta.detach()).norm()) >= self.tol:
                if self.n_iter_ == self.max_iter:
                    break
                before = theta.detach().clone()
                made.step(lambda: loss(theta))
                self.n_iter_ += 1
                if torch.equal(before, theta.detach()):
                    break
        size = float(loss.gradient(theta.detach()).norm())
        if size >= self.tol:
            what = f"after {self.n_iter_} steps the gradient has the norm {size:.3g}"
            warnings.warn(
                f"{what}: separable data need alpha > 0", ConvergenceWarning, stacklevel=2
            )
        found = theta.detach()
        self.coef_ = found[: self.n_features_in_].numpy()[None]
        self.intercept_ = (
            found[self.n_features_in_ :].numpy() if self.fit_intercept else np.zeros(1)
        )
        factor, singular = torch.linalg.cholesky_ex(float(sample.sum()) * loss.exact(found))
        inverse = torch.cholesky_inverse(factor)
        self.covariance_ = (inverse.fill_(torch.nan) if int(singular) else inverse).numpy()
        return self

    def _ridges(self, size: int) -> Tensor:
        ridges = torch.full((size,), float(self.alpha), dtype=torch.float64)
        if self.fit_intercept:
            ridges[-1] = 0.0
        return ridges


class _Loss:
    """The mean of softplus(-Z theta), weighted, with ridges; Z holds rows times their labels."""

    def __init__(self, rows: Tensor, weights: Tensor, ridges: Tensor) -> None:
        self.rows, self.weights, self.ridges = rows, weights, ridges

    def __call__(self, theta: Tensor) -> Tensor:
        losses = torch.nn.functional.softplus(-(self.rows @ theta))
        return self.weights @ losses + (self.ridges * theta.square()).sum() / 2

    def gradient(self, theta: Tensor) -> Tensor:
        misfit = torch.sigmoid(-(self.rows @ theta))
        return self.ridges * theta - self.rows.T @ (self.weights * misfit)

    def exact(self, theta: Tensor) -> Tensor:
        misfit = torch.sigmoid(-(self.rows @ theta))
        return self._matrix(misfit * (1 - misfit))

    def fisher(self, theta: Tensor) -> Tensor:
        return self._matrix(torch.sigmoid(-(self.rows @ theta)).square())

    def _matrix(self, bend: Tensor) -> Tensor:
        return (self.rows.T * (self.weights * bend)) @ self.rows + self.ridges.diag()
