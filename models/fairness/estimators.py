"""Networks with a penalty on dependence, as estimators of scikit-learn.

Source: Machine Learning with Multitype Protected Attributes (arXiv 2509.08163); Adam in place of
its optimiser, and the rule by which lam is chosen, are choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .encoding import ProtectedEncoder, Type, columns_of
from .measures import jsd_groups
from .penalty import DCovPenalty, Kind

Array = npt.NDArray[Any]


class Row(NamedTuple):
    """A penalty, and loss and divergence between groups on the data that were held out."""

    lam: float
    loss: float
    jsd: float


class Calibration(NamedTuple):
    """Rows by rising penalty, and the least penalty that reaches the target, if one does."""

    rows: list[Row]
    lam: float | None


class _Fair(BaseEstimator):
    """What the estimators share.

    Args:
        kind, lam, weights: of :class:`DCovPenalty`.
        types: of :class:`ProtectedEncoder`.
        hidden: widths of the layers of the network, with ReLU between them.
        net: in its place, a function of the numbers of inputs and of outputs that makes a module.
        steps, batch_size, lr: of Adam.
        random_state: of the first weights and the batches.
    """

    def __init__(
        self,
        kind: Kind = "ccdcov",
        lam: float = 1.0,
        weights: Sequence[float] | None = None,
        types: Mapping[str, Type] | None = None,
        hidden: Sequence[int] = (32, 32),
        net: Callable[[int, int], nn.Module] | None = None,
        steps: int = 500,
        batch_size: int = 256,
        lr: float = 3e-3,
        random_state: Any = None,
    ) -> None:
        self.kind, self.lam, self.weights, self.types = kind, lam, weights, types
        self.hidden, self.net = hidden, net
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.random_state = random_state

    def _predicted(self, out: Tensor) -> Tensor:
        """Predictions [n] or [n, k] of outputs of the network [n, k]."""
        raise NotImplementedError

    def _loss(self, out: Tensor, y: Tensor, exposure: Tensor) -> Tensor:
        raise NotImplementedError

    def _fit(self, X: Array, y: Tensor, S: Any, exposure: Tensor, outputs: int) -> Any:
        penalty = DCovPenalty(self.kind, self.lam, weights=self.weights)
        if self.steps < 1 or self.batch_size < 4 or not self.lr > 0:
            raise ValueError("steps and lr are positive, and batches have four rows or more")
        attributes = None
        self.encoder_ = None
        if S is not None:
            self.encoder_ = ProtectedEncoder(self.types).fit(S)
            attributes = self.encoder_.transform(S)
            if any(len(s) != len(X) for s in attributes.values()):
                raise ValueError(f"attributes do not have the {len(X)} rows of the data")
        rows, spread = torch.tensor(X), torch.tensor(X.std(0))
        self.center_, self.scale_ = rows.mean(0), torch.where(spread > 0, spread, 1.0)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            make = _network(self.hidden) if self.net is None else self.net
            self.net_ = make(X.shape[1], outputs).double()
            rows = (rows - self.center_) / self.scale_
            optimizer = torch.optim.Adam(self.net_.parameters(), self.lr)
            self.net_.train()
            for _ in range(self.steps):
                batch = torch.randperm(len(rows))[: self.batch_size]
                out = self.net_(rows[batch])
                loss = self._loss(out, y[batch], exposure[batch])
                if attributes is not None and self.lam > 0:
                    about = {name: s[batch] for name, s in attributes.items()}
                    loss = loss + penalty(self._predicted(out), about)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.net_.eval()
        self.n_iter_ = self.steps
        return self

    @torch.no_grad()
    def _outputs(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        found: Tensor = self.net_((torch.tensor(X) - self.center_) / self.scale_)
        return found

    def _targets(self, y: Any) -> Tensor:
        """Targets as the loss needs them."""
        return torch.tensor(np.asarray(y, dtype=np.float64))

    def calibrate(
        self,
        X: Any,
        y: Any,
        S: Any,
        lams: Sequence[float],
        target: float = 0.5,
        held_out: float = 0.3,
        groups: Any = None,
    ) -> Calibration:
        """Loss and divergence between groups of fits with several penalties, on data held out.

        The penalty that is named is the least with a divergence of at most ``target`` times that
        without a penalty; predictions of regressions are standardised for it.

        Args:
            groups: [n]; the intersections of binary and categorical attributes unless given.

        Errors:
            ValueError: there are no penalties, or no groups.
        """
        if not lams or min(lams) < 0:
            raise ValueError(f"penalties are given and not negative: {list(lams)}")
        X, y = np.asarray(X), np.asarray(y)
        columns = columns_of(S)
        if groups is None:
            groups = ProtectedEncoder(self.types).fit(columns).groups(columns)
        order = np.random.RandomState(0).permutation(len(X))
        last, first = np.split(order, [int(held_out * len(X))])
        rows = []
        for lam in sorted({0.0, *lams}):
            model = clone(self).set_params(lam=lam)
            model.fit(X[first], y[first], {name: s[first] for name, s in columns.items()})
            out = model._outputs(X[last])
            loss = model._loss(out, model._targets(y[last]), torch.ones(len(last)).double())
            jsd = self._divergence(model._predicted(out), torch.as_tensor(groups)[last])
            rows.append(Row(lam, float(loss), jsd))
        good = [row.lam for row in rows if row.jsd <= target * rows[0].jsd]
        return Calibration(rows, good[0] if good else None)

    def _divergence(self, yhat: Tensor, groups: Tensor) -> float:
        standardize = isinstance(self, RegressorMixin)
        columns = yhat[:, None] if yhat.ndim == 1 else yhat
        parts = [jsd_groups(column, groups, standardize=standardize) for column in columns.T]
        return max(map(float, parts))


def _network(hidden: Sequence[int]) -> Callable[[int, int], nn.Module]:
    def make(inputs: int, outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    return make


class FairRegressor(RegressorMixin, _Fair):
    """Least squares by a network, with a penalty on the dependence of what it predicts."""

    def fit(self, X: Any, y: Any, S: Any = None) -> FairRegressor:
        """Fit.

        Args:
            X: [n, d], finite.
            y: [n].
            S: protected attributes of :class:`ProtectedEncoder`; without them there is no penalty.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.mean_, self.deviation_ = float(np.mean(y)), float(np.std(y)) or 1.0
        fitted: FairRegressor = self._fit(X, self._targets(y), S, torch.ones(len(y)), 1)
        return fitted

    def _predicted(self, out: Tensor) -> Tensor:
        return self.mean_ + self.deviation_ * out[:, 0]

    def _loss(self, out: Tensor, y: Tensor, exposure: Tensor) -> Tensor:
        return (self._predicted(out) - y).square().mean()

    def predict(self, X: Any) -> Array:
        """Means [n]."""
        found: Array = self._predicted(self._outputs(X)).numpy()
        return found


