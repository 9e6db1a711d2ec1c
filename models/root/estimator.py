"""Proposals of inputs that are better than any observed, in the manner of scikit-learn.

Source: ROOT: Rethinking Offline Optimization as Distributional Translation via Probabilistic Bridge
(arXiv 2509.16300). Other than in its code, sampling hands values to the network in the order of
training, the network is told which values are hidden, and times are in [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .aims import AIMS, Aim
from .bridge import levels, schedule
from .network import Denoiser
from .sampling import guided, sampler
from .synthetic import Pairs, hyperparameters, joined, mean_function, pairs
from .training import train

Array = npt.NDArray[Any]
POSITIVE = ("noise", "grad_lr", "threshold", "max_var", "lr")
COUNTS = (
    *("n_functions", "n_points", "grad_steps", "n_data"),
    *("hidden", "epochs", "passes", "batch", "accumulate"),
)


class ROOT(BaseEstimator):
    """Learns, from a fixed set of inputs and values, to carry inputs of low values to high ones.

    Pairs of low and high inputs are ends of descents and ascents on means of Gaussian processes
    that are fitted to the data, with other hyper-parameters in each epoch. A Brownian bridge
    between them is learnt, along which the best inputs are then carried on. Inputs and values are
    standardised first, and lengthscale, variance, noise and steps are in those units.

    Args:
        lengthscale, variance: of the processes' kernel; delta: how far they may be from these;
            noise: on its diagonal.
        n_functions: for each epoch; n_points: how many of the best inputs they start from.
        grad_steps, grad_lr: of descent and ascent; threshold: by how much a pair's values differ.
        T, max_var: of the bridge's schedule; hidden: width of the network.
        objective: what is predicted: "grad", "noise" or "ysubx", by absolute errors, or "elbo",
            by squared ones with the weights of a bound.
        guidance: how values count, from -1 (not at all) to 0 (fully), or beyond; the code has -1.5.
        eta: the share of noise in sampling; steps: how many of T.
        cfg_prob: how often values are hidden in training.
        epochs, passes (through the pairs of each), batch, accumulate, lr: of training.
        n_data: the most data that a process is fitted to, at random for each epoch.
        bounds: [d, 2], into which proposals are clipped.
        swap_conditions, mask="zero": as the published code, which hands over values in another
            order when it samples, and hides them as zeros.
        dtype: of the network; processes are fitted in double.
        random_state: of all.

    Attributes:
        pairs_ (of the last epoch, in units of the data), loss_trace_, validation_trace_ (of the
        first tenth of each function's pairs), net_, n_features_in_.
    """

    def __init__(
        self,
        lengthscale: float = 1.0,
        variance: float = 1.0,
        delta: tuple[float, float] = (0.25, 0.25),
        noise: float = 0.01,
        n_functions: int = 8,
        n_points: int = 1024,
        grad_steps: int = 100,
        grad_lr: float = 0.001,
        threshold: float = 0.001,
        T: int = 1000,
        max_var: float = 1.0,
        hidden: int = 1024,
        objective: Aim = "grad",
        guidance: float = -1.0,
        eta: float = 0.2,
        steps: int = 200,
        cfg_prob: float = 0.15,
        epochs: int = 100,
        passes: int = 1,
        batch: int = 64,
        accumulate: int = 2,
        lr: float = 1e-3,
        n_data: int = 15_000,
        bounds: Any = None,
        swap_conditions: bool = False,
        mask: Literal["bit", "zero"] = "bit",
        dtype: torch.dtype = torch.float32,
        random_state: int | None = None,
    ) -> None:
        self.lengthscale, self.variance = lengthscale, variance
        self.delta, self.noise = delta, noise
        self.n_functions, self.n_points = n_functions, n_points
        self.grad_steps, self.grad_lr, self.threshold = grad_steps, grad_lr, threshold
        self.T, self.max_var, self.hidden, self.objective = T, max_var, hidden, objective
        self.guidance, self.eta, self.steps, self.cfg_prob = guidance, eta, steps, cfg_prob
        self.epochs, self.passes, self.batch = epochs, passes, batch
        self.accumulate, self.lr, self.n_data = accumulate, lr, n_data
        self.bounds, self.swap_conditions, self.mask = bounds, swap_conditions, mask
        self.dtype, self.random_state = dtype, random_state

    def fit(self, X: Any, y: Any) -> ROOT:
        """Learn from inputs X [N, d] and values y [N], of which large ones are wanted.

        Errors:
            ValueError: a value or a setting is wrong.
            RuntimeError: no pair of a function differs enough.
            NumericalError: a kernel matrix is not positive definite.
            FloatingPointError: a loss is not finite.
        """
        self._check_settings()
        X, y = _data(X, y)
        self._bounds = _bounds(self.bounds, X.shape[1])
        self._mean, self._scale = X.mean(0), X.std(0)
        self._scale[self._scale == 0] = 1.0
        self._y_mean, self._y_scale = float(y.mean()), float(y.std())
        if not self._y_scale > 1e-12 * abs(self._y_mean):
            raise ValueError("all values of y are equal: there is nothing to learn from them")
        self._X = torch.from_numpy((X - self._mean) / self._scale)
        self._y = torch.from_numpy((y - self._y_mean) / self._y_scale)
        self._best = self._y.argsort(descending=True, stable=True)
        self.n_features_in_ = X.shape[1]
        self._schedule = schedule(self.T, max_var=self.max_var)
        with torch.random.fork_rng(devices=[]):
            if self.random_state is not None:
                torch.manual_seed(self.random_state)
            net = Denoiser(X.shape[1], self.hidden, self.mask == "bit", self.dtype)
            about = (self.objective, self.cfg_prob, self.passes, self.batch, self.accumulate)
            self.net_, self.loss_trace_, self.validation_trace_ = train(
                net, self._cast(self._schedule), self._epochs(), *about, self.lr
            )
        return self

    def propose(self, n: int = 128, y_target: float | None = None) -> Array:
        """Inputs [n, d], from the n best of the data, or from those again with other noise.

        Args:
            y_target: the value that is wished for, in units of y; unless given, the best one and
                two standard deviations more. Where ``guidance`` is -1 it does not count.

        Errors:
            NotFittedError, ValueError: n is below 1, or the target not finite.
        """
        check_is_fitted(self)
        if n < 1 or not math.isfinite(0.0 if y_target is None else y_target):
            raise ValueError(f"n is at least 1 and y_target finite: {n}, {y_target}")
        rows = self._best[torch.arange(n) % len(self._best)]
        best = float(self._y[self._best[0]])
        wish = best + 2 if y_target is None else (y_target - self._y_mean) / self._y_scale
        y = torch.stack([torch.full((n,), wish, dtype=torch.float64), self._y[rows]], 1)
        y = (y.flip(1) if self.swap_conditions else y).to(self.dtype)
        of, x_low = self._cast(self._schedule), self._X[rows].to(self.dtype)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            if self.random_state is not None:
                torch.manual_seed(self.random_state + 1)
            predict = guided(self.net_, of, x_low, y, self.objective, self.guidance)
            found = sampler(of, predict, levels(self.T, min(self.steps, self.T)), self.eta)(x_low)
        designs: Array = found.double().numpy() * self._scale + self._mean
        if self._bounds is not None:
            designs = designs.clip(self._bounds[:, 0], self._bounds[:, 1])
        return designs

    def _epochs(self) -> Iterator[tuple[Pairs, Pairs]]:
        """Pairs to train by and pairs held back, of functions that are new in each epoch."""
        start = self._X[self._best[: self.n_points]]
        for _ in range(self.epochs):
            rows = slice(None) if len(self._X) <= self.n_data else self._some()
            found = [
                self._pairs(self._X[rows], self._y[rows], start) for _ in range(self.n_functions)
            ]
            self.pairs_ = self._in_units(joined(found))
            held = [len(each.low) // 10 for each in found]
            train = [each.at(slice(k, None)) for each, k in zip(found, held, strict=True)]
            others = [each.at(slice(k)) for each, k in zip(found, held, strict=True)]
            yield self._cast(joined(train)), self._cast(joined(others))

    def _some(self) -> Tensor:
        return torch.randperm(len(self._X))[: self.n_data]

    def _pairs(self, X: Tensor, y: Tensor, start: Tensor) -> Pairs:
        length, variance = hyperparameters(self.lengthscale, self.variance, self.delta)
        mean = mean_function(X, y, float(length), float(variance), self.noise)
        return pairs(mean, start, self.grad_steps, self.grad_lr, self.threshold)

    def _in_units(self, of: Pairs) -> Pairs:
        scale, mean = torch.from_numpy(self._scale), torch.from_numpy(self._mean)
        points = (x * scale + mean for x in (of.low, of.high))
        return Pairs(*points, *(v * self._y_scale + self._y_mean for v in (of.y_low, of.y_high)))

    def _cast(self, of: Any) -> Any:
        return type(of)(*(v.to(self.dtype) for v in of))

    def _check_settings(self) -> None:
        if self.T < 2 or self.steps < 3:
            raise ValueError(f"T is at least 2 and steps at least 3: {self.T}, {self.steps}")
        if not self.eta >= 0 or not 0 <= self.cfg_prob < 1 or not math.isfinite(self.guidance):
            what = "eta is not negative, cfg_prob in [0, 1) and guidance finite"
            raise ValueError(f"{what}: {self.eta}, {self.cfg_prob}, {self.guidance}")
        centres, widths = (self.lengthscale, self.variance), tuple(self.delta)
        if not (len(widths) == 2 and 0 <= widths[0] < centres[0] and 0 <= widths[1] < centres[1]):
            what = "delta is two numbers, from 0 to less than lengthscale and variance"
            raise ValueError(f"{what}: {widths}, {centres}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is positive, which {getattr(self, name)} is not")
        for name in COUNTS:
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is at least 1, which {getattr(self, name)} is not")
        if self.objective not in AIMS or self.mask not in ("bit", "zero"):
            what = f"objective is one of {AIMS} and mask 'bit' or 'zero'"
            raise ValueError(f"{what}: {self.objective!r}, {self.mask!r}")


def _data(X: Any, y: Any) -> tuple[Array, Array]:
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if X.ndim != 2 or y.shape != X.shape[:1] or not X.shape[1]:
        raise ValueError(f"X is [N, d] and y [N]; shapes are {list(X.shape)} and {list(y.shape)}")
    if len(X) < 10:
        raise ValueError(f"there are {len(X)} points, and at least 10 are needed")
    if not (np.isfinite(X).all() and np.isfinite(y).all()):
        rows = np.flatnonzero(~(np.isfinite(X).all(1) & np.isfinite(y)))[:5].tolist()
        raise ValueError(f"X and y must be finite: leave out rows {rows}")
    return X, y


def _bounds(bounds: Any, d: int) -> Array | None:
    if bounds is None:
        return None
    found = np.asarray(bounds, dtype=np.float64)
    if found.shape != (d, 2):
        raise ValueError(f"bounds are [{d}, 2], and have shape {list(found.shape)}")
    if not (found[:, 0] < found[:, 1]).all():
        raise ValueError(f"lower bounds are below upper ones, which {found.tolist()} are not")
    return found
