"""Hamiltonian Monte Carlo by its involution, its dynamics, and faults that must be found."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward.inference.mcmc import Parameters, State, hmc
from pushforward.inference.mcmc.hamiltonian import Phase, Potential, leapfrog, with_momentum
from pushforward.inference.mcmc.hmc import acceptance, propose
from pushforward.ppl import seeded
from pushforward.semantics import Report, check

Map = Callable[[Phase, Potential, Tensor, int], Phase]
Accept = Callable[[Phase, Phase], Tensor]


def f(x: float | list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def correlated(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2 / 0.36)


def funnel(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 / 9 + z[1] ** 2 * torch.exp(-z[0]) + z[0])


def banana(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + (z[1] - z[0] ** 2) ** 2)


def edge(z: Tensor) -> Tensor:
    return torch.where(z[0] > -0.5, -0.5 * (z**2).sum() + 0.3 * z[1], -torch.inf)


TARGETS = {"correlated": correlated, "funnel": funnel, "banana": banana, "edge": edge}


def potential_of(log_density: Callable[[Tensor], Tensor]) -> Potential:
    both = torch.func.vmap(torch.func.grad_and_value(log_density))

    def potential(z: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = both(z)
        return value, gradient

    return potential


def judged(name: str, move: Map = propose, accept: Accept = acceptance) -> Report:
    """Three moderate steps: each unrolled step multiplies rounding by the local curvature."""
    target = potential_of(TARGETS[name])
    scale = f([0.1, 0.07])

    def phase(x: Tensor) -> Phase:
        return with_momentum(State(x[:, :2], *target(x[:, :2])), x[:, 2:])

    def mapping(x: Tensor) -> Tensor:
        after = move(phase(x), target, scale, 3)
        return torch.cat([after.position, after.momentum], 1)

    def probability(x: Tensor) -> Tensor:
        return accept(phase(x), move(phase(x), target, scale, 3))

    def log_density(x: Tensor) -> Tensor:
        return torch.func.vmap(TARGETS[name])(x[:, :2]) - 0.5 * (x[:, 2:] ** 2).sum(1)

    points = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if name == "edge":
        points[:, 0] = points[:, 0].abs() - 0.5 + 1e-6
    return check.involution(mapping, probability, log_density, points)


@pytest.mark.parametrize("name", TARGETS)
def test_the_proposal_is_a_reversible_involution(name: str) -> None:
    judged(name).require()


def unflipped(phase: Phase, potential: Potential, scale: Tensor, n: int) -> Phase:
    after = propose(phase, potential, scale, n)
    return after._replace(momentum=-after.momentum)


def whole_kick(phase: Phase, potential: Potential, scale: Tensor, n: int) -> Phase:
    for _ in range(n):
        momentum = phase.momentum + scale * phase.gradient
        z = phase.position + scale * momentum
        phase = with_momentum(State(z, *potential(z)), momentum + 0.5 * scale * potential(z)[1])
    return phase._replace(momentum=-phase.momentum)


def shrinking(phase: Phase, potential: Potential, scale: Tensor, n: int) -> Phase:
    after = propose(phase, potential, scale, n)
    return with_momentum(after.state, 0.9 * after.momentum)


def stretching(phase: Phase, potential: Potential, scale: Tensor, n: int) -> Phase:
    """An involution that does not preserve volume: 1 / q for q."""
    del n, scale
    q, p = phase.position, phase.momentum
    z = 1.0 / q
    return with_momentum(State(z, *potential(z)), -p)


def from_densities(before: Phase, after: Phase) -> Tensor:
    return (after.log_density - before.log_density).clamp(max=0.0).exp()


def always(before: Phase, after: Phase) -> Tensor:
    return torch.ones_like(before.log_weight)


FAULTS: dict[str, tuple[Map, Accept, str]] = {
    "no flip": (unflipped, acceptance, "does not return"),
    "whole kick": (whole_kick, acceptance, "does not return"),
    "shrinks the momentum": (shrinking, acceptance, "no detailed balance"),
    "inverts the position": (stretching, acceptance, "changes volume"),
    "kinetic energy forgotten": (propose, from_densities, "no detailed balance"),
    "always accepts": (propose, always, "no detailed balance"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_rejected(fault: str) -> None:
    move, accept, message = FAULTS[fault]
    report = judged("banana", move, accept)
    assert report.verdict == "fail" and message in report.counterexample


def test_leapfrog_on_the_harmonic_oscillator_in_closed_form() -> None:
    """For H = (z^2 + w^2) / 2, n steps of e turn by n acos(1 - e^2 / 2) on an ellipse."""
    e, n = 0.3, 25
    oscillator: Potential = lambda z: (-0.5 * (z**2).sum(-1), -z)  # noqa: E731
    z = f([[1.2]])
    phase = with_momentum(State(z, *oscillator(z)), f([[0.5]]))
    for _ in range(n):
        phase = leapfrog(phase, oscillator, f([e]))
    angle, a = n * math.acos(1 - e * e / 2), math.sqrt(1 - e * e / 4)
    position = 1.2 * math.cos(angle) + 0.5 / a * math.sin(angle)
    momentum = 0.5 * math.cos(angle) - 1.2 * a * math.sin(angle)
    assert phase.position.item() == pytest.approx(position, abs=1e-13)
    assert phase.momentum.item() == pytest.approx(momentum, abs=1e-13)


@pytest.mark.parametrize("density", [math.nan, -math.inf])
def test_moves_to_no_density_are_rejected_and_flagged(density: float) -> None:
    def potential(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(z[:, 0].abs() < 1e-9, 0.0, density).to(z), torch.zeros_like(z)

    kernel = hmc(2)
    with seeded(0):
        start = kernel.init(f([[0.0], [0.0]]), potential)
        state, info = kernel.step(start, potential, Parameters(f(1.0), f([1.0])))
    assert state.position.tolist() == [[0.0], [0.0]]
    assert info.diverging.all() and not info.accepted.any()
    assert info.acceptance_rate.tolist() == [0.0, 0.0]
