"""Warm-up: step size, windows and metric; and the driver's stops and continuations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.inference.mcmc import Samples, hmc, sample
from pushforward.inference.mcmc.adaptation import (
    averaging_init,
    averaging_update,
    inverse_mass,
    moments_init,
    moments_update,
    windows,
)
from pushforward.ppl import seeded

SCALE = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)


def anisotropic(z: Tensor) -> tuple[Tensor, Tensor]:
    return -0.5 * ((z / SCALE) ** 2).sum(-1), -z / SCALE**2


def run(warmup: int, draws: int, **options: Any) -> Samples:
    with seeded(0), torch.no_grad():
        start = torch.zeros(8, 3, dtype=torch.float64)
        return sample(hmc(4), anisotropic, start, warmup, draws, **options)


def test_dual_averaging_finds_the_step_size_of_a_known_acceptance() -> None:
    """Acceptance exp(-step) meets the target 0.8 at step = -log 0.8."""
    state = averaging_init(torch.tensor(1.0, dtype=torch.float64))
    for _ in range(2000):
        state = averaging_update(state, torch.exp(-state.log_step.exp())[None], 0.8)
    assert float(torch.exp(-state.log_average.exp())) == pytest.approx(0.8, abs=0.01)


def test_windows_are_adjacent_and_stop_in_time() -> None:
    assert windows(0) == windows(10) == []
    assert windows(20) == [(3, 18)] and windows(100) == [(15, 90)]
    assert windows(1000) == [(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]


def test_moments_are_those_of_all_points() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = moments_init(points)
    for part in points.split(7):
        moments = moments_update(moments, part)
    expected = points.var(0) * 50 / 55 + 1e-3 * 5 / 55
    assert torch.allclose(inverse_mass(moments), expected, rtol=1e-13)


def test_warm_up_learns_an_anisotropic_metric_and_then_stays() -> None:
    found = run(300, 20)
    ratio = found.parameters.inverse_mass / SCALE**2
    assert bool(((ratio > 0.5) & (ratio < 2.0)).all()), ratio
    assert len(found.stats["step_size"].unique()) == 1


def test_the_parameters_are_frozen_after_warm_up() -> None:
    seen: list[Any] = []
    run(20, 5, progress=lambda done, total, info, parameters: seen.append(parameters))
    assert len({float(p.step_size) for p in seen[20:]}) == 1
    assert len({float(p.step_size) for p in seen[:20]}) > 5
    assert all(torch.equal(p.inverse_mass, seen[20].inverse_mass) for p in seen[20:])


def test_an_interrupted_run_keeps_its_draws_and_can_be_continued() -> None:
    def stop(done: int, total: int, info: Any, parameters: Any) -> None:
        if done == 27:
            raise KeyboardInterrupt

    found = run(20, 50, progress=stop)
    assert found.interrupted and found.draws.shape == (8, 7, 3)
    assert torch.equal(found.draws[:, -1], found.state.position)
    with seeded(1), torch.no_grad():
        more = sample(hmc(4), anisotropic, found.state.position, 0, 3, parameters=found.parameters)
    assert not more.interrupted and more.draws.shape == (8, 3, 3)
    assert torch.equal(more.parameters.step_size, found.parameters.step_size)
