"""Warm-up: step size, windows and metric; the driver's stops and continuations; whole transitions.

Statistical tests are of level 1e-6 each, all their comparisons together, and have fixed seeds.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from pushforward.inference.mcmc import Kernel, Parameters, Samples, hamiltonian, hmc, nuts, sample
from pushforward.inference.mcmc.adaptation import (
    averaging_init,
    averaging_update,
    inverse_mass,
    moments_init,
    moments_update,
    windows,
)
from pushforward.ppl import seeded

hmc_module = importlib.import_module("pushforward.inference.mcmc.hmc")
tree = importlib.import_module("pushforward.inference.mcmc.nuts")
adaptation = importlib.import_module("pushforward.inference.mcmc.adaptation")

LEVEL = 1e-6
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
        state = averaging_update(state, torch.exp(-state.log_step.exp()), 0.8)
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


def metric_ratio() -> Tensor:
    """The learnt over the true variances, by 320 chains from exact draws of the target."""
    with seeded(0), torch.no_grad():
        start = torch.randn(320, 3, dtype=torch.float64) * SCALE
        found = sample(hmc(4), anisotropic, start, 300, 1)
    return found.parameters.inverse_mass / SCALE**2


def is_learnt(ratio: Tensor) -> bool:
    return bool(((ratio > 0.49) & (ratio < 1.57)).all())


def test_warm_up_learns_an_anisotropic_metric() -> None:
    """A level below 1e-6, however much the draws of one chain depend on each other.

    Let x be a coordinate in units of SCALE, and a, m the averages of x^2, x over a window's draws
    of n = 320 independent chains, each draw standard normal.  By Jensen's inequality in each chain,
    exp(s a) and exp(s m) have no larger mean than for one draw per chain, so that by Chernoff's
    bound P(a > r) <= exp(-n (r - 1 - log r) / 2) for r > 1, the same for P(a < r) and r < 1, and
    P(|m| > r) <= 2 exp(-n r^2 / 2).  The variance is a - m^2, but for factors within 1 %.  That
    chains are tied by their common step size and metric is neglected.
    """

    def chernoff(r: float) -> float:
        return math.exp(-160 * (r - 1 - math.log(r)))

    assert 3 * (chernoff(1.55) + chernoff(0.6) + 2 * math.exp(-160 * 0.1)) < LEVEL
    assert is_learnt(metric_ratio())


def test_a_metric_of_precisions_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "inverse_mass", lambda moments: 1.0 / inverse_mass(moments))
    assert not is_learnt(metric_ratio())


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


@pytest.mark.parametrize("kernel", [hmc(4), nuts(4)], ids=["hmc", "nuts"])
def test_a_run_in_two_parts_is_the_uninterrupted_run(kernel: Kernel) -> None:
    """Bit for bit, the noise going on where it stopped."""
    start = torch.zeros(8, 3, dtype=torch.float64)

    def continued(parameters: Parameters, position: Tensor) -> Samples:
        return sample(kernel, anisotropic, position, 0, 7, parameters=parameters)

    with seeded(0), torch.no_grad():
        whole = sample(kernel, anisotropic, start, 30, 12)
    with seeded(0), torch.no_grad():
        first = sample(kernel, anisotropic, start, 30, 5)
        second = continued(first.parameters, first.state.position)
        other_noise = continued(first.parameters, first.state.position)
    assert torch.equal(torch.cat([first.draws, second.draws], 1), whole.draws)
    assert not torch.equal(second.draws, other_noise.draws)
    assert second.stats.keys() == whole.stats.keys()
    for name, stat in whole.stats.items():
        assert torch.equal(torch.cat([first.stats[name], second.stats[name]], 1), stat), name
    for one, other in zip(second.state, whole.state, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(second.parameters[:2], whole.parameters[:2], strict=True):
        assert torch.equal(one, other)
    assert second.parameters[2:] == whole.parameters[2:] == (None, None)


# ------------------------------------------------------------------------------ whole transitions

# The target: unit variances and correlation 0.8, the image of a standard normal x by x @ ROOT.T.
ROOT = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
PRECISION = torch.linalg.inv(ROOT @ ROOT.T)
CHAINS = 4000


def correlated(z: Tensor) -> tuple[Tensor, Tensor]:
    pull = z @ PRECISION
    return -0.5 * (z * pull).sum(-1), -pull


def p_value(points: Tensor) -> float:
    """Of independent draws of the target by their first and second moments, exactly distributed.

    Whitened and projected onto a direction, n draws have a sum that is normal, and a sum of squares
    that is chi-squared with n degrees of freedom.  Four directions determine both second moments
    and the correlation; by Bonferroni the smallest of the eight p-values is multiplied by 8.
    """
    half = math.sqrt(0.5)
    directions = torch.tensor(
        [[1.0, 0.0], [0.0, 1.0], [half, half], [half, -half]], dtype=torch.float64
    )
    x = torch.linalg.solve_triangular(ROOT, points.T, upper=False).T @ directions.T
    n = len(x)
    sums, squares = (x.sum(0) / math.sqrt(n)).numpy(), (x * x).sum(0).numpy()
    tails = [
        *(2 * stats.norm.sf(abs(sums))),
        *(2 * stats.chi2.cdf(squares, n)),
        *(2 * stats.chi2.sf(squares, n)),
    ]
    return 8 * float(min(tails))


def after_three_transitions(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Start and end of chains that start from exact draws: independent of each other by design."""
    parameters = Parameters(torch.tensor(0.6, dtype=torch.float64), torch.ones(2).double())
    with seeded(0), torch.no_grad():
        start = torch.randn(CHAINS, 2, dtype=torch.float64) @ ROOT.T
        state = kernel.init(start, correlated)
        for _ in range(3):
            state, _ = kernel.step(state, correlated, parameters)
    return start, state.position


@pytest.mark.parametrize("kernel", [hmc(3), nuts(4)], ids=["hmc", "nuts"])
def test_transitions_keep_exact_draws_exact(kernel: Kernel) -> None:
    """Level 1e-6; and all but 5 % of the chains have moved."""
    start, end = after_three_transitions(kernel)
    assert p_value(end) >= LEVEL
    assert float((start != end).all(1).double().mean()) > 0.95


energy_weight = hamiltonian.energy_weight

WRONG: dict[str, tuple[Kernel, Any, str, Callable[..., Tensor]]] = {
    "hmc accepts always": (
        hmc(3), hmc_module, "acceptance", lambda before, after: torch.ones_like(after.log_weight)),
    "hmc forgets half of the kinetic energy": (
        hmc(3), hamiltonian, "energy_weight", lambda lp, w: energy_weight(lp, w * 0.5**0.5)),
    "nuts forgets half of the kinetic energy": (
        nuts(4), hamiltonian, "energy_weight", lambda lp, w: energy_weight(lp, w * 0.5**0.5)),
    "nuts takes the proposal of every subtree": (
        nuts(4), tree, "subtree_probability", lambda old, new: torch.ones_like(old.log_weight)),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_transitions_that_shift_the_target_are_rejected(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, module, attribute, wrong = WRONG[fault]
    monkeypatch.setattr(module, attribute, wrong)
    assert p_value(after_three_transitions(kernel)[1]) < LEVEL
