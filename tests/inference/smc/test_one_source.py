"""One source: the same particle filter is evaluated exactly, and run with many particles."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import ProgramError
from pushforward.inference.smc.importance import importance
from pushforward.inference.smc.particle_filter import particle_filter
from pushforward.inference.smc.resampling import multinomial, stratified, systematic
from pushforward.ppl import (
    Program,
    cond,
    draw,
    factor,
    observe,
    plate,
    program,
    sample,
    scan,
    seeded,
    vmap,
)
from pushforward.ppl.distributions.ancestors import MultinomialAncestors, Strata, Systematic
from pushforward.semantics import check, denote

SCHEMES = {"multinomial": multinomial, "systematic": systematic, "stratified": stratified}
DTYPES = [torch.float32, torch.float64]


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# ---------------------------------------------------------------------------- a hidden Markov model

# The row of the state "not started" comes last.
TRANSITIONS = {
    2: [[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]],
    3: [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.5, 0.3, 0.2]],
}
EMISSIONS = {
    2: [[0.9, 0.1], [0.35, 0.65]],
    3: [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.25, 0.7]],
}
SEEN = torch.tensor([0, 1, 1])


def hidden_markov(states: int, dtype: torch.dtype = torch.float64) -> Program:
    """The last state of a hidden Markov model; its data are the argument."""
    transitions = torch.tensor(TRANSITIONS[states], dtype=dtype)
    emissions = torch.tensor(EMISSIONS[states], dtype=dtype)

    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Categorical(transitions[x]))
            observe("y", dist.Categorical(emissions[x]), y)
            return x, None

        return scan(step)(torch.tensor(states), ys)[0]

    return model


def forward_algorithm(states: int, ys: Tensor) -> list[float]:
    """p(x_T = k, ys) for each k, in plain Python."""
    transitions, emissions = TRANSITIONS[states], EMISSIONS[states]
    mass = [p * emissions[k][int(ys[0])] for k, p in enumerate(transitions[-1])]
    for y in ys[1:].tolist():
        mass = [
            sum(mass[j] * transitions[j][k] for j in range(states)) * emissions[k][y]
            for k in range(states)
        ]
    return mass


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize(("states", "particles"), [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
def test_exactly(states: int, particles: int, scheme: Any) -> None:
    model = hidden_markov(states)
    algorithm = particle_filter(model, particles, scheme)
    check.valid(algorithm, model, SEEN).require()
    found = denote(algorithm, SEEN).bind(lambda population: population.meaning()).pmf()
    expected = forward_algorithm(states, SEEN)
    assert [found[k] for k in range(states)] == pytest.approx(expected, abs=1e-15)


def evidence_is_unbiased(
    algorithm: Program, truth: float, *args: Any, runs: int = 60, spread: float = 0.5
) -> None:
    """Level 1e-6: the mean of Z_hat / Z over the runs lies within 4.9 standard errors of 1."""
    with seeded(1), torch.no_grad():
        logs = [float(algorithm(*args).log_evidence()) for _ in range(runs)]
    ratios = torch.tensor([math.exp(log - truth) for log in logs], dtype=torch.float64)
    error = float(ratios.std()) / math.sqrt(runs)
    assert abs(float(ratios.mean()) - 1) < 4.9 * error + 1e-5
    assert float(ratios.std()) < spread


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_program_with_many_particles(scheme: Any, dtype: torch.dtype) -> None:
    model, ys = hidden_markov(3, dtype), torch.tensor([0, 1, 1, 2, 2, 0, 1, 2, 0, 0])
    algorithm = particle_filter(model, 2000, scheme)
    truth = forward_algorithm(3, ys)
    evidence_is_unbiased(algorithm, math.log(sum(truth)), ys, spread=0.2)
    with seeded(2), torch.no_grad():
        population = algorithm(ys)
    assert population.log_weights.dtype == dtype
    posterior = torch.bincount(population.values, population.probabilities(), minlength=3)
    # 2000 particles: a standard error of about 0.011 each, so 5.5 of them
    assert posterior.tolist() == pytest.approx([p / sum(truth) for p in truth], abs=0.06)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_object_exactly_and_batched(dtype: torch.dtype) -> None:
    """Exact and sampled laws of one algorithm object agree, not only their means."""
    algorithm = particle_filter(hidden_markov(2, dtype), 2)
    law = denote(algorithm, SEEN).map(lambda p: p.log_evidence().exp())
    mean = float(law.expect())
    variance = float(law.expect(lambda z: (z - mean) ** 2))
    with seeded(3), torch.no_grad():
        z = torch.stack([algorithm(SEEN).log_evidence().exp() for _ in range(800)]).double()
    assert mean == pytest.approx(sum(forward_algorithm(2, SEEN)), abs=1e-6)
    assert abs(float(z.mean()) - mean) < 4.9 * math.sqrt(variance / len(z))
    fourth = float(law.expect(lambda z: (z - mean) ** 4))
    error = math.sqrt((fourth - variance**2) / len(z))
    assert abs(float(z.var()) - variance) < 4.9 * error


# --------------------------------------------------------------------------------------- ancestors

LAWS = {"multinomial": MultinomialAncestors, "systematic": Systematic, "stratified": Strata}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [[1.0, 2.0, 5.0], [0.0, 0.3, 0.0, 0.7, 0.0], [1.0]])
def test_samples_of_ancestors_follow_their_law(law: Any, dtype: torch.dtype, weights: Any) -> None:
    """Every outcome's frequency lies within 5 standard errors of its probability."""
    distribution = law(torch.tensor(weights, dtype=dtype).log() + 3.0)
    runs = 20_000
    with seeded(4):
        rows = distribution.sample((runs,))
    assert rows.shape == (runs, len(weights))
    outcomes, counts = rows.unique(dim=0, return_counts=True)
    p = distribution.log_prob(outcomes).reshape(len(outcomes), -1).sum(1).exp().double()
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-5)
    gaps = (counts / runs - p).abs()
    assert bool((gaps <= 5 * (p * (1 - p) / runs).clamp(min=0).sqrt() + 1e-6).all())


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_dead_particle_is_an_ancestor(scheme: Any, dtype: torch.dtype) -> None:
    """Also where rounding in float32 is coarser than the cells of the weights."""
    n = 50_000
    log_weights = torch.where(torch.arange(n) % 7 == 3, 0.0, -math.inf).to(dtype)
    with seeded(5):
        for _ in range(5):
            ancestors = scheme(log_weights)
            assert ancestors.shape == (n,) and bool((ancestors % 7 == 3).all())
            assert bool((ancestors.diff() >= 0).all())


