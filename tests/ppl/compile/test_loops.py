"""Compiled loops and lanes: the same draws and results as the program itself, or the program."""

from __future__ import annotations

import importlib
import itertools
import math
import shutil
import types
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from support.filters import kalman
from torch import Tensor

from pushforward.errors import ProgramError
from pushforward.inference import (
    importance,
    multinomial,
    particle_filter,
    push_evidence,
    stratified,
    systematic,
)
from pushforward.inference.kernels.traces import traced
from pushforward.ppl import (
    Program,
    compiled,
    cond,
    condition,
    draw,
    factor,
    iterate,
    observe,
    program,
    sample,
    scan,
    vmap,
)
from pushforward.ppl.compile import loops
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.semantics import check

YS = torch.tensor([0.3, -0.2, 0.9, 1.4, 0.1, -0.7], dtype=torch.float64)
UNIT = torch.ones((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Any]:
    """The graphs that are made; they are run uncompiled, but in tests marked ``machine_code``."""
    made: list[Any] = []
    really = loops.compile_graph

    def noted(graph: Any, *example: Any, **options: Any) -> Any:
        made.append(graph)
        if "machine_code" in request.fixturenames:
            return really(graph, *example, **options)
        return graph

    monkeypatch.setattr(loops, "compile_graph", noted)
    return made


@pytest.fixture
def machine_code() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("Inductor needs a C++ compiler")


@pytest.fixture
def by_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lane code, in which filters have a generator of their own."""
    module = importlib.import_module("pushforward.inference.smc.particle_filter")
    monkeypatch.setattr(module, "quick", lambda *about: None)


@program
def walk(ys: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """A state-space model that returns its last state and its path."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Normal(phi * x, UNIT))
        observe("y", dist.Normal(x, 0.5 * UNIT), y)
        return x, x

    return scan(step)(sample("x0", dist.Normal(0.0 * UNIT, UNIT)), ys)


def same(p: Callable[..., Any], *args: Any) -> Any:
    """Require the same result of p and of compiled p from one seed; returns it."""
    results = []
    for each in (p, compiled(p)):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(each(*args))
        results.append(torch.rand(1))
    torch.testing.assert_close(results[0], results[2], rtol=1e-12, atol=1e-12)
    assert torch.equal(results[1], results[3]), "the generator went on differently"
    return results[0]


# ------------------------------------------------------------------------------------- same results


@pytest.mark.usefixtures("by_inductor")
@pytest.mark.parametrize("scheme", [systematic, multinomial, stratified])
def test_a_particle_filter(scheme: Any, graphs: list[Any]) -> None:
    population = same(particle_filter(walk, 50, scheme), YS, torch.tensor(0.9).double())
    assert population.values[1].shape == (50, len(YS))
    assert len(graphs) == 4  # before the loop, its first step, all others, and after it


@pytest.mark.usefixtures("machine_code", "by_inductor")
def test_a_particle_filter_as_machine_code() -> None:
    phi = torch.tensor(0.9).double()
    population = same(particle_filter(walk, 1000), YS, phi)
    assert abs(float(population.log_evidence()) - kalman(YS, 0.9)) < 0.3  # sd 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("machine_code")
def test_the_kalman_evidence_with_up_to_a_hundred_thousand_particles() -> None:
    """Level 1e-5: log evidences are off by half their variance, which falls as 1 / n.

    Means of 40 runs within 4.5 standard errors, and ratios of variances between 10 / 4.5 and 45,
    which F(39, 39) leaves with probability below 1e-5.
    """
    ys, phi = torch.sin(torch.arange(100.0)).double(), torch.tensor(0.9).double()
    truth, variances = kalman(ys, 0.9), []
    torch.manual_seed(5)
    for n in (1_000, 10_000, 100_000):
        filtering = compiled(particle_filter(walk, n))
        with torch.no_grad():
            found = torch.stack([filtering(ys, phi).log_evidence() for _ in range(40)])
        variances.append(float(found.var()))
        gap = float(found.mean()) - truth + 0.5 * variances[-1]
        assert abs(gap) < 4.5 * math.sqrt(variances[-1] / 40)
    for many, few in itertools.pairwise(variances):
        assert 10 / 4.5 < many / few < 45


@pytest.mark.usefixtures("by_inductor")
def test_outputs_are_those_of_each_line() -> None:
    values, paths = same(particle_filter(walk, 20), YS, UNIT).values
    assert torch.equal(values, paths[:, -1])
    _, index = paths[:, 0].unique(return_inverse=True)
    assert len(index.unique()) < 20, "the lines of resampled particles share their beginning"


def test_importance_sampling(graphs: list[Any]) -> None:
    population = same(importance(walk, 30), YS, UNIT)
    assert population.log_weights.shape == (30,)
    assert len(graphs) == 1


def test_a_scan_and_its_first_output() -> None:
    def step(x: Tensor, u: Tensor) -> tuple[Tensor, Any]:
        x = 0.5 * x + u + draw(dist.Normal(0.0, 1.0))
        return x, {"x": x, "nothing": None, "two": 2}

    def run(us: Tensor) -> Any:
        return scan(step)(torch.tensor(0.0), us)

    last, ys = same(Program(run), torch.arange(5.0))
    assert ys["x"].shape == (5,)
    assert ys["x"][-1] == last
    assert ys["nothing"] is None
    assert ys["two"].tolist() == [2] * 5


def test_an_iteration() -> None:
    def step(x: Tensor) -> Tensor:
        return cond(x > 0, lambda x: x - draw(dist.Exponential(UNIT)), lambda x: x + 1.0)(x)

    same(Program(lambda x: vmap(iterate(step, 9))(x)), torch.zeros(4, dtype=torch.float64))

    def halved(x: Tensor) -> Tensor:
        return x / 2 + draw(dist.Exponential(UNIT))

    same(Program(lambda x: iterate(halved, 9)(x)), UNIT)


def test_a_carry_that_changes_its_kind_once(graphs: list[Any]) -> None:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        return x + y * draw(dist.Normal(UNIT, UNIT)), None

    result, _ = same(Program(lambda ys: scan(step)(torch.tensor(0), ys)), YS)  # from an integer
    assert result.dtype == torch.float64
    assert len(graphs) == 1


@pytest.mark.usefixtures("by_inductor")
def test_data_that_are_stacked() -> None:
    @program
    def model() -> Tensor:
        def step(x: Tensor, t: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(x, UNIT))
            sample("y", dist.Normal(x, UNIT))
            return x, None

        return scan(step)(0.0 * UNIT, torch.arange(len(YS)))[0]

    plain = same(particle_filter(condition(model, {"y": YS}), 20))
    other = same(particle_filter(condition(model, {"y": YS.flip(0)}), 20))
    assert not torch.equal(plain.log_weights, other.log_weights)


def test_populations_in_lanes_with_adaptive_resampling() -> None:
    """Level 1e-6: the mean of 400 unbiased estimates, five standard errors."""
    filtering = particle_filter(walk, 16, ess=0.5)

    def log_evidence(phi: Tensor) -> Tensor:
        return filtering(YS, phi).log_evidence()

    torch.manual_seed(3)
    with torch.no_grad():
        found = compiled(vmap(log_evidence))(torch.full((400,), 0.9, dtype=torch.float64))
    ratio = (found - kalman(YS, 0.9)).exp()
    assert found.unique().numel() == 400
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / 20


def test_adaptive_resampling() -> None:
    """Level 1e-6: the mean of 200 unbiased estimates, five standard errors."""
    filtering = compiled(particle_filter(walk, 32, ess=0.5))
    torch.manual_seed(4)
    with torch.no_grad():
        found = torch.stack([filtering(YS, UNIT).log_evidence() for _ in range(200)])
    ratio = (found - kalman(YS, 1.0)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(200)


# -------------------------------------------------------------------------------- what may change

SCALE = 1.0


class Drift(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def scaled(x: Tensor) -> Tensor:
    return SCALE * x


def test_what_is_closed_over_may_change(graphs: list[Any]) -> None:
    drift, offset, numbers = Drift(), torch.zeros((), dtype=torch.float64), [0.0]

    def step(x: Tensor) -> Tensor:
        return scaled(drift(x)) + offset + numbers[0]

    run = compiled(Program(lambda: iterate(step, 4)(UNIT)))
    with torch.no_grad():
        assert run() == 1
        assert run() == 1
        assert len(graphs) == 1
        drift.by += 1.0
        assert run() == 5
        offset += 1.0
        assert run() == 9
        numbers[0] = 1.0
        assert run() == 13
        assert len(graphs) == 4


def test_globals_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    run = compiled(Program(lambda: iterate(scaled, 4)(UNIT)))
    assert run() == 1
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert run() == 16
    monkeypatch.setitem(globals(), "scaled", lambda x: x + 1.0)
    assert run() == 5


def test_globals_that_are_tensors_and_those_of_other_modules_may_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = types.ModuleType("another_module")
    exec("BY = 1.0\ndef elsewhere(x):\n    return BY * x", other.__dict__)
    monkeypatch.setitem(globals(), "elsewhere", other.elsewhere)
    offset = torch.zeros((), dtype=torch.float64)
    monkeypatch.setitem(globals(), "OFFSET", offset)

    def step(x: Tensor) -> Tensor:
        moved: Tensor = elsewhere(x) + OFFSET  # type: ignore[name-defined]  # noqa: F821
        return moved

    run = compiled(Program(lambda: iterate(step, 2)(UNIT)))
    assert run() == 1
    offset += 1.0
    assert run() == 3
    other.BY = 2.0  # type: ignore[attr-defined]
    assert run() == 7


def test_data_and_precision_from_around_may_change(graphs: list[Any]) -> None:
    @program
    def model() -> Tensor:
        def step(x: Tensor) -> Tensor:
            return sample("x", dist.Normal(x, 1.0))

        return iterate(step, 3)(torch.tensor(0.0))

    run = compiled(model)
    for data in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])):
        assert condition(run, {"x": data})() == data[-1]
    assert len(graphs) == 2
    wide = compiled(vmap(lambda: draw(dist.Normal(0.0, 1.0)), size=3))
    assert wide().dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert wide().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_shapes_and_dtypes_have_their_own_code(graphs: list[Any]) -> None:
    run = compiled(Program(lambda x: iterate(lambda x: x + x.mean(), 3)(x)))
    for x in (torch.ones(2), torch.ones(3), torch.ones(3).double(), torch.ones(2)):
        assert torch.equal(run(x), 8 * x)
    assert len(graphs) == 3


