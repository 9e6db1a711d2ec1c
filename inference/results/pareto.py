"""Importance weights with a smoothed tail, and whether means under them can be trusted."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .foreign import import_arviz

TRUSTED = 0.7  # k-hat above it: Vehtari et al. (arXiv 1507.02646)
ALIKE = 1e-6  # weights that differ by less have no tail
LEVEL, MANY = 0.05, 5  # of the draws: where as many share the largest weight, it has no tail
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

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (arXiv 1507.02646), by ArviZ.
    """
    given = log_weights.detach().double().numpy(force=True)
    total = np.logaddexp.reduce(given)
    if total == -np.inf:
        return Smoothed(torch.full((len(given),), torch.nan), np.inf, -np.inf, np.inf)
    normalised, k_hat = given - total, 0.0
    sharing = int((given > given.max() - max(ALIKE, rounding)).sum())
    if sharing < min(max(MANY, LEVEL * len(given)), len(given)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            normalised, k_hat = import_arviz().psislw(given.copy())
    ess = 1.0 / float((np.exp(normalised) ** 2).sum())
    error = float(np.sqrt(max(np.finfo(float).tiny, 1.0 / ess - 1.0 / len(given))))
    log_mean = float(total - np.log(len(given)))
    return Smoothed(torch.from_numpy(normalised), float(k_hat), log_mean, error)


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
