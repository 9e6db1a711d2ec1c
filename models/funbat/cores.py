"""What entries are in terms of one mode's functions, on average over the others and the core.

An entry is f = w . (u_1 x ... x u_K), w in row-major order: the first mode is the slowest.  It is
linear in each of its parts, so that means and second moments of the others are all that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """E[u] [n, R] and E[u u^T] [n, R, R]."""

    mean: Tensor
    second: Tensor


class DiagonalCore:
    """CP: the core has ones on its superdiagonal, and is known."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks, self.numbers = tuple(ranks), ranks[0] ** 2

    def coefficients(self, mode: int, at: Sequence[Moments]) -> Moments:
        """Of a_n [n, R], by which an entry is a_n . u_mode."""
        others = [each for k, each in enumerate(at) if k != mode]
        mean, second = torch.ones_like(at[mode].mean), torch.ones_like(at[mode].second)
        for each in others:
            mean, second = mean * each.mean, second * each.second
        return Moments(mean, second)

    def output(self, at: Sequence[Moments]) -> tuple[Tensor, Tensor]:
        """E[f] and E[f^2] [n]."""
        a, last = self.coefficients(0, at), at[0]
        return (a.mean * last.mean).sum(-1), (a.second * last.second).sum((-2, -1))

    @property
    def divergence(self) -> Tensor:
        """KL(q || prior) of what is known."""
        return torch.zeros((), dtype=torch.float64)


class TuckerCore:
    """A core with a standard normal prior, and q(w) by its precision and linear term.

    Args:
        ranks: R_1 ... R_K, with product P.
        linear: [P]; precision: [P, P], that of the prior unless given.
    """

    def __init__(
        self, ranks: Sequence[int], linear: Tensor, precision: Tensor | None = None
    ) -> None:
        self.ranks, self.numbers = tuple(ranks), math.prod(ranks) ** 2
        self.precision = torch.eye(len(linear)).to(linear) if precision is None else precision
        self.linear = linear
        self._solve()

    def _solve(self) -> None:
        root = torch.linalg.cholesky(self.precision)
        self.covariance = torch.cholesky_inverse(root)
        self.mean = self.covariance @ self.linear
        self.log_det = -2 * root.diagonal().log().sum()  # of the covariance

    @property
    def second(self) -> Tensor:
        """E[w w^T] [P, P]."""
        return self.covariance + torch.outer(self.mean, self.mean)

    def received(self, precision: Tensor, linear: Tensor, damping: float) -> None:
        """Update q(w) by what entries say: prior times that, damped."""
        one = torch.eye(len(linear), dtype=linear.dtype, device=linear.device)
        self.precision = damping * self.precision + (1 - damping) * (one + precision)
        self.linear = damping * self.linear + (1 - damping) * linear
        self._solve()

    def coefficients(self, mode: int, at: Sequence[Moments]) -> Moments:
        """Of a_n [n, R_mode], by which an entry is a_n . u_mode."""
        others = [each for k, each in enumerate(at) if k != mode]
        order = [mode, *(k for k in range(len(at)) if k != mode)]
        n, rank = len(at[mode].mean), self.ranks[mode]
        mean = _contracted(self._first().permute(order), [each.mean for each in others], n)
        pairs = [each.second.flatten(1) for each in others]
        second = _contracted(self._pairs().permute(order), pairs, n)
        return Moments(mean, second.reshape(n, rank, rank))

    def output(self, at: Sequence[Moments]) -> tuple[Tensor, Tensor]:
        """E[f] and E[f^2] [n]."""
        a, last = self.coefficients(0, at), at[0]
        return (a.mean * last.mean).sum(-1), (a.second * last.second).sum((-2, -1))

    def gram(self, mode: int) -> Tensor:
        """E[W W^T] [R, R] of the core's unfolding W along a mode."""
        order = [mode, *(k for k in range(len(self.ranks)) if k != mode)]
        others = [torch.eye(self.ranks[k]).to(self.mean).reshape(1, -1) for k in order[1:]]
        rank = self.ranks[mode]
        return _contracted(self._pairs().permute(order), others, 1).reshape(rank, rank)

    def turned(self, mode: int, turn: Tensor) -> TuckerCore:
        """W as turn^-T W: entries stay when the mode's functions u become turn u."""
        before = torch.eye(math.prod(self.ranks[:mode])).to(turn)
        after = torch.eye(math.prod(self.ranks[mode + 1 :])).to(turn)
        whole = torch.kron(torch.kron(before, turn), after)
        return TuckerCore(self.ranks, whole @ self.linear, whole @ self.precision @ whole.mT)

    def _first(self) -> Tensor:
        """E[w] as [R_1, ..., R_K]."""
        return self.mean.reshape(self.ranks)

    def _pairs(self) -> Tensor:
        """E[w w^T] as [R_1^2, ..., R_K^2]."""
        modes = len(self.ranks)
        wide = self.second.reshape(*self.ranks, *self.ranks)
        order = [axis for k in range(modes) for axis in (k, modes + k)]
        return wide.permute(order).reshape([rank**2 for rank in self.ranks])

    def sums(self, at: Sequence[Moments], y: Tensor) -> tuple[Tensor, Tensor]:
        """sum E[z z^T] [P, P] and sum y E[z] [P] over entries, where z = u_1 x ... x u_K."""
        modes = len(self.ranks)
        pairs = _summed([each.second.flatten(1) for each in at])
        pairs = pairs.reshape([rank for rank in self.ranks for _ in range(2)])
        order = [*range(0, 2 * modes, 2), *range(1, 2 * modes, 2)]
        means = [at[0].mean * y[:, None], *(each.mean for each in at[1:])]
        size = math.prod(self.ranks)
        return pairs.permute(order).reshape(size, size), _summed(means).flatten()

    @property
    def divergence(self) -> Tensor:
        """KL(q || prior)."""
        squares = self.second.diagonal().sum()
        found: Tensor = (squares - len(self.mean) - self.log_det) / 2
        return found


def _contracted(tensor: Tensor, vectors: Sequence[Tensor], n: int) -> Tensor:
    """tensor [R, d_1, ...] with v_1 [n, d_1], ... along all but its first axis: [n, R]."""
    if not vectors:
        return tensor.expand(n, -1)
    found: Tensor = torch.tensordot(vectors[-1], tensor, ([1], [tensor.ndim - 1]))
    for v in reversed(vectors[:-1]):
        found = torch.einsum("n...d,nd->n...", found, v)
    return found


def _summed(vectors: Sequence[Tensor]) -> Tensor:
    """sum_n v_1n x v_2n x ... [d_1, d_2 ...], all but the first in one axis."""
    rest = torch.ones_like(vectors[0][:, :1])
    for v in vectors[1:]:
        rest = (rest[:, :, None] * v[:, None, :]).flatten(1)
    return vectors[0].mT @ rest