@pytest.mark.parametrize("scheme", [systematic, stratified])
def test_points_stay_in_their_strata(scheme: Any) -> None:
    """Offspring of systematic (stratified) resampling differ by less than 1 (2) from n w_i."""
    n = 10_000
    with seeded(6):
        log_weights = 3 * draw(dist.Normal(f(0.0), 1.0), (n,))
        counts = torch.bincount(scheme(log_weights), minlength=n)
    gap = (counts - n * torch.softmax(log_weights, 0)).abs().max()
    assert float(gap) < (1 if scheme is systematic else 2) + 1e-9


# ------------------------------------------------------------------------- shapes of state and step


@program
def dicts_and_tuples(ys: Tensor) -> Any:
    """A nested carry, and nested outputs with None inside."""
    theta = sample("theta", dist.Bernoulli(f(0.4)))
    observe("before", dist.Bernoulli(0.3 + 0.4 * theta), f(1.0))

    def step(carry: Any, y: Any) -> tuple[Any, Any]:
        x, (count, _) = carry["x"], carry["rest"]
        x = sample("x", dist.Bernoulli(0.2 + 0.3 * x + 0.4 * theta))
        observe("y", dist.Bernoulli(0.25 + 0.5 * x), y["y"])
        return {"x": x, "rest": (count + x, {"last": y["y"]})}, {
            "x": x,
            "none": None,
            "t": (x * 2,),
        }

    start = {"x": f(0.0), "rest": (f(0.0), {"last": f(0.0)})}
    carry, outputs = scan(step)(start, {"y": ys})
    observe("after", dist.Bernoulli(0.2 + 0.6 * carry["x"]), f(1.0))
    return carry["rest"][0], outputs["x"], outputs["t"][0]


