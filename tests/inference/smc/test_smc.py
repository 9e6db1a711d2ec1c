"""Sequential Monte Carlo on any program: checks 8 to 12 of the exact values, and its refusals.

The models and figures are exact rationals worked out for two and three particles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample, vmap
from pushforward.errors import ProgramError
from pushforward.inference import (
    Population,
    collapse,
    importance,
    multinomial,
    push_evidence,
    resample,
    residual,
    smc,
    spawn,
    stratified,
    systematic,
)
from pushforward.inference.kernels import single_site
from pushforward.ppl import seeded
from pushforward.ppl.interpretations.abstract_run import has_type
from pushforward.semantics import Measure, check, denote

pytestmark = pytest.mark.usefixtures("double")


def exactly(fraction: str) -> Any:
    return pytest.approx(float(Fraction(fraction)), abs=1e-12)


def score(name: str, where: Tensor, yes: float, no: float) -> None:
    factor(name, torch.where(where == 1, math.log(yes), math.log(no)))


def ssm() -> Any:
    """Two steps of a two-state model, with a score after each; returns both states."""
    x = sample("x", dist.Bernoulli(1 / 2))
    score("first", x, 3 / 4, 1 / 4)
    y = sample("y", dist.Bernoulli(torch.where(x == 1, 2 / 3, 1 / 3)))
    score("second", y, 1 / 2, 1 / 8)
    return x, y


def early() -> Any:
    """Arms with one and two scores; stop is 2."""
    x = sample("x", dist.Bernoulli(1 / 3))
    score("first", x, 1 / 2, 1 / 5)
    if x == 1:
        return torch.tensor(2.0)
    y = sample("y", dist.Bernoulli(1 / 4))
    score("second", y, 2.0, 1 / 3)
    return y


def evidence_law(outputs: Measure) -> Measure:
    return outputs.map(lambda population: population.log_evidence().exp())


def variance(outputs: Measure) -> float:
    z = evidence_law(outputs)
    mean = float(z.expect())
    return float(z.expect(lambda v: (v - mean) ** 2))


def share(outputs: Measure, event: Callable[[Any], Any]) -> float:
    """The expectation of the self-normalised estimate of a probability."""

    def estimate(population: Population) -> float:
        hits = [float(event(population.value(i))) for i in range(len(population.log_weights))]
        return float(population.probabilities() @ torch.tensor(hits))

    return float(outputs.expect(estimate))


def test_check_8_smc_with_two_particles() -> None:
    check.valid(smc(ssm, 2, multinomial), ssm).require()
    outputs = denote(smc(ssm, 2, multinomial))
    assert variance(outputs) == exactly("173/16384")
    assert share(outputs, lambda v: v[1]) == exactly("109/160")
    assert share(outputs, lambda v: v[0]) == exactly("103/160")
    law = {
        *(("1/32", "1/9"), ("1/16", "25/288"), ("5/64", "1/9"), ("3/32", "1/36"), ("1/8", "1/36")),
        *(("5/32", "35/144"), ("15/64", "1/9"), ("1/4", "49/288"), ("3/8", "1/9")),
    }
    found = sorted((float(z), p) for z, p in evidence_law(outputs).items())
    merged: dict[float, float] = {}
    for z, p in found:
        merged[round(z, 12)] = merged.get(round(z, 12), 0.0) + p
    wanted = {float(Fraction(z)): float(Fraction(p)) for z, p in law}
    assert {round(z, 12): p for z, p in wanted.items()} == pytest.approx(merged, abs=1e-12)


@pytest.mark.parametrize(("scheme", "spread"), [
    (multinomial, "257/36864"), (systematic, "761/110592"), (stratified, "2287/331776"),
])  # fmt: skip
def test_check_9_smc_with_three_particles(scheme: Any, spread: str) -> None:
    outputs = denote(smc(ssm, 3, scheme))
    assert variance(outputs) == exactly(spread)
    if scheme is multinomial:
        assert share(outputs, lambda v: v[1]) == exactly("1158191/1543500")
    check.valid(smc(ssm, 3, scheme), ssm).require()


@pytest.mark.parametrize("scheme", [systematic, stratified])
def test_check_9_smc_with_two_particles(scheme: Any) -> None:
    outputs = denote(smc(ssm, 2, scheme))
    assert variance(outputs) == exactly("43/4096")
    assert share(outputs, lambda v: v[1]) == exactly("41/60")


def test_residual_resampling_is_valid_too() -> None:
    for n in (1, 2, 3):
        check.valid(smc(ssm, n, residual), ssm).require()
    weights = torch.tensor([1.0, 2.0, 5.0]).log()
    law = denote(program(lambda: residual(weights))).pmf()
    # 8/3: one copy of the last, and two more by (3/8, 6/8, 7/8) / 2
    assert law[(2, 2, 2)] == exactly("49/256")
    assert sum(p * ancestors.count(1) for ancestors, p in law.items()) == exactly("3/4")


def test_check_10_adaptive_resampling() -> None:
    check.valid(smc(ssm, 2, multinomial, ess=3 / 4), ssm).require()
    assert variance(denote(smc(ssm, 2, multinomial, ess=3 / 4))) == exactly("89/8192")

    def product_of_means() -> Any:
        """The evidence by a formula that holds only if every step resamples."""
        x = vmap(lambda: sample_draw(1 / 2), size=2)()
        first = torch.where(x == 1, 3 / 4, 1 / 4)
        y = vmap(lambda p: sample_draw(p))(torch.where(x == 1, 2 / 3, 1 / 3))
        second = torch.where(y == 1, 1 / 2, 1 / 8)
        z = first.mean() * second.mean()
        shares = first * second / (first * second).sum()
        return Population((x, y), (shares * z).log())

    report = check.valid(program(product_of_means), ssm)
    assert report.verdict == "fail"
    assert denote(program(product_of_means)).expect(lambda p: p.log_evidence().exp()) == exactly(
        "21/128"
    )


def sample_draw(p: Any) -> Tensor:
    return draw(dist.Bernoulli(p))


def test_check_11_particles_that_end_early() -> None:
    model = smc(early, 2, multinomial)
    check.valid(model, early).require()
    outputs = denote(model)
    assert variance(outputs) == exactly("163/7200")
    assert share(outputs, lambda v: v == 2) == exactly("86/189")
    law = {
        *(("1/15", "1/4"), ("7/60", "1/49"), ("7/30", "89/294"), ("7/20", "100/441")),
        *(("2/5", "1/36"), ("49/120", "2/147"), ("1/2", "1/9"), ("21/40", "20/441")),
        ("7/10", "1/441"),
    }
    merged: dict[float, float] = {}
    for z, p in evidence_law(outputs).items():
        merged[round(float(z), 12)] = merged.get(round(float(z), 12), 0.0) + p
    wanted = {round(float(Fraction(z)), 12): float(Fraction(p)) for z, p in law}
    assert merged == pytest.approx(wanted, abs=1e-12)


def test_check_12_resample_move() -> None:
    outputs = denote(smc(ssm, 2, multinomial, move=single_site()))
    assert variance(outputs) == exactly("75/8192")
    assert share(outputs, lambda v: v[1]) == exactly("407/540")
    assert share(outputs, lambda v: v[0]) == exactly("3281/4320")
    check.valid(smc(ssm, 2, multinomial, move=single_site()), ssm).require()


# ----------------------------------------------------------------------- together, and one by one


def looking() -> Any:
    """The two-state model with a branch in Python, which lanes cannot follow."""
    x = sample("x", dist.Bernoulli(1 / 2))
    score("first", x, 3 / 4, 1 / 4)
    y = sample("y", dist.Bernoulli(2 / 3 if x == 1 else 1 / 3))
    score("second", y, 1 / 2, 1 / 8)
    return x, y


@pytest.mark.parametrize("n", [1, 2, 3])
def test_both_representations_are_one_algorithm(n: int) -> None:
    assert has_type(ssm) and not has_type(looking)
    together, apart = (denote(smc(p, n, systematic)) for p in (ssm, looking))
    assert variance(together) == pytest.approx(variance(apart), abs=1e-14)
    check.valid(smc(looking, n, systematic), ssm).require()


def linear() -> Any:
    """Three steps of a linear Gaussian model, each of them observed."""
    x = torch.tensor(0.0)
    for t, y in enumerate((0.5, -0.3, 1.2)):
        x = sample(f"x{t}", dist.Normal(0.9 * x, 1.0))
        observe(f"y{t}", dist.Normal(x, 0.5), torch.tensor(y))
    return x


def kalman() -> float:
    """The log evidence of ``linear``, by the Kalman filter."""
    mean, var, log_z = 0.0, 0.0, 0.0
    for y in (0.5, -0.3, 1.2):
        mean, var = 0.9 * mean, 0.81 * var + 1.0
        s = var + 0.25
        log_z += -0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
        gain = var / s
        mean, var = mean + gain * (y - mean), (1 - gain) * var
    return log_z


@pytest.mark.parametrize("n", [1_000, 10_000])
def test_many_particles_estimate_the_evidence(n: int) -> None:
    """Within 5 standard errors of the mean of 20 runs (level 6e-7).

    The relative variance is 1 / n times about one a step, the chi-square of the filter to its
    prediction; 20 runs estimate it within a factor of 4 (level 1e-6).
    """
    with seeded(1):
        runs = torch.stack([smc(linear, n)().log_evidence().exp() for _ in range(20)])
    z = runs / math.exp(kalman())
    assert abs(float(z.mean()) - 1.0) < 5 * float(z.std()) / math.sqrt(20)
    assert 3 / 4 < float(z.var()) * n < 3 * 4


def test_a_hundred_thousand_particles() -> None:
    """A hundred thousand particles run as lanes."""
    with seeded(0):
        population = smc(linear, 100_000)()
    assert population.values.shape == (100_000,)
    assert float(population.effective_size()) > 10_000


# -------------------------------------------------------------------------------------- look ahead


def foresight(choices: dict[str, Tensor], scores: int) -> Tensor:
    """After the first score of ``ssm``: the expectation of the second, 3/8 or 1/4."""
    return torch.where(choices["x"] == 1, 3 / 8, 1 / 4).log() if scores == 1 else torch.tensor(0.0)


def fancy(choices: dict[str, Tensor], scores: int) -> Tensor:
    return 2.0 * choices["x"] - scores


@pytest.mark.parametrize("ahead", [foresight, fancy])
@pytest.mark.parametrize("p", [ssm, looking])
def test_any_look_ahead_is_valid(p: Any, ahead: Any) -> None:
    for n in (1, 2):
        check.valid(smc(p, n, multinomial, ahead=ahead), ssm).require()


def test_a_good_look_ahead_reduces_the_variance() -> None:
    plain, good, bad = (
        variance(denote(smc(ssm, 2, multinomial, ahead=a))) for a in (None, foresight, fancy)
    )
    assert plain == exactly("173/16384")
    assert good < plain < bad


def test_a_factor_that_is_not_divided_out_is_rejected() -> None:
    def forgetful() -> Population:
        population = importance(ssm, 2)()
        factors = torch.where(population.values[0] == 1, 0.5, 0.0)
        looked = resample(population, multinomial, factors)[0]
        return looked._replace(log_weights=looked.log_weights + factors)

    assert check.valid(program(forgetful), ssm).verdict == "fail"

    def rightly() -> Population:
        population = importance(ssm, 2)()
        factors = torch.where(population.values[0] == 1, 0.5, 0.0)
        return resample(population, multinomial, factors)[0]

    check.valid(program(rightly), ssm).require()


def test_a_factor_of_zero_is_refused() -> None:
    for p in (ssm, looking):
        with pytest.raises(
            ProgramError, match="a factor to look ahead by is zero, infinite or NaN"
        ):
            smc(p, 2, ahead=lambda choices, scores: -torch.tensor(torch.inf))()


# -------------------------------------------------------------------------------------- what fails


def test_all_particles_dead() -> None:
    def impossible() -> Any:
        x = sample("x", dist.Bernoulli(0.5))
        factor("f", torch.tensor(-torch.inf))
        factor("g", x)
        return x

    population = smc(impossible, 4)()
    assert float(population.log_evidence()) == -math.inf
    check.valid(smc(impossible, 2), impossible).require()


def test_a_weight_that_is_no_number() -> None:
    def broken() -> Any:
        x = sample("x", dist.Bernoulli(0.5))
        observe("y", dist.Normal(0.0, x - x), torch.tensor(0.0))
        return x

    with pytest.raises(ProgramError, match="log weight NaN or infinity"):
        smc(broken, 4)()


def test_an_infinite_weight_is_not_resampled() -> None:
    weights = torch.tensor([0.0, math.inf])
    with pytest.raises(ProgramError, match="1 of 2 particles have log weight NaN or infinity"):
        resample(Population(torch.zeros(2), weights))

    def unbounded() -> Any:
        factor("f", torch.tensor(math.inf))
        return sample("x", dist.Bernoulli(0.5))

    with pytest.raises(ProgramError, match="log weight NaN or infinity"):
        smc(unbounded, 4)()


def test_results_of_different_structures_are_told_apart() -> None:
    def either() -> Any:
        if sample("x", dist.Bernoulli(0.5)) == 1:
            factor("f", torch.tensor(0.0))
            return torch.zeros(2)
        factor("f", torch.tensor(0.0))
        return torch.zeros(3)

    with seeded(0):
        population = smc(either, 8)()
    with pytest.raises(ProgramError, match="results of different structures"):
        population.mean()
    assert population.value(0).shape in {(2,), (3,)}


def test_spawn_collapse_and_push_evidence_keep_the_measure() -> None:
    def weighed() -> Population:
        return importance(ssm, 2)()

    check.valid(lambda: collapse(weighed()), ssm).require()

    def pushed() -> Any:
        value, log_weight = collapse(push_evidence(weighed()))
        assert abs(float(log_weight)) < 1e-12
        return value

    assert denote(pushed).deviation(denote(ssm))[0] < 1e-14
    units = spawn(3)
    assert float(units.log_evidence()) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("ancestors", "said"), [
    ([0, 1, 7], "gives ancestors that are no particles"),
    ([0, 1], r"gives \[2\] ancestors to 3 particles"),
])  # fmt: skip
def test_a_scheme_must_give_every_particle_an_ancestor(ancestors: list[int], said: str) -> None:
    for p in (ssm, looking):
        with pytest.raises(ProgramError, match=said):
            smc(p, 3, scheme=lambda _: torch.tensor(ancestors))()
