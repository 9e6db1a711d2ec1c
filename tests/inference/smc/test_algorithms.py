"""Importance sampling, resampling and particle filters, checked on unnormalised measures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import ProgramError
from pushforward.inference.smc.importance import importance
from pushforward.inference.smc.particle_filter import particle_filter
from pushforward.inference.smc.population import Population, uniform_log_weights
from pushforward.inference.smc.resampling import multinomial, resample, stratified, systematic
from pushforward.inference.smc.tempering import tempered
from pushforward.ppl import draw, factor, observe, program, sample, scan, seeded, simulate, vmap
from pushforward.semantics import CheckFailed, Measure, check, denote

SCHEMES = {"multinomial": multinomial, "systematic": systematic, "stratified": stratified}


def f(x: float | list[float]) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def exactly(fraction: str) -> Any:
    return pytest.approx(float(Fraction(fraction)), abs=1e-13)


@program
def coin() -> tuple[Tensor, Tensor]:
    x = sample("x", dist.Bernoulli(f(1 / 3)))
    y = sample("y", dist.Bernoulli(f(1 / 2)))
    factor("score", f([0.1, 0.5, 0.9]).log()[(x + y).long()])
    return x, y


@program
def ssm() -> Tensor:
    """Two steps of a two-state model, with a score after each; returns both states."""

    def step(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.where(t == 0, f(1 / 2), torch.where(x == 1, f(2 / 3), f(1 / 3)))
        x = sample("x", dist.Bernoulli(p))
        scores = torch.where(t == 0, f([1 / 4, 3 / 4]), f([1 / 8, 1 / 2]))
        factor("score", scores[x.long()].log())
        return x, x

    _, xs = scan(step)(f(0.0), torch.arange(2))
    return xs


def variance_of_evidence(outputs: Measure) -> float:
    z = outputs.map(lambda population: population.log_evidence().exp())
    mean = float(z.expect())
    return float(z.expect(lambda v: (v - mean) ** 2))


# -------------------------------------------------------------------------------------- importance


@pytest.mark.parametrize(("n", "variance", "mean_x"), [
    (1, "17/225", "1/3"), (2, "17/450", "407/945"), (3, "17/675", "2129549/4542615"),
])  # fmt: skip
def test_check_5_importance_from_the_prior(n: int, variance: str, mean_x: str) -> None:
    check.valid(importance(coin, n), coin).require()
    outputs = denote(importance(coin, n))
    assert variance_of_evidence(outputs) == exactly(variance)
    assert float(outputs.expect(lambda p: p.mean()[0])) == exactly(mean_x)


def guide(p: float) -> Callable[[], None]:
    def proposing() -> None:
        sample("x", dist.Bernoulli(f(p)))

    return proposing


@pytest.mark.parametrize("n", [1, 2])
def test_importance_with_a_guide_for_some_latents(n: int) -> None:
    check.valid(importance(coin, n, guide(0.8)), coin).require()


@pytest.mark.parametrize("n", [1, 2])
def test_importance_with_a_guide_in_lanes(n: int) -> None:
    """The lanes of a guide propose for the lanes of the model, one for one."""

    def model() -> Tensor:
        x = vmap(lambda p: sample("x", dist.Bernoulli(p)))(f([0.2, 0.6]))
        observe("y", dist.Bernoulli(0.2 + 0.3 * x.sum()), f(1.0))
        return x

    def lanes() -> None:
        vmap(lambda p: sample("x", dist.Bernoulli(p)))(f([0.4, 0.5]))

    check.valid(importance(model, n, lanes), model).require()


def test_a_guide_that_misses_support_is_rejected() -> None:
    report = check.valid(importance(coin, 1, guide(1.0)), coin)
    assert report.verdict == "fail"
    assert report.deviation == exactly("5/13")  # 1/6 of 13/30
    assert "(0.0, 1.0)" in report.counterexample


def test_forgetting_the_proposal_density_is_rejected() -> None:
    def forgetful() -> tuple[Any, Tensor]:
        x = draw(dist.Bernoulli(f(0.8)))
        y = draw(dist.Bernoulli(f(0.5)))
        log_weight = f([0.1, 0.5, 0.9]).log()[(x + y).long()]
        return (x, y), log_weight

    report = check.valid(program(forgetful), coin)
    with pytest.raises(CheckFailed, match="counterexample"):
        report.require()


def test_weights_of_one_over_n_are_rejected() -> None:
    """Normalised weights keep the posterior's shape of a sample, and lose the evidence."""

    @program
    def normalising() -> Population:
        population = importance(coin, 2)()
        return Population(population.values, uniform_log_weights(2))

    assert check.valid(normalising, coin).verdict == "fail"


