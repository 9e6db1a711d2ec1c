"""Densities of infinite mass along one direction only, which random rays do not meet.

The class: laws on vectors that do not fall, or too slowly, along a line of any direction, and fall
across it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward import dist, sample
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.semantics import check
from pushforward.semantics.judging.decay import endless

pytestmark = pytest.mark.usefixtures("double")

Vectors = Callable[[Tensor], Tensor]


class Across(dist.TorchDistribution):
    """A log density of vectors; draws are normal, whatever it is."""

    arg_constraints, support = {}, dist.constraints.real_vector

    def __init__(self, log_density: Vectors, size: int) -> None:
        self.log_density = log_density
        super().__init__(torch.Size(), torch.Size([size]), validate_args=False)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        return torch.randn(*sample_shape, *self.event_shape)


def directions(size: int, seed: int) -> Tensor:
    """An orthogonal matrix [d, d] at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]


ACROSS: dict[str, Vectors] = {  # of coordinates [..., d - 1] across the line
    "normal": lambda y: -y.square().sum(-1) / 2,
    "logistic": lambda y: (-y - 2 * torch.nn.functional.softplus(-y)).sum(-1),
    "quartic": lambda y: -(y**4).sum(-1) - y.exp().sum(-1),
}


def found(log_density: Vectors, size: int) -> str:
    return endless(LogDensity(lambda: sample("x", Across(log_density, size))))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("across", ACROSS)
@pytest.mark.parametrize("seed", range(3))
def test_a_flat_line_of_any_direction_is_found(across: str, size: int, seed: int) -> None:
    turn = directions(size, seed)
    assert "beside it" in found(lambda x: ACROSS[across]((x @ turn)[..., 1:]), size)


@pytest.mark.parametrize("power", [0.5, 0.99])
def test_a_slow_fall_along_a_coordinate_is_found(power: float) -> None:
    slow = lambda x: ACROSS["normal"](x[..., 1:]) - power * (1 + x[..., 0] ** 2).log() / 2  # noqa: E731
    assert "beside it" in found(slow, 2)


def funnel(x: Tensor) -> Tensor:
    scale = (x[..., 0] / 2).exp()
    return -(x[..., 0] ** 2) / 18 - (x[..., 1] / scale) ** 2 / 2 - scale.log()


def narrowing(x: Tensor) -> Tensor:
    """Flat on a ridge of which the width falls as 1 / x^2, with 1 / (1 + x^4) of the mass."""
    return -(x[..., 1] ** 2) * (1 + x[..., 0] ** 4) / 2


PROPER: dict[str, Vectors] = {
    "wide": lambda x: -((x / torch.tensor([1e4, 1.0])) ** 2).sum(-1) / 2,
    "Student": lambda x: -((1 + x**2).log() * torch.tensor([0.6, 1.0])).sum(-1),
    "banana": lambda x: -(x[..., 0] ** 2) / 2 - 50 * (x[..., 1] - x[..., 0] ** 2) ** 2,
    "funnel": funnel,
    "narrowing": narrowing,
}


@pytest.mark.parametrize("name", PROPER)
def test_densities_of_finite_mass_are_not_accused(name: str) -> None:
    """A control: they are flat for long, or on a line of no width."""
    turn = torch.eye(2) if name != "wide" else directions(2, 5)
    assert found(lambda x: PROPER[name](x @ turn), 2) == ""


def test_the_check_says_so() -> None:
    report = check.density(Across(lambda x: ACROSS["normal"](x[..., :1]), 2))
    assert report.verdict == "fail"
    assert "infinite mass: it does not decay" in report.counterexample
