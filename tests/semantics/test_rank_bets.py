"""Bets on ranks: fair by an integral, safe at any look, and as sharp as they say."""

from __future__ import annotations

import math

import pytest
import torch
from support.sizes import quick
from torch import Tensor
from torch.distributions import Normal

from pushforward.semantics.judging.rank_bets import RankBets

pytestmark = pytest.mark.usefixtures("double")


def test_every_gambler_has_a_density() -> None:
    """By the trapezoid rule on normal scores; by hand, those end where u is 1e-15."""
    bets, step, end = RankBets(1), 1e-3, 7.9413453
    z = torch.arange(-end, end, step)
    gains = bets._log_gains(torch.special.ndtr(z)[:, None])[:, 0].exp()
    totals = (gains * step * torch.exp(-z.square() / 2)[:, None]).sum(0) / math.sqrt(2 * math.pi)
    normal = Normal(bets.means, bets.deviations)
    within = normal.cdf(torch.tensor(end)) - normal.cdf(torch.tensor(-end))
    assert totals[: len(within)].tolist() == pytest.approx(within.tolist(), abs=2e-3)
    assert totals[len(within) :].tolist() == pytest.approx([1.0] * 24, abs=1e-6)
    assert float(totals.max()) < 1 + 1e-6


@pytest.mark.parametrize("count", [1, 7])
def test_the_money_is_one_at_the_start(count: int) -> None:
    bets = RankBets(count)
    total = (bets.log_wealth + bets.log_shares).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)


def ranks(n: int, scale: float, shift: float = 0.0) -> Tensor:
    """Of a truth among draws whose deviation is ``scale`` times too large, and mean too high."""
    z = (torch.randn(n, 1) - shift) / scale
    return torch.special.ndtr(z)


def share_found(seeds: int, n: int, level: float, scale: float = 1.0, slip: float = 0.0) -> float:
    found = 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        bets = RankBets(1)
        bets.log_shares = bets.log_shares + slip
        bets.place(ranks(n, scale))
        found += bets.found(level)
    return found / seeds


@pytest.mark.parametrize(("seeds", "level"), quick(1, [(200, 0.05), (1_000, 1e-3)]))
def test_the_level_holds_at_all_looks(seeds: int, level: float) -> None:
    """No more false alarms than level, but for what happens once in a thousand such tests."""
    allowed = level + 3.1 * math.sqrt(level * (1 - level) / seeds) + 1 / seeds
    assert share_found(seeds, 300, level) <= allowed
    assert share_found(seeds, 300, level, slip=4.0) > allowed, "money that nobody put in"


@pytest.mark.parametrize(("seeds", "n"), quick(1, [(40, 500), (200, 4_000)]))
def test_errors_are_found_as_often_as_it_says(seeds: int, n: int) -> None:
    """In nine cases of ten about: in seven at least, with a chance of error below 1e-4."""
    level = 1e-6
    bets = RankBets(1)
    bets.number = n
    narrow, wide = bets.finds(level)
    assert share_found(seeds, n, level, narrow) > 0.7 and share_found(seeds, n, level, wide) > 0.7
    assert share_found(seeds, n, level, 1 + (wide - 1) / 3) < 0.5, (
        "it would have said a smaller one"
    )


def test_what_is_found_by_default() -> None:
    bets = RankBets(2)
    bets.number = 4_000
    narrow, wide = bets.finds(1e-6)
    assert wide <= 1.1 and narrow >= 0.91
    bets.number = 10
    assert bets.finds(1e-6) == (0.0, math.inf) or bets.finds(1e-6)[1] > 3


def test_other_shapes_are_found() -> None:
    """Ranks at both ends and in the middle, whose normal scores have the right two moments."""
    torch.manual_seed(0)
    bets = RankBets(1)
    u = torch.rand(4_000, 1)
    bets.place(u + 0.08 * torch.sin(4 * math.pi * u) / (4 * math.pi) * 4)
    assert bets.found(1e-6)
