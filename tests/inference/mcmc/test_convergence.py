"""Diagnostics of a run that is going on: those of ArviZ."""

from __future__ import annotations

import pyro.ops.stats
import pytest
import torch
from torch import Tensor

from pushforward.inference import Fit
from pushforward.inference.mcmc.convergence import effective_size, r_hat
from pushforward.inference.results import arviz

pytestmark = pytest.mark.usefixtures("double")


def series(seed: int, chains: int, n: int) -> Tensor:
    """Chains [chains, n, 5] that move slowly, fast, back and forth, apart, and by jumps."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, n, 5, generator=g)
    x = noise.clone()
    for t in range(1, n):
        x[:, t] = torch.tensor([0.95, 0.3, -0.6, 0.5, 0.9]) * x[:, t - 1] + noise[:, t]
    x[..., 3] += torch.arange(chains)[:, None] * 0.5
    x[..., 4] = x[..., 4].round()
    return x


@pytest.mark.parametrize(("chains", "n"), [(4, 1000), (2, 101), (3, 40), (8, 250)])
def test_both_are_those_of_arviz(chains: int, n: int) -> None:
    for seed in range(5):
        x = series(seed, chains, n)
        columns = x.numpy().transpose(2, 0, 1)
        expected = torch.tensor([arviz.r_hat(each) for each in columns])
        torch.testing.assert_close(r_hat(x), expected)
        sizes = torch.tensor([arviz.ess(each) for each in columns])
        torch.testing.assert_close(effective_size(x), sizes)


def antithetic(correlation: float, chains: int = 4, n: int = 500) -> Tensor:
    """Chains [chains, n, 1] whose neighbours are correlated negatively, or go back and forth."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(chains, n, 1, generator=g)
    for t in range(1, n):
        noise = x[:, t] * (1 - correlation**2) ** 0.5 if correlation > -1 else 1e-3 * x[:, t]
        x[:, t] = correlation * x[:, t - 1] + noise
    return x


@pytest.mark.parametrize("correlation", [-0.5, -0.9, -0.99, -0.999, -1.0])
def test_antithetic_chains_count_for_more_than_their_draws(correlation: float) -> None:
    """As ArviZ has it, bounded; Pyro 1.9.2's effective size is negative there."""
    x = antithetic(correlation)
    expected = torch.tensor([arviz.ess(x[..., 0].numpy())])
    found = effective_size(x)
    torch.testing.assert_close(found, expected)
    assert x[..., 0].numel() < float(found) < 10 * x[..., 0].numel()
    table = Fit("by hand", {"x": x[..., 0]}).summary()
    assert float(table["ess_bulk"].iloc[0]) == pytest.approx(float(found))


def test_pyros_effective_size_is_negative() -> None:
    assert float(pyro.ops.stats.effective_sample_size(antithetic(-0.9), 0, 1)) < 0


def test_chains_that_stand_apart_are_seen() -> None:
    assert float(r_hat(series(0, 4, 500))[3]) > 1.01 > float(r_hat(series(0, 4, 2000))[1])