@program
def with_a_plate(ys: Tensor) -> Tensor:
    """Each step has a plate of two choices."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        with plate("pair", 2):
            z = sample("z", dist.Bernoulli(0.2 + 0.3 * x))
            observe("y", dist.Bernoulli(0.25 + 0.5 * z), y)
        return z.sum(-1) / 2, None

    return scan(step)(f(0.5), torch.stack([ys, 1 - ys], 1))[0]


@program
def with_lanes(ys: Tensor) -> Tensor:
    """Each step has two lanes of its own."""

    def lane(x: Tensor) -> Tensor:
        z = sample("z", dist.Bernoulli(0.2 + 0.6 * x))
        factor("f", torch.log(0.5 + 0.25 * z))
        return z

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = vmap(lane)(x)
        observe("y", dist.Bernoulli(0.1 + 0.4 * x.sum(-1)), y)
        return x, x[0]

    x, first = scan(step)(f([0.0, 1.0]), ys)
    return torch.stack([x.sum(-1), first.sum(-1)])


@program
def with_branches(ys: Tensor) -> Tensor:
    """Each step takes one of two branches, by the state; their observations differ."""

    def high(x: Tensor, y: Tensor) -> Tensor:
        z = sample("high", dist.Bernoulli(f(0.7)))
        observe("y_high", dist.Bernoulli(0.3 + 0.5 * z), y)
        return z

    def low(x: Tensor, y: Tensor) -> Tensor:
        z = sample("low", dist.Bernoulli(f(0.2)))
        observe("y_low", dist.Bernoulli(0.6 - 0.4 * z), y)
        return z

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        return cond(x > 0.5, high, low)(x, y), None

    return scan(step)(sample("x0", dist.Bernoulli(f(0.5))), ys)[0]


@program
def with_a_loop(ys: Tensor) -> Tensor:
    """Each step runs a scan of its own."""

    def inner(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Bernoulli(p + 0.5 * x))
        return x, x

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x, xs = scan(inner)(x, f([0.2, 0.4]))
        observe("y", dist.Bernoulli(0.2 + 0.3 * xs.sum(-1)), y)
        return x, None

    return scan(step)(f(0.0), ys)[0]


SHAPES = [dicts_and_tuples, with_a_plate, with_lanes, with_branches, with_a_loop]


@pytest.mark.parametrize("model", SHAPES, ids=lambda m: m.name)
@pytest.mark.parametrize("particles", [1, 2])
def test_every_shape_of_step_is_exact(model: Program, particles: int) -> None:
    ys = f([1.0, 0.0])
    for algorithm in (particle_filter, importance):
        check.valid(algorithm(model, particles), model, ys).require()


@pytest.mark.parametrize("model", SHAPES, ids=lambda m: m.name)
def test_every_shape_of_step_runs_batched(model: Program) -> None:
    """Levels: evidence within 4.9, the mean of the result within 6 standard errors."""
    ys = f([1.0, 0.0, 1.0])
    truth = denote(model, ys)
    for algorithm in (particle_filter(model, 500), importance(model, 500)):
        evidence_is_unbiased(algorithm, truth.log_mass(), ys, runs=30)
        with seeded(7), torch.no_grad():
            population = algorithm(ys)
        first = population.mean() if isinstance(population.mean(), Tensor) else population.mean()[0]
        mean = truth.normalize().expect(lambda v: v if isinstance(v, Tensor) else v[0])
        assert (first - mean).abs().max() < 0.3


# -------------------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("particles", [1, 5])
def test_a_scan_of_no_steps(dtype: torch.dtype, particles: int) -> None:
    @program
    def model(ys: Tensor) -> Any:
        x0 = sample("x0", dist.Bernoulli(torch.tensor(0.5, dtype=dtype)))
        observe("before", dist.Bernoulli(0.25 + 0.5 * x0), torch.ones((), dtype=dtype))

        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return sample("x", dist.Bernoulli(0.1 + 0.8 * x)), y

        x, outputs = scan(step)(x0, ys)
        assert outputs is None
        observe("after", dist.Bernoulli(0.9 - 0.5 * x), torch.ones((), dtype=dtype))
        return x

    nothing = torch.zeros(0, dtype=dtype)
    algorithm = particle_filter(model, particles)
    if particles == 1:
        check.valid(algorithm, model, nothing, tolerance=1e-6).require()
    population = algorithm(nothing)
    assert population.values.shape == population.log_weights.shape == (particles,)
    assert population.log_weights.dtype == dtype


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("ess", [1.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("particles", [1, 100])
def test_all_particles_dead(scheme: Any, ess: float, dtype: torch.dtype, particles: int) -> None:
    """The evidence is zero, without a NaN, wherever in the scan they die."""

    def model(at: Tensor) -> tuple[Tensor, Tensor]:
        def step(x: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Normal(0.5 * x, torch.ones((), dtype=dtype)))
            factor("wall", torch.where(dead, -math.inf, -0.5 * x**2))
            return x, x

        x, xs = scan(step)(torch.zeros((), dtype=dtype), at)
        return x, xs

    for t in range(4):
        population = particle_filter(model, particles, scheme, ess)(torch.arange(4) == t)
        assert float(population.log_evidence()) == -math.inf
        assert bool((population.log_weights == -math.inf).all())
        assert bool(torch.isfinite(population.values[0]).all())
        assert population.values[1].shape == (particles, 4)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_many_filters_at_once(scheme: Any) -> None:
    """Level 1e-6: lanes of filters are independent filters, each of which resamples on its own."""
    model, ys = hidden_markov(3), torch.tensor([0, 1, 1, 2, 2, 0])
    truth = sum(forward_algorithm(3, ys))
    with seeded(12), torch.no_grad():
        islands = vmap(particle_filter(model, 50, scheme), (None,), 400)(ys)
    assert islands.values.shape == islands.log_weights.shape == (400, 50)
    ratios = islands.log_weights.logsumexp(-1).exp() / truth
    assert abs(float(ratios.mean()) - 1) < 4.9 * float(ratios.std()) / 20
    assert len(ratios.unique()) > 350
    check.valid(particle_filter(model, 1, scheme), model, SEEN).require()


def test_many_filters_of_which_some_die() -> None:
    def model(wall: Tensor) -> Tensor:
        def step(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Normal(x, 1.0))
            factor("wall", torch.where(wall & (t == 1), -math.inf, -(x**2)))
            return x, x

        return scan(step)(torch.tensor(0.0), torch.arange(4))[1]

    walls = torch.tensor([False, True, False])
    islands = vmap(particle_filter(model, 20))(walls)
    log_evidence = islands.log_weights.logsumexp(-1)
    assert torch.equal(log_evidence == -math.inf, walls)
    assert bool(torch.isfinite(log_evidence[~walls]).all())
    assert islands.values.shape == (3, 20, 4) and bool(torch.isfinite(islands.values).all())


def test_dead_particles_exactly() -> None:
    """A wall that kills one of two states: valid, also where all particles may die."""

    @program
    def model() -> Tensor:
        def step(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Bernoulli(0.3 + 0.4 * x))
            factor("wall", torch.where((t == 1) & (x == 0), -math.inf, f(0.0)))
            return x, x

        return scan(step)(f(0.0), torch.arange(3))[1]

    for scheme in SCHEMES.values():
        for ess in (1.0, 0.6):
            check.valid(particle_filter(model, 2, scheme, ess), model).require()


def test_importance_with_dead_particles() -> None:
    @program
    def model() -> Tensor:
        x = sample("x", dist.Bernoulli(f(0.5)))
        factor("wall", torch.where(x == 0, -math.inf, f(0.0)))
        return x

    check.valid(importance(model, 1), model).require()
    check.valid(importance(model, 3), model).require()
    with seeded(8):
        logs = [float(importance(model, 1)().log_evidence()) for _ in range(40)]
    assert set(logs) == {0.0, -math.inf}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_of_the_model_wins(dtype: torch.dtype) -> None:
    def model(ys: Tensor) -> tuple[Tensor, Tensor]:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Normal(x, torch.ones((), dtype=dtype)))
            observe("y", dist.Normal(x, 1.0), y)
            return x, x

        return scan(step)(torch.zeros((), dtype=dtype), ys)

    for algorithm in (particle_filter(model, 8), particle_filter(model, 8, ess=0.5)):
        population = algorithm(torch.zeros(4, dtype=dtype))
        assert {x.dtype for x in (*population.values, population.log_weights)} == {dtype}
    assert importance(model, 8)(torch.zeros(4, dtype=dtype)).log_weights.dtype == dtype


def test_outputs_follow_the_ancestors() -> None:
    """Each final particle's outputs end in its own carry, and each is one line of descent."""

    def model(ys: Tensor) -> tuple[Tensor, Tensor]:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            new = sample("x", dist.Normal(x, 1.0))
            observe("y", dist.Normal(new, 0.1), y)
            return new, torch.stack([x, new])

        return scan(step)(torch.tensor(0.0), ys)

    with seeded(9):
        x, line = particle_filter(model, 200)(torch.zeros(6)).values
    assert torch.equal(line[:, -1, 1], x)
    assert torch.equal(line[:, 1:, 0], line[:, :-1, 1])
    assert len(line[:, 0].unique(dim=0)) < 200


