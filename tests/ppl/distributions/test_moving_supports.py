"""Data outside a support that a choice moves are impossible on that path, and nothing else.

The class: observed laws whose support depends on a latent (shifted, scaled, folded laws), and
observed values that depend on one (residuals), under laws whose formula goes on outside their
support.  Members are random; their densities are scipy's, and every meaning is held to them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from support.sizes import quick
from torch import Tensor
from torch.distributions import transforms as T

from pushforward import assess, dist, observe, plate, sample, simulate
from pushforward.errors import ProgramError, SupportError
from pushforward.inference import MCMC, Exact, importance, nuts
from pushforward.inference.kernels import gibbs
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.distributions import densities
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")

Law = Callable[[Tensor], Any]
Density = Callable[[float, float], float]  # of y, for the choice
stats = scipy.stats


def moved(base: Any, loc: Any, scale: Any = 1.0) -> Any:
    return dist.TransformedDistribution(base, [T.AffineTransform(loc, scale)])


def one(x: float) -> Tensor:
    return torch.tensor(x)


# Laws that a choice z moves, and their densities.
LAWS: dict[str, tuple[Law, Density]] = {
    "shifted exponential": (
        lambda z: moved(dist.Exponential(one(0.5)), z),
        lambda y, z: stats.expon.pdf(y, loc=z, scale=2.0),
    ),
    "turned exponential": (
        lambda z: moved(dist.Exponential(one(0.5)), z, -1.0),
        lambda y, z: stats.expon.pdf(-y, loc=-z, scale=2.0),
    ),
    "uniform": (
        lambda z: dist.Uniform(z - 0.5, z + 1.0),
        lambda y, z: stats.uniform.pdf(y, loc=z - 0.5, scale=1.5),
    ),
    "shifted gamma": (
        lambda z: moved(dist.Gamma(one(2.0), one(1.5)), z - 0.25),
        lambda y, z: stats.gamma.pdf(y, 2.0, loc=z - 0.25, scale=1 / 1.5),
    ),
    "shifted beta": (
        lambda z: moved(dist.Beta(one(2.0), one(3.0)), z, 2.0),
        lambda y, z: stats.beta.pdf(y, 2.0, 3.0, loc=z, scale=2.0),
    ),
    "shifted normal logarithm": (
        lambda z: moved(dist.LogNormal(one(0.0), one(1.0)), z),
        lambda y, z: stats.lognorm.pdf(y, 1.0, loc=z),
    ),
    "exponential of a uniform": (
        lambda z: dist.TransformedDistribution(dist.Uniform(z - 1.0, z), [T.ExpTransform()]),
        lambda y, z: 1 / y if y > 0 and z - 1.0 <= math.log(y) <= z else 0.0,
    ),
    "pareto": (
        lambda z: dist.Pareto(1.0 + z.abs(), one(1.5)),
        lambda y, z: stats.pareto.pdf(y, 1.5, scale=1.0 + abs(z)),
    ),
    "shifted half normal": (
        lambda z: moved(dist.HalfNormal(one(1.0)), z),
        lambda y, z: stats.halfnorm.pdf(y, loc=z),
    ),
}
# Laws that stay; the value y - z is observed under them.
VALUES: dict[str, tuple[Any, Callable[[float], float]]] = {
    "exponential": (
        lambda: dist.Exponential(one(1.5)),
        lambda r: stats.expon.pdf(r, scale=1 / 1.5),
    ),
    "gamma": (lambda: dist.Gamma(one(2.0), one(1.0)), lambda r: stats.gamma.pdf(r, 2.0)),
    "half normal": (lambda: dist.HalfNormal(one(2.0)), lambda r: stats.halfnorm.pdf(r, scale=2.0)),
    "half Cauchy": (lambda: dist.HalfCauchy(one(1.0)), stats.halfcauchy.pdf),
    "log normal": (lambda: dist.LogNormal(one(0.0), one(1.0)), lambda r: stats.lognorm.pdf(r, 1.0)),
    "beta": (lambda: dist.Beta(one(2.0), one(2.0)), lambda r: stats.beta.pdf(r, 2.0, 2.0)),
    "uniform": (lambda: dist.Uniform(one(-0.5), one(0.75)), lambda r: 0.8 * (-0.5 <= r <= 0.75)),
    "Weibull": (lambda: dist.Weibull(one(1.0), one(1.5)), lambda r: stats.weibull_min.pdf(r, 1.5)),
    "chi square": (lambda: dist.Chi2(one(3.0)), lambda r: stats.chi2.pdf(r, 3.0)),
    "Pareto": (
        lambda: dist.Pareto(one(0.5), one(2.0)),
        lambda r: stats.pareto.pdf(r, 2, scale=0.5),
    ),
    "Kumaraswamy": (
        lambda: dist.Kumaraswamy(one(2.0), one(2.0)),
        lambda r: 4 * r * (1 - r**2) * (0 < r < 1),
    ),
    "inverse gamma": (
        lambda: dist.InverseGamma(one(2.0), one(1.0)),
        lambda r: stats.invgamma.pdf(r, 2.0),
    ),
}
COUNTS: dict[str, tuple[Any, Callable[[float], float]]] = {
    "Poisson": (lambda: dist.Poisson(one(1.5)), lambda r: stats.poisson.pmf(r, 1.5)),
    "geometric": (lambda: dist.Geometric(one(0.3)), lambda r: stats.geom.pmf(r + 1, 0.3)),
    "binomial": (lambda: dist.Binomial(2, one(0.3)), lambda r: stats.binom.pmf(r, 2, 0.3)),
    "negative binomial": (
        lambda: dist.NegativeBinomial(one(2.0), one(0.4)),
        lambda r: stats.nbinom.pmf(r, 2.0, 0.6),
    ),
    "Bernoulli": (lambda: dist.Bernoulli(one(0.3)), lambda r: stats.bernoulli.pmf(r, 0.3)),
}


class Member:
    """A choice z of a plate that moves a law or a value, and one datum for each element."""

    def __init__(self, number: int) -> None:
        draws = random.Random(number)
        self.n, self.chance = draws.choice([1, 2]), draws.uniform(0.2, 0.8)
        self.kind = draws.choice(["law", "value", "count"])
        table: Any = {"law": LAWS, "value": VALUES, "count": COUNTS}[self.kind]
        self.name = draws.choice(sorted(table))
        self.of, density = table[self.name]
        while True:
            self.low, self.high = draws.choice([-1, 0]), draws.choice([1, 2])
            near = [draws.uniform(-0.5, 2.0) for _ in range(self.n)]
            self.ys = [float(round(y)) for y in near] if self.kind == "count" else near
            at: Density = density if self.kind == "law" else lambda y, z: density(y - z)
            self.likelihood = [[float(at(y, z)) for z in (self.low, self.high)] for y in self.ys]
            if all(sum(row) > 0 for row in self.likelihood):
                break

    def site(self, z: Tensor) -> None:
        y = torch.tensor(self.ys)
        observe("y", *((self.of(z), y) if self.kind == "law" else (self.of(), y - z)))

    def finite(self) -> Tensor:
        with plate("n", self.n):
            z = sample("z", dist.Bernoulli(self.chance))
            self.site(self.low + (self.high - self.low) * z)
        return z

    def real(self) -> None:
        z = sample("z", dist.Normal(0.0, 1.0))
        with plate("n", self.n):
            self.site(z)

    def weights(self) -> dict[tuple[float, ...], float]:
        prior = 1 - self.chance, self.chance
        found = {}
        for bits in itertools.product((0, 1), repeat=self.n):
            parts = (prior[b] * row[b] for b, row in zip(bits, self.likelihood, strict=True))
            found[tuple(map(float, bits))] = math.prod(parts)
        return {key: weight for key, weight in found.items() if weight > 0}

    def __repr__(self) -> str:
        return f"{self.kind} {self.name} of {self.ys} for z in {self.low, self.high}"


def require_weights(member: Member) -> None:
    known = member.weights()
    mass = sum(known.values())
    found = {tuple(v.tolist()): w for v, w in denote(member.finite).items()}
    assert found == pytest.approx(known, rel=1e-9), f"denote of {member}"
    assert math.exp(Exact(draws=2).run(member.finite).log_evidence or 0.0) == pytest.approx(mass)
    population = simulate(importance(member.finite, 16), seed=1).value
    for value, log_weight in zip(population.values, population.log_weights, strict=True):
        bits = tuple(value.tolist())
        prior = math.prod(member.chance if b else 1 - member.chance for b in bits)
        weight = 16 * prior * math.exp(float(log_weight))
        assert weight == pytest.approx(known.get(bits, 0.0), abs=1e-12), f"a lane of {member}"
    for bits in itertools.product((0.0, 1.0), repeat=member.n):
        log_density, _ = assess(member.finite, {"z": torch.tensor(bits)})
        assert math.exp(log_density) == pytest.approx(known.get(bits, 0.0)), f"assess of {member}"
    report = check.valid(importance(member.finite, 1), member.finite)
    assert report.verdict == "pass", report


def require_density(member: Member) -> None:
    """In lanes and as a captured graph, at reals on both sides of where the data are possible."""
    density = LogDensity(member.real)
    u = torch.linspace(-2.0, 2.0, 41)[:, None] + 1e-4
    lanes = torch.func.vmap(density)(u)
    values, gradients = Potential(density, u, compiled=False)(u)
    for z, *found in zip(u[:, 0].tolist(), lanes.tolist(), values.tolist(), strict=True):
        at: Any = {"law": LAWS, "value": VALUES}[member.kind][member.name][1]
        terms = [float(at(y, z) if member.kind == "law" else at(y - z)) for y in member.ys]
        expected = float(stats.norm.logpdf(z)) + sum(math.log(t) if t else -math.inf for t in terms)
        for log_density in found:
            assert log_density == pytest.approx(expected, rel=1e-9), f"{member} at {z}"
    assert not bool(gradients[values.isfinite()].isnan().any())


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_impossible_data_weigh_nothing_and_possible_ones_what_they_do(block: int) -> None:
    for number in range(20 * block, 20 * block + 20):
        require_weights(Member(number))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_a_thousand_moving_supports(block: int) -> None:
    for number in range(1_000 + 50 * block, 1_050 + 50 * block):
        require_weights(Member(number))


def test_densities_of_reals_end_where_the_data_become_impossible() -> None:
    members = [member for member in map(Member, range(150)) if member.kind != "count"]
    for member in members[:60]:
        require_density(member)


def test_the_members_have_impossible_paths() -> None:
    members = list(map(Member, range(200)))
    assert sum(len(m.weights()) < 2**m.n for m in members) > 80
    assert {m.name for m in members} == {*LAWS, *VALUES, *COUNTS}


def test_a_formula_that_goes_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: densities that do not ask where the support ends."""
    monkeypatch.setattr(densities, "possible", lambda *args: None)
    wrong = 0
    for number in range(40):
        try:
            require_weights(Member(number))
        except (AssertionError, ProgramError):  # some formulas are NaN there
            wrong += 1
    assert wrong > 5


