"""Finite kernels on many states at once: measures and faults are those of one state at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, program, sample
from pushforward.semantics import Measure, check, denote
from pushforward.semantics.checks import stationarity
from pushforward.semantics.evaluation.fronts import advanced

pytestmark = pytest.mark.usefixtures("double")

UNIT = dist.Uniform(torch.tensor(0.0).double(), torch.tensor(1.0).double())
Kernel = Callable[[Tensor], Tensor]


def spins(n: int, dtype: torch.dtype = torch.float64) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """A chain of n spins in {0, 1}, and its log mass."""
    couplings = torch.linspace(0.2, 0.9, n - 1, dtype=dtype)
    half = torch.full((n,), 0.5, dtype=dtype)

    def energy(s: Tensor) -> Tensor:
        return (couplings * (2 * s[:-1] - 1) * (2 * s[1:] - 1)).sum()

    @program
    def chain() -> Tensor:
        s = sample("s", dist.Bernoulli(half).to_event(1))
        factor("energy", energy(s))
        return s

    return chain, energy


def heat_bath(energy: Callable[[Tensor], Tensor], n: int, slip: float = 0.0) -> Kernel:
    def kernel(s: Tensor) -> Tensor:
        place = torch.arange(n) == draw(dist.Categorical(torch.ones(n).double()))
        up, down = torch.where(place, 1.0, s), torch.where(place, 0.0, s)
        spin = draw(dist.Bernoulli(logits=energy(up) - energy(down) + slip))
        return torch.where(place, spin, s)

    return kernel


def metropolis(energy: Callable[[Tensor], Tensor], n: int, slip: float = 0.0) -> Kernel:
    def kernel(s: Tensor) -> Tensor:
        place = torch.arange(n) == draw(dist.Categorical(torch.ones(n).double()))
        proposed = torch.where(place, 1 - s, s)
        accept = draw(UNIT).log() < energy(proposed) - energy(s) + slip * s[0]
        return proposed if accept else s

    return kernel


def moved(kernel: Kernel, before: Measure) -> Any:
    return advanced(kernel, list(before.atoms), lambda s: list(denote(kernel, s).atoms), 10_000)


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stationarity, "MANY", 10**9)


@pytest.mark.parametrize("make", [heat_bath, metropolis])
def test_the_same_measure_as_state_by_state(make: Callable[..., Kernel]) -> None:
    chain, energy = spins(6)
    kernel, before = make(energy, 6), denote(chain)
    together = moved(kernel, before)
    assert together is not None
    found = Measure.of(together[0])
    deviation, _ = found.deviation(before.then(lambda s: denote(kernel, s)))
    assert deviation < 1e-15
    assert len(found) == 64


@pytest.mark.parametrize("make", [heat_bath, metropolis])
def test_verdicts(make: Callable[..., Kernel]) -> None:
    chain, energy = spins(8)
    check.invariant(make(energy, 8), chain).require()
    wrong = check.invariant(make(energy, 8, slip=1e-6), chain)
    assert wrong.verdict == "fail"
    assert "has mass" in wrong.counterexample


def test_it_is_quick_enough_for_four_thousand_states() -> None:
    """Not by the clock: the kernel is run a few hundred times, not for each state and path."""
    chain, energy = spins(9)
    runs = 0
    inner = heat_bath(energy, 9)

    def counted(s: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return inner(s)

    check.invariant(counted, chain).require()
    assert runs < 400  # of 512 states, each with 18 paths


def test_single_precision_has_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, energy = spins(7, torch.float32)

    def kernel(s: Tensor) -> Tensor:
        place = torch.arange(7) == draw(dist.Categorical(torch.ones(7)))
        up, down = torch.where(place, 1.0, s), torch.where(place, 0.0, s)
        spin = draw(dist.Bernoulli(logits=energy(up) - energy(down)))
        return torch.where(place, spin, s)

    report = check.invariant(kernel, chain).require()
    assert 1e-7 < report.tolerance < 1e-4
    one_by_one(monkeypatch)
    assert check.invariant(kernel, chain).tolerance == pytest.approx(report.tolerance)


def test_what_lanes_cannot_do_is_done_one_by_one() -> None:
    chain, energy = spins(6)
    inner = heat_bath(energy, 6)

    def looking(s: Tensor) -> Tensor:
        return inner(s) if float(s[0]) >= 0 else s

    def listed(s: Tensor) -> list[Tensor]:
        return list(inner(s))  # another form than that of the state

    before = denote(chain)
    assert moved(looking, before) is None
    check.invariant(looking, chain).require()
    assert check.invariant(listed, chain).verdict == "fail"


def test_private_randomness_is_found() -> None:
    chain, energy = spins(6)
    inner, rng = heat_bath(energy, 6), random.Random()

    def impure(s: Tensor) -> Tensor:
        return inner(s) if rng.random() < 0.9 else 1 - s

    report = check.invariant(impure, chain)
    assert report.verdict == "fail"
    assert "Impure" in report.counterexample


@pytest.mark.parametrize("seed", quick(10, range(60)))
def test_random_kernels_keep_what_their_matrix_keeps(seed: int) -> None:
    """Of 80 states: the stationary measure of a random matrix, and one that it does not keep."""
    generator = torch.Generator().manual_seed(seed)
    n = 80
    flow = torch.rand((n, n), generator=generator, dtype=torch.float64)
    flow = flow + flow.T  # reversible for its row sums
    masses = flow.sum(1)
    rows = flow / masses[:, None]

    def target(weights: Tensor) -> Any:
        @program
        def model() -> Tensor:
            x = sample("x", dist.Categorical(torch.ones(n).double()))
            factor("weights", weights[x].log())
            return x

        return model

    def kernel(x: Tensor) -> Tensor:
        return draw(dist.Categorical(rows[x]))

    check.invariant(kernel, target(masses)).require()
    tilted = masses * (1 + 1e-7 * torch.arange(n))
    assert check.invariant(kernel, target(tilted)).verdict == "fail"
