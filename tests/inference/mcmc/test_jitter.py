"""Step sizes of NUTS that are drawn for each transition: by the program and by both engines."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from support import engine as engines
from support.engine import (
    TARGETS,
    altered,
    chains_at,
    engine,
    judged,
    potential_of,
    tensor_engine,
)
from torch import Tensor

from pushforward import observe, plate, program, sample
from pushforward.inference import MCMC
from pushforward.inference.mcmc import Parameters, State, nuts
from pushforward.inference.mcmc.hamiltonian import Phase, leapfrog, with_momentum
from pushforward.inference.mcmc.lanes import tensors
from pushforward.inference.mcmc.lanes.engine import Metric
from pushforward.ppl import seeded
from pushforward.ppl.language.effects import is_draw
from pushforward.semantics import Report, check
from pushforward.semantics.checks.orbit import Orbit

pytestmark = pytest.mark.usefixtures("double")

tree = importlib.import_module("pushforward.inference.mcmc.nuts")
DEPTH, JITTER = 6, 0.4
ENGINES: dict[str, Callable[..., Any]] = {"machine code": engine, "tensors": tensor_engine}


def made(kind: str, name: str, max_depth: int, jitter: float = JITTER) -> Any:
    return ENGINES[kind](name, max_depth, jitter=jitter)


# ------------------------------------------------------------------------------------- the program


class Given(Messenger):
    """Within, momentum and shares are given; coins are drawn."""

    def __init__(self, momentum: Tensor, shares: Iterator[float]) -> None:
        super().__init__()
        self.momentum, self.shares = momentum, shares

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or not is_draw(msg):
            return
        law = msg["fn"]
        while hasattr(law, "base"):
            law = law.base
        if isinstance(law, dist.Bernoulli):
            return
        uniform = isinstance(law, dist.Uniform)
        msg["value"] = torch.tensor([next(self.shares)]) if uniform else self.momentum
        msg["done"] = msg["stop"] = True


def the_same(share: float) -> Iterator[float]:
    yield share  # and no other: one number for a transition


def judged_program(
    name: str, share: float, shares: Callable[[float], Iterator[float]] = the_same
) -> Report:
    """Whether the program preserves the weights of an orbit.

    Its steps lie where ``share`` says, from 0 to 1, in the range that jitter allows.
    """
    size, depth, potential = 0.5, 2, potential_of(name)
    z, w = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.6, -0.9]])
    step = size * (1.0 + JITTER * (2.0 * share - 1.0))
    reach, path = 2**depth - 1, list[Phase]()

    def move(point: Phase, sign: Tensor) -> Phase:
        path.append(leapfrog(point, potential, sign[:, None] * torch.tensor([step, step])))
        return path[-1]

    start, margin = with_momentum(State(z, *potential(z)), w), 2 * reach + 4
    orbit = Orbit.through(start, move, margin, margin)
    phases = [*path[margin - 1 :: -1], start, *path[margin:]]
    positions = torch.cat([phase.position for phase in phases])
    parameters = Parameters(torch.tensor(size), torch.ones(2))

    def moved(point: Any, _: Any) -> Any:
        at = phases[int(point.index)]
        with Given(at.momentum, shares(share)):
            after = nuts(depth, JITTER).step(at.state, potential, parameters)[0]
        return orbit.point(int((positions - after.position).square().sum(-1).argmin()))

    return check.orbit(moved, orbit, reach)


@pytest.mark.parametrize(
    ("name", "share"), [("correlated", 0.05), ("banana", 0.8), ("banana", 0.5)]
)
def test_whatever_the_step_size_the_weights_of_an_orbit_are_preserved(
    name: str, share: float
) -> None:
    judged_program(name, share).require()


def by_the_density(like: Tensor, jitter: float) -> Tensor:
    return _STEP_FACTOR(like, jitter) * (1.0 + 0.2 * like.tanh())


def anew(phase: Any, potential: Any, scale: Tensor, stretched: Any = None) -> Any:
    factor = _STEP_FACTOR(phase.log_density, JITTER)[:, None]
    return leapfrog(phase, potential, factor * scale, stretched)


def ones(like: Tensor, jitter: float) -> Tensor:
    return torch.ones_like(like)


def alternating(share: float) -> Iterator[float]:
    while True:
        yield from (share, 1.0 - share)


_STEP_FACTOR = tree.step_factor
FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "a step by the density": {"step_factor": by_the_density},
    "a step for each leapfrog": {"step_factor": ones, "leapfrog": anew},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_program_is_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, wrong in FAULTS[fault].items():
        monkeypatch.setattr(tree, name, wrong)
    assert judged_program("banana", 0.8, alternating).verdict == "fail"


# --------------------------------------------------------------------------------- the two engines


def wrong(kind: str, name: str, seed: int, text: str | None = None) -> int:
    runner = engine(name, DEPTH, text, JITTER) if text else made(kind, name, DEPTH)
    return engines.wrong(runner, name, 100, DEPTH, seed)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", TARGETS)
def test_an_engine_makes_the_transitions_of_the_program(kind: str, name: str) -> None:
    assert wrong(kind, name, 0) == wrong(kind, name, 1) == 0


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_preserves_the_weights_of_an_orbit(kind: str) -> None:
    judged("banana", 0.5, 2, runner=made(kind, "banana", 2), share=0.8).require()


# Of the machine code: the step size has to be one for a trajectory, whatever the position.
IN_CODE: dict[str, tuple[str, str]] = {
    "drawn anew within a trajectory": (
        "forward = source.coin(0.5);",
        "factor = 1 + jitter * (2 * source.share() - 1), forward = source.coin(0.5);",
    ),
    "drawn by the position": (
        "(2 * source.share() - 1);",
        "(2 * source.share() - 1) * std::tanh(state.position[0]);",
    ),
    "only longer": ("(2 * source.share() - 1);", "source.share();"),
    "kicks are as they were": (
        "kick() {\n        const REAL sign = forward ? factor : -factor;",
        "kick() {\n        const REAL sign = forward ? 1 : -1;",
    ),
}


@pytest.mark.parametrize("fault", IN_CODE)
def test_faulty_machine_code_is_rejected(fault: str) -> None:
    text = altered(*IN_CODE[fault])
    assert sum(wrong("machine code", name, k, text) for name in TARGETS for k in (0, 1)) > 0
    runner = engine("banana", 2, text, JITTER)
    assert judged("banana", 0.5, 2, runner=runner, share=0.8).verdict == "fail"


def test_a_fault_of_tensors_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factor is drawn when a trajectory doubles, too."""
    doubled = tensors.doubled

    def fault(machine: Any, begins: Tensor, choices: Any) -> Any:
        factor = 1.0 + JITTER * (2.0 * choices.share(begins) - 1.0)
        drawn = machine._replace(factor=torch.where(begins, factor, machine.factor))
        return doubled(drawn, begins, choices)

    monkeypatch.setattr(tensors, "doubled", fault)
    assert sum(wrong("tensors", name, k) for name in TARGETS for k in (0, 1)) > 0


