"""The functions of one mode: a chain over its coordinates, and what is known of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ppl.markov import GaussianMarkov, Matern, Posterior, joined, seen, smoothed, with_unseen
from .cores import Moments


class Mode:
    """R independent functions with one kernel, at the coordinates that occur.

    Args:
        coordinates: of the entries [N], in any order.
        rank: R.
        kernel: of one function.
    """

    def __init__(self, coordinates: Tensor, rank: int, kernel: Matern) -> None:
        self.times, self.index = coordinates.unique(return_inverse=True)  # [n], which rise; [N]
        self.rank, self.kernel = rank, kernel
        self.prior = self._prior(self.times)
        size = (len(self.times), rank)
        self.precision = self.times.new_zeros(*size, rank)
        self.linear = self.times.new_zeros(size)
        self._posterior: Posterior | None = None

    def _prior(self, times: Tensor) -> GaussianMarkov:
        return joined([self.kernel.chain(times)] * self.rank)

    @property
    def through(self) -> Tensor:
        """H [R, R p]: the first state of each function."""
        states = self.rank * self.kernel.order
        return torch.eye(states).to(self.times)[:: self.kernel.order]

    def start(self) -> None:
        """Functions drawn from the prior, as if they were known."""
        self.mean = self.prior.rsample() @ self.through.mT
        self.covariance = torch.zeros_like(self.precision)

    def received(self, precision: Tensor, linear: Tensor, damping: float) -> None:
        """Update q by what entries say at each coordinate: [n, R, R] and [n, R], damped."""
        self.precision = damping * self.precision + (1 - damping) * precision
        self.linear = damping * self.linear + (1 - damping) * linear
        self._posterior = smoothed(self.prior, seen(self.precision, self.linear, self.through))
        self.mean, self.covariance = self._functions(self._posterior)

    @property
    def posterior(self) -> Posterior:
        """Of the states.

        Errors:
            RuntimeError: nothing has been received.
        """
        if self._posterior is None:
            raise RuntimeError("a mode has no posterior before its first update: sweep once")
        return self._posterior

    def _functions(self, found: Posterior) -> tuple[Tensor, Tensor]:
        p = self.kernel.order
        return found.mean[:, ::p], found.covariance[:, ::p, ::p]

    @property
    def divergence(self) -> Tensor:
        """KL(q || prior): q is the prior times sites, over their mass."""
        second = self.covariance + self.mean[:, :, None] * self.mean[:, None]
        sites = (self.linear * self.mean).sum() - (self.precision * second).sum() / 2
        found: Tensor = sites - self.posterior.log_mass
        return found

    @property
    def roughness(self) -> Tensor:
        """m_r^T K^-1 m_s [R, R] of the functions' mean states m, whose prior is N(0, K).

        K^-1 m is what sites say beyond the mean, so that numbers at each coordinate tell it.
        """
        beyond = self.linear - (self.precision @ self.mean[..., None])[..., 0]
        found: Tensor = beyond.mT @ self.mean
        return (found + found.mT) / 2

    @property
    def freedom(self) -> Tensor:
        """How many numbers of each function [R] the sites tell."""
        told: Tensor = (self.precision * self.covariance).sum((0, 2))
        return told

    def turned(self, turn: Tensor) -> tuple[Tensor, Tensor]:
        """Precision and linear term of the sites on turn u that are those on u."""
        back = torch.linalg.inv(turn)
        return back.mT @ self.precision @ back, self.linear @ back

    def moments(self, index: Tensor) -> Moments:
        """At some of its coordinates, by their numbers [m]."""
        return _moments(self.mean[index], self.covariance[index])

    def at(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Means [m, R] and covariances [m, R, R] at any coordinates [m], where nothing is seen."""
        new, back = coordinates.unique(return_inverse=True)
        sites = seen(self.precision, self.linear, self.through)
        times, sites, places = with_unseen(self.times, sites, new)
        mean, covariance = self._functions(smoothed(self._prior(times), sites))
        return mean[places[back]], covariance[places[back]]

    def moments_at(self, coordinates: Tensor) -> Moments:
        """At any coordinates [m]."""
        return _moments(*self.at(coordinates))


def _moments(mean: Tensor, covariance: Tensor) -> Moments:
    return Moments(mean, covariance + mean[:, :, None] * mean[:, None, :])
