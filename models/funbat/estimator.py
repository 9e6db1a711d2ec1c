"""Functional Tucker decomposition in the manner of scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ...ppl.markov import KERNELS, Matern
from .cores import DiagonalCore, TuckerCore
from .decomposition import Decomposition
from .modes import Mode

Array = npt.NDArray[Any]
COLLAPSED = 1e-3  # of all numbers of the core, or of all functions of a mode


class FunBaT(RegressorMixin, BaseEstimator):
    """Entries of a tensor with real coordinates, as a core contracted with functions of each.

    Args:
        rank: of all modes, or of each.
        form: "tucker", or "cp": a known core with ones on its superdiagonal.
        kernel: of the functions, by name; lengthscale, in units of the coordinates; variance.
            One for all modes, or one for each.
        max_iter: sweeps, at most; tol: of the relative change of E[tau] and of the means of
            functions, at which they end.
        damping: of modes, core and noise: the share of the old natural parameters.
        standardize: values are shifted and scaled to mean 0 and variance 1.
        precision: E[tau] at the start, in units of what is fitted.
        prior: shape and rate of tau.
        random_state: of the functions and the core at the start.

    Attributes:
        core_ [R_1, ..., R_K] (the mean), noise_ (standard deviation, in units of y), elbo_trace_,
        n_iter_, n_features_in_, decomposition_.
    """

    def __init__(
        self,
        rank: int | Sequence[int] = 2,
        form: Literal["tucker", "cp"] = "tucker",
        kernel: str | Sequence[str] = "matern32",
        lengthscale: float | Sequence[float] = 0.15,
        variance: float | Sequence[float] = 1.0,
        max_iter: int = 100,
        tol: float = 1e-4,
        damping: tuple[float, float, float] = (0.1, 0.5, 0.2),
        standardize: bool = True,
        precision: float = 100.0,
        prior: tuple[float, float] = (1e-3, 1e-3),
        dtype: torch.dtype = torch.float64,
        device: Any = None,
        random_state: int | None = None,
    ) -> None:
        self.rank, self.form, self.kernel = rank, form, kernel
        self.lengthscale, self.variance = lengthscale, variance
        self.max_iter, self.tol, self.damping = max_iter, tol, damping
        self.standardize, self.precision, self.prior = standardize, precision, prior
        self.dtype, self.device, self.random_state = dtype, device, random_state

    def fit(self, X: Any, y: Any) -> FunBaT:
        """Fit to values y [N] at coordinates X [N, K]; entries that are missing are left out.

        Errors:
            ValueError: a value or a setting is wrong.

        A ``ConvergenceWarning`` says that it has not converged, or found nothing but noise.
        """
        X, y = self._coordinates(X), _finite("y", np.asarray(y, dtype=np.float64))
        if y.shape != X.shape[:1]:
            raise ValueError(f"X has {len(X)} rows, and y the shape {list(y.shape)}")
        self.n_features_in_ = X.shape[1]
        ranks, kernels = self._settings(X.shape[1])
        self._shift, self._scale = 0.0, 1.0
        if self.standardize:
            self._shift, self._scale = float(y.mean()), float(y.std())
            if not self._scale > 1e-12 * abs(self._shift):
                raise ValueError("all values of y are equal: they cannot be standardised")
        with torch.random.fork_rng(), torch.no_grad():
            if self.random_state is not None:
                torch.manual_seed(self.random_state)
            self.decomposition_ = self._started(X, (y - self._shift) / self._scale, ranks, kernels)
            self._sweep(self.decomposition_)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Means [m] at coordinates X [m, K], and with ``return_std`` standard deviations of values.

        Errors:
            NotFittedError, ValueError: X is wrong.
        """
        check_is_fitted(self)
        X = self._coordinates(X)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} modes, and the fit had {self.n_features_in_}")
        with torch.no_grad():
            mean, variance = self.decomposition_.predict(self._tensor(X))
        found: Array = mean.cpu().numpy() * self._scale + self._shift
        return (found, variance.sqrt().cpu().numpy() * self._scale) if return_std else found

    def factor(self, mode: int, grid: Any) -> tuple[Array, Array]:
        """Means [m, R] and covariances [m, R, R] of a mode's functions on a grid [m]."""
        check_is_fitted(self)
        grid = self._tensor(_finite("grid", np.asarray(grid, dtype=np.float64)))
        with torch.no_grad():
            mean, covariance = self.decomposition_.modes[mode].at(grid)
        return mean.cpu().numpy(), covariance.cpu().numpy()

    def _coordinates(self, X: Any) -> Array:
        found = _finite("X", np.asarray(X, dtype=np.float64))
        if found.ndim != 2 or not len(found):
            raise ValueError(f"coordinates [N, K] are expected, not {list(found.shape)}")
        if found.shape[1] < 2:
            raise ValueError(f"a decomposition needs at least 2 modes, not {found.shape[1]}")
        return found

    def _settings(self, modes: int) -> tuple[list[int], list[Matern]]:
        """Ranks and kernels of all modes."""
        ranks = _for_each("rank", self.rank, modes)
        names = _for_each("kernel", self.kernel, modes)
        lengths = _for_each("lengthscale", self.lengthscale, modes)
        variances = _for_each("variance", self.variance, modes)
        if self.form not in ("tucker", "cp"):
            raise ValueError(f"the form is 'tucker' or 'cp', not {self.form!r}")
        if any(int(r) != r or r < 1 for r in ranks) or (self.form == "cp" and len(set(ranks)) > 1):
            raise ValueError(f"ranks are at least 1, and equal for cp: {ranks}")
        positive = [*lengths, *variances, self.precision, *self.prior, self.max_iter, self.tol]
        if not all(math.isfinite(x) and x > 0 for x in positive):
            what = "lengthscale, variance, precision, prior, max_iter and tol are positive"
            raise ValueError(f"{what}: {positive}")
        if len(self.damping) != 3 or not all(0 <= x < 1 for x in self.damping):
            raise ValueError(f"damping is three numbers in [0, 1), not {self.damping}")
        if unknown := sorted(set(names) - set(KERNELS)):
            raise ValueError(f"there are no kernels {unknown}: take {', '.join(KERNELS)}")
        rows = zip(names, lengths, variances, strict=True)
        return ranks, [
            Matern(KERNELS[name], self._tensor(length), self._tensor(variance))
            for name, length, variance in rows
        ]

    def _started(
        self, X: Array, y: Array, ranks: list[int], kernels: list[Matern]
    ) -> Decomposition:
        rows = zip(self._tensor(X).unbind(1), ranks, kernels, strict=True)
        modes = [Mode(x, rank, kernel) for x, rank, kernel in rows]
        for mode in modes:
            mode.start()
        core: DiagonalCore | TuckerCore = DiagonalCore(ranks)
        if self.form == "tucker":
            core = TuckerCore(
                ranks, torch.randn(math.prod(ranks), dtype=torch.float64).to(modes[0].mean)
            )
        return Decomposition(self._tensor(y), modes, core, self.prior, self.precision, self.damping)

    def _sweep(self, made: Decomposition) -> None:
        """Until nothing changes."""
        self.elbo_trace_: list[float] = []
        change = math.inf
        while len(self.elbo_trace_) < self.max_iter and change >= self.tol:
            before = _state(made)
            made.sweep()
            pairs = zip(before, _state(made), strict=True)
            change = max(float((b - a).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs)
            self.elbo_trace_.append(float(made.elbo()))
        self.n_iter_ = len(self.elbo_trace_)
        self.noise_ = self._scale / math.sqrt(float(made.precision))
        core = made.core
        if isinstance(core, TuckerCore):
            self.core_ = core.mean.reshape(core.ranks).cpu().numpy()
        else:
            self.core_ = np.zeros(core.ranks)
            np.einsum(f"{'i' * len(core.ranks)}->i", self.core_)[:] = 1.0
        greatest = [float(mode.mean.abs().max()) for mode in made.modes]
        if min(*greatest, float(np.abs(self.core_).max())) < COLLAPSED:
            what = "the fit has collapsed to zero: it takes all values for noise"
            warnings.warn(
                f"{what}. Standardise y, or start from a greater precision",
                ConvergenceWarning,
                stacklevel=3,
            )
        elif change >= self.tol:
            what = f"after {self.n_iter_} sweeps the relative change of a sweep is {change:.2g}"
            warnings.warn(f"{what}: raise max_iter", ConvergenceWarning, stacklevel=3)

    def _tensor(self, x: Any) -> Tensor:
        return torch.as_tensor(x, dtype=self.dtype, device=self.device)


def _state(made: Decomposition) -> list[Tensor]:
    return [made.precision, *(mode.mean for mode in made.modes)]


def _finite(name: str, x: Array) -> Array:
    if not (there := np.isfinite(x)).all():
        columns = np.flatnonzero(~there.reshape(len(x), -1).all(0)).tolist()
        where = f"in columns {columns} of X" if name == "X" else f"in {name}"
        raise ValueError(f"there are NaN or infinite numbers {where}: leave these rows out")
    return x


def _for_each(name: str, setting: Any, modes: int) -> list[Any]:
    """A setting of each mode."""
    if isinstance(setting, str) or np.ndim(setting) == 0:
        return [setting] * modes
    found = list(setting)
    if len(found) != modes:
        raise ValueError(f"{name} has {len(found)} entries for {modes} modes")
    return found
