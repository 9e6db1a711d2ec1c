"""Diagnostics of a run that is going on: those of ArviZ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward.inference.mcmc.convergence import effective_size, r_hat
from pushforward.inference.results.foreign import import_arviz

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
    az = import_arviz()
    for seed in range(5):
        x = series(seed, chains, n)
        data = az.convert_to_dataset({"x": x.numpy()})
        torch.testing.assert_close(r_hat(x), torch.tensor(az.rhat(data)["x"].values))
        expected = torch.tensor(az.ess(data)["x"].values)
        torch.testing.assert_close(effective_size(x), expected)


def test_chains_that_stand_apart_are_seen() -> None:
    assert float(r_hat(series(0, 4, 500))[3]) > 1.01 > float(r_hat(series(0, 4, 2000))[1])
