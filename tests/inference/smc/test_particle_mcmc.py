"""Kernels made of particles, exactly: PMMH (check 17), conditional SMC, particle Gibbs, SMC^2."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, draw, factor, sample
from pushforward.errors import ProgramError
from pushforward.inference import multinomial, pseudo_marginal, smc
from pushforward.inference.kernels import TraceKernel, block, cycle, gibbs, single_site
from pushforward.inference.kernels.kernel import Moved
from pushforward.inference.kernels.traces import Point, Traced, at, points_of, traced
from pushforward.inference.smc import conditional_smc
from pushforward.ppl.language.program import Program
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def exactly(fraction: str) -> Any:
    return pytest.approx(float(Fraction(fraction)), abs=1e-12)


def score(name: str, where: Tensor, yes: float, no: float) -> None:
    factor(name, torch.where(where == 1, math.log(yes), math.log(no)))


def theta() -> Tensor:
    """1/3 or 2/3, with probability 1/4 and 3/4."""
    return (1 + sample("theta", dist.Bernoulli(3 / 4))) / 3


def chain(p: Tensor) -> Any:
    x = sample("x", dist.Bernoulli(p))
    score("first", x, 3 / 4, 1 / 4)
    y = sample("y", dist.Bernoulli(torch.where(x == 1, 2 / 3, 1 / 3)))
    score("second", y, 1 / 2, 1 / 8)
    return x, y


def model() -> Any:
    """Parameters and states together."""
    p = theta()
    return p, chain(p)


def early() -> Any:
    x = sample("x", dist.Bernoulli(1 / 3))
    score("first", x, 1 / 2, 1 / 5)
    if x == 0:
        y = sample("y", dist.Bernoulli(1 / 4))
        score("second", y, 2.0, 1 / 3)


@pytest.mark.parametrize("n", [1, 2])
def test_a_pseudo_marginal_program_has_the_measure_of_the_model(n: int) -> None:
    estimated = pseudo_marginal(theta, smc(chain, n, multinomial))
    difference, _ = denote(estimated).deviation(denote(model))
    assert difference < 1e-14


State = tuple[Tensor, Tensor]  # of PMMH: the parameter, and the log of the estimated evidence


def extended(p: Program) -> Program:
    """The measure that PMMH leaves invariant: the estimate counts as its weight."""

    def run() -> State:
        found = traced(p, {}, {}, draws=None)
        assert found is not None
        factor("z", found.log_score)
        return found.choices["theta"], found.log_score

    return Program(run)


def pmmh(p: Program) -> Any:
    def step(state: State) -> tuple[State, bool]:
        law = dist.Bernoulli(3 / 4)
        at_theta = {"theta": state[0]}, {"theta": law}, {"theta": law.log_prob(state[0])}
        moved = single_site().step(Traced(*at_theta, state[1], None, draws=None), p)
        return (moved.run.choices["theta"], moved.run.log_score), moved.accepted["theta"][0]

    return step


@pytest.mark.parametrize(("n", "acceptance"), [(1, "4577/7884"), (2, "435905/638604")])
def test_check_17_pmmh(n: int, acceptance: str) -> None:
    p = pseudo_marginal(theta, smc(chain, n, multinomial))
    step, states = pmmh(p), denote(extended(p))
    if n == 2:
        assert len(states) == 18
    posterior = states.map(lambda state: state[0]).normalize().pmf()
    assert posterior == pytest.approx({0.0: 13 / 73, 1.0: 60 / 73})

    outcomes = states.normalize().then(
        lambda state: denote(Program(lambda s: (step(s), s[0])), state)
    )
    after = outcomes.map(lambda outcome: outcome[0][0])
    assert after.deviation(states.normalize())[0] < 1e-14
    assert float(outcomes.expect(lambda o: float(o[0][1]))) == exactly(acceptance)
    if n == 1:
        kernel = Program(lambda state: step(state)[0])
        check.reversible(kernel, extended(p)).require()
    else:
        moves = outcomes.expect(lambda o: float(o[0][0][0] != o[1]))
        assert float(moves) == exactly("181981/851472")


def test_the_exact_evidence_accepts_more_often() -> None:
    """With Z(theta) itself, 271/292."""
    z = torch.tensor([13 / 96, 5 / 24])

    def ideal() -> Any:
        x = sample("theta", dist.Bernoulli(3 / 4))
        factor("z", z[x.long()].log())
        return x

    def outcome(point: Point) -> bool:
        return single_site().step(at(Program(ideal), point), Program(ideal)).accepted["theta"][0]

    measure = denote(points_of(ideal)).normalize()
    accepted = measure.then(lambda point: denote(Program(outcome), point))
    assert float(accepted.expect(float)) == exactly("271/292")


def test_evidence_that_is_not_pushed_is_rejected() -> None:
    """A pseudo-marginal program that forgets its evidence samples parameters from the prior."""

    def forgetful() -> Any:
        p = theta()
        population = smc(chain, 2, multinomial)(p)
        index = int(draw(dist.Categorical(logits=population.log_weights)))
        return p, population.value(index)

    difference, _ = denote(forgetful).normalize().deviation(denote(model).normalize())
    assert difference > 0.01


@pytest.mark.parametrize(("p", "n", "ancestors"), [
    *((p, n, a) for p in (model, early) for n in (1, 2) for a in (False, True)), (early, 3, False),
])  # fmt: skip
def test_conditional_smc_is_invariant(p: Any, n: int, ancestors: bool) -> None:
    kernel = conditional_smc(n, ancestors=ancestors)
    check.invariant(kernel.on(p), points_of(p)).require()


def test_conditional_smc_moves_for_two_particles_or_more() -> None:
    start = Point({"x": torch.tensor(0.0), "y": torch.tensor(0.0)})

    def stays(n: int) -> float:
        moved = denote(conditional_smc(n).on(early), start)
        return sum(
            w
            for (choices, _), w in moved.items()
            if float(choices["x"]) == 0 and float(choices.get("y", torch.tensor(9.0))) == 0
        )

    found = [stays(n) for n in (1, 2, 3)]
    assert found[0] == pytest.approx(1.0)
    assert found == sorted(found, reverse=True) and found[2] < found[1] < 1.0


STATES = conditional_smc(2, keep=["theta"])
SWEEPS = {
    "states": STATES,
    "states and parameter": cycle(STATES, gibbs("theta")),
    "ancestors too": cycle(conditional_smc(2, ["theta"], ancestors=True), single_site()),
}


@pytest.mark.parametrize("name", quick(2, SWEEPS))
def test_particle_gibbs_is_invariant(name: str) -> None:
    check.invariant(SWEEPS[name].on(model), points_of(model)).require()


def test_particles_that_forget_the_run_before_are_rejected() -> None:
    """Two fresh runs, one of them taken by weight, are no kernel for the posterior."""

    def scored() -> None:
        x = sample("x", dist.Bernoulli(1 / 3))
        score("first", x, 1 / 2, 1 / 5)

    def forgetful(run: Traced, p: Any, *args: Any) -> Moved:
        runs = [at(p, points_of(p)(), *args) for _ in range(2)]
        logits = torch.stack([each.log_score for each in runs])
        return Moved(runs[int(draw(dist.Categorical(logits=logits)))], {})

    kernel = TraceKernel(forgetful, "forgetful").on(scored)
    assert check.invariant(kernel, points_of(scored)).verdict == "fail"


def test_conditional_smc_refuses_anonymous_draws() -> None:
    p = pseudo_marginal(theta, smc(chain, 1))
    point: Point = points_of(p)()
    with pytest.raises(ProgramError, match="cannot retrace anonymous draws"):
        conditional_smc(2).on(p)(point)


def test_evidence_by_steps_is_that_of_the_whole() -> None:
    whole = pseudo_marginal(theta, smc(chain, 2, multinomial))
    steps = pseudo_marginal(theta, smc(chain, 2, multinomial, evidence="z"), pushed=True)
    difference, _ = denote(steps).deviation(denote(whole))
    assert difference < 1e-14


@pytest.mark.parametrize(
    ("states", "parameters", "move"), quick(1, [(2, 1, None), (1, 1, single_site()), (1, 2, None)])
)
def test_smc_squared_is_valid(states: int, parameters: int, move: Any) -> None:
    """Particles of parameters, each with particles of states, moved by PMMH."""
    steps = pseudo_marginal(theta, smc(chain, states, multinomial, evidence="z"), pushed=True)
    check.valid(smc(steps, parameters, multinomial, move=move), model).require()


@pytest.mark.parametrize(("n", "m"), quick(1, [(1, 2), (2, 1)]))
def test_smc_squared_that_moves_is_valid(n: int, m: int) -> None:
    def short(p: Tensor) -> Tensor:
        x = sample("x", dist.Bernoulli(p))
        score("first", x, 3 / 4, 1 / 4)
        return x

    steps = pseudo_marginal(theta, smc(short, m, multinomial, evidence="z"), pushed=True)
    algorithm = smc(steps, n, multinomial, move=single_site())
    check.valid(algorithm, lambda: (p := theta(), short(p))).require()


def test_a_block_proposes_parameters() -> None:
    def other(choices: dict[str, Tensor]) -> None:
        sample("theta", dist.Bernoulli(0.2 + 0.6 * (1 - choices["theta"])))

    p = pseudo_marginal(theta, smc(chain, 1, multinomial))
    check.reversible(block(other).on(p), points_of(p)).require()
