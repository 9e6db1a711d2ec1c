"""How unfair predictions are: between groups, and by tests of independence."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from scipy.stats import chi2
from torch import Tensor

from .covariance import dcor, dcov
from .distances import Stat

POINTS = 1000


def jsd_groups(
    yhat: Tensor,
    groups: Tensor,
    bandwidth: float = 0.15,
    weights: Literal["share", "equal"] = "share",
    standardize: bool = False,
) -> Tensor:
    """The Jensen-Shannon divergence [] in bits between the predictions [n] of groups [n].

    H(sum_g w_g P_g) - sum_g w_g H(P_g), P_g a Gaussian kernel estimate on 1000 points between the
    least and the greatest prediction.

    Args:
        bandwidth: in units of the predictions, or of their deviation where they are standardised.
        weights: of the groups: their shares, or equal.

    Groups with fewer than five rows are warned of.

    Errors:
        ValueError: lengths differ, or a choice is unknown.
    """
    if yhat.ndim != 1 or yhat.shape != groups.shape:
        raise ValueError(f"predictions {list(yhat.shape)} and groups {list(groups.shape)} differ")
    if weights not in ("share", "equal") or not bandwidth > 0:
        raise ValueError("weights are 'share' or 'equal', and the bandwidth is positive")
    yhat = yhat.detach().double()
    if float(yhat.max() - yhat.min()) == 0:
        return torch.zeros((), dtype=torch.float64)
    if standardize:
        yhat = (yhat - yhat.mean()) / yhat.std()
    at = torch.linspace(float(yhat.min()), float(yhat.max()), POINTS, dtype=torch.float64)
    _, place, sizes = groups.unique(return_inverse=True, return_counts=True)
    if int(sizes.min()) < 5:
        warnings.warn(f"a group has {int(sizes.min())} rows: its density is a guess", stacklevel=2)
    rows = []
    for g in range(len(sizes)):
        away = (at - yhat[place == g, None]) / bandwidth
        rows.append((-away.square() / 2).logsumexp(0).softmax(0))
    p = torch.stack(rows)
    w = sizes / sizes.sum() if weights == "share" else torch.full_like(p[:, 0], 1 / len(p))
    w = w.double()
    found: Tensor = _entropy(w @ p) - w @ _entropy(p)
    return found


def _entropy(p: Tensor) -> Tensor:
    """In bits, of the last axis."""
    nats: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return nats / math.log(2)


def unfairness_ratio(yhat: Tensor, groups: Tensor) -> Tensor:
    """The share [] of the variance of predictions [n] that lies between the means of groups [n]."""
    yhat = yhat.detach().double()
    _, place, sizes = groups.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(sizes), dtype=yhat.dtype).index_add(0, place, yhat) / sizes
    between = (sizes * (means - yhat.mean()).square()).sum() / len(yhat)
    total = yhat.var(correction=0)
    return torch.where(total > 0, between / total, 0.0)


def permutation_test(
    x: Tensor,
    y: Tensor,
    shuffles: int = 500,
    stat: Stat = "U",
    generator: torch.Generator | None = None,
) -> float:
    """A p value of independence of rows x and y: (1 + shuffles with no less ``dcov``) / (1 + all).

    It is valid for any number of shuffles: at most alpha with a probability of at most alpha.
    """
    if shuffles < 1:
        raise ValueError(f"there is at least one shuffle, not {shuffles}")
    x, y = x.detach().double(), y.detach().double()
    seen = float(dcov(x, y, stat))
    slack = 1e-12 * abs(seen)  # equal but for rounding is no less
    orders = (torch.randperm(len(y), generator=generator) for _ in range(shuffles))
    above = sum(float(dcov(x, y[order], stat)) >= seen - slack for order in orders)
    return (1 + above) / (1 + shuffles)


def chi_square_test(x: Tensor, y: Tensor) -> float:
    """A p value of independence without shuffles: P(chi2_1 >= n dcor + 1), which is conservative.

    Source: Shen, Panda, Vogelstein, The chi-square test of distance correlation (JCGS, 2022).
    """
    return float(chi2.sf(len(x) * float(dcor(x.detach(), y.detach())) + 1, 1))
