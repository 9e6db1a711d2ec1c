"""Filters with proposals and looks ahead keep the measure, and are as good as they can be."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from support.faults import Fault, planted
from support.filters import MODELS, Written, f
from torch import Tensor

from pushforward import (
    compiled,
    cond,
    condition,
    dist,
    draw,
    factor,
    observe,
    program,
    sample,
    scan,
    scope,
    vmap,
)
from pushforward.errors import DataError, GuideError, ProgramError
from pushforward.inference import SMC, multinomial, particle_filter, stratified, systematic
from pushforward.inference.smc.filtering import Filtering
from pushforward.inference.smc.lanes.engine import Engine
from pushforward.inference.smc.lanes.particle import Particle
from pushforward.inference.smc.lanes.quick import population
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")
SCHEMES = {"multinomial": multinomial, "systematic": systematic, "stratified": stratified}
YS = torch.tensor([1.0, 0.0]).double()


def stays(x: Tensor) -> Tensor:
    """P(x' = 1 | x)."""
    return 0.25 + 0.5 * x


def seen(x: Tensor) -> Tensor:
    """P(y = 1 | x)."""
    return 0.125 + 0.75 * x


@program
def chain(ys: Tensor) -> Tensor:
    """A hidden Markov model with two states, from the first."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Bernoulli(stays(x)))
        observe("y", dist.Bernoulli(seen(x)), y)
        return x, None

    return scan(step)(f(0.0), ys)[0]


def odd(x: Tensor, y: Tensor, ys: Tensor) -> None:
    """A proposal that is none too good."""
    sample("x", dist.Bernoulli(0.3 + 0.2 * x + 0.25 * y))


def guess(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
    """A look ahead that is none too good."""
    return (0.4 + 0.3 * x + 0.2 * y * x + 0.1 * y).log()


def likelihood(x: Tensor, y: Tensor) -> Tensor:
    """P(y | x)."""
    return torch.where(y == 1, seen(x), 1 - seen(x))


def predicted(x: Tensor, y: Tensor) -> Tensor:
    """P(y' = y | x)."""
    return stays(x) * likelihood(f(1.0), y) + (1 - stays(x)) * likelihood(f(0.0), y)


def best(x: Tensor, y: Tensor, ys: Tensor) -> None:
    """The law of the next state, given what is seen of it."""
    sample("x", dist.Bernoulli(stays(x) * likelihood(f(1.0), y) / predicted(x, y)))


def foreseen(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
    return predicted(x, y).log()


BETTER = {"proposal": {"proposal": odd}, "ahead": {"ahead": guess}}
BETTER["both"] = BETTER["proposal"] | BETTER["ahead"]

# -------------------------------------------------------------------------------------------- valid


def require_valid(n: int, how: str, scheme: str, ess: float) -> None:
    better = particle_filter(chain, n, SCHEMES[scheme], ess, **BETTER[how])
    check.valid(better, chain, YS).require()


@pytest.mark.parametrize("how", BETTER)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ess", [1.0, 0.75])
def test_the_measure_is_kept_by_one(how: str, scheme: str, ess: float) -> None:
    require_valid(1, how, scheme, ess)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ess", [1.0, 0.75])
def test_the_measure_is_kept_by_two(scheme: str, ess: float) -> None:
    require_valid(2, "both", scheme, ess)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("how", BETTER)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ess", [1.0, 0.75])
def test_the_measure_is_kept_by_more(n: int, how: str, scheme: str, ess: float) -> None:
    require_valid(n, how, scheme, ess)


def dead(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
    return torch.where(x == 1, f(math.nan), f(0.0))


def test_the_dead_need_no_factor() -> None:
    @program
    def dying(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Bernoulli(0.3))
            factor("alive", torch.where(x == 1, f(-math.inf), f(0.0)))
            return x, None

        return scan(step)(f(0.0), ys)[0]

    check.valid(particle_filter(dying, 2, ahead=dead), dying, YS).require()


def test_some_choices_are_proposed_and_parameters_move_along() -> None:
    """Within a scope, a mask, lanes and a branch; the others keep their law."""

    @program
    def model(ys: Tensor) -> tuple[Tensor, Tensor]:
        level = sample("level", dist.Bernoulli(0.4))

        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            up = vmap(lambda p: sample("up", dist.Bernoulli(p)))(
                torch.stack([0.2 + 0.5 * x, level / 2])
            )
            x = sample("x", dist.Bernoulli(0.2 + 0.3 * up.sum()))
            x = cond(x > 0, lambda x: x, lambda x: draw(dist.Bernoulli(0.2 * level)))(x)
            observe("y", dist.Bernoulli(0.2 + 0.5 * x), y)
            return x, x

        with scope("inner"):
            return level, scan(step)(f(0.0), ys)[1]

    def proposal(x: Tensor, y: Tensor, ys: Tensor) -> None:
        vmap(lambda p: sample("up", dist.Bernoulli(p)))(torch.stack([0.3 + 0.3 * y, 0.4 + 0 * y]))

    check.valid(particle_filter(model, 1, proposal=proposal), model, YS).require()


def test_lanes_before_the_scan_are_held() -> None:
    @program
    def model() -> Tensor:
        z = vmap(lambda p: sample("z", dist.Bernoulli(p)))(torch.tensor([0.3, 0.6]))
        d = vmap(lambda p: draw(dist.Bernoulli(p)))(torch.tensor([0.3, 0.6]))

        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return sample("x", dist.Bernoulli(0.1 + 0.2 * (x + z[0] + 2 * d[1]))), None

        return torch.stack([scan(step)(f(0.0), YS[:1])[0], *z, *d])

    check.valid(particle_filter(model, 1), model).require()


# -------------------------------------------------------------------------------- as good as can be


def test_the_best_proposal_sees_one_step_ahead() -> None:
    """One particle: the estimate is P(y_0) P(y_1 | x_0), x_0 of its law given y_0; by hand."""
    stay, see = (Fraction(1, 4), Fraction(3, 4)), (Fraction(1, 8), Fraction(7, 8))

    def next_seen(x: int, y: int) -> Fraction:
        chances = (1 - stay[x], stay[x])
        return sum(p * (see[k] if y else 1 - see[k]) for k, p in enumerate(chances))

    up = stay[0] * see[1] / next_seen(0, 1)
    expected = {
        float(next_seen(0, 1) * next_seen(x, 0)): float(p) for x, p in ((1, up), (0, 1 - up))
    }
    found = denote(particle_filter(chain, 1, proposal=best), YS)
    masses: dict[float, float] = {}
    for value, weight in found.items():
        z = float(value.log_evidence().exp())
        key = min(expected, key=lambda e: abs(e - z))
        assert z == pytest.approx(key, rel=1e-12)
        masses[key] = masses.get(key, 0.0) + weight
    assert masses == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fully_adapted_particles_weigh_the_same(scheme: str) -> None:
    """The factor ahead is what the step then scores: of the row to come, and of each ancestor."""
    ys = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    torch.manual_seed(1)
    found = particle_filter(chain, 20, SCHEMES[scheme], proposal=best, ahead=foreseen)(ys)
    assert float(found.log_weights.std()) < 1e-13
    assert abs(float(found.log_evidence() - denote(chain, ys).log_mass())) < 0.5
    without = particle_filter(chain, 20, SCHEMES[scheme], proposal=best)(ys)
    assert float(without.log_weights.std()) > 0.1


# ------------------------------------------------------------------------------------------- faults

ROOM = "inference.smc"
MEASURE = [
    Fault(
        "the proposal's density is forgotten",
        f"{ROOM}.filtering:Filtering._advance",
        "log_weight - choices.log_density",
        "log_weight",
    ),
    Fault(
        "the factor ahead is not divided out",
        f"{ROOM}.resampling:resample",
        "equal - ahead[ancestors]",
        "equal",
    ),
    Fault(
        "the factor is that of another particle",
        f"{ROOM}.resampling:resample",
        "equal - ahead[ancestors]",
        "equal - ahead",
    ),
    Fault(
        "what is proposed is not scored",
        f"{ROOM}.step_choices:StepChoices._process_message",
        'self.given[name], True\n',
        'self.given[name], False\n',
    ),
    Fault(
        "the proposal is weighed by the filter too",
        f"{ROOM}.step_choices:Proposed.begin",
        "proposal.choices, proposal.log_density",
        "proposal.choices, 2 * proposal.log_density",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", MEASURE, ids=str)
def test_a_wrong_weight_is_rejected(fault: Fault) -> None:
    with planted(fault):
        algorithm = particle_filter(chain, 2, multinomial, proposal=odd, ahead=guess)
        assert check.valid(algorithm, chain, YS).verdict == "fail"


def test_a_look_at_the_row_that_was_is_noticed() -> None:
    """Any factor keeps the measure; only the right one makes the weights equal."""
    look = f"{ROOM}.filtering:_Look.on_loop"
    fault = Fault("the row that was", look, "at_step(x, self.t)", "at_step(x, self.t - 1)")
    with planted(fault), pytest.raises(AssertionError):
        test_fully_adapted_particles_weigh_the_same("multinomial")


def test_no_look_before_the_first_step() -> None:
    rows: list[float] = []

    def noting(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
        rows.append(float(y))
        return f(0.0)

    particle_filter(chain, 3, ahead=noting)(torch.tensor([0.0, 1.0, 0.0]))
    particle_filter(chain, 3, ahead=noting)(torch.tensor([1.0, 0.0, 0.0]))
    assert rows == [1.0, 0.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------- errors


def test_a_proposal_of_a_site_that_the_step_has_not() -> None:
    def wrong(x: Tensor, y: Tensor, ys: Tensor) -> None:
        sample("x[0]", dist.Bernoulli(0.5))

    with pytest.raises(GuideError, match=r"wrong is no guide for a step of chain.*'x\[0\]'"):
        particle_filter(chain, 2, proposal=wrong)(YS)


def test_a_proposal_of_other_support() -> None:
    def wrong(x: Tensor, y: Tensor, ys: Tensor) -> None:
        sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(GuideError, match="'x'"):
        particle_filter(chain, 2, proposal=wrong)(YS)


def test_a_proposal_that_scores() -> None:
    def wrong(x: Tensor, y: Tensor, ys: Tensor) -> None:
        odd(x, y, ys)
        factor("extra", x)

    with pytest.raises(GuideError, match="scores"):
        particle_filter(chain, 2, proposal=wrong)(YS)
    with pytest.raises(GuideError, match=r"wrong scores"), torch.no_grad():
        Filtering(chain, 1, proposal=wrong)._advance((({}, ()), f(0.0)), 0, YS)


def test_a_site_for_which_there_are_data() -> None:
    known = condition(chain, {"x[1]": f(1.0)})
    with pytest.raises(DataError, match=r"odd proposes \['x'\], which the step does not sample"):
        particle_filter(known, 2, proposal=odd)(YS)


@pytest.mark.parametrize(("factor_ahead", "what"), [
    (lambda x, y, ys: None, "gives no number"), (lambda x, y, ys: ys, "gives no number"),
    (lambda x, y, ys: f(-math.inf), "zero, infinite or NaN"),
])  # fmt: skip
def test_factors_that_are_none(factor_ahead: Any, what: str) -> None:
    with pytest.raises(ProgramError, match=what):
        particle_filter(chain, 2, ahead=factor_ahead)(YS)


def test_draws_of_the_proposal_are_its_own() -> None:
    def mixed(x: Tensor, y: Tensor, ys: Tensor) -> None:
        sample("x", dist.Bernoulli(0.2 + 0.5 * draw(dist.Bernoulli(0.3 + 0.4 * y))))

    check.valid(particle_filter(chain, 2, proposal=mixed), chain, YS).require()


# --------------------------------------------------------------------------------------- as it runs


def of_linear(x: Tensor, y: Tensor, ys: Tensor, phi: Tensor) -> None:
    sample("x", dist.Normal((phi * x + 4 * y) / 5, 0.5))


def of_vector(carry: Any, y: Tensor, ys: Tensor) -> None:
    sample("x", dist.Laplace(carry[0] + y, f(0.5, 0.7)).to_event(1))


GUIDED = {"linear": of_linear, "vector": of_vector}


@cache
def guided_particle(name: str) -> Particle:
    model, args = MODELS[name]
    with torch.no_grad():
        return Particle(Filtering(model, 1, proposal=GUIDED[name]), args)


@pytest.mark.parametrize("name", GUIDED)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_lane_code_proposes_by_the_same_choices(name: str, scheme: str) -> None:
    (model, args), proposal = MODELS[name], GUIDED[name]
    particle = guided_particle(name)
    for n, ess in ((1, 1.0), (3, 0.6), (200, 1.0)):
        particle.filtering = Filtering(model, n, SCHEMES[scheme], ess, proposal)
        with torch.no_grad(), Written(n) as written:
            torch.manual_seed(n)
            better = particle_filter(model, n, SCHEMES[scheme], ess, proposal)
            expected = better(*args)
        with torch.no_grad():
            none = torch.zeros(2).long()
            found = population(Engine(particle), none, *args, given=written.given)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_looking_ahead_is_lane_code() -> None:
    """Level 1e-6: the mean of evidences, five standard errors."""
    said: list[str] = []
    run = compiled(particle_filter(chain, 50, proposal=best, ahead=foreseen), notify=said.append)
    ys = torch.tensor([1.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        torch.manual_seed(2)
        found = torch.stack([run(ys).log_evidence() for _ in range(200)]).exp()
    assert not said
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - denote(chain, ys).mass()) < 5 * error


def test_a_driver_names_what_was_proposed() -> None:
    def algorithm(p: Any, n: int) -> Any:
        return particle_filter(p, n, proposal=lambda x, y, ys: odd(x, y, ys))

    fit = SMC(50, 2, algorithm, compiled=False, progress=False).run(chain, YS, seed=1)
    assert fit["x"].shape[-1] == 2