class FairPoisson(RegressorMixin, _Fair):
    """Rates of counts by a network, with a penalty on their dependence."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def fit(self, X: Any, y: Any, S: Any = None, exposure: Any = None) -> FairPoisson:
        """Fit.

        Args:
            X: [n, d], finite.
            y: counts [n].
            S: protected attributes of :class:`ProtectedEncoder`; without them there is no penalty.
            exposure: [n], by which rates are multiplied; one unless given.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        if (y < 0).any():
            raise ValueError("counts are not negative")
        sizes = np.ones(len(y)) if exposure is None else np.array(exposure, dtype=np.float64)
        if sizes.shape != y.shape or not (sizes > 0).all():
            raise ValueError(f"exposures [{len(y)}] are positive")
        self.rate_ = float(y.sum() / sizes.sum()) or 1.0
        fitted: FairPoisson = self._fit(X, self._targets(y), S, torch.tensor(sizes), 1)
        return fitted

    def _predicted(self, out: Tensor) -> Tensor:
        return self.rate_ * out[:, 0].exp()

    def _loss(self, out: Tensor, y: Tensor, exposure: Tensor) -> Tensor:
        log_rate = out[:, 0] + np.log(self.rate_)
        loss: Tensor = (exposure * log_rate.exp() - y * (log_rate + exposure.log())).mean()
        return loss

    def predict(self, X: Any) -> Array:
        """Rates [n] for an exposure of one."""
        found: Array = self._predicted(self._outputs(X)).numpy()
        return found


class FairClassifier(ClassifierMixin, _Fair):
    """Classes by a network, with a penalty on the dependence of their probabilities."""

    def fit(self, X: Any, y: Any, S: Any = None) -> FairClassifier:
        """Fit.

        Args:
            X: [n, d], finite.
            y: classes [n].
            S: protected attributes of :class:`ProtectedEncoder`; without them there is no penalty.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        ones, classes = torch.ones(len(y)), len(self.classes_)
        fitted: FairClassifier = self._fit(X, self._targets(y), S, ones, classes)
        return fitted

    def _targets(self, y: Any) -> Tensor:
        return torch.tensor(np.searchsorted(self.classes_, y))

    def _predicted(self, out: Tensor) -> Tensor:
        """Probabilities [n, k]; of two classes that of the second [n]."""
        p = out.softmax(1)
        return p[:, 1] if p.shape[1] == 2 else p

    def _loss(self, out: Tensor, y: Tensor, exposure: Tensor) -> Tensor:
        return nn.functional.cross_entropy(out, y)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities [n, k]."""
        found: Array = self._outputs(X).softmax(1).numpy()
        return found

    def predict(self, X: Any) -> Array:
        """Classes [n]."""
        places = self.predict_proba(X).argmax(1)
        labels: Array = self.classes_[places]
        return labels
