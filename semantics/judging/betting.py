"""Bets against the claim that some means are zero: evidence that is valid whenever one looks.

Who bets on a bounded number whose mean is zero has, in expectation, no more than before, and so has
an average of gamblers.  That their wealth ever reaches 1/level has a probability of at most level
(Ville 1939): no approximation, no number of draws fixed in advance (Waudby-Smith and Ramdas,
Estimating means of bounded random variables by betting, arXiv 2010.09686).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STAKES = tuple(sign * 2.0**-k for k in range(1, 9) for sign in (1, -1))


class Bets:
    """A gambler for each of ``count`` means and each of some stakes, on numbers in [-1, 1]."""

    def __init__(self, count: int) -> None:
        self.stakes = torch.tensor(STAKES, dtype=torch.float64)
        self.log_wealth = torch.zeros((count, len(STAKES)), dtype=torch.float64)
        self.sums = torch.zeros((2, count), dtype=torch.float64)
        self.number = 0

    def place(self, gains: Tensor) -> None:
        """Bet on numbers [n, count], one after the other."""
        self.log_wealth += torch.log1p(gains[:, :, None] * self.stakes).sum(0)
        self.sums += torch.stack([gains.sum(0), gains.square().sum(0)])
        self.number += len(gains)

    def log_evidence(self) -> float:
        """The log of the average wealth, which was one."""
        return float(self.log_wealth.logsumexp((0, 1))) - math.log(self.log_wealth.numel())

    def means(self) -> Tensor:
        """The means [count] of the numbers so far."""
        return self.sums[0] / self.number

    def seen(self, level: float) -> Tensor:
        """How large means [count] would have to be to be found by now, about.

        A bet s on a mean m with mean square v gains s m - s^2 v / 2 each time, m^2 / 2v at best.
        """
        needed = math.log(self.log_wealth.numel() / level)
        return (2.0 * needed * self.sums[1] / self.number).sqrt() / math.sqrt(self.number)
