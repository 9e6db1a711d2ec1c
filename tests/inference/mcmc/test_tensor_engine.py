"""The engine as tensors is the program: the same transitions by the same choices; whole runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import engine as engines
from support.engine import (
    TARGETS,
    judged,
    lane_function,
    random_cases,
    slanted,
    tensor_engine,
)
from torch import Tensor

from pushforward import dist, observe, plate, program, sample
from pushforward.inference import MCMC
from pushforward.inference.mcmc.lanes import tensors
from pushforward.inference.mcmc.lanes.engine import Chains, Engine, StepSizes
from pushforward.inference.mcmc.lanes.streams import Choices

DEPTH = 6


def wrong(name: str, cases: int, seed: int) -> int:
    return engines.wrong(tensor_engine(name, DEPTH), name, cases, DEPTH, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_with_the_same_choices_it_makes_the_transition_of_the_program(name: str) -> None:
    assert wrong(name, 100, 0) == wrong(name, 100, 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_in_ten_thousand_cases(name: str) -> None:
    assert sum(wrong(name, 500, seed) for seed in range(1, 21)) == 0


def test_it_asks_for_the_coins_of_the_other_engine() -> None:
    chains, metric, choices = random_cases("banana", 50, DEPTH, 3)
    coins = tensor_engine("banana", DEPTH).replay(chains, metric, choices)[1]
    others = Engine(lane_function("banana"), DEPTH).replay(chains, metric, choices)[1]
    for some, other in zip(coins, others, strict=True):
        torch.testing.assert_close(torch.tensor(some), torch.tensor(other), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "slant"), [("banana", True), ("edge", False)])
def test_it_preserves_the_weights_of_an_orbit(name: str, slant: bool) -> None:
    metric = slanted(TARGETS[name][1]) if slant else None
    judged(name, 0.4, 2, metric=metric, runner=tensor_engine(name, 2)).require()


def altered(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A mistake in the machine."""
    if fault == "leaves chosen with bias":
        monkeypatch.setattr(tensors, "grown", _biased)
    elif fault == "spans are not asked":
        monkeypatch.setattr(tensors, "turned", lambda a, b: torch.zeros(len(a.first)) > 0)
    else:
        monkeypatch.setattr(tensors, "diverged", lambda low, w: torch.zeros_like(low) > 0)


def _biased(machine: Any, move: Any, choices: Any) -> Any:
    class Half:
        def coin(self, probability: Tensor, asked: Tensor) -> Tensor:
            return choices.coin(torch.full_like(probability, 0.5), asked)

    return _GROWN(machine, move, Half())


_GROWN = tensors.grown


@pytest.mark.parametrize(
    "fault", ["leaves chosen with bias", "spans are not asked", "nothing diverges"]
)
def test_a_fault_is_rejected(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    altered(monkeypatch, fault)
    assert sum(wrong(name, 100, seed) for name in TARGETS for seed in (0, 1)) > 0


# ----------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_a_chain_does_the_same_alone_in_pieces_and_among_others(jitter: float) -> None:
    chains, metric, _ = random_cases("banana", 5, DEPTH, 2)
    chains = chains._replace(random=torch.arange(20).reshape(5, 4) * 77 + 3)
    engine = tensor_engine("banana", DEPTH, jitter)
    whole = engine.advance(chains, metric, 12, target=0.8)
    first = engine.advance(chains, metric, 5, target=0.8)
    rest = engine.advance(first.chains, metric, 7, target=0.8)
    alone = engine.advance(
        Chains(
            *(x[2:3] if isinstance(x, Tensor) else StepSizes(*(y[2:3] for y in x)) for x in chains)
        ),
        metric,
        12,
        target=0.8,
    )
    torch.testing.assert_close(torch.cat([first.draws, rest.draws], 1), whole.draws)
    torch.testing.assert_close(alone.draws[0], whole.draws[2])
    torch.testing.assert_close(rest.chains.step_sizes.log_step, whole.chains.step_sizes.log_step)


def test_the_choices_have_their_laws() -> None:
    """Level 1e-6 for each of the four."""
    choices = Choices(torch.arange(4000).reshape(1000, 4))
    every = torch.ones(1000, dtype=torch.bool)
    normals = torch.cat([choices.normals(torch.zeros(1000, 7).double(), every) for _ in range(20)])
    bound = 4.9  # standard errors
    assert abs(float(normals.mean())) < bound * normals.numel() ** -0.5
    assert abs(float(normals.square().mean()) - 1) < bound * (2 / normals.numel()) ** 0.5
    pairs = normals[:, 1:] * normals[:, :-1]
    assert abs(float(pairs.mean())) < bound * pairs.numel() ** -0.5
    heads = torch.stack([choices.coin(torch.full((1000,), 0.3), every) for _ in range(200)])
    assert abs(float(heads.double().mean()) - 0.3) < bound * (0.21 / heads.numel()) ** 0.5


# -------------------------------------------------------------------------------------- whole runs


@program
def unknown_to_lanes() -> None:
    """A regression whose density has a sorted vector, which lane code does not know."""
    w = sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    x = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    with plate("data", 4):
        observe("y", dist.Normal(x @ w.sort().values, 0.5), torch.tensor([0.3, -0.2, 0.5, 0.9]))


def test_densities_that_are_no_lane_code_have_the_same_warm_up() -> None:
    driver = MCMC(progress=False, draws=200, warmup=150, target=0.85)
    fit = driver.run(unknown_to_lanes, seed=1)
    again = replace(driver, draws=10).run(unknown_to_lanes, seed=1)
    itself = replace(driver, compiled=False).run(unknown_to_lanes, seed=2)
    assert fit.report and not itself.report
    assert torch.equal(fit["w"][:, :10], again["w"])
    assert abs(float(fit.stats["acceptance_rate"].mean()) - 0.85) < 0.08
    for k in range(3):  # 5.5 standard errors, of at least 150 effective draws each
        a, b = fit["w"].sort().values[..., k], itself["w"].sort().values[..., k]
        assert abs(float(a.mean() - b.mean())) < 5.5 * float(a.std()) * (2 / 150) ** 0.5