# -------------------------------------------------------------------------------------- resampling

WEIGHTS = f([1.0, 2.0, 5.0]).log()


def law(scheme: Callable[[Tensor], Tensor]) -> dict[tuple[int, ...], float]:
    outcomes = denote(program(lambda: scheme(WEIGHTS - math.log(8.0))))
    counted: dict[tuple[int, ...], float] = {}
    for ancestors, weight in outcomes.items():
        multiset = tuple(sorted(ancestors.tolist()))
        counted[multiset] = counted.get(multiset, 0.0) + weight
    return counted


def test_check_6_multinomial() -> None:
    found = law(multinomial)
    assert found[(2, 2, 2)] == exactly("125/512")
    assert found[(0, 1, 2)] == exactly("15/128")
    mean = {i: 8 / 3 * sum(w * m.count(i) for m, w in found.items()) for i in range(3)}
    assert list(mean.values()) == pytest.approx([1.0, 2.0, 5.0])
    mass_c = [(8 / 3 * m.count(2), w) for m, w in found.items()]
    assert sum(w * (x - 5.0) ** 2 for x, w in mass_c) == pytest.approx(5.0)


def test_check_7_systematic_and_stratified() -> None:
    assert law(systematic) == {
        (0, 1, 2): exactly("1/8"),
        (0, 2, 2): exactly("1/4"),
        (1, 2, 2): exactly("5/8"),
    }
    assert law(stratified) == {
        (0, 1, 2): exactly("3/64"),
        (0, 2, 2): exactly("21/64"),
        (1, 1, 2): exactly("5/64"),
        (1, 2, 2): exactly("35/64"),
    }


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("weights", [[1.0], [0.0, 1.0], [0.3, 0.0, 0.7], [0.2, 0.2, 0.5, 0.1]])
def test_resampling_keeps_the_measure(scheme: Any, weights: list[float]) -> None:
    before = Population(torch.arange(len(weights)), f(weights).log())
    after = denote(program(lambda: resample(before, scheme)[0])).bind(lambda p: p.meaning())
    assert after.deviation(Measure.of(before.meaning()))[0] < 1e-14


def test_a_dead_population_is_returned_unchanged() -> None:
    dead = Population(torch.arange(3), f([-math.inf] * 3))
    after, _ = resample(dead)
    assert torch.equal(after.log_weights, dead.log_weights)


# ------------------------------------------------------------------------------------------ filter


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("ess", [1.0, 0.75])
def test_the_particle_filter_is_valid(scheme: Any, n: int, ess: float) -> None:
    check.valid(particle_filter(ssm, n, scheme, ess), ssm).require()


def test_check_8_two_particles() -> None:
    outputs = denote(particle_filter(ssm, 2, multinomial))
    assert variance_of_evidence(outputs) == exactly("173/16384")
    assert float(outputs.expect(lambda p: p.mean()[1])) == exactly("109/160")
    assert float(outputs.expect(lambda p: p.mean()[0])) == exactly("103/160")


@pytest.mark.parametrize(("n", "scheme", "variance"), [
    (3, "multinomial", "257/36864"), (3, "systematic", "761/110592"),
    (3, "stratified", "2287/331776"), (2, "systematic", "43/4096"), (2, "stratified", "43/4096"),
])  # fmt: skip
def test_check_9_variances(n: int, scheme: str, variance: str) -> None:
    outputs = denote(particle_filter(ssm, n, SCHEMES[scheme]))
    assert variance_of_evidence(outputs) == exactly(variance)


def test_check_9_the_bias_of_the_normalised_estimate_is_exact() -> None:
    outputs = denote(particle_filter(ssm, 3, multinomial))
    assert float(outputs.expect(lambda p: p.mean()[1])) == exactly("1158191/1543500")


