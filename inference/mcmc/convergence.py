"""Whether chains agree and how much their draws tell: rank-normalised R-hat and effective sizes.

Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", arXiv 1903.08008; the sum of autocorrelations is
cut as by Geyer (1992) and Stan.  Fits are judged by ArviZ; these are for a run that is going on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def r_hat(draws: Tensor) -> Tensor:
    """The larger of that of the bulk and that of the tails, [d], of draws [chains, n, d]."""
    return diagnosed(draws)[0]


def effective_size(draws: Tensor) -> Tensor:
    """How many independent draws tell as much of the bulk, [d], of draws [chains, n, d]."""
    return _effective_size(_normal(_halves(draws))[0])


def diagnosed(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Both, of which the first asks for the work of the second."""
    halves = _halves(draws)
    bulk, median = _normal(halves)
    tails, _ = _normal((halves - median).abs())
    return torch.maximum(_r_hat(bulk), _r_hat(tails)), _effective_size(bulk)


def slowest(draws: Tensor, most: int) -> Tensor:
    """So many coordinates, or all, that seem to mix least, by moments: [.., d] of [chains, n, d].

    Half of them are those of the largest R-hat, half of the largest correlation of neighbours.
    """
    if draws.shape[-1] <= most:
        return draws
    halves = _halves(draws)
    centred = halves - halves.mean(1, keepdim=True)
    lag = (centred[:, 1:] * centred[:, :-1]).sum((0, 1)) / centred.square().sum((0, 1))
    ranks = (x.nan_to_num(0.0).argsort(descending=True)[: most // 2] for x in (_r_hat(halves), lag))
    return draws[..., torch.cat(tuple(ranks)).unique()]


def _effective_size(z: Tensor) -> Tensor:
    """Of normal scores of halves of chains."""
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


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Normal scores of the ranks among all chains, and the medians [d].

    Equal values share the mean of their ranks.
    """
    rows = x.flatten(0, 1).mT.contiguous()  # [d, chains n]
    n = rows.shape[-1]
    order = torch.from_numpy(np.argsort(rows.cpu().numpy(), axis=-1)).to(rows.device)
    ordered = rows.gather(1, order)
    median = ordered[:, [(n - 1) // 2, n // 2]].mean(1)
    changes = ordered[:, 1:] != ordered[:, :-1]
    end = torch.ones_like(changes[:, :1])
    place = torch.arange(1, n + 1, device=rows.device)
    first = torch.where(torch.cat([end, changes], 1), place, 0).cummax(1).values
    last = torch.where(torch.cat([changes, end], 1), place, n).flip(1).cummin(1).values.flip(1)
    score = torch.special.ndtri(((first + last).double() / 2 - 0.375) / (n + 0.25))
    scores = torch.empty_like(rows).scatter_(1, order, score)
    return scores.mT.reshape(x.shape), median


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