# ------------------------------------------------------------------------------ where it steps back


@pytest.mark.usefixtures("by_inductor")
def test_an_exact_evaluator_sees_the_program_itself(graphs: list[Any]) -> None:
    rows = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)

    @program
    def hmm(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Categorical(rows[x]))
            observe("y", dist.Categorical(rows[x]), y)
            return x, None

        return scan(step)(torch.tensor(0), ys)[0]

    ys = torch.tensor([0, 1, 1])
    assert check.valid(compiled(particle_filter(hmm, 2)), hmm, ys).require().deviation < 1e-12
    assert not graphs
    same(particle_filter(hmm, 7), ys)
    assert graphs


@pytest.mark.usefixtures("by_inductor")
def test_code_that_only_draws_runs_where_handlers_listen(graphs: list[Any]) -> None:
    """A particle filter within a chain; a loop of named choices there is run as it is."""

    @program
    def marginal() -> Tensor:
        phi = sample("phi", dist.Uniform(0.0 * UNIT, UNIT))
        return push_evidence(compiled(particle_filter(walk, 8))(YS, phi)).log_weights

    torch.manual_seed(0)
    run = traced(marginal, {}, {}, draws=None)
    assert run is not None and run.choices.keys() == {"phi"}
    assert len(graphs) == 4
    graphs.clear()

    def step(x: Tensor) -> Tensor:
        return sample("x", dist.Normal(x, UNIT))

    run = traced(compiled(Program(lambda: iterate(step, 3)(UNIT))), {}, {}, draws=None)
    assert run is not None and list(run.choices) == ["x[0]", "x[1]", "x[2]"]
    run = traced(compiled(particle_filter(walk, 8)), {}, {}, YS, UNIT)
    assert run is not None and run.draws is not None and len(run.draws) > 8
    assert not graphs