def test_check_10_adaptive_resampling_that_never_triggers() -> None:
    outputs = denote(particle_filter(ssm, 2, multinomial, ess=0.5))
    assert variance_of_evidence(outputs) == exactly("89/8192")


def test_check_10_the_product_of_mean_increments_is_rejected() -> None:
    """The evidence formula that needs resampling at each step, without it: 21/128, not 22/128."""

    @program
    def wrong() -> Population:
        x = vmap(lambda: draw(dist.Bernoulli(f(1 / 2))), size=2)()
        first = f([1 / 4, 3 / 4])[x.long()]
        p = torch.where(x == 1, f(2 / 3), f(1 / 3))
        y = vmap(lambda q: draw(dist.Bernoulli(q)))(p)
        second = f([1 / 8, 1 / 2])[y.long()]
        evidence = first.mean() * second.mean()
        weights = first * second
        return Population(torch.stack([x, y], 1), (weights / weights.sum() * evidence).log())

    report = check.valid(wrong, ssm)
    assert report.verdict == "fail"
    assert denote(wrong).bind(lambda p: p.meaning()).mass() == exactly("21/128")


def test_static_parameters_move_with_their_particle() -> None:
    """A parameter drawn before the scan, and used inside it, is resampled with the carry."""

    @program
    def learning() -> tuple[Tensor, Tensor]:
        p = torch.where(sample("theta", dist.Bernoulli(f(0.4))) == 1, f(0.8), f(0.3))

        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Bernoulli(torch.where(x == 1, p, 1 - p)))
            observe("y", dist.Bernoulli(0.25 + 0.5 * x), y)
            return x, None

        x, _ = scan(step)(f(0.0), f([1.0, 0.0]))
        factor("after", torch.where(x == 1, f(0.5), f(1.0)).log())
        return p, x

    check.valid(particle_filter(learning, 2), learning).require()
    check.valid(particle_filter(learning, 2, multinomial), learning).require()


def test_a_program_without_scan_is_refused() -> None:
    with pytest.raises(ProgramError, match="no scan"):
        particle_filter(coin, 2)()


def kalman(ys: Tensor) -> float:
    """log evidence of x_0 ~ N(0, 1), x_t ~ N(0.9 x_{t-1}, 1), y_t ~ N(x_t, 1/4)."""
    mean, variance, total = 0.0, 1.0, 0.0
    for y in ys.tolist():
        mean, variance = 0.9 * mean, 0.81 * variance + 1.0
        s = variance + 0.25
        total += -0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
        mean, variance = mean + variance / s * (y - mean), variance * 0.25 / s
    return total


@program
def linear_gaussian(ys: Tensor) -> Tensor:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        observe("y", dist.Normal(x, 0.5), y)
        return x, None

    x, _ = scan(step)(sample("x0", dist.Normal(torch.zeros(()), 1.0)), ys)
    return x


def test_the_same_filter_runs_batched_and_agrees_with_kalman() -> None:
    """Level 1e-6: Z_hat / Z has mean 1; its z over 100 runs of 1000 particles stays below 4.9."""
    ys = torch.sin(torch.arange(20.0))
    truth, ratios = kalman(ys), []
    with seeded(1), torch.no_grad():
        for _ in range(100):
            population = particle_filter(linear_gaussian, 1000)(ys)
            ratios.append(math.exp(float(population.log_evidence()) - truth))
    r = torch.tensor(ratios)
    assert abs(float((r.mean() - 1) / (r.std() / math.sqrt(len(r))))) < 4.9
    assert float(r.std()) < 0.5


def test_runs_repeat_and_leave_the_global_random_state_alone() -> None:
    ys, before = torch.zeros(5), torch.get_rng_state()
    first, second = (simulate(particle_filter(linear_gaussian, 50), ys, seed=3) for _ in range(2))
    assert torch.equal(first.value.log_weights, second.value.log_weights)
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------------------- tempering


def prior_of_coin(n: int) -> Callable[[], Tensor]:
    return vmap(
        lambda: torch.stack([draw(dist.Bernoulli(f(1 / 3))), draw(dist.Bernoulli(f(1 / 2)))]),
        size=n,
    )


def log_likelihood(values: Tensor) -> Tensor:
    """Check 18's weights: 1 for both, 1/4 for one, 1/16 for none."""
    return (f([1 / 16, 1 / 4, 1.0]).log())[values.sum(-1).long()]


