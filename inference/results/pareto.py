"""Importance weights with a smoothed tail, and whether means under them can be trusted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

TRUSTED = 0.7  # k-hat above it: Vehtari et al. (arXiv 1507.02646)
ALIKE = 1e-6  # weights that differ by less have no tail
LEVEL, MANY = 0.05, 5  # of the draws: where as many share the largest weight, it has no tail
FEWEST = 5  # weights that a tail is fitted to
FEW = 20  # draws tell no tail: a fifth of them are no more than 4, too few to fit one to


class Smoothed(NamedTuple):
    """Weights smoothed by a Pareto tail.

    log_weights: normalised to sum to one, [n] in float64.
    k_hat: the shape of the tail; infinite if there are too few weights to tell it.
    log_mean: the log of the mean of the weights as they were given, and ``error`` its standard
        error by the smoothed ones, which is positive: it is an estimate even where they are alike.
    """

    log_weights: Tensor
    k_hat: float
    log_mean: float
    error: float


def smoothed(log_weights: Tensor, rounding: float = 0.0) -> Smoothed:
    """Pareto smoothed importance weights from the logs of raw ones [n].

    Weights that are alike are left as they are, and have a k-hat of zero; so have weights of few
    values, the largest of which many draws share.  If none is positive it is infinite, and they are
    NaN.

    Args:
        rounding: logs that differ by less are alike.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (arXiv 1507.02646).
    """
    given = log_weights.detach().double().numpy(force=True)
    total = np.logaddexp.reduce(given)
    if total == -np.inf:
        return Smoothed(torch.full((len(given),), torch.nan), np.inf, -np.inf, np.inf)
    normalised, k_hat = given - total, 0.0
    sharing = int((given > given.max() - max(ALIKE, rounding)).sum())
    if sharing < min(max(MANY, LEVEL * len(given)), len(given)):
        normalised, k_hat = _with_a_smooth_tail(given - given.max())
    ess = 1.0 / float((np.exp(normalised) ** 2).sum())
    error = float(np.sqrt(max(np.finfo(float).tiny, 1.0 / ess - 1.0 / len(given))))
    log_mean = float(total - np.log(len(given)))
    return Smoothed(torch.from_numpy(normalised), float(k_hat), log_mean, error)


def _with_a_smooth_tail(logs: Any) -> tuple[Any, float]:
    """Logs of weights [n] of which the largest is 1, normalised, and the shape of their tail.

    The weights above a cutoff become the middle quantiles of a generalised Pareto law, none above
    1.  Fewer than 5 of them tell no law, and stay: the shape is infinite.
    """
    n, found, k = len(logs), logs.copy(), np.inf
    count = int(np.ceil(min(n / 5, 3 * np.sqrt(n))))
    cutoff = max(np.sort(logs)[-min(count + 1, n)], np.log(np.finfo(float).tiny))
    tail = np.flatnonzero(logs > cutoff)
    if len(tail) >= FEWEST:
        tail = tail[np.argsort(logs[tail])]
        with np.errstate(all="ignore"):  # a shape that is no number smooths nothing
            k, scale = _generalised_pareto(np.exp(logs[tail]) - np.exp(cutoff))
        if np.isfinite(k):
            middle = np.arange(0.5, len(tail)) / len(tail)
            above = -np.log1p(-middle) if k == 0 else np.expm1(-k * np.log1p(-middle)) / k
            found[tail] = np.minimum(np.log(scale * above + np.exp(cutoff)), 0.0)
    return found - np.logaddexp.reduce(found), float(k)


def _generalised_pareto(x: Any) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto law, from values [n] above 0 in increasing order.

    The posterior mean of b = -shape / scale under a prior that follows the data, and of it the
    likeliest shape, drawn towards 1/2 as by 10 more values.

    Source: Zhang and Stephens, A New and Efficient Estimation Method for the Generalized Pareto
    Distribution (Technometrics, 2009), and appendix C of arXiv 1507.02646.
    """
    n = len(x)
    m = 30 + int(np.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-b[:, None] * x).mean(1)
    logs = n * (np.log(-b / shapes) - shapes - 1)
    weights = np.exp(logs - np.logaddexp.reduce(logs))
    weights = np.where(weights < 10 * np.finfo(float).eps, 0.0, weights)
    mean = float(weights @ b / weights.sum())
    shape = float(np.log1p(-mean * x).mean())
    return (n * shape + 10 * 0.5) / (n + 10), -shape / mean


def doubts(weights: Smoothed, proposed: str, hint: str) -> list[str]:
    """A note if means under the weights are not to be trusted.

    Args:
        proposed: what the draws are of.
        hint: what to do where it misses a part.
    """
    if weights.k_hat <= TRUSTED:
        return []
    if weights.k_hat < np.inf:
        what = f"k-hat is {weights.k_hat:.2f}, above {TRUSTED}"
        return [f"{what}: {proposed} misses parts of the posterior; {hint}"]
    draws = len(weights.log_weights)
    if draws <= FEW:
        return [f"{draws} draws are too few for a k-hat: how good {proposed} is, they do not tell"]
    return [f"hardly a draw of {proposed} carries weight: it misses the posterior; {hint}"]