def test_gradients_are_followed_by_the_program_itself(graphs: list[Any]) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    compiled(Program(lambda x: iterate(lambda x: x * x, 2)(x)))(x).backward()
    assert x.grad == 4 * 2.0**3
    assert not graphs


def test_a_density_is_that_of_the_program() -> None:
    u = torch.zeros(len(YS) + 1, dtype=torch.float64)
    densities = [LogDensity(p, YS, UNIT)(u) for p in (walk, compiled(walk))]
    assert densities[0] == densities[1]


def test_loops_that_may_stop_early() -> None:
    same(Program(lambda: iterate(lambda x: x + 1.0, 9, until=lambda x: x > 3)(UNIT)))


def test_a_growing_carry_is_told() -> None:
    def step(x: Tensor) -> Tensor:
        return torch.cat([x, x[-1:] + 1])

    run = compiled(Program(lambda: iterate(step, 4)(torch.zeros(1))))
    with pytest.warns(
        RuntimeWarning, match=r"not compiled: the carry of .*step changes its structure or shape"
    ):
        assert run().tolist() == [0, 1, 2, 3, 4]


def test_a_look_at_an_argument_is_told() -> None:
    def lane(x: Tensor, k: Tensor) -> Tensor:
        return x * draw(dist.Normal(UNIT, UNIT)) if k > 0 else x

    run = compiled(vmap(lane, in_axes=(0, None)))
    with pytest.warns(RuntimeWarning, match="not compiled: Python looks at a random value"):
        assert run(torch.ones(3), torch.tensor(0)).tolist() == [1, 1, 1]


