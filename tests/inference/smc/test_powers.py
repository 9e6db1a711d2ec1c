"""Powers of tempering by the effective size that their steps leave."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.inference.smc.powers import (
    conditional_size,
    increases_to_one,
    ladder,
    next_power,
)


def test_the_size_is_a_share_of_the_particles() -> None:
    assert conditional_size(torch.zeros(7)) == pytest.approx(1.0)
    assert conditional_size(torch.tensor([0.0, -math.inf])) == pytest.approx(0.5)
    assert conditional_size(torch.tensor([1e4, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert conditional_size(torch.full((3,), -math.inf)) == 0.0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_step_leaves_the_share(scale: float, share: float) -> None:
    log_likelihood = -scale * torch.linspace(0.0, 1.0, 101).double() ** 2
    power, steps = 0.0, 0
    while power < 1.0:
        following = next_power(power, log_likelihood, share)
        left = conditional_size((following - power) * log_likelihood)
        assert left == pytest.approx(share, abs=1e-6) or (following == 1.0 and left >= share)
        power, steps = following, steps + 1
        if steps == 20:
            break
    assert steps == (1 if scale < 1e-6 or (scale == 1.0 and share == 0.5) else steps)


def test_particles_without_likelihood_do_not_count() -> None:
    alive = -torch.linspace(0.0, 30.0, 50).double()
    dead = torch.full((50,), -math.inf).double()
    assert next_power(0.0, torch.cat([alive, dead]), 0.9) == next_power(0.0, alive, 0.9)
    assert next_power(0.0, dead, 0.9) == 1.0


def test_ladders_end_in_one() -> None:
    assert ladder(2) == [0.125, 1.0]
    assert increases_to_one(ladder(20))
    for powers in ([], [0.5], [0.5, 0.5, 1.0], [0.7, 0.3, 1.0], [0.0, 1.0]):
        assert not increases_to_one(powers)
