"""Islands together: draws in proportion to evidence, and an evidence whose error is honest."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.inference.smc.archipelago import by_evidence, pooled
from pushforward.inference.smc.resampling import Scheme, multinomial, systematic
from pushforward.ppl import program, seeded
from pushforward.semantics import denote


def counts(kept: Tensor) -> Tensor:
    return kept.flatten().bincount(minlength=kept.numel())


def test_equal_islands_are_left_as_they_are() -> None:
    with seeded(0):
        kept = by_evidence(torch.full((3,), -7.0).double(), 4)
    assert kept.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("scheme", [systematic, multinomial])
def test_each_draw_is_kept_in_proportion_to_the_evidence(scheme: Scheme) -> None:
    """Exactly, in expectation."""
    log_evidences = torch.tensor([0.2, 0.7, 0.1], dtype=torch.float64).log()
    measure = denote(program(lambda: counts(by_evidence(log_evidences, 1, scheme))))
    mean = [float(measure.expect(lambda c, i=i: float(c[i]))) for i in range(3)]
    assert mean == pytest.approx([0.6, 2.1, 0.3], abs=1e-12)


def test_chains_hold_their_own_draws_once_and_then_those_of_better_islands() -> None:
    with seeded(0):
        kept = by_evidence(torch.tensor([1.0, 3.0, 2.0]).double().log(), 6)
    assert counts(kept).reshape(3, 6).sum(1).tolist() == [3, 9, 6]
    assert kept[1].tolist() == list(range(6, 12))
    assert kept[2].tolist() == list(range(12, 18))
    own = kept[0][kept[0] < 6]
    assert len(own) == 3 and len(set(own.tolist())) == 3
    assert set(kept[0][kept[0] >= 6].tolist()) < set(range(6, 12))


@pytest.mark.parametrize("dead", [-math.inf, -900.0])
def test_islands_without_evidence_are_left_out(dead: float) -> None:
    with seeded(0):
        kept = by_evidence(torch.tensor([-5.0, dead, -5.0]).double(), 8)
    assert not ((kept >= 8) & (kept < 16)).any()
    assert counts(kept)[[*range(8), *range(16, 24)]].min() == 1


def test_the_evidence_is_the_mean_and_its_error_that_of_log_normal_numbers() -> None:
    logs = torch.tensor([-3.0, -2.5, -3.2, -2.9]).double()
    value, error = pooled(logs)
    assert value == pytest.approx(math.log(sum(map(math.exp, logs.tolist())) / 4))
    s2 = float(logs.var())
    assert error == pytest.approx(math.sqrt(s2 / 4 + s2**2 / 6))
    assert pooled(logs, 4.0 * s2)[1] == pytest.approx(math.sqrt(s2 + 16 * s2**2 / 6))
    assert pooled(logs[:1]) == (-3.0, None)
    assert pooled(logs[:1], 0.04) == (-3.0, pytest.approx(0.2))
    value, error = pooled(torch.tensor([0.0, -math.inf]).double())
    assert value == pytest.approx(-math.log(2.0)) and error == pytest.approx(1.0)


@pytest.mark.parametrize("sd", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("islands", [2, 4, 10])
def test_intervals_cover_the_evidence_of_log_normal_islands(sd: float, islands: int) -> None:
    """Level 1e-6: of 1000 intervals of 95 %, not so few cover as binomial numbers hardly would."""
    generator = torch.Generator().manual_seed(islands)
    logs = sd * torch.randn(1000, islands, generator=generator).double() - sd**2 / 2
    quantile = stats.t.ppf(0.975, islands - 1)
    covered = 0
    for each in logs:
        value, error = pooled(each)
        assert error is not None
        covered += abs(value) <= quantile * error
    assert stats.binom.cdf(covered, 1000, 0.95) > 1e-6