def test_data_for_single_steps_are_told() -> None:
    @program
    def model() -> Tensor:
        def step(x: Tensor) -> Tensor:
            return sample("x", dist.Normal(x, 1.0))

        return iterate(step, 3)(torch.tensor(0.0))

    run = compiled(condition(model, {"x[1]": torch.tensor(5.0)}))
    with pytest.warns(match="data for single steps of a loop"):
        run()


def test_tensors_that_are_filled_in_place() -> None:
    def fresh(x: Tensor) -> Tensor:
        y = x.new_zeros(3)
        y[1] = x
        return y.sum() + draw(dist.Normal(UNIT, UNIT))

    same(Program(lambda: iterate(fresh, 4)(UNIT)))

    def foreign(x: Tensor) -> Tensor:
        y = torch.zeros(3, dtype=torch.float64)
        y[1] = x
        return y.sum() + 1

    run = compiled(Program(lambda: iterate(foreign, 4)(UNIT)))
    with pytest.warns(match="in place into a tensor that holds none"):
        assert run() == 5


def test_dead_particles_stay_dead() -> None:
    @program
    def impossible(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            factor("f", torch.where(y > 1, -math.inf, 0.0))
            return x + sample("x", dist.Normal(0.0, 1.0)), None

        return scan(step)(torch.tensor(0.0), ys)[0]

    with torch.no_grad():
        assert compiled(particle_filter(impossible, 8))(YS).log_evidence() == -math.inf


def test_a_nan_is_an_error() -> None:
    @program
    def wrong(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            factor("f", torch.log(x))
            return x - sample("x", dist.Normal(1.0, 1.0)), None

        return scan(step)(torch.tensor(0.5), ys)[0]

    with pytest.raises(ProgramError, match="NaN"), torch.no_grad():
        compiled(particle_filter(wrong, 8))(YS)


BAD: list[tuple[str, Callable[[Tensor], Any]]] = [
    ("normal", lambda s: dist.Normal(0.0, s)),
    ("exponential", lambda s: dist.Exponential(s)),
    ("gamma", lambda s: dist.Gamma(s, 1.0)),
    ("an event", lambda s: dist.Normal(torch.zeros(2), s).to_event(1)),
    ("dirichlet", lambda s: dist.Dirichlet(s * torch.ones(2))),
    ("transformed", lambda s: dist.LogNormal(0.0, s)),
    ("expanded", lambda s: dist.Normal(0.0, s).expand([3]).to_event(1)),
]


@pytest.mark.parametrize(("name", "law"), BAD)
def test_parameters_out_of_range_give_no_number(name: str, law: Any) -> None:
    """In lanes, and in traced steps, where no error can be raised for the parameters."""
    torch.manual_seed(0)
    lanes = vmap(lambda s: draw(law(s)))(torch.tensor([-1.0, 0.5]))
    assert bool(lanes[0].isnan().all()) and bool(lanes[1].isfinite().all())
    nested = vmap(lambda s: vmap(lambda: draw(law(s)), size=2)())(torch.tensor([-1.0, 0.5]))
    assert bool(nested[0].isnan().all()) and bool(nested[1].isfinite().all())

    def step(s: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return s - 1.0, draw(law(s))

    _, found = compiled(Program(lambda: scan(step)(torch.tensor(1.5), torch.zeros(3))))()
    assert bool(found[:2].isfinite().all()) and bool(found[2].isnan().all())
