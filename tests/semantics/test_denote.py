"""Exact denotations: checks 1 to 4 and 20 of denotational validation, values by exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import (
    BudgetError,
    ConvergenceError,
    DataError,
    InfiniteMassError,
    MassError,
    ProgramError,
    ZeroMassError,
)
from pushforward.ppl import condition, draw, factor, observe, program, sample, scan, seeded
from pushforward.ppl.distributions.densities import log_density
from pushforward.semantics import denote


def f(x: float | list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def approx(fraction: str) -> float:
    return pytest.approx(float(Fraction(fraction)), abs=1e-13)  # type: ignore[return-value]


def coin() -> tuple[Tensor, Tensor]:
    x = pyro.sample("x", dist.Bernoulli(f(1 / 3)))
    y = pyro.sample("y", dist.Bernoulli(f(1 / 2)))
    pyro.factor("score", torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).log()[(x + y).long()])
    return x, y


def ssm() -> tuple[Tensor, Tensor]:
    x = sample("x", dist.Bernoulli(f(1 / 2)))
    factor("s", torch.where(x == 1, f(3 / 4), f(1 / 4)).log())
    y = sample("y", dist.Bernoulli(torch.where(x == 1, f(2 / 3), f(1 / 3))))
    factor("t", torch.where(y == 1, f(1 / 2), f(1 / 8)).log())
    return x, y


def sprinkler_hard() -> Tensor:
    rain = pyro.sample("rain", dist.Bernoulli(f(0.3)))
    sprinkler = pyro.sample("sprinkler", dist.Bernoulli(f(0.1) if rain == 1 else f(0.4)))
    wet = f([[0.0, 0.9], [0.8, 0.98]])[rain.long(), sprinkler.long()]
    pyro.sample("wet", dist.Bernoulli(wet), obs=f(0.0))
    return rain


def sprinkler_soft() -> Tensor:
    rain = sample("rain", dist.Bernoulli(f(0.3)))
    if rain == 1:
        factor("rain score", f(0.2).log())
    sprinkler = sample("sprinkler", dist.Bernoulli(f(0.1) if rain == 1 else f(0.4)))
    if sprinkler == 1:
        factor("sprinkler score", f(0.1).log())
    return rain


def test_check_1_coin() -> None:
    measure = denote(coin)
    assert measure.pmf() == {
        (1.0, 1.0): approx("3/20"),
        (1.0, 0.0): approx("1/12"),
        (0.0, 1.0): approx("1/6"),
        (0.0, 0.0): approx("1/30"),
    }
    assert measure.mass() == approx("13/30")
    posterior = measure.normalize().pmf()
    assert posterior[(1.0, 1.0)] == approx("9/26")
    assert posterior[(0.0, 0.0)] == approx("1/13")
    assert measure.map(lambda v: v[0]).pmf() == {1.0: approx("7/30"), 0.0: approx("1/5")}


def test_check_2_sprinkler_hard_equals_soft_as_unnormalised_measures() -> None:
    hard, soft = denote(sprinkler_hard), denote(sprinkler_soft)
    assert hard.pmf() == {1.0: approx("273/5000"), 0.0: approx("56/125")}
    assert hard.deviation(soft)[0] < 1e-15
    assert hard.mass() == approx("2513/5000")
    assert hard.normalize().pmf()[1.0] == approx("39/359")


def test_check_3_ssm() -> None:
    measure = denote(ssm)
    assert measure.pmf() == {
        (1.0, 1.0): approx("1/8"),
        (1.0, 0.0): approx("1/64"),
        (0.0, 1.0): approx("1/48"),
        (0.0, 0.0): approx("1/96"),
    }
    posterior = measure.normalize()
    assert float(posterior.expect(lambda v: v[0])) == approx("9/11")
    assert float(posterior.expect(lambda v: v[1])) == approx("28/33")


def test_check_4_scores_multiply_and_zero_is_an_error() -> None:
    @program
    def two_scores() -> None:
        factor("a", f(2 / 3).log())
        factor("b", f(3 / 4).log())

    @program
    def impossible() -> tuple[Tensor, Tensor]:
        factor("zero", f(-math.inf))
        return coin()

    @program
    def with_unused_choice() -> None:
        sample("unused", dist.Bernoulli(f(0.5)))
        two_scores.fn()

    assert denote(two_scores).mass() == approx("1/2")
    assert denote(with_unused_choice).mass() == approx("1/2")
    assert denote(impossible).pmf() == {}
    with pytest.raises(ZeroMassError, match="measure is zero"):
        denote(impossible).normalize()


def test_conditioning_on_an_impossible_value_has_mass_zero() -> None:
    def never() -> Tensor:
        return sample("x", dist.Bernoulli(f(0.0)))

    with pytest.raises(ZeroMassError):
        denote(condition(never, {"x": f(1.0)})).normalize()


def test_check_20_uniform_prior() -> None:
    def heads() -> Tensor:
        p = sample("p", dist.Uniform(f(0.0), f(1.0)))
        observe("tosses", dist.Bernoulli(p).expand([4]).to_event(1), f([1.0, 1.0, 1.0, 0.0]))
        return p

    measure = denote(heads, quadrature=64)
    assert measure.mass() == pytest.approx(1 / 20, abs=1e-12)
    assert float(measure.normalize().expect()) == pytest.approx(2 / 3, abs=1e-9)
    assert measure.error < 1e-12


def test_check_20_normal() -> None:
    def normal() -> Tensor:
        x = sample("x", dist.Normal(f(0.0), f(1.0)))
        observe("y", dist.Normal(x, f(0.5)), f(1.0))
        return x

    measure = denote(normal, quadrature=64)
    mean = float(measure.normalize().expect())
    assert measure.mass() == pytest.approx(0.239186831934564, abs=1e-13)
    assert mean == pytest.approx(4 / 5, abs=1e-12)
    second = float(measure.normalize().expect(lambda x: (x - mean) ** 2))
    assert second == pytest.approx(1 / 5, abs=1e-12)


def test_check_20_random_line() -> None:
    def line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        s = sample("s", dist.Normal(f(0.0), f(3.0)))
        b = sample("b", dist.Normal(f(0.0), f(3.0)))
        observe("y", dist.Normal(s * x + b, f(0.5)).to_event(1), y)
        return s, b

    measure = denote(line, f([1.0, 2, 3, 4, 5]), f([2.5, 3.8, 4.5, 6.2, 8.0]), quadrature=48)
    posterior = measure.normalize()
    s = float(posterior.expect(lambda v: v[0]))
    b = float(posterior.expect(lambda v: v[1]))
    assert s == pytest.approx(450072 / 334805, abs=1e-9)
    assert b == pytest.approx(64404 / 66961, abs=1e-9)
    covariance = posterior.expect(
        lambda v: torch.stack([(v[0] - s) ** 2, (v[0] - s) * (v[1] - b), (v[1] - b) ** 2])
    )
    assert covariance.tolist() == pytest.approx(
        [1629 / 66961, -4860 / 66961, 17829 / 66961], abs=1e-9
    )
    assert measure.log_mass() == pytest.approx(-7.685329241799972, abs=1e-9)
    assert 6 * s + b == pytest.approx(9.027499589313184, abs=1e-9)


def test_mixed_discrete_and_continuous_by_replay() -> None:
    """Two components: evidence 1/2 N(1; 0, 1) + 1/2 N(1; 2, 1), integrated path by path."""

    def mixture() -> Tensor:
        z = sample("z", dist.Bernoulli(f(0.5)))
        m = sample("m", dist.Normal(2 * z if z == 1 else f(0.0), f(0.6)))
        observe("y", dist.Normal(m, f(0.8)), f(1.0))
        return z

    measure = denote(mixture, quadrature=40)
    half = 0.5 * math.exp(-0.5) / math.sqrt(2 * math.pi)
    assert measure.pmf() == {0.0: pytest.approx(half, abs=1e-9), 1.0: pytest.approx(half, abs=1e-9)}


def test_infinite_mass_is_an_error() -> None:
    def flat() -> Tensor:
        x = sample("x", dist.Normal(f(0.0), f(1.0)))
        factor("undo", 0.5 * x**2)
        return x

    with pytest.raises(InfiniteMassError, match="does not decay"):
        denote(flat, quadrature=32)


TRANSITION = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
EMISSION = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def hmm(ys: Tensor, path: bool) -> Tensor:
    def step(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        z = sample("z", dist.Categorical(TRANSITION[z]))
        observe("y", dist.Bernoulli(EMISSION[z]), y)
        return z, z if path else None

    last, zs = scan(step)(torch.tensor(0), ys)
    return zs if path else last


def test_hidden_markov_model_merges_to_the_forward_algorithm() -> None:
    ys = (torch.arange(12) % 3 == 0).to(torch.float64)
    alpha = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for y in ys:
        alpha = (alpha @ TRANSITION) * (EMISSION if y == 1 else 1 - EMISSION)
    measure = denote(hmm, ys, False)
    assert [measure.pmf()[k] for k in range(3)] == pytest.approx(alpha.tolist(), abs=1e-14)


def test_returning_the_whole_path_is_a_budget_error() -> None:
    ys = torch.zeros(12, dtype=torch.float64)
    with pytest.raises(BudgetError, match="return less of the history"):
        denote(hmm, ys, True, budget=2_000)


def test_conditioning_by_a_stacked_value_or_by_step() -> None:
    zs = torch.tensor([0, 1, 1])
    ys = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    stacked = denote(condition(hmm, {"z": zs}), ys, False)
    one_by_one = denote(condition(hmm, {f"z[{t}]": zs[t] for t in range(3)}), ys, False)
    expected = 0.7 * 0.8 * 0.2 * 0.5 * 0.8 * 0.5
    assert stacked.mass() == pytest.approx(expected, abs=1e-15)
    assert one_by_one.mass() == pytest.approx(expected, abs=1e-15)


def test_data_for_a_site_that_no_path_meets() -> None:
    with pytest.raises(DataError, match="'q'"):
        denote(condition(coin, {"q": f(1.0)}))


def test_the_measure_on_traces_differs_from_the_one_on_results() -> None:
    def total() -> Tensor:
        a = sample("a", dist.Bernoulli(f(0.5)))
        return a + sample("b", dist.Bernoulli(f(0.5)))

    assert len(denote(total)) == 3
    assert len(denote(total, of="trace")) == 4


def test_wrong_parameters_are_refused_and_never_a_wrong_mass() -> None:
    for law in (
        dist.Bernoulli(f(1.5), validate_args=False),
        dist.Categorical(f([0.5, -0.5, 1.0]), validate_args=False),
    ):
        with pytest.raises(ProgramError, match=r"parameter probs of \w+ violates.*'x'"):
            denote(lambda law=law: sample("x", law))


def test_the_trace_measure_sums_over_anonymous_draws() -> None:
    def hidden() -> Tensor:
        return sample("x", dist.Bernoulli(0.25 + 0.5 * draw(dist.Bernoulli(f(0.5)))))

    assert denote(hidden, of="trace").pmf() == pytest.approx(
        {(("x", 0.0),): 0.5, (("x", 1.0),): 0.5}
    )


def test_equal_results_of_a_quadrature_are_one_atom() -> None:
    def sign() -> Tensor:
        return (sample("x", dist.Normal(f(0.5), f(1.0))) * 0).abs()

    measure = denote(sign, quadrature=32)
    assert len(measure) == 1
    assert measure.mass() == pytest.approx(1.0, abs=1e-12)
    assert denote(
        lambda: (sample("x", dist.Normal(f(0.0), f(1.0))), None)[1], quadrature=32
    ).pmf() == {None: pytest.approx(1.0, abs=1e-12)}


def test_heavy_tails_are_integrated_site_by_site() -> None:
    """A Cauchy prior: P(|x| < 1) = 1/2, and the mass of N(x; 0, 1) under it is a known integral."""
    measure = denote(lambda: sample("x", dist.Cauchy(f(0.0), f(1.0))), quadrature=256)
    assert measure.mass() == pytest.approx(1.0, abs=1e-9)
    inside = measure.expect(lambda x: 1.0 if abs(float(x)) < 1 else 0.0)
    assert float(inside) == pytest.approx(0.5, abs=0.02)


def test_a_quadrature_that_has_not_converged_is_refused() -> None:
    def spiky() -> Tensor:
        z = sample("z", dist.Bernoulli(f(0.5)))
        x = sample("x", dist.Normal(f(0.0), f(1.0)) if z == 1 else dist.Uniform(f(-1.0), f(1.0)))
        observe("y", dist.Normal(x, f(1e-3)), f(0.3))
        return z

    with pytest.raises(ConvergenceError, match=r"has not converged.*raise quadrature="):
        denote(spiky, quadrature=16)


@pytest.mark.parametrize(
    ("a", "b", "sd", "error"),
    [
        (0.0, 10.0, 0.1, ConvergenceError),
        (0.0, 50.0, 1.0, ConvergenceError),
        (-50.0, 50.0, 0.1, MassError),
    ],
)
def test_a_mode_far_away_is_not_missed(a: float, b: float, sd: float, error: type) -> None:
    """Half of the mass lies in each mode; a quadrature about one of them would report that half."""

    def mixture() -> Tensor:
        return sample(
            "x",
            dist.MixtureSameFamily(dist.Categorical(f([0.5, 0.5])), dist.Normal(f([a, b]), f(sd))),
        )

    with pytest.raises(error, match=r"modes too far apart|too spread for quadrature"):
        denote(mixture, quadrature=64)


def test_two_modes_in_one_window_are_integrated() -> None:
    def mixture() -> Tensor:
        return sample(
            "x",
            dist.MixtureSameFamily(
                dist.Categorical(f([0.25, 0.75])), dist.Normal(f([-3.0, 3.0]), f(1.0))
            ),
        )

    measure = denote(mixture, quadrature=64)
    assert measure.mass() == pytest.approx(1.0, abs=1e-12)
    assert float(measure.expect()) == pytest.approx(1.5, abs=1e-10)


T = torch.tensor
IMPOSSIBLE = [
    (dist.Bernoulli(T(1.0)), T(0.0)),
    (dist.Bernoulli(logits=T(-math.inf)), T(1.0)),
    (dist.Categorical(T([1.0, 0.0])), T(1)),
    (dist.Categorical(logits=T([0.0, -math.inf])), T(1)),
    (dist.OneHotCategorical(T([1.0, 0.0])), T([0.0, 1.0])),
    (dist.Binomial(2, T(1.0)), T(0.0)),
    (dist.Binomial(2, T(0.0)), T(1.0)),
    (dist.Multinomial(2, T([1.0, 0.0])), T([1.0, 1.0])),
    (dist.Geometric(T(1.0)), T(1.0)),
    (dist.NegativeBinomial(T(2.0), T(0.0)), T(1.0)),
    (dist.Poisson(T(0.0)), T(1.0)),
    (dist.Uniform(0.0, 1.0), T(2.0)),
]
CERTAIN = [
    (dist.Bernoulli(T(1.0)), T(1.0)),
    (dist.Bernoulli(logits=T(-math.inf)), T(0.0)),
    (dist.Categorical(T([1.0, 0.0])), T(0)),
    (dist.OneHotCategorical(T([1.0, 0.0])), T([1.0, 0.0])),
    (dist.Binomial(2, T(1.0)), T(2.0)),
    (dist.Binomial(2, T(0.0)), T(0.0)),
    (dist.Multinomial(2, T([1.0, 0.0])), T([2.0, 0.0])),
    (dist.Geometric(T(1.0)), T(0.0)),
    (dist.NegativeBinomial(T(2.0), T(0.0)), T(0.0)),
    (dist.Poisson(T(0.0)), T(0.0)),
]


@pytest.mark.parametrize(("law", "value"), IMPOSSIBLE, ids=lambda x: type(x).__name__)
def test_what_is_impossible_has_no_mass(law: Any, value: torch.Tensor) -> None:
    with pyro.validation_enabled(False):
        assert float(log_density(law, value)) == -math.inf


@pytest.mark.parametrize(("law", "value"), CERTAIN, ids=lambda x: type(x).__name__)
def test_what_is_certain_has_mass_one(law: Any, value: torch.Tensor) -> None:
    assert float(log_density(law, value)) == 0.0


@pytest.mark.parametrize(
    "law",
    [
        dist.Bernoulli(T(0.3)),
        dist.Categorical(T([0.3, 0.7])),
        dist.Binomial(5, T(0.3)),
        dist.Geometric(T(0.3)),
        dist.NegativeBinomial(T(2.5), T(0.3)),
        dist.Multinomial(3, T([0.2, 0.3, 0.5])),
        dist.OneHotCategorical(T([0.2, 0.8])),
        dist.Bernoulli(logits=T(0.3)),
        dist.Binomial(5, logits=T(0.3)),
        dist.Multinomial(3, logits=T([0.2, 0.3, 0.5])),
    ],
    ids=lambda law: type(law).__name__,
)
def test_what_is_possible_has_the_density_of_torch(law: Any) -> None:
    with seeded(0):
        for _ in range(5):
            value = law.sample()
            assert torch.allclose(log_density(law, value), law.log_prob(value), atol=1e-6)


@pytest.mark.parametrize("level", [-3000.0, -800.0, 0.0, 800.0])
def test_a_measure_of_any_size_is_normalised(level: float) -> None:
    """P(z = 1) = e / (1 + e), whatever both weights are multiplied by."""

    def p() -> Tensor:
        z = sample("z", dist.Bernoulli(0.5))
        factor("f", level + z)
        return z

    found = denote(p)
    assert found.log_mass() == pytest.approx(level + math.log((1 + math.e) / 2))
    assert found.normalize().pmf()[1.0] == pytest.approx(math.e / (1 + math.e))
    assert found.mass() == (0.0 if level < -700 else math.inf if level > 700 else found.mass())
