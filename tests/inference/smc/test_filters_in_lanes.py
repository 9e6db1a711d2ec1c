"""Filters in lane code make the populations of the program, given its choices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.filters import MODELS, Written, f, kalman, random_model
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pushforward.errors import ProgramError
from pushforward.inference import (
    multinomial,
    particle_filter,
    push_evidence,
    stratified,
    systematic,
)
from pushforward.inference.kernels.traces import traced
from pushforward.inference.smc.filtering import Filtering
from pushforward.inference.smc.lanes import engine
from pushforward.inference.smc.lanes.engine import Engine
from pushforward.inference.smc.lanes.particle import Particle
from pushforward.inference.smc.lanes.quick import population, quick
from pushforward.inference.smc.population import Population
from pushforward.ppl import (
    Program,
    compiled,
    draw,
    factor,
    iterate,
    observe,
    program,
    sample,
    scan,
    vmap,
)

SCHEMES = {"systematic": systematic, "stratified": stratified, "multinomial": multinomial}


@cache
def particle(name: str) -> Particle:
    model, args = MODELS[name]
    with torch.no_grad():
        return Particle(Filtering(model, 1), args)


def replayed(made: Particle, model: Program, args: Any, filtering: Filtering) -> list[Population]:
    """A population of the program, and that of lane code by the same choices."""
    made.filtering = filtering
    n, scheme, ess = filtering.particles, filtering.scheme, filtering.ess
    with torch.no_grad():
        with Written(n) as written:
            expected = particle_filter(model, n, scheme, ess)(*args)
        found = population(Engine(made), torch.zeros(2).long(), *args, given=written.given)
    return [expected, found]


def same(expected: Population, found: Population) -> None:
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found.log_weights, expected.log_weights.double(), **close)
    pairs = zip(tree_leaves(found.values), tree_leaves(expected.values), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, **close)


def test_what_nothing_looks_at_again_is_left_behind() -> None:
    assert particle("volatility").moved == [True, True, True, False]
    assert particle("linear").moved == [False]


@pytest.mark.parametrize("ess", [1.0, 0.6])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_populations_by_the_same_choices(name: str, scheme: str, ess: float) -> None:
    model, args = MODELS[name]
    for n in (1, 3, 20, 600):
        torch.manual_seed(n)
        same(*replayed(particle(name), model, args, Filtering(model, n, SCHEMES[scheme], ess)))


def agree_on_random_models(seeds: Iterable[int]) -> None:
    known = 0
    for seed in seeds:
        model, args = random_model(seed)
        scheme = list(SCHEMES.values())[seed % 3]
        filtering = Filtering(model, 5 + seed % 40, scheme, (1.0, 0.5)[seed % 2])
        with torch.no_grad(), torch.random.fork_rng():
            made = Particle(filtering, args)
        torch.manual_seed(seed)
        same(*replayed(made, model, args, filtering))
        known += 1
    assert known == len(list(seeds))


def test_random_models() -> None:
    agree_on_random_models(range(4))


@pytest.mark.slow
def test_many_random_models() -> None:
    agree_on_random_models(range(100, 250))


# ------------------------------------------------------------------------------------ seeded faults

FAULTS = {
    "the largest weight is forgotten": ("n, most + std::log(total)", "n, std::log(total)"),
    "the number of particles is forgotten": (" - std::log((double) n));", ");"),
    "a point at a cell's end is lost": ("whole + (u <= scaled - whole)", "whole"),
    "particles overwrite others": ("t % 2 ? other.data() : run->state", "run->state"),
    "weights do not add up": ("log_weights[first + i] +=", "log_weights[first + i] ="),
    "the first step resamples": ("t > 0 && resample(t)", "resample(t)"),
    "the wrong ancestors": ("from[chosen[first + i]]", "from[chosen[i]]"),
    "lines are not kept": ("resampled ? chosen[i] : i", "i"),
    "uneven is even": ("squares) return false", "squares * 4) return false"),
    "points are not sorted": ("points[j] / sum", "points[j] / points[n - 1]"),
    "the dead come to life": ("right ? most : NAN", "right ? 0.0 : NAN"),
    "what matters is left behind": ("!run->moved[k]", "run->moved[k]"),
    "time stands still": ("*run->time = t;\n        bool", "*run->time = 0;\n        bool"),
    "noise of another particle": ("from = run->given + k * n + first", "from = run->given + k * n"),
}


def rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, (right, wrong) = engine.source(), FAULTS[fault]
    assert text.count(right) == 1
    monkeypatch.setattr(engine, "source", lambda: text.replace(right, wrong))
    different = 0
    for name, (model, args) in MODELS.items():
        for scheme in SCHEMES.values():
            for n, ess in ((1, 1.0), (3, 0.5), (600, 1.0)):
                torch.manual_seed(n)
                try:
                    same(*replayed(particle(name), model, args, Filtering(model, n, scheme, ess)))
                except (AssertionError, ProgramError):
                    different += 1
    assert different


@pytest.mark.parametrize("fault", list(FAULTS)[:2])
def test_a_fault_is_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected(fault, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(FAULTS)[2:])
def test_each_fault_is_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rejected(fault, monkeypatch)


# ------------------------------------------------------------------------------ as a user runs it


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_evidence_is_unbiased(scheme: str) -> None:
    """Level 1e-6 each: means of 1 000 estimates of four particles, five standard errors."""
    model, (ys, phi) = MODELS["linear"]
    made, filtering = particle("linear"), Filtering(model, 4, SCHEMES[scheme], 0.6)
    made.filtering = filtering
    run, rest = Engine(made), made.rest((ys, phi))
    torch.manual_seed(7)
    weights = torch.stack([run(rest, torch.randint(2**62, (2,))).log_weights for _ in range(1000)])
    ratio = (weights.logsumexp(1) - math.log(4) - kalman(ys, float(phi))).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(1000)


def test_torchs_generator_chooses_the_noise() -> None:
    model, args = MODELS["linear"]
    filtering = compiled(particle_filter(model, 50))
    found = []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(filtering(*args).log_weights)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_arguments_may_change() -> None:
    model, (ys, phi) = MODELS["linear"]
    filtering = compiled(particle_filter(model, 2000))
    torch.manual_seed(1)
    with torch.no_grad():
        for data, by in ((ys, phi), (-ys, 0.5 * phi), (ys + 1, -phi)):
            assert abs(float(filtering(data, by).log_evidence()) - kalman(data, float(by))) < 0.3


def test_within_chains_whose_handlers_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """PMMH runs lane code; where draws are recorded, or an exact evaluator looks on, none is."""
    model, (ys, phi) = MODELS["linear"]
    ran: list[int] = []
    run = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda *about: (ran.append(1), run(*about))[1])
    filtering = compiled(particle_filter(model, 8))

    @program
    def target() -> None:
        by = sample("phi", dist.Uniform(f(0.0), f(1.0)))
        push_evidence(filtering(ys, by))

    with torch.no_grad():
        found = traced(target, {}, {}, draws=None)
        assert found is not None and found.choices.keys() == {"phi"}
        assert len(ran) == 1
        found = traced(filtering, {}, {}, ys, phi)
        assert found is not None and found.draws is not None and len(found.draws) > 8
        assert len(ran) == 1


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(wrong: float) -> None:
    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(x, f(1.0)))
            factor("f", torch.where((x > 1) & (y > 1), f(wrong), x))
            return x, None

        return scan(step)(f(0.0), ys)[0]

    ys = f(0.0, 2.0, 0.0, 0.0)
    with torch.no_grad(), pytest.raises(ProgramError, match="NaN or infinity"):
        compiled(particle_filter(model, 50))(ys)


def test_what_no_lane_code_knows_is_said_and_runs_as_before() -> None:
    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Gamma(f(2.0), 1 / (x + 0.1)))
            observe("y", dist.Poisson(x), y)
            return x, None

        return scan(step)(f(1.0), ys)[0]

    said: list[str] = []
    with torch.no_grad():
        code = quick(Filtering(model, 10), (torch.ones(3, dtype=torch.float64),), said.append)
    assert code is None
    assert any("gamma" in line for line in said)


# ----------------------------------------------------------------------------- what was wrong once


def moved(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
    x = sample("x", dist.Normal(0.9 * c, f(0.7)))
    observe("y", dist.Normal(x, f(0.5)), y)
    return x, None


LATER: dict[str, Any] = {
    "normal": lambda c: sample("z", dist.Normal(c, f(1.0))),
    "anonymous": lambda c: draw(dist.Laplace(c, f(1.0))),
    "vector": lambda c: sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))[0],
    "plate": lambda c: vmap(lambda m: sample("z", dist.Normal(m, f(1.0))))(c.expand(2))[0],
    "loop": lambda c: iterate(lambda x: sample("z", dist.Normal(x, f(1.0))), 2)(c),
    "another scan": lambda c: scan(moved)(c, f(0.1, 0.2))[0],
    "gamma": lambda c: sample("z", dist.Gamma(f(2.0), f(1.0))),
}


@pytest.mark.parametrize("name", LATER)
def test_draws_after_the_scan_are_of_each_particle(name: str) -> None:
    """They shared one noise: all particles drew the same."""

    @program
    def model(ys: Tensor) -> Tensor:
        z: Tensor = LATER[name](scan(moved)(f(0.0), ys)[0])
        return z

    torch.manual_seed(0)
    with torch.no_grad():
        found = compiled(particle_filter(model, 40, multinomial))(f(0.3, -0.5)).values
    assert found.unique().numel() == 40


def test_scores_after_the_scan_of_what_is_drawn_there() -> None:
    """Level 1e-6: the mean evidence of 300 runs against that of the program, five errors."""

    @program
    def forecast(ys: Tensor) -> Tensor:
        z = sample("z", dist.Normal(scan(moved)(f(0.0), ys)[0], f(1.0)))
        observe("later", dist.Normal(z, f(0.5)), f(1.5))
        return z

    both = []
    with torch.no_grad():
        for run in (particle_filter(forecast, 20), compiled(particle_filter(forecast, 20))):
            torch.manual_seed(1)
            both.append(torch.stack([run(f(0.3, -0.5)).log_evidence().exp() for _ in range(300)]))
    gap = both[0].mean() - both[1].mean()
    assert abs(float(gap)) < 5 * math.sqrt(float(both[0].var() + both[1].var()) / 300)


def in_lanes(model: Program, *args: Any, n: int = 500) -> tuple[Population, list[str]]:
    said: list[str] = []
    with torch.no_grad():
        code = quick(Filtering(model, n), args, said.append)
        assert code is not None, said
        return code(torch.tensor([1, 2]), *args), said


def test_a_step_that_draws_nothing() -> None:
    @program
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            observe("y", dist.Normal(x, f(0.5)), y)
            return 0.9 * x, x

        return scan(step)(sample("x0", dist.Normal(f(0.0), f(1.0))), ys)[1]

    found, _ = in_lanes(model, f(0.3, -0.5), n=2000)
    torch.testing.assert_close(found.values[:, 1], 0.9 * found.values[:, 0])


def test_plates_in_a_step_are_lane_code() -> None:
    @program
    def model(ys: Tensor) -> Tensor:
        def step(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(0.9 * c, f(0.7)))
            with pyro.plate("several", 3):
                observe("y", dist.Normal(x, f(0.5)), y)
            return x, None

        return scan(step)(f(0.0), ys)[0]

    ran: list[str] = []
    with torch.no_grad():
        filtering = compiled(particle_filter(model, 50), notify=ran.append)
        filtering(torch.zeros(4, 3).double())
    assert not ran


def test_no_steps_at_all() -> None:
    model, (ys, phi) = MODELS["linear"]
    with torch.no_grad():
        assert float(compiled(particle_filter(model, 5))(ys[:0], phi).log_evidence()) == 0


def test_whole_numbers_that_double_precision_does_not_hold() -> None:
    """Stamps of time in nanoseconds are not for lane code; a carry that grows so large is told."""
    stamps = 1_700_000_000_000_000_000 + torch.tensor([0, 90, 200])

    @program
    def ticks(stamps: Tensor) -> Tensor:
        def step(last: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            draw(dist.Normal(f(0.0), f(1.0)))
            return t, (t - last).double()

        return scan(step)(stamps[0] - 50, stamps)[1]

    with torch.no_grad():
        assert quick(Filtering(ticks, 5), (stamps,), None) is None
        assert compiled(particle_filter(ticks, 5))(stamps).values[0].tolist() == [50, 90, 110]

    @program
    def growing(ys: Tensor) -> Tensor:
        def step(k: Tensor, y: Tensor) -> tuple[Tensor, None]:
            observe("y", dist.Normal(draw(dist.Normal(f(0.0), f(1.0))), f(1.0)), y)
            return 3 * k + 1, None

        return scan(step)(torch.tensor(1), ys)[0]

    found, _ = in_lanes(growing, torch.zeros(20).double(), n=4)
    assert found.values.tolist() == [(3**21 - 1) // 2] * 4
    with pytest.raises(ProgramError, match="NaN"):
        in_lanes(growing, torch.zeros(60).double(), n=4)


def test_gradients_of_what_is_closed_over() -> None:
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    @program
    def model(ys: Tensor) -> Tensor:
        def step(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(c, f(1.0)))
            observe("y", dist.Normal(x, scale), y)
            return x, None

        return scan(step)(f(0.0), ys)[0]

    assert quick(Filtering(model, 4), (f(0.1, 0.2),), None, followed=True) is None
    with torch.no_grad():
        assert quick(Filtering(model, 4), (f(0.1, 0.2),), None) is not None
