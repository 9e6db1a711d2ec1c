"""Wasserstein distances: critics by autograd and shifts, normals by quadrature, all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, sample
from pushforward.inference.vi.wasserstein import (
    Critic,
    Fitting,
    apart,
    energy_distance,
    wasserstein1,
    wasserstein2_of_normals,
)


def shifted(by: Tensor | float, scale: float = 1.0) -> Callable[[], Tensor]:
    def p() -> Tensor:
        mean = torch.as_tensor(by) * torch.ones(2)
        return sample("x", dist.Normal(mean, scale).to_event(1))  # type: ignore[no-any-return]

    return p


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_the_slope_is_that_of_autograd(hidden: int, double: None) -> None:
    critic, f = Critic(3, 7, hidden, torch.zeros(())), torch.randn(4, 2, 3, requires_grad=True)
    (exact,) = torch.autograd.grad(critic(f).sum(), f)
    torch.testing.assert_close(critic.slope(f), exact)
    torch.testing.assert_close(critic.frozen(f), critic(f))
    (own,) = torch.autograd.grad(critic.frozen(f).sum(), f)
    torch.testing.assert_close(own, exact)


@pytest.mark.parametrize("sides", ["two-sided", "one-sided"])
def test_the_loss_is_that_of_its_formula(sides: Any, double: None) -> None:
    torch.manual_seed(0)
    critic, share = Critic(3, 7, 2, torch.zeros(())), torch.rand(5, 1)
    p, q = torch.randn(5, 3), torch.randn(5, 3) + 1
    between = (share * p + (1 - share) * q).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between)
    over = slope.norm(dim=1) - 1
    penalty = 10 * (over.clamp(min=0) if sides == "one-sided" else over).square().mean()
    exact = penalty - critic(p).mean() + critic(q).mean()
    torch.testing.assert_close(Fitting(sides=sides).loss(critic, p, q, share), exact)


def test_outputs_are_summed() -> None:
    torch.manual_seed(0)
    critic, p, q = Critic(3, 7), torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    each = sum(apart(critic, p[:, k], q[:, k]) for k in range(2))
    torch.testing.assert_close(apart(critic, p, q), each)


@pytest.mark.parametrize("by", [0.5, -2.0])
def test_the_distance_of_a_shift_is_its_length(by: float) -> None:
    torch.manual_seed(0)
    found = wasserstein1(shifted(by), shifted(0.0), draws=400, fitting=Fitting(width=50))
    assert float(found) == pytest.approx(abs(by) * math.sqrt(2), abs=0.25)


def test_the_derivative_of_the_distance_of_a_shift_is_its_direction() -> None:
    """A little less, as the largest slope of the critic is above the one that counts."""
    torch.manual_seed(0)
    by = torch.tensor(2.0, requires_grad=True)
    found = wasserstein1(shifted(by), shifted(0.0), draws=400, fitting=Fitting(width=50))
    (slope,) = torch.autograd.grad(found, by)
    assert float(slope) == pytest.approx(math.sqrt(2), rel=0.1)


def test_normals_of_one_number(double: None) -> None:
    """(a - b)^2 of the deviations, and of the means: by quantiles."""
    levels = (torch.arange(200_000) + 0.5) / 200_000
    x, y = (dist.Normal(m, s).icdf(levels) for m, s in ((1.0, 2.0), (-0.5, 0.7)))
    found = wasserstein2_of_normals(torch.tensor([[4.0]]), torch.tensor([[0.49]]), 1.0, -0.5)
    assert float(found) == pytest.approx(float((x - y).square().mean()), abs=1e-3)
    assert float(found) == pytest.approx(1.5**2 + 1.3**2, abs=1e-12)


def test_equal_normals_are_at_no_distance(double: None) -> None:
    a = torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    assert float(wasserstein2_of_normals(a, a)) == pytest.approx(0, abs=1e-12)
    singular = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert float(wasserstein2_of_normals(singular, 0 * a)) == pytest.approx(2)


def test_the_energy_distance_by_hand(double: None) -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    assert float(energy_distance(x, y)) == pytest.approx(2 * (3 + 5 + 2 + 4) / 4 - 1 - 2)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "sides": (lambda: Fitting(sides="both"), "not 'both'"),  # type: ignore[arg-type]
    "rate": (lambda: Fitting(rate=0.0), "positive"),
    "steps": (lambda: Fitting(steps=0), "positive"),
    "shapes": (lambda: Fitting().fitted(torch.zeros(3, 2), torch.zeros(4, 2)), "have shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str) -> None:
    run, says = BAD[name]
    with pytest.raises(ValueError, match=says):
        run()


def test_draws_that_are_no_numbers_are_told_with_the_step() -> None:
    with pytest.raises(FloatingPointError, match="step 1"):
        Fitting().fitted(torch.full((3, 2), math.nan), torch.zeros(3, 2))
