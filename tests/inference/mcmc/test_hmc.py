"""Hamiltonian Monte Carlo by its involution, its dynamics, and faults that must be found.

The chains of a batch, here of both kernels, are compared with each of them run alone.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pushforward.inference.mcmc import Kernel, Parameters, State, hmc, mala, nuts
from pushforward.inference.mcmc.hamiltonian import Phase, Potential, leapfrog, with_momentum
from pushforward.inference.mcmc.hmc import acceptance, propose
from pushforward.ppl import seeded
from pushforward.ppl.language.effects import is_draw
from pushforward.semantics import Report, check

hmc_module = importlib.import_module("pushforward.inference.mcmc.hmc")
tree = importlib.import_module("pushforward.inference.mcmc.nuts")

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


def test_mala_is_the_langevin_proposal() -> None:
    """One leapfrog is z + h^2 / 2 grad + h w; its acceptance is that of Langevin proposals."""
    potential = potential_of(banana)
    z, w, h = f([[0.7, -0.4]]), f([[0.3, 1.1]]), 0.4
    parameters = Parameters(f(h), torch.ones(2, dtype=torch.float64))
    gradient = potential(z)[1]
    after = propose(with_momentum(mala().init(z, potential), w), potential, parameters.scale, 1)
    assert torch.allclose(after.position, z + h**2 / 2 * gradient + h * w, atol=1e-14)

    def proposal(a: Tensor, b: Tensor) -> Tensor:
        return -((b - a - h**2 / 2 * potential(a)[1]) ** 2).sum() / (2 * h**2)

    ratio = potential(after.position)[0] - potential(z)[0]
    ratio = ratio + proposal(after.position, z) - proposal(z, after.position)
    before = with_momentum(mala().init(z, potential), w)
    assert torch.allclose(acceptance(before, after), ratio.clamp(max=0.0).exp(), atol=1e-13)


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


# ------------------------------------------------------------------------------------------ batches

CHAINS = 24


class Noise(Messenger):  # type: ignore[misc]
    """Answers every draw by noise that depends on its place in the program alone.

    A place is a path through the calls and loops around the draw, so that a loop which ends early
    does not shift the draws after it.  Noise is made and kept for ``CHAINS`` chains, of which the
    ones in ``rows`` run.  A Bernoulli draw compares its probability with uniform noise.
    """

    def __init__(self, kept: dict[tuple[int, ...], Tensor], rows: slice) -> None:
        super().__init__()
        self.kept, self.rows, self.place = kept, rows, [0]

    def _process_message(self, msg: Any) -> None:
        self.place[-1] += 1
        if msg["type"] == "sample":
            assert is_draw(msg)
            msg["value"] = self.answer(msg["fn"])
        self.place.append(0)

    def _postprocess_message(self, msg: Any) -> None:
        del msg
        self.place.pop()

    def answer(self, distribution: Any) -> Tensor:
        place, shape = tuple(self.place), (CHAINS, *distribution.batch_shape[1:])
        if isinstance(distribution, torch.distributions.Bernoulli):
            noise = self.kept.setdefault(place, torch.rand(shape, dtype=torch.float64))
            return (noise[self.rows] < distribution.probs).to(noise)
        return self.kept.setdefault(place, torch.randn(shape, dtype=torch.float64))[self.rows]


def largest_difference(kernel: Kernel, name: str) -> float:
    """Between chains in one batch and each alone, of two transitions' states and infos."""
    target = potential_of(TARGETS[name])
    kept: dict[tuple[int, ...], Tensor] = {}
    step_size = torch.linspace(0.02, 0.9, CHAINS, dtype=torch.float64)

    def run(rows: slice) -> list[Tensor]:
        parameters = Parameters(step_size[rows], f([0.5, 1.5]))
        state = kernel.init(start[rows], target)
        outcomes: list[Tensor] = []
        with Noise(kept, rows):
            for _ in range(2):
                state, info = kernel.step(state, target, parameters)
                outcomes += [x.double().reshape(len(x), -1) for x in (*state, *info)]
        return outcomes

    with seeded(0), torch.no_grad():
        start = torch.randn(CHAINS, 2, dtype=torch.float64)
        start[:, 0] = start[:, 0].abs() - 0.4
        together = run(slice(0, CHAINS))
        alone = [run(slice(i, i + 1)) for i in range(CHAINS)]
    joined = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    return float((torch.cat(together, 1) - torch.cat(joined, 1)).abs().max())


KERNELS = {"hmc": hmc(5), "nuts": nuts(5)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_chain_in_a_batch_is_the_chain_alone(kernel: str, name: str) -> None:
    assert largest_difference(KERNELS[kernel], name) <= 1e-12


def shared_acceptance(before: Phase, after: Phase) -> Tensor:
    return acceptance(before, after).mean().expand_as(before.log_weight)


def shared_stop(subtree: Any) -> Tensor:
    return torch.full_like(subtree.valid, bool(subtree.valid.all()))


def shared_edge(grown: Any, forward: Tensor) -> Any:
    """The edge that the first chain's direction extends."""
    return grown.right if bool(forward[0]) else grown.left


MIXED = {
    "one acceptance for all": ("hmc", hmc_module, "acceptance", shared_acceptance),
    "one invalid subtree stops all": ("nuts", tree, "usable", shared_stop),
    "one edge for all": ("nuts", tree, "extended_edge", shared_edge),
}


@pytest.mark.parametrize("fault", MIXED)
def test_chains_that_see_each_other_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, module, attribute, wrong = MIXED[fault]
    monkeypatch.setattr(module, attribute, wrong)
    assert not largest_difference(KERNELS[kernel], "banana") <= 1e-3  # it may be NaN
