"""Samplers beneath that are known to be off: the page says so for as long as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pushforward import dist, program, sample, simulate, vmap

PAGE = Path(__file__).parents[3] / "docs" / "distributions.md"


@pytest.mark.parametrize(("d", "eta"), [(2, 2.0), (3, 2.0)])
def test_correlations_have_the_second_moment_of_their_law(d: int, eta: float) -> None:
    """E r^2 = 1 / (2 a + 1), a = eta - 1 + d / 2; level 1e-6 for the pair that is right."""

    @program
    def draws() -> torch.Tensor:
        return vmap(lambda: sample("l", dist.LKJCholesky(d, torch.tensor(eta))), size=20_000)()

    lower = simulate(draws, seed=0).value
    last = float((lower @ lower.mT)[:, -1, -2].square().mean())
    right = 1 / (2 * (eta - 1 + d / 2) + 1)
    off = abs(last - right) > 0.01
    assert off == (d > 2), "torch draws from the density now: take this off the page"
    assert "`LKJCholesky` of three" in PAGE.read_text(encoding="utf-8")
