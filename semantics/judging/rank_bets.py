"""Bets against the claim that ranks are uniform: calibration, judged whenever one looks.

A gambler who believes in another density g of the ranks, and is paid g(u) for each of them, has in
expectation what he had, if ranks are uniform; so has an average of gamblers, whatever they and the
ranks of several quantities have to do with each other.  That it ever reaches 1/level has a
probability of at most level (Ville 1939; Ramdas, Grunwald, Vovk, Shafer, Game-theoretic statistics
and safe anytime-valid inference, arXiv 2210.01948).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Normal scores of ranks have, in the mind of these gamblers, a mean and a deviation.
MEANS = (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0)
DEVIATIONS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.87, 0.93, 1.0, 1.08, 1.15, 1.25, 1.4, 1.7, 2.5, 5.0)
STAKES = (-0.9, -0.5, -0.2, 0.2, 0.5, 0.9)  # on cosines of the rank, of other shapes
FREQUENCIES = (1, 2, 3, 4)
SHAPED = 0.2  # of the money, bet on cosines
LIKELY = 0.9  # the chance with which an error is found that is said to be


class RankBets:
    """The money of all gamblers, on each of ``count`` quantities."""

    def __init__(self, count: int) -> None:
        pairs = [(m, s) for m in MEANS for s in DEVIATIONS if (m, s) != (0.0, 1.0)]
        self.means, self.deviations = torch.tensor(pairs, dtype=torch.float64).T
        shapes = [(a, k) for a in STAKES for k in FREQUENCIES]
        self.stakes, self.frequencies = torch.tensor(shapes, dtype=torch.float64).T
        self.log_shares = torch.cat([self._shares(), torch.full((len(shapes),), SHAPED).double()])
        self.log_shares[len(pairs) :] /= len(shapes)
        self.log_shares = self.log_shares.log() - math.log(count)
        self.log_wealth = torch.zeros((count, len(self.log_shares)), dtype=torch.float64)
        self.number, self.best = 0, 0.0  # how many bets, and the most that the log evidence was

    def _shares(self) -> Tensor:
        """Of the gamblers on normal scores: half is bet on a mean or a deviation alone."""
        alone = (self.means == 0) | (self.deviations == 1)
        shares = torch.where(alone, 0.5 / alone.sum(), 0.5 / (~alone).sum())
        return (1.0 - SHAPED) * shares.double()

    def place(self, ranks: Tensor) -> None:
        """Bet on ranks [n, count] between 0 and 1, one after the other."""
        for rank in ranks.double().split(100):
            path = self.log_wealth + self._log_gains(rank).cumsum(0)
            evidence = (path + self.log_shares).logsumexp((1, 2))
            self.best = max(self.best, float(evidence.max()))
            self.log_wealth = path[-1]
            self.number += len(rank)

    def _log_gains(self, ranks: Tensor) -> Tensor:
        """log g(u) [n, count, gamblers] of ranks [n, count]."""
        u = ranks[..., None]
        z = torch.special.ndtri(u.clamp(1e-15, 1.0 - 1e-15))
        scored = (z.square() - ((z - self.means) / self.deviations).square()) / 2.0
        scored = scored - self.deviations.log()
        shaped = torch.log1p(self.stakes * torch.cos(math.pi * self.frequencies * u))
        return torch.cat([scored, shaped], -1)

    def found(self, level: float) -> bool:
        """Whether the evidence has ever been as strong as the level asks."""
        return self.best >= -math.log(level)

    def worst(self) -> int:
        """The number of the quantity against which is most evidence."""
        return int((self.log_wealth + self.log_shares).logsumexp(1).argmax())

    def finds(self, level: float) -> tuple[float, float]:
        """How many times too narrow, and too wide, posteriors may be without being found by now.

        Posteriors of one quantity whose deviation is f times the right one are found, by the one
        gambler who bets on it alone and gains most, with chance 0.9 about.  (0, inf) if none is.

        Each time he gains log g(z), whose mean and variance are known for z of deviation 1/f.
        """
        needed = -math.log(level)
        return (
            next((f for f in _falling() if self._gain(f) >= needed), 0.0),
            next((1.0 / f for f in _falling() if self._gain(1.0 / f) >= needed), math.inf),
        )

    def _gain(self, factor: float) -> float:
        """The log of the money that is there, with chance 0.9 about, if posteriors are so wide."""
        alone = self.means == 0
        s, shares = self.deviations[alone], self.log_shares[: len(self.means)][alone]
        rate = (1.0 - 1.0 / s.square()) / 2.0
        each = rate / factor**2 - s.log()
        spread = rate.abs() * math.sqrt(2.0 * self.number) / factor**2
        normal = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(2.0 * LIKELY - 1.0)))
        return float((self.number * each - normal * spread + shares).max())


def _falling() -> tuple[float, ...]:
    return tuple(1.0 - 0.01 * k for k in range(1, 100))
