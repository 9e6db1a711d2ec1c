"""Mixtures whose components have supports of their own, and points with a log density of their own.

The classes: laws that torch takes for others: a mixture counts where any component has mass, its
values are those of all components; a ``Delta`` with a ``log_density`` is no probability law, and
what it weighs counts as data and as a latent.  Members are random, and summed by hand.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pyro
import pytest
import scipy.stats
import torch
from torch import Tensor

from pushforward import assess, dist, generate, marginal, observe, program, sample, simulate
from pushforward.errors import InfiniteSupportError
from pushforward.inference import Exact, importance, smc
from pushforward.ppl.distributions.densities import log_density
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def numbers(draws: random.Random, n: int, low: float, high: float) -> Tensor:
    return torch.tensor([draws.uniform(low, high) for _ in range(n)])


def mixed(weights: Tensor, components: Any) -> Any:
    return dist.MixtureSameFamily(dist.Categorical(weights), components)


@pytest.mark.parametrize("number", range(20))
def test_a_mixture_counts_where_any_component_does(number: int) -> None:
    draws = random.Random(number)
    k = draws.choice([2, 3])
    weights, low, width = (numbers(draws, k, *ends) for ends in ((0.2, 1), (-1, 1), (0.5, 2)))
    if draws.random() < 0.3:
        weights[0] = 0.0
    scale = numbers(draws, k, 0.5, 1.5)
    laws = [
        (dist.Uniform(low, low + width), scipy.stats.uniform(low, width)),
        (dist.Pareto(scale, torch.tensor(2.0)), scipy.stats.pareto(2.0, scale=scale)),
    ]
    for components, known in laws:
        law = mixed(weights, components)
        for y in [draws.uniform(-1.5, 3.5) for _ in range(8)]:
            expected = float((weights / weights.sum()).numpy() @ known.pdf(y))

            def p(law: Any = law, y: float = y) -> None:
                observe("y", law, torch.tensor(y))

            assert denote(p).mass() == pytest.approx(expected, rel=1e-9)
            assert math.exp(assess(p, {})[0]) == pytest.approx(expected, rel=1e-9)
            if expected:
                evidence = Exact(draws=1).run(p).log_evidence or 0.0
                assert math.exp(evidence) == pytest.approx(expected, rel=1e-9)
            program(p).type()
            lanes = torch.func.vmap(lambda x, law=law: log_density(law, x))(torch.full((3,), y))
            assert lanes.exp().tolist() == pytest.approx([expected] * 3, rel=1e-9)


@pytest.mark.parametrize("number", range(20))
def test_a_mixture_of_points_has_all_of_them(number: int) -> None:
    draws = random.Random(number)
    k = draws.choice([2, 3, 4])
    weights = numbers(draws, k, 0.2, 1.0)
    values = torch.tensor([float(draws.randint(0, 2)) for _ in range(k)])
    expected: dict[float, float] = {}
    for w, v in zip((weights / weights.sum()).tolist(), values.tolist(), strict=True):
        expected[v] = expected.get(v, 0.0) + w
    p = lambda: sample("x", mixed(weights, dist.Delta(values)))  # noqa: E731
    assert denote(p).pmf() == pytest.approx(expected)
    assert check.valid(importance(p, 1), p).verdict == "pass"
    counts = torch.ones(k)
    same = mixed(weights, dist.Binomial(2, numbers(draws, k, 0.1, 0.9)))
    assert denote(lambda: sample("x", same)).mass() == pytest.approx(1.0)
    assert len(counts) == k


def test_batches_of_mixtures_of_points_are_listed_or_refused() -> None:
    weights = torch.tensor([0.3, 0.7])
    alike = mixed(weights, dist.Delta(torch.tensor([0.0, 5.0])).expand([2, 2]))
    assert denote(lambda: sample("x", alike)).pmf() == pytest.approx(
        {(a, b): p * q for a, p in ((0.0, 0.3), (5.0, 0.7)) for b, q in ((0.0, 0.3), (5.0, 0.7))}
    )
    apart = mixed(weights, dist.Delta(torch.tensor([[0.0, 5.0], [1.0, 2.0]])))
    with pytest.raises(InfiniteSupportError, match="other values"):
        denote(lambda: sample("x", apart))


class Member:
    """A choice, points that weigh by it, as data or as latents, and a last choice that looks."""

    def __init__(self, number: int) -> None:
        draws = random.Random(number)
        self.chance = draws.uniform(0.2, 0.8)
        self.points = [
            (draws.random() < 0.5, draws.uniform(-1, 1), draws.uniform(-1, 1))
            for _ in range(draws.choice([1, 2]))
        ]
        self.scale = draws.choice([1.0, 1.0, 2.0])

    def program(self) -> Tensor:
        z = sample("z", dist.Bernoulli(self.chance))
        for i, (seen, zero, one) in enumerate(self.points):
            value = 2.0 * z
            with pyro.poutine.scale(scale=self.scale):
                law = dist.Delta(value, log_density=torch.where(z == 1, one, zero))
                pyro.sample(f"d{i}", law, obs=value if seen else None)
        return z

    def weight(self, z: int) -> float:
        logs = (one if z else zero for _, zero, one in self.points)
        return (self.chance if z else 1 - self.chance) * math.exp(self.scale * sum(logs))


@pytest.mark.parametrize("number", range(30))
def test_what_a_point_weighs_counts_everywhere(number: int) -> None:
    member = Member(number)
    p, known = program(member.program), {float(z): member.weight(z) for z in (0, 1)}
    assert not p.type().probability
    assert denote(p).pmf() == pytest.approx(known)
    for algorithm in (importance(p, 1), smc(p, 1)):
        assert check.valid(algorithm, p).verdict == "pass"
    population = simulate(importance(p, 16), seed=2).value
    for z, log_weight in zip(population.values.tolist(), population.log_weights, strict=True):
        prior = member.chance if z else 1 - member.chance
        assert 16 * math.exp(float(log_weight)) == pytest.approx(known[z] / prior)
    _, log_weight = generate(p, {"z": torch.tensor(1.0)}, seed=1)
    assert math.exp(log_weight) == pytest.approx(known[1.0])
    if all(seen for seen, *_ in member.points) and member.scale == 1.0:
        evidence = Exact(draws=2).run(p).log_evidence or 0.0
        assert math.exp(evidence) == pytest.approx(sum(known.values()))
        summed = assess(marginal(p, exact=True), {})[0]
        assert math.exp(summed) == pytest.approx(sum(known.values()))


def test_a_point_without_a_log_density_is_a_probability() -> None:
    def p() -> Tensor:
        return sample("x", dist.Delta(torch.tensor(2.0)))

    assert program(p).type().probability
    assert denote(p).pmf() == {2.0: 1.0}
