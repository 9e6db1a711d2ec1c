"""How a pilot run sets moves: acceptance of all groups, and particles that forget."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from support.evidences import KNOWN, normal
from torch import Tensor

from pushforward.inference.smc.doubts import between, of_islands, of_means, surprising
from pushforward.inference.smc.pilot import (
    MOST_LEAPFROGS,
    TARGET,
    Moved,
    Pilot,
    correlation,
    correlation_within,
    enough,
    worst_rate,
)
from pushforward.inference.smc.tempered_islands import TemperedIslands
from pushforward.ppl import seeded
from pushforward.ppl.interpretations.log_density import LogDensity


def chain(rho: float, steps: int, n: int = 20_000) -> list[Tensor]:
    """A stationary autoregression [n, 1] of correlation rho between steps."""
    found = [normal(n, 0, 1)]
    for k in range(steps):
        found.append(rho * found[-1] + math.sqrt(1 - rho**2) * normal(n, k + 1, 1))
    return found


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
def test_correlations_are_those_of_an_autoregression(rho: float) -> None:
    """Level 1e-6: of 20000 particles, in 5 standard errors or more."""
    start, middle, end = chain(rho, 2)
    assert correlation(start, middle) == pytest.approx(rho, abs=5 / math.sqrt(20_000))
    assert correlation_within(start, middle, end) == pytest.approx(rho, abs=10 / math.sqrt(20_000))


def test_modes_that_no_move_leaves_are_not_taken_for_slow_moves() -> None:
    side = 20.0 * normal(20_000, 9, 1).sign()
    start, middle, end = (side + x for x in chain(0.0, 2))
    assert correlation(start, middle) > 0.99
    assert abs(correlation_within(start, middle, end)) < 0.1


def test_particles_that_stay_have_forgotten_nothing() -> None:
    one = torch.zeros(5, 2).double()
    assert correlation(one, one) == correlation_within(one, one, one) == 1.0
    many = normal(5, 0, 2)
    assert correlation(many, many) == pytest.approx(1.0)
    assert correlation_within(many, many, many) == 1.0
    assert not Moved(1.0, 0.0, 1.0, 1.0).forgot(0.1, 0.1)


def test_leapfrogs_are_as_many_as_the_target_asks() -> None:
    assert enough(4, TARGET) == 4
    assert enough(4, 0.97) == 3
    assert enough(4, 0.9999) == 1
    assert enough(4, 0.5) == math.ceil(4 * math.sqrt(0.6745 / 0.12566))
    assert enough(4, 0.0) == 16
    assert enough(MOST_LEAPFROGS, 0.0) == MOST_LEAPFROGS
    assert enough(1, 1.0) == 1


def test_a_group_that_is_rejected_is_seen() -> None:
    probability = torch.ones(1000).double()
    log_likelihood = normal(1000, 1)
    assert worst_rate(probability, log_likelihood) == 1.0
    probability[log_likelihood.argsort()[-50:]] = 0.0
    assert worst_rate(probability, log_likelihood) == 0.0
    assert worst_rate(probability[:30], log_likelihood[:30]) == float(probability[:30].mean())


@pytest.fixture(scope="module")
def found() -> Pilot:
    known = KNOWN["10 slopes"]()
    with torch.no_grad(), seeded(2):
        density = LogDensity(known.program, *known.args)
        islands = TemperedIslands(
            density, 500, compiled=False, notify=lambda said: None, watch=lambda *a, **k: None
        )
        return islands.pilot(None, None)


def test_each_step_leaves_nine_tenths(found: Pilot) -> None:
    shares = [moved.share for moved in found.moved]
    assert all(share == pytest.approx(0.9, abs=1e-6) for share in shares[:-1])
    assert shares[-1] >= 0.9 and found.stages[-1].power == 1.0
    assert all(moved.acceptance > 0.85 for moved in found.moved)
    assert all(stage.metric.root is not None for stage in found.stages)


def test_the_shape_of_the_posterior_is_found(found: Pilot) -> None:
    x = KNOWN["10 slopes"]().args[0]
    covariance = torch.linalg.inv(torch.eye(10).double() + 4.0 * x.mT @ x)
    metric = found.stages[-1].metric
    assert metric.root is not None
    learnt = metric.scale[:, None] * (metric.root @ metric.root) * metric.scale
    ratio = torch.linalg.eigvals(torch.linalg.solve(covariance, learnt)).real
    assert float(ratio.min()) > 0.5 and float(ratio.max()) < 2.0


# --- islands that disagree ------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 3, 9, 39])
def test_a_surprise_is_one_in_ten_thousand(freedom: int) -> None:
    exact = math.sqrt(stats.chi2.ppf(1.0 - 1e-4, freedom) / freedom)
    assert surprising(freedom) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("logs", "expected", "said"),
    [
        ([-1.0, -1.1, -0.9, -1.0], 0.1, None),
        ([-1.0, -1.1, -0.9, -1.0], None, None),
        ([-1.0, -1.9, -0.4, -1.2], 0.1, "where their weights alone explain 0.1"),
        ([-1.0, -3.9, 0.2, -1.2], None, "spread by 1.7"),
        ([-1.0, -1.1, -9.0, -1.0], 0.1, "island 2 has next to none"),
        ([-1.0, -20.0, -9.0, -1.0], None, "islands [1, 2] have next to none"),
        ([-1.0], 0.1, None),
    ],
)
def test_islands_that_disagree_are_told(
    logs: list[float], expected: float | None, said: str | None
) -> None:
    found = of_islands(torch.tensor(logs).double(), expected)
    assert found == [] if said is None else said in found[0]


def test_a_pilot_run_elsewhere_is_told() -> None:
    assert between(-1.0, -1.5, 0.1, 4) == []
    assert "the pilot run found the log evidence -1.00" in between(-1.0, -2.0, 0.1, 4)[0]


def test_islands_in_different_places_are_told() -> None:
    islands = normal(4000, 1, 2).reshape(4, 1000, 2)
    assert of_means(islands) == []
    assert of_means(islands[:1]) == of_means(islands[:, :1]) == []
    islands[2, :, 1] += 1.5
    assert "the means of islands differ" in of_means(islands)[0]
