"""Waste-free SMC, checked on unnormalised measures of two coins."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference.smc.population import Population
from pushforward.inference.smc.resampling import multinomial, resample, stratified, systematic
from pushforward.inference.smc.waste_free import starts, waste_free
from pushforward.ppl import draw, factor, program, sample, vmap
from pushforward.semantics import Measure, check, denote


def f(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def prior(n: int) -> Callable[[], Tensor]:
    return vmap(lambda: draw(dist.Bernoulli(f(1 / 3))), size=n)


def log_likelihood(values: Tensor) -> Tensor:
    return f([1 / 16, 1.0]).log()[values.long()]


def metropolis(values: Tensor, beta: Tensor) -> Tensor:
    """A fresh draw of the prior, accepted by the ratio of likelihoods to the power."""

    def one(value: Tensor) -> Tensor:
        proposal = draw(dist.Bernoulli(f(1 / 3)))
        ratio = torch.exp(beta * (log_likelihood(proposal) - log_likelihood(value)))
        return torch.where(draw(dist.Bernoulli(ratio.clamp(max=1.0))) == 1, proposal, value)

    return vmap(one)(values)


@program
def target() -> Tensor:
    value = sample("x", dist.Bernoulli(f(1 / 3)))
    factor("likelihood", log_likelihood(value))
    return value


@pytest.mark.parametrize("scheme", [multinomial, systematic, stratified])
@pytest.mark.parametrize(("n", "length"), [(2, 1), (2, 2), (3, 3)])
def test_it_is_valid(scheme: Any, n: int, length: int) -> None:
    algorithm = waste_free(prior(n), log_likelihood, metropolis, [0.5, 1.0], n, length, scheme)
    check.valid(algorithm, target).require()
    assert denote(target).mass() == pytest.approx(float(Fraction("3/8")), abs=1e-13)


def test_two_chains_are_valid() -> None:
    algorithm = waste_free(prior(4), log_likelihood, metropolis, [0.5, 1.0], 4, 2)
    check.valid(algorithm, target).require()


def test_a_kernel_of_another_power_is_rejected() -> None:
    def wrong(values: Tensor, beta: Tensor) -> Tensor:
        return metropolis(values, 0.5 * beta)

    algorithm = waste_free(prior(2), log_likelihood, wrong, [0.5, 1.0], 2, 2)
    assert check.valid(algorithm, target).verdict == "fail"


def test_starts_that_are_always_the_first_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted ancestors are no sample: the first of them are those of the first particles."""

    def first(population: Population, length: int, scheme: Any) -> Population:
        equal, _ = resample(population, scheme)
        chosen = torch.arange(0, len(population.log_weights), length)
        return Population(equal.values_at(chosen), equal.log_weights)

    monkeypatch.setitem(starts.__globals__, "starts", first)
    algorithm = waste_free(prior(3), log_likelihood, metropolis, [0.5, 1.0], 3, 3)
    assert check.valid(algorithm, target).verdict == "fail"


@pytest.mark.parametrize("scheme", [multinomial, systematic, stratified])
@pytest.mark.parametrize("weights", [[0.3, 0.0, 0.6, 0.1], [1.0, 2.0, 3.0, 4.0]])
def test_each_particle_starts_a_chain_in_proportion_to_its_weight(
    scheme: Any, weights: list[float]
) -> None:
    before = Population(torch.arange(4), f(weights).log())

    def halved() -> Population:
        begun = starts(before, 2, scheme)
        return Population(begun.values, begun.log_weights[:2] + f(2.0).log())

    after = denote(program(halved)).bind(lambda p: p.meaning())
    assert after.deviation(Measure.of(before.meaning()))[0] < 1e-14


def test_impossible_data_leave_nothing_to_move() -> None:
    def nowhere(values: Tensor) -> Tensor:
        return f([-torch.inf, -torch.inf])[values.long()]

    measure = denote(waste_free(prior(2), nowhere, metropolis, [0.5, 1.0], 2, 2))
    assert all(float(population.log_evidence()) == -torch.inf for population, _ in measure.items())


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 states do not divide 4 particles"):
        waste_free(prior(4), log_likelihood, metropolis, [1.0], 4, 3)
    with pytest.raises(ValueError, match="increase from above 0 to exactly 1"):
        waste_free(prior(4), log_likelihood, metropolis, [0.5, 0.5, 1.0], 4, 2)
