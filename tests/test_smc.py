"""Sequential Monte Carlo on any program: checks 8 to 12 of the exact values, and its refusals.

The models and figures are exact rationals worked out for two and three particles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, draw, factor, program, sample, vmap
from pushforward.inference import (
    Population,
    multinomial,
    residual,
    smc,
    stratified,
    systematic,
)
from pushforward.inference.kernels import single_site
from pushforward.semantics import Measure, check, denote


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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