def shifted() -> Tensor:
    x = sample("x", dist.Normal(0.0, 2.0))
    observe("y", moved(dist.Exponential(one(0.5)), x), one(1.0))
    return x


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_nuts_stays_where_the_data_are_possible(compiled: bool) -> None:
    """The posterior is Normal(2, 2) below 1; at the level 1e-6 by 400 nearly independent draws."""
    fit = MCMC(nuts(), chains=4, draws=1000, warmup=500, compiled=compiled, progress=False).run(
        shifted, seed=1
    )
    assert float(fit["x"].max()) < 1.0
    law = stats.truncnorm(-math.inf, -0.5, loc=2.0, scale=2.0)
    assert float(fit["x"].mean()) == pytest.approx(law.mean(), abs=4.9 * law.std() / 20)


def test_kernels_on_traces_refuse_an_impossible_move() -> None:
    def p() -> Tensor:
        z = sample("z", dist.Bernoulli(0.5))
        observe("y", moved(dist.Exponential(one(1.0)), 2.0 * z), one(1.0))
        return z

    fit = MCMC(gibbs("z"), chains=1, draws=50, progress=False).run(p)
    assert bool((fit["z"] == 0).all())


def test_data_that_no_choice_makes_possible_are_an_error() -> None:
    def fixed() -> Tensor:
        z = sample("z", dist.Bernoulli(0.5))
        observe("y", dist.Exponential(1.0 + z), one(-1.0))
        return z

    for run in (denote, lambda p: assess(p, {"z": one(0.0)}), simulate):
        with pytest.raises(SupportError, match="outside the support"):
            run(fixed)  # type: ignore[operator]
