"""A latent under a scale stands for a power of its density, in every meaning.

The class: programs with ``poutine.scale``, or plates given a part of their indices, around latents;
and proposals (guides, proposals of kernels) that stand under scales or masks, which concern scores
and so change nothing of what is proposed.  Members are random; masses are summed by hand.
"""

from __future__ import annotations

import itertools
import math
import random
from contextlib import ExitStack

import pyro
import pytest
import torch
from torch import Tensor

from pushforward import assess, dist, generate, observe, program, sample, simulate
from pushforward.errors import ProgramError
from pushforward.inference import SMC, importance, smc
from pushforward.inference.kernels import block
from pushforward.inference.kernels.traces import points_of
from pushforward.ppl.language import handlers
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


class Member:
    """Up to three choices, each with its scale and perhaps its chance moved by the one before."""

    def __init__(self, number: int) -> None:
        draws = random.Random(number)
        self.n = draws.choice([1, 2, 3])
        self.scales = [draws.choice([1.0, 0.5, 2.0, 3.0]) for _ in range(self.n)]
        self.chances = [(draws.uniform(0.1, 0.9), draws.uniform(0.1, 0.9)) for _ in range(self.n)]
        self.score = draws.uniform(0.1, 0.9), draws.uniform(0.1, 0.9)
        self.guide_scale, self.guide_mask = draws.choice([0.5, 2.0]), draws.random() < 0.5
        self.guide_chances = [draws.uniform(0.2, 0.8) for _ in range(self.n)]

    def program(self) -> Tensor:
        last = torch.tensor(0.0)
        for i, (scale, (zero, one)) in enumerate(zip(self.scales, self.chances, strict=True)):
            with pyro.poutine.scale(scale=scale):
                last = sample(f"x{i}", dist.Bernoulli(zero + (one - zero) * last))
        zero, one = self.score
        observe("y", dist.Bernoulli(zero + (one - zero) * last), torch.tensor(1.0))
        return last

    def guide(self) -> None:
        with ExitStack() as within:
            within.enter_context(pyro.poutine.scale(scale=self.guide_scale))
            if self.guide_mask:
                within.enter_context(pyro.poutine.mask(mask=False))
            for i, chance in enumerate(self.guide_chances):
                sample(f"x{i}", dist.Bernoulli(chance))

    def chance(self, bits: tuple[int, ...], i: int) -> float:
        one = self.chances[i][bits[i - 1] if i else 0]
        return one if bits[i] else 1 - one

    def weight(self, bits: tuple[int, ...]) -> float:
        powers = (self.chance(bits, i) ** s for i, s in enumerate(self.scales))
        return math.prod(powers) * self.score[bits[-1]]

    def every(self) -> list[tuple[int, ...]]:
        return list(itertools.product((0, 1), repeat=self.n))


def require_powers(member: Member) -> None:
    p = program(member.program)
    mass = sum(map(member.weight, member.every()))
    assert denote(p).mass() == pytest.approx(mass, rel=1e-9)
    for bits in member.every():
        choices = {f"x{i}": torch.tensor(float(x)) for i, x in enumerate(bits)}
        log_density, _ = assess(p, choices)
        assert math.exp(log_density) == pytest.approx(member.weight(bits), rel=1e-9)
    if any(scale != 1.0 for scale in member.scales):
        assert not p.type().probability
    for algorithm in (importance(p, 1), importance(p, 1, member.guide), smc(p, 1)):
        assert check.valid(algorithm, p).verdict == "pass"
    population = simulate(importance(p, 32, member.guide), seed=1).value
    for value, log_weight in zip(population.values, population.log_weights, strict=True):
        possible = {
            member.weight(bits) / math.prod(q if x else 1 - q for x, q in pairs)
            for bits in member.every()
            for pairs in [list(zip(bits, member.guide_chances, strict=True))]
            if bits[-1] == int(value)
        }
        found = 32 * math.exp(float(log_weight))
        assert any(found == pytest.approx(each, rel=1e-9) for each in possible)


def require_generated(member: Member) -> None:
    """What is drawn weighs p ** (s - 1), and what is given p ** s."""
    given = {"x0": torch.tensor(1.0)}
    for seed in range(5):
        trace, log_weight = generate(member.program, given, seed=seed)
        bits = tuple(int(trace.choices[f"x{i}"]) for i in range(member.n))
        drawn = math.prod(member.chance(bits, i) for i in range(1, member.n))
        assert math.exp(log_weight) == pytest.approx(member.weight(bits) / drawn, rel=1e-9)


@pytest.mark.parametrize("block", range(3))
def test_powers_of_densities_mean_the_same_everywhere(block: int) -> None:
    for number in range(15 * block, 15 * block + 15):
        require_powers(Member(number))
        require_generated(Member(number))


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_weigh_their_proposals_by_what_they_draw(scale: float, masked: bool) -> None:
    @program
    def p() -> Tensor:
        x = sample("x", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        observe("y", dist.Bernoulli(0.2 + 0.3 * x), torch.tensor(1.0))
        return x

    def proposal(choices: dict[str, Tensor]) -> None:
        toward = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.3, 0.3, 0.4]])
        with pyro.poutine.scale(scale=scale), pyro.poutine.mask(mask=not masked):
            sample("x", dist.Categorical(toward[choices["x"].long()]))

    report = check.invariant(block(proposal).on(p), points_of(p))
    assert report.verdict == "pass", report


@pytest.mark.parametrize("scale", [1.5, 3.0])
def test_infinite_supports_are_listed_with_their_powers(scale: float) -> None:
    def p() -> Tensor:
        with pyro.poutine.scale(scale=scale):
            return sample("n", dist.Geometric(0.4))

    measure = denote(p, depth=80, bound=1.0)
    assert measure.mass() == pytest.approx(0.4**scale / (1 - 0.6**scale), rel=1e-9)
    assert measure.rest < 1e-12


def test_what_lies_beyond_is_not_bounded_by_a_root() -> None:
    def p() -> Tensor:
        with pyro.poutine.scale(scale=0.5):
            return sample("n", dist.Geometric(0.4))

    assert denote(p, depth=10, bound=1.0).rest == math.inf


@pytest.mark.parametrize("scale", [1.01, 2.0])
def test_quadrature_takes_powers_of_the_density_and_not_of_its_weights(scale: float) -> None:
    def at_once() -> Tensor:
        with pyro.poutine.scale(scale=scale):
            return sample("x", dist.Normal(0.0, 1.0))

    def by_paths() -> Tensor:
        x = at_once()
        return x * 2 if x > 100 else x

    expected = (2 * math.pi) ** ((1 - scale) / 2) / math.sqrt(scale)
    for p in (at_once, by_paths):
        assert denote(p, quadrature=64).mass() == pytest.approx(expected, rel=1e-8)


def test_tempering_does_not_start_from_a_prior_that_is_no_law() -> None:
    def p() -> None:
        with pyro.plate("n", 4, subsample=torch.tensor([0, 2])):
            sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ProgramError, match=r"no law of its own to start from.*'x'"):
        SMC(8, 2, compiled=False, progress=False).run(p)


def test_a_proposal_weighed_by_its_scores_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: guides whose scales count."""
    monkeypatch.setattr(handlers.Sampling, "_process_message", lambda self, msg: None)
    with pytest.raises(AssertionError):
        require_powers(Member(0))
