"""Smoothed importance weights against ArviZ, and where there is no tail to smooth."""

from __future__ import annotations

import math

import pytest
import torch
from support.normals import numbers
from torch import Tensor

from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.inference.results.pareto import smoothed


def by_arviz(raw: Tensor) -> tuple[Tensor, float]:
    """Logs of weights [n] and k-hat; ArviZ 1 negates what it is given, as 0.x does not."""
    if generation() == 0:
        weights, k_hat = import_arviz().psislw(raw.numpy().copy())
    else:
        from arviz_stats.base import array_stats

        weights, k_hat = array_stats.psislw(-raw.numpy())
    return torch.from_numpy(weights), float(k_hat)


@pytest.mark.parametrize("n", [30, 200, 400, 2500])  # where 3 sqrt(n) is whole, as ArviZ 1 has it
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_weights_and_k_hat_are_those_of_arviz(n: int, spread: float) -> None:
    raw = spread * numbers(n, n) - 700.0
    weights, k_hat = by_arviz(raw)
    found = smoothed(raw)
    assert float((found.log_weights - weights).abs().max()) < 1e-10
    assert found.k_hat == pytest.approx(k_hat, abs=1e-10)
    assert found.log_mean == pytest.approx(float(raw.logsumexp(0)) - math.log(n), abs=1e-10)
    assert float(found.log_weights.exp().sum()) == pytest.approx(1.0, abs=1e-10)


def test_raw_weights_are_not_those_of_arviz() -> None:
    raw = 4.0 * numbers(200, 200)
    assert float((smoothed(raw).log_weights - raw.log_softmax(0)).abs().max()) > 1e-3


@pytest.mark.parametrize("rounding", [0.0, 1e-13])
def test_weights_that_are_alike_have_no_tail(rounding: float) -> None:
    found = smoothed(rounding * numbers(3, 500) + 5.0)
    assert found.k_hat == 0.0 and found.log_mean == pytest.approx(5.0)
    assert 0.0 < found.error < 1e-6
    assert torch.allclose(found.log_weights.exp(), torch.full((500,), 1 / 500).double())


def test_some_weights_may_be_zero_but_not_all() -> None:
    raw = torch.cat([numbers(4, 400), torch.full((100,), -math.inf).double()])
    found = smoothed(raw)
    assert found.log_weights[400:].exp().tolist() == [0.0] * 100
    assert math.isfinite(found.k_hat)
    none = smoothed(raw[400:])
    assert none.k_hat == math.inf and none.log_mean == -math.inf


def test_the_error_is_that_of_the_mean_weight() -> None:
    """Within 15 per cent of the spread over 400 repetitions, of 500 weights each."""
    runs = [smoothed(0.5 * numbers(seed, 500)) for seed in range(400)]
    spread = torch.tensor([run.log_mean for run in runs]).exp()
    relative = float(spread.std() / spread.mean())
    assert sum(run.error for run in runs) / 400 == pytest.approx(relative, rel=0.15)


@pytest.mark.parametrize("n", [2, 4, 10, 19])
def test_few_weights_tell_no_tail(n: int) -> None:
    """The largest of few is a large share of them, and says nothing."""
    raw = numbers(n, n)
    assert smoothed(raw).k_hat == math.inf
    torch.testing.assert_close(smoothed(raw).log_weights, raw.log_softmax(0))


@pytest.mark.parametrize("n", [100, 1000])
def test_shapes_of_pareto_laws_are_found(n: int) -> None:
    """Weights that are quantiles of a Pareto law of shape k: within 0.1 of what 10 values at 1/2
    make of it, but for what the others than the tail blur."""
    for k in (0.2, 0.5, 0.9):
        weights = (1 - (torch.arange(n).double() + 0.5) / n) ** -k
        tail = min(n / 5, 3 * math.sqrt(n))
        expected = (tail * k + 5) / (tail + 10)
        assert smoothed(weights.log()).k_hat == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("sharing", "known"), [(1, False), (4, False), (49, False), (50, True)])
def test_a_largest_weight_that_many_share_is_no_tail(sharing: int, known: bool) -> None:
    raw = 0.5 * numbers(5, 1000) - 3.0
    raw[:sharing] = 0.0
    found = smoothed(raw)
    assert (found.k_hat == 0.0) == known
    if known:
        torch.testing.assert_close(found.log_weights, raw.log_softmax(0), rtol=0.0, atol=1e-12)