def single_site(values: Tensor, beta: Tensor) -> Tensor:
    """Metropolis on one coordinate, chosen uniformly, redrawn from its prior."""

    def one(value: Tensor) -> Tensor:
        site = draw(dist.Bernoulli(f(0.5)))
        fresh = draw(dist.Bernoulli(torch.where(site == 1, f(1 / 2), f(1 / 3))))
        proposal = torch.where(torch.arange(2) == site, fresh, value)
        ratio = torch.exp(beta * (log_likelihood(proposal) - log_likelihood(value)))
        accept = draw(dist.Bernoulli(ratio.clamp(max=1.0)))
        return torch.where(accept == 1, proposal, value)

    return vmap(one)(values)


@program
def tempered_coin() -> Tensor:
    value = torch.stack(
        [sample("x", dist.Bernoulli(f(1 / 3))), sample("y", dist.Bernoulli(f(1 / 2)))]
    )
    factor("likelihood", log_likelihood(value))
    return value


def last_stage_unmoved(values: Tensor, beta: Tensor) -> Tensor:
    return values if beta == 1 else single_site(values, beta)


def test_check_18_tempered_smc() -> None:
    algorithm = tempered(
        prior_of_coin(2), log_likelihood, last_stage_unmoved, [0.5, 1.0], 2, multinomial
    )
    check.valid(algorithm, tempered_coin).require()
    assert denote(tempered_coin).mass() == exactly("5/16")
    assert variance_of_evidence(denote(algorithm)) == exactly("3085/73728")


def test_check_18_annealed_importance_sampling() -> None:
    algorithm = tempered(
        prior_of_coin(1), log_likelihood, last_stage_unmoved, [0.5, 1.0], 1, ess=0.0
    )
    check.valid(algorithm, tempered_coin).require()
    assert variance_of_evidence(denote(algorithm)) == exactly("251/3072")


def test_check_18_a_kernel_of_another_temperature_is_rejected() -> None:
    def wrong(values: Tensor, beta: Tensor) -> Tensor:
        return single_site(values, 0.5 * beta)

    algorithm = tempered(prior_of_coin(1), log_likelihood, wrong, [0.5, 1.0], 1)
    assert check.valid(algorithm, tempered_coin).verdict == "fail"


def test_kernel_checks() -> None:
    def at_one(value: Tensor) -> Tensor:
        return single_site(value[None], f(1.0))[0]

    check.invariant(at_one, tempered_coin).require()
    check.reversible(at_one, tempered_coin).require()
    assert (
        check.invariant(lambda v: single_site(v[None], f(0.5))[0], tempered_coin).verdict == "fail"
    )


def test_a_sweep_is_invariant_but_not_reversible() -> None:
    """Check 15: Gibbs on x, then on y."""

    def conditional(value: Tensor, site: int) -> Tensor:
        weights = []
        for v in (0.0, 1.0):
            other = torch.where(torch.arange(2) == site, f(v), value)
            prior = torch.where(other == 1, f([1 / 3, 1 / 2]), f([2 / 3, 1 / 2])).prod()
            weights.append(prior * f([0.1, 0.5, 0.9])[other.sum().long()])
        fresh = draw(dist.Categorical(torch.stack(weights)))
        return torch.where(torch.arange(2) == site, fresh.to(value.dtype), value)

    def sweep(value: Tensor) -> Tensor:
        return conditional(conditional(value, 0), 1)

    stacked = program(lambda: torch.stack(coin.fn()))
    check.invariant(sweep, stacked).require()
    check.reversible(lambda v: conditional(v, 0), stacked).require()
    assert check.reversible(sweep, stacked).verdict == "fail"
    mass = denote(stacked).pmf()
    there = mass[(0.0, 0.0)] * denote(sweep, f([0.0, 0.0])).pmf()[(1.0, 0.0)]
    back = mass[(1.0, 0.0)] * denote(sweep, f([1.0, 0.0])).pmf()[(0.0, 0.0)]
    assert there - back == exactly("2/441")
    row = denote(sweep, f([1.0, 1.0])).pmf()
    expected = ["81/266", "45/266", "25/57", "5/57"]
    assert [row[v] for v in itertools.product((1.0, 0.0), repeat=2)] == list(map(exactly, expected))