def test_ancestors_are_kept_for_outputs_only() -> None:
    """Without outputs the exact evaluation does not tell equal states apart by their ancestors."""
    silent = hidden_markov(2)

    @program
    def recording(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = sample("x", dist.Categorical(f(TRANSITIONS[2])[x]))
            observe("y", dist.Categorical(f(EMISSIONS[2])[x]), y)
            return x, x

        return scan(step)(torch.tensor(2), ys)[0]

    laws = [denote(particle_filter(model, 2, multinomial), SEEN) for model in (silent, recording)]
    assert laws[0].deviation(laws[1])[0] < 1e-15  # of the mass


def test_the_global_random_state_and_the_data_are_left_alone() -> None:
    ys, state = torch.tensor([0, 1, 1]), torch.get_rng_state()
    with seeded(10):
        particle_filter(hidden_markov(2), 100)(ys)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(ys, SEEN)


def test_the_evidence_has_a_gradient() -> None:
    """Parameters that require gradients pass through the filter, without a warning."""
    scale = torch.tensor(1.0, requires_grad=True)

    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(0.9 * x, scale))
            observe("y", dist.Normal(x, 0.5), y)
            return x, None

        return scan(step)(torch.tensor(0.0), ys)[0]

    for ess in (1.0, 0.5):
        with seeded(11):
            population = particle_filter(model, 200, ess=ess)(torch.sin(torch.arange(5.0)))
        (gradient,) = torch.autograd.grad(population.log_evidence(), scale)
        assert bool(torch.isfinite(gradient)) and float(gradient) != 0.0


@pytest.mark.parametrize("algorithm", [particle_filter, importance])
def test_no_particles_are_refused(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="at least one particle"):
        algorithm(hidden_markov(2), 0)


@pytest.mark.parametrize("algorithm", [particle_filter, importance])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_weights_that_are_not_numbers_are_refused(algorithm: Any, at: int) -> None:
    def model(ts: Tensor) -> Tensor:
        def step(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(x, 1.0))
            factor("f", torch.where(t == at, math.nan, x))
            return x, None

        return scan(step)(torch.tensor(0.0), ts)[0]

    with pytest.raises(ProgramError, match="10 of 10 particles"):
        algorithm(model, 10)(torch.arange(3))