# --------------------------------------------------------------------------- the law of step sizes


def factors(kind: str, jitter: float, transitions: int, text: str | None = None) -> Tensor:
    """The factors of step sizes, [chains, transitions], of one engine.

    Free flight of one leapfrog goes as far as step size times momentum, whose square is twice the
    energy.
    """
    runner = engine("flat", 1, text, jitter) if text else made(kind, "flat", 1, jitter)
    chains = chains_at("flat", torch.zeros(20, 1), torch.full((20,), 0.7))
    chains = chains._replace(random=torch.arange(80).reshape(20, 4) * 0x9E3779B97F4A7C + 1)
    done = runner.advance(chains, Metric.diagonal(torch.ones(1)), transitions)
    way = done.draws[..., 0].diff(dim=1, prepend=torch.zeros(20, 1)).abs()
    return way / (0.7 * (2.0 * done.info.energy).sqrt())


def off_uniform(x: Tensor, low: float, high: float) -> float:
    """Kolmogorov's distance from a uniform law, times the root of the number of points."""
    at = ((x.flatten().sort().values - low) / (high - low)).clamp(0.0, 1.0)
    steps = torch.arange(len(at) + 1) / len(at)
    return float(torch.maximum(steps[1:] - at, at - steps[:-1]).max()) * len(at) ** 0.5


LIMIT = 2.7  # exceeded by chance with probability 2 exp(-2 * 2.7^2) = 1e-6


@pytest.mark.parametrize("kind", ENGINES)
def test_each_transition_draws_a_uniform_factor(kind: str) -> None:
    found = factors(kind, JITTER, 200)
    assert bool(((found > 1 - JITTER) & (found < 1 + JITTER)).all())
    assert off_uniform(found, 1 - JITTER, 1 + JITTER) < LIMIT
    next_to = (found - 1)[:, 1:] * (found - 1)[:, :-1]  # of mean 0, if factors are independent
    assert abs(float(next_to.mean() / next_to.std())) * next_to.numel() ** 0.5 < 4.9  # 1e-6
    still = factors(kind, 0.0, 5)
    torch.testing.assert_close(still, torch.ones_like(still))


def test_the_program_draws_one_for_each_chain() -> None:
    potential, size = potential_of("flat"), torch.tensor(0.7)
    kernel = nuts(1, JITTER)
    with seeded(3):
        state, info = kernel.step(
            kernel.init(torch.zeros(4000, 1), potential), potential, Parameters(size, torch.ones(1))
        )
    found = state.position[:, 0].abs() / (size * (2.0 * info.energy).sqrt())
    assert off_uniform(found, 1 - JITTER, 1 + JITTER) < LIMIT


def test_a_factor_that_is_drawn_once_is_seen() -> None:
    text = altered("if (jitter > 0) factor", "if (jitter > 0 && factor == 1) factor")
    found = factors("machine code", JITTER, 200, text)
    assert off_uniform(found, 1 - JITTER, 1 + JITTER) > LIMIT


# -------------------------------------------------------------------------------------- whole runs


@program
def line() -> None:
    """A slope whose posterior is normal: mean 2.8 * 25 / 126, variance 25 / 126."""
    slope = sample("slope", dist.Normal(0.0, 5.0))
    with plate("x", 2):
        observe("y", dist.Normal(slope * torch.tensor([1.0, 2.0]), 1.0), torch.tensor([0.6, 1.1]))


@pytest.mark.parametrize("compiled", [True, False])
def test_the_driver_draws_with_jitter(compiled: bool) -> None:
    options = {"draws": 200, "warmup": 100, "compiled": compiled, "progress": False}
    fit = MCMC(nuts(jitter=0.3), **options).run(line, seed=1)
    plain = MCMC(nuts(), **options).run(line, seed=1)
    assert not torch.equal(fit["slope"], plain["slope"])
    mean, variance = 2.8 * 25 / 126, 25 / 126
    error = (variance / 150) ** 0.5  # of at least 150 effective draws of 800
    assert abs(float(fit["slope"].mean()) - mean) < 5.5 * error
    assert abs(float(fit["slope"].var()) - variance) < 5.5 * variance * (2 / 150) ** 0.5


@pytest.mark.parametrize("jitter", [-0.1, 1.0, float("nan")])
def test_a_jitter_out_of_range_is_refused(jitter: float) -> None:
    with pytest.raises(ValueError, match=r"at least 0 and below 1"):
        nuts(jitter=jitter)
