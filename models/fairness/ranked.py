"""Sums over all pairs of scalars in O(n log n), by ranks.

The sign of x_k - x_l is that of the difference of their ranks.  Ties are ranked twice, in opposite
orders, and the mean of both makes the sign of a tie zero.

Source: Huo, Szekely, Fast computing for distance covariance (Technometrics, 2016); Chaudhuri, Hu
(Computational Statistics and Data Analysis, 2019), whose merge sort is here a stable partition.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distance_sums(x: Tensor) -> Tensor:
    """sum_l |x_k - x_l| [n]; a tie adds nothing to the derivative."""
    ordered = x.sort().values
    below = torch.searchsorted(ordered.detach(), x.detach())
    upto = torch.searchsorted(ordered.detach(), x.detach(), right=True)
    before = torch.nn.functional.pad(ordered.cumsum(0), (1, 0))
    return x * (below + upto - len(x)) - before[below] - before[upto] + before[-1]


def distance_products(x: Tensor, y: Tensor) -> Tensor:
    """sum_kl |x_k - x_l| |y_k - y_l|, linear in x and in y where no ranks change.

    It is 2 sum_k x_k g_k with g_k = sum_l sign(x_k - x_l) |y_k - y_l|.
    """
    x_ranks, y_ranks = _rankings(x, True), _rankings(y, y.requires_grad)
    signed = [_signed(i, j, y) for i in x_ranks for j in y_ranks]
    return 2 * (x * torch.stack(signed).mean(0)).sum()


def _rankings(x: Tensor, both: bool) -> list[Tensor]:
    """Ranks [n] where ties stand in their order; also in the opposite one, if there are any."""
    ordered, order = x.detach().sort(stable=True)
    ranks = [_inverse(order)]
    if both and bool((ordered[1:] == ordered[:-1]).any()):
        ranks.append(_inverse(x.detach().flip(0).sort(stable=True).indices).flip(0))
    return ranks


def _inverse(order: Tensor) -> Tensor:
    places = torch.arange(len(order), device=order.device)
    return torch.empty_like(order).scatter(0, order, places)


def _signed(x_ranks: Tensor, y_ranks: Tensor, y: Tensor) -> Tensor:
    """sum_l sign(k, l) |y_k - y_l| [n], the sign by the ranks of x and the size by those of y."""
    order = _inverse(x_ranks)
    values, ranks = y[order], y_ranks[order]
    count, total = _lower_before(ranks, values)
    place = torch.arange(len(y), device=y.device)
    before = values * (2 * count - place) - 2 * total + values.cumsum(0) - values
    sorted_sum = torch.zeros_like(values).scatter(0, ranks, values).cumsum(0)
    everywhere = values * (2 * ranks + 2 - len(y)) - 2 * sorted_sum[ranks] + sorted_sum[-1]
    return (2 * before - everywhere)[x_ranks]


def _lower_before(ranks: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """How many earlier entries have a lower rank [n], and the sum of their values [n].

    Blocks of positions, sorted by rank, are halved: what is lower in the left half of a block
    counts for the entries of its right half.
    """
    n = len(ranks)
    size = 1 << max(1, (n - 1).bit_length())
    at = torch.arange(size, device=ranks.device)
    place = torch.cat([_inverse(ranks), at[n:]])[None]
    weights = torch.stack([torch.ones_like(values), values])
    weights = torch.nn.functional.pad(weights, (0, size - n))
    sums = torch.zeros_like(weights)
    while size > 1:
        half = size // 2
        left = (place & half) == 0
        lefts = left.cumsum(1)
        lower = (weights[:, place] * left).cumsum(-1)
        target = torch.where(left, lefts - 1, half + at[:size] - lefts)
        place = torch.empty_like(place).scatter(1, target, place)
        lower = torch.empty_like(lower).scatter(-1, target.expand_as(lower), lower)
        right = place[:, half:].reshape(-1)
        sums = sums.index_add(1, right, lower[..., half:].reshape(2, -1))
        place, size = place.reshape(-1, half), half
    return sums[0, :n], sums[1, :n]
