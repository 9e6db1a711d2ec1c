"""Levels of noise, steps of DDIM and DDPM between them, and the schedule that varies little.

x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) e.  Given x_t and an estimate of x_0, each step is an affine
map with noise, x' = a x + b x_0 + c e; a sampler is a table of such steps.

Source: arXiv 2406.16864 and its public code (github.com/Stable-X/StableNormal).  There the
scheduler is given a first time and never uses it: as here, it follows from the number of steps.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalSchedule:
    """The products ab [T] of 1 - beta_t, where sqrt(beta) rises linearly ("scaled linear").

    Args:
        T: how many levels.
        b0, b1: the least and the greatest beta.

    Errors:
        ValueError: T is not positive, or not 0 < b0 <= b1 < 1.
    """

    T: int = 1000
    b0: float = 0.00085
    b1: float = 0.012

    def __post_init__(self) -> None:
        if self.T < 1 or not 0 < self.b0 <= self.b1 < 1:
            raise ValueError(f"T >= 1 and 0 < b0 <= b1 < 1: {self.T}, {self.b0}, {self.b1}")

    @cached_property
    def ab(self) -> Tensor:
        """[T], in double precision."""
        ends = math.sqrt(self.b0), math.sqrt(self.b1)
        beta = torch.linspace(*ends, self.T, dtype=torch.float64).square()
        return (1 - beta).cumprod(0)

    def noised(self, x0: Tensor, t: Tensor, e: Tensor) -> Tensor:
        """x_t [B, ...] of x_0 [B, ...], times t [B] and standard normal e [B, ...]."""
        ab = self.ab.to(t.device)[t].reshape(-1, *(1 for _ in x0.shape[1:]))
        return ab.sqrt().to(x0) * x0 + (1 - ab).sqrt().to(x0) * e


class Move(NamedTuple):
    """x' = a x + b x_0 + c e."""

    a: float
    b: float
    c: float


def ddim(source: float, target: float, eta: float = 0.0) -> Move:
    """The step between levels ab: without noise for eta = 0, of DDPM's variance for eta = 1.

    Whatever eta, it takes normal(sqrt(ab) x_0, 1 - ab) to normal(sqrt(ab') x_0, 1 - ab').
    """
    variance = eta**2 * (1 - target) / (1 - source) * (1 - source / target)
    a = math.sqrt((1 - target - variance) / (1 - source))
    return Move(a, math.sqrt(target) - a * math.sqrt(source), math.sqrt(variance))


def renoising(level: float) -> Move:
    """The estimate of x_0 with fresh noise of a level ab: what x was is forgotten."""
    return Move(0.0, math.sqrt(level), math.sqrt(1 - level))


def ddim_step(x: Tensor, x0: Tensor, t: int, t_next: int, ab: Tensor) -> Tensor:
    """DDIM's step without noise from time t to t_next, for levels ab [T]."""
    move = ddim(float(ab[t]), float(ab[t_next]))
    return move.a * x + move.b * x0


def heuristic_timesteps(n: int, T: int = 1000) -> list[int]:
    """n falling times, of which those of the first half and one more are equal.

    Errors:
        ValueError: n is less than 4, or greater than T.
    """
    if not 4 <= n <= T:
        raise ValueError(f"n_steps is {n}; it must be from 4 to T, which is {T}")
    return [(n - 1 - max(i, n // 2)) * (T // n) + 1 for i in range(n)]


def spaced_timesteps(n: int, T: int = 1000) -> list[int]:
    """n falling times, evenly spaced, of which the last is 1.

    Errors:
        ValueError: n is not from 1 to T - 1.
    """
    if not 1 <= n < T:
        raise ValueError(f"n is {n}; it must be from 1 to T - 1, which is {T - 1}")
    return [(n - 1 - i) * (T // n) + 1 for i in range(n)]


class Steps(NamedTuple):
    """A sampler: steps with noise, steps without, and the time at which x_0 is read off.

    noisy [k, 4] has rows t, a, b, c, and still [m, 3] rows t, a, b.
    """

    noisy: Tensor
    still: Tensor
    last: int


def _table(times: list[int], moves: list[Move]) -> Steps:
    """Moves from each of the times but the last; those with noise come first."""
    rows = [(float(t), *move) for t, move in zip(times[:-1], moves, strict=True)]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    k = sum(move.c > 0 for move in moves)
    return Steps(table[:k], table[k:, :3], times[-1])


def heuristic_steps(
    schedule: NormalSchedule, n: int = 10, quirk: bool = False, renoise: bool = True
) -> Steps:
    """Re-noising at one level in the first half, then DDIM without noise.

    Args:
        quirk: as in the public code, step n // 2 takes x for one of a level that is T / n times
            higher than the one that it has.  Without it that step leaves x as it is.
        renoise: without it those of the first half leave x as it is, too, and nothing is random.

    Errors:
        ValueError: n is not from 4 to T.
    """
    times, ab = heuristic_timesteps(n, schedule.T), schedule.ab.tolist()
    moves = []
    for c, (t, ahead) in enumerate(itertools.pairwise(times), 1):
        if c < n // 2 and renoise:
            moves.append(renoising(ab[t]))
        else:
            source = t + schedule.T // n if quirk and c == n // 2 else t
            moves.append(ddim(ab[source], ab[ahead]))
    return _table(times, moves)


def ddim_steps(schedule: NormalSchedule, times: list[int], eta: float = 0.0) -> Steps:
    """Steps along falling times: DDIM's for eta = 0, DDPM's for eta = 1.

    Errors:
        ValueError: times do not fall, or are not among the schedule's; eta is not in [0, 1].
    """
    falling = all(t > ahead for t, ahead in itertools.pairwise(times))
    if not (times and falling and times[-1] >= 0 and times[0] < schedule.T and 0 <= eta <= 1):
        raise ValueError(f"times fall from below {schedule.T} to 0 at least, and eta is in [0, 1]")
    ab = schedule.ab.tolist()
    return _table(times, [ddim(ab[t], ab[u], eta) for t, u in itertools.pairwise(times)])
