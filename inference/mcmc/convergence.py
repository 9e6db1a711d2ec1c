"""Whether chains agree and how much their draws tell: rank-normalised R-hat and effective sizes.

Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", arXiv 1903.08008; the sum of autocorrelations is
cut as by Geyer (1992) and Stan.  Fits are judged by ArviZ; these are for a run that is going on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def r_hat(draws: Tensor) -> Tensor:
    """The larger of that of the bulk and that of the tails, [d], of draws [chains, n, d]."""
    halves = _halves(draws)
    median = halves.flatten(0, 1).quantile(0.5, 0)
    return torch.maximum(_r_hat(_normal(halves)), _r_hat(_normal((halves - median).abs())))


def effective_size(draws: Tensor) -> Tensor:
    """How many independent draws tell as much of the bulk, [d], of draws [chains, n, d]."""
    z = _normal(_halves(draws))
    chains, n, _ = z.shape
    covariance = _autocovariance(z).mean(0)  # [n, d]
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + z.mean(1).var(0)
    rho = 1.0 - (within - covariance) / total
    rho[0] = 1.0
    even, odd = rho[: 2 * ((n - 1) // 2)].unflatten(0, (-1, 2)).unbind(1)
    pairs = even + odd
    positive = (pairs > 0).cummin(0).values
    positive[-1] = False  # the last are of too few draws
    next_even = even.gather(0, positive.sum(0, keepdim=True))[0]
    time = 2.0 * (pairs.cummin(0).values * positive).sum(0) - 1.0 + next_even.clamp(min=0.0)
    size: Tensor = chains * n / time.clamp(min=1.0 / math.log10(chains * n))
    return size


def _halves(draws: Tensor) -> Tensor:
    """Each chain as two, in float64."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).double()


def _normal(x: Tensor) -> Tensor:
    """Normal scores of the ranks among all chains; equal values share the mean of their ranks."""
    rows = x.flatten(0, 1).mT.contiguous()  # [d, chains n]
    ordered = rows.sort(-1).values
    below = torch.searchsorted(ordered, rows)
    rank = (below + torch.searchsorted(ordered, rows, right=True) + 1) / 2
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (rows.shape[-1] + 0.25))
    return scores.mT.reshape(x.shape)


def _r_hat(z: Tensor) -> Tensor:
    n = z.shape[1]
    within, between = z.var(1).mean(0), n * z.mean(1).var(0)
    found: Tensor = ((between / within + n - 1) / n).sqrt()
    return found


def _autocovariance(z: Tensor) -> Tensor:
    """Of each chain at each distance, [chains, n, d]."""
    n = z.shape[1]
    spectrum = torch.fft.rfft(z - z.mean(1, keepdim=True), 2 * n, dim=1)
    found: Tensor = torch.fft.irfft(spectrum.abs().square(), 2 * n, dim=1)
    return found[:, :n] / n
