"""Coordinate updates of a Tucker or CP decomposition with functions for factors.

q is a product: of each mode's functions, of the core, of the precision tau of the noise.  Each
update is the exact conditional law on average over the others (conditional expectation propagation,
which is mean-field variational Bayes here, as the likelihood is conditionally conjugate), so that
an undamped update never lowers the ELBO.  A sweep costs O(N P^2 + sum_k n_k (R_k p)^3).

Source: Fang, Yu, Li, Li, Zhe, Functional Bayesian Tucker Decomposition for Continuous-indexed
Tensor Data (arXiv 2311.04829).  Other than in its code the prior of functions counts once, the core
has its prior, and second moments of the core are used; turns (``turns.py``) are added.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .cores import DiagonalCore, Moments, TuckerCore
from .modes import Mode
from .turns import mixed, scaled

CHUNK = 1 << 22  # numbers that entries are turned into at once


class Decomposition:
    """q, and its updates by entries.

    Args:
        y: entries [N]; modes: what each coordinate of theirs indexes; core: of these modes' ranks.
        prior: shape a0 and rate b0 of tau; precision: E[tau] at the start.
        damping: of modes, core and noise: the share of the old natural parameters in the new ones.
    """

    def __init__(
        self,
        y: Tensor,
        modes: Sequence[Mode],
        core: DiagonalCore | TuckerCore,
        prior: tuple[float, float] = (1e-3, 1e-3),
        precision: float = 100.0,
        damping: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        self.y, self.modes, self.core = y, list(modes), core
        self.prior, self.damping = prior, damping
        self.shape = y.new_tensor(prior[0] + len(y) / 2)
        self.rate = self.shape / precision

    @property
    def precision(self) -> Tensor:
        """E[tau]."""
        return self.shape / self.rate

    def sweep(self) -> None:
        """Update everything once."""
        for mode in range(len(self.modes)):
            self.update_mode(mode)
            self.turn(mode)
        self.update_core()
        self.update_noise()

    def turn(self, mode: int) -> None:
        """Share scale and mixture between a mode's functions and the core, where the bound gains.

        Updates by themselves take hundreds of sweeps for that.  Right after an undamped update of
        the mode the bound is log Z - KL(core), and a constant: by that a turn is taken or left.
        """
        for proposal in (scaled, mixed):
            own, core = self.modes[mode], self.core
            if isinstance(core, DiagonalCore) or (own.rank == 1 and proposal is mixed):
                return
            A, v = own.roughness, own.freedom - math.prod(core.ranks) / own.rank
            if not float(torch.linalg.eigvalsh(A)[0]) > 0:
                return
            G = proposal(A, core.gram(mode), v)
            other, turned = copy.copy(own), core.turned(mode, G)
            other.received(*own.turned(G), 0.0)
            gain = other.posterior.log_mass - own.posterior.log_mass
            if bool(gain > turned.divergence - core.divergence):
                self.modes[mode], self.core = other, turned

    def update_mode(self, mode: int) -> None:
        """q(u_mode): each entry says normal things of the functions at its coordinate."""
        own = self.modes[mode]
        precision, linear = torch.zeros_like(own.precision), torch.zeros_like(own.linear)
        for rows, at in self._chunks():
            a = self.core.coefficients(mode, at)
            index = own.index[rows]
            precision.index_add_(0, index, a.second)
            linear.index_add_(0, index, a.mean * self.y[rows, None])
        own.received(self.precision * precision, self.precision * linear, self.damping[0])

    def update_core(self) -> None:
        """q(w), where it is not known."""
        if isinstance(self.core, DiagonalCore):
            return
        size = math.prod(self.core.ranks)
        precision, linear = self.y.new_zeros(size, size), self.y.new_zeros(size)
        for rows, at in self._chunks():
            more = self.core.sums(at, self.y[rows])
            precision, linear = precision + more[0], linear + more[1]
        self.core.received(self.precision * precision, self.precision * linear, self.damping[1])

    def update_noise(self) -> None:
        """q(tau)."""
        rho = self.damping[2]
        shape, rate = self.prior[0] + len(self.y) / 2, self.prior[1] + self.squares() / 2
        self.shape = rho * self.shape + (1 - rho) * shape
        self.rate = rho * self.rate + (1 - rho) * rate

    def squares(self) -> Tensor:
        """E[sum (y - f)^2]."""
        total = self.y.new_zeros(())
        for rows, at in self._chunks():
            y, (mean, second) = self.y[rows], self.core.output(at)
            total = total + (y.square() - 2 * y * mean + second).sum()
        return total

    def elbo(self) -> Tensor:
        """E[log p(y, all)] - E[log q(all)], once each mode has been updated."""
        (a0, b0), a, b = self.prior, self.shape, self.rate
        log_tau = a.digamma() - b.log()
        likelihood = len(self.y) * (log_tau - math.log(2 * math.pi)) / 2
        likelihood = likelihood - self.precision * self.squares() / 2
        noise = (a - a0) * a.digamma() - a.lgamma() + math.lgamma(a0)
        noise = noise + a0 * (b.log() - math.log(b0)) + a * (b0 - b) / b
        others = sum((mode.divergence for mode in self.modes), self.core.divergence)
        return likelihood - noise - others

    def predict(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [m] of new entries at coordinates [m, K], with their noise."""
        found = [mode.moments_at(x) for mode, x in zip(self.modes, X.unbind(1), strict=True)]
        means, seconds = [], []
        for rows in self._rows(len(X)):
            mean, second = self.core.output([Moments(*(x[rows] for x in each)) for each in found])
            means.append(mean)
            seconds.append(second)
        mean = torch.cat(means)
        return mean, 1 / self.precision + torch.cat(seconds) - mean.square()

    def _chunks(self) -> Iterator[tuple[slice, list[Moments]]]:
        """Entries, some at once, and the moments of all modes at their coordinates."""
        for rows in self._rows(len(self.y)):
            yield rows, [mode.moments(mode.index[rows]) for mode in self.modes]

    def _rows(self, n: int) -> Iterator[slice]:
        size = max(1, CHUNK // self.core.numbers)
        return (slice(start, start + size) for start in range(0, n, size))
