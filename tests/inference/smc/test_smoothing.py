"""Paths drawn backward have the model's measure, by exact checks, and cross from line to line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.faults import Fault, planted
from support.filters import f
from torch import Tensor

from pushforward import condition, dist, draw, factor, observe, program, sample, scan, vmap
from pushforward.errors import ProgramError
from pushforward.inference import (
    SMC,
    backward_simulation,
    multinomial,
    particle_filter,
    stratified,
    systematic,
)
from pushforward.inference.smc.backward import Smoothing
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")
SCHEMES = {"multinomial": multinomial, "systematic": systematic, "stratified": stratified}
YS = torch.tensor([1.0, 0.0, 1.0]).double()


@program
def chain(ys: Tensor) -> Tensor:
    """Two states, which move by the row too; what is seen is so of both ends of a step."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        new = sample("x", dist.Bernoulli(0.2 + 0.5 * x * y + 0.1 * y))
        observe("y", dist.Bernoulli(0.1 + 0.5 * new + 0.3 * x), y)
        return new, new + 10 * x

    return scan(step)(f(0.0), ys)[1]


@program
def started(ys: Tensor) -> tuple[Tensor, Tensor]:
    """The first state is chosen before the scan, and after it there is a score."""
    first = sample("first", dist.Bernoulli(0.4))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = sample("x", dist.Bernoulli(0.2 + 0.5 * x))
        observe("y", dist.Bernoulli(0.1 + 0.7 * x), y)
        return x, x

    xs = scan(step)(first, ys)[1]
    factor("after", 0.5 * xs.sum())
    return first, xs


@program
def learning(ys: Tensor) -> tuple[Tensor, Tensor]:
    """A parameter that each step looks at."""
    p = sample("p", dist.Bernoulli(0.4))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Bernoulli(0.1 + 0.3 * x + 0.5 * p))
        observe("y", dist.Bernoulli(0.1 + 0.7 * x), y)
        return x, None

    return p, scan(step)(f(0.0), ys)[0]


def odd(x: Tensor, y: Tensor, ys: Tensor) -> None:
    sample("x", dist.Bernoulli(0.3 + 0.2 * x + 0.25 * y))


def guess(x: Tensor, y: Tensor, ys: Tensor) -> Tensor:
    return (0.4 + 0.3 * x + 0.2 * y).log()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("n", "steps"), [(1, 3), (2, 2)])
def test_the_measure_on_paths(n: int, steps: int, scheme: str) -> None:
    check.valid(backward_simulation(chain, n, 1, SCHEMES[scheme]), chain, YS[:steps]).require()


@pytest.mark.slow
def test_several_paths() -> None:
    check.valid(backward_simulation(chain, 2, 2), chain, YS[:2]).require()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("n", "steps"), [(2, 3), (3, 2)])
def test_the_measure_on_more_paths(n: int, steps: int, scheme: str) -> None:
    check.valid(backward_simulation(chain, n, 1, SCHEMES[scheme]), chain, YS[:steps]).require()


def test_one_step() -> None:
    check.valid(backward_simulation(chain, 2, 2), chain, YS[:1]).require()


def test_any_filter_may_go_forward() -> None:
    """Resampling at times, by a proposal, and with a look ahead."""
    smoothing = backward_simulation(chain, 2, 1, ess=0.75, proposal=odd, ahead=guess)
    check.valid(smoothing, chain, YS[:2]).require()


@pytest.mark.parametrize(
    "model", [pytest.param(started, marks=pytest.mark.slow), learning], ids=["started", "learning"]
)
def test_what_is_chosen_before_the_scan(model: Any) -> None:
    check.valid(backward_simulation(model, 2, 1), model, YS[:2]).require()


# ------------------------------------------------------------------------------------------- faults

BACK = "inference.smc.backward:Smoothing.back"
DENSITIES = "population.log_weights + log_densities"
FAULTS = [
    Fault("no density of the transition", BACK, DENSITIES, "population.log_weights"),
    Fault("one is chosen uniformly", BACK, DENSITIES, "0.0 * log_densities"),
    Fault("the weights are forgotten", BACK, DENSITIES, "log_densities"),
    Fault("the density of another step", BACK, "path.choices, t, *args", "path.choices, 0, *args"),
    Fault(
        "paths keep the choices of the first",
        BACK,
        "Path(before, carry, choices)",
        "Path(before, carry, choices and path.choices)",
    ),
    Fault(
        "the evidence is that of n times as many",
        "inference.smc.backward:weighed",
        " - math.log(len(last.log_weights))",
        "",
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_rejected(fault: Fault) -> None:
    with planted(fault):
        assert check.valid(backward_simulation(chain, 2, 1), chain, YS[:2]).verdict == "fail"


def test_outputs_in_another_order_are_rejected() -> None:
    order = Fault("as they come", "inference.smc.smoothing:_joined", "later.flip(0)", "later")
    with planted(order):
        assert check.valid(backward_simulation(chain, 1, 1), chain, YS).verdict == "fail"


def test_paths_that_cross_between_parameters_are_rejected() -> None:
    """The negative control: as if no step looked at what is before the scan."""
    looks = "inference.smc.backward:Smoothing.looked"
    with planted(Fault("nothing is looked at", looks, "length == 1", "length > 0")):
        assert check.valid(backward_simulation(learning, 2, 1), learning, YS[:2]).verdict == "fail"


# ------------------------------------------------------------------------------------------- errors


def of_second_order(ys: Tensor) -> Tensor:
    def step(carry: tuple[Tensor, Tensor], y: Tensor) -> Any:
        x, old = carry
        new = sample("x", dist.Normal(x - 0.5 * old, 1.0))
        observe("y", dist.Normal(new, 1.0), y)
        return (new, x), new

    return scan(step)((f(0.0), f(0.0)), ys)[1]


def anonymous(ys: Tensor) -> Tensor:
    def step(x: Tensor, y: Tensor) -> Any:
        return sample("x", dist.Normal(x + draw(dist.Normal(0.0, 1.0)), 1.0)), None

    return scan(step)(f(0.0), ys)[0]


def without(ys: Tensor) -> Tensor:
    return sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(("model", "what"), [
    (of_second_order, "of_second_order is not Markov in its choices: those of step 1"),
    (anonymous, "the step draws anonymously"), (without, "has no scan"),
])  # fmt: skip
def test_refused(model: Any, what: str) -> None:
    with pytest.raises(ProgramError, match=what), torch.no_grad():
        backward_simulation(model, 5, 3)(YS)


def test_steps_of_different_choices_are_refused() -> None:
    known = condition(chain, {"x[1]": f(1.0)})
    with pytest.raises(ProgramError, match="different structures"):
        backward_simulation(known, 5, 3)(YS)


def test_weights_that_are_no_numbers_are_refused() -> None:
    def model(ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> Any:
            new = sample("x", dist.Normal(x, 1.0))
            factor("f", torch.where((new - x).abs() > 2.5, f(math.nan), new))
            return new, None

        return scan(step)(f(0.0), ys)[0]

    torch.manual_seed(1)
    with pytest.raises(ProgramError, match="NaN"), torch.no_grad():
        backward_simulation(model, 50, 5)(YS)


# --------------------------------------------------------------------------------------- as it runs


@program
def walk(ys: Tensor) -> Tensor:
    """A random walk from a start that is chosen, carried with its exponential."""
    start = sample("start", dist.Normal(0.0, 1.0))

    def step(carry: tuple[Tensor, Tensor], y: Tensor) -> Any:
        x = sample("x", dist.Normal(carry[0], 0.5))
        observe("y", dist.Normal(0.0, carry[1]), y)
        return (x, x.exp()), x

    return scan(step)((start, start.exp()), ys)[1]


def test_early_states_do_not_coalesce() -> None:
    ys = torch.linspace(-1.0, 1.0, 25)
    torch.manual_seed(1)
    with torch.no_grad():
        lines = particle_filter(walk, 60)(ys).values
        paths = backward_simulation(walk, 60, 60)(ys)
    assert paths.values.shape == (60, 25)
    assert len(lines[:, 0].unique()) < 15 < 25 < len(paths.values[:, 0].unique())
    assert float(paths.log_weights.std()) < 1e-12


LAWS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "normal": (lambda x, s: dist.Normal(x, 1.0), ()),
    "student": (lambda x, s: dist.StudentT(4.0, x, 1.0), ()),
    "categorical": (lambda x, s: dist.Categorical(logits=torch.stack([x, 0 * x])), ()),
    "uniform": (lambda x, s: dist.Uniform(x - 1, x + 1), ()),
    "a scale before": (lambda x, s: dist.Normal(x, s.exp()), (1,)),
    "a matrix before": (
        lambda x, s: dist.MultivariateNormal(x.expand(2), torch.eye(2) * s.exp()),
        (1,),
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_what_steps_look_at(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a start that is carried and a scale, whatever law the step draws from."""
    seen: list[Any] = []
    looked = Smoothing.looked
    monkeypatch.setattr(
        Smoothing, "looked", lambda *about: (seen.append(looked(*about)), seen[0])[1]
    )

    def model(ys: Tensor) -> Tensor:
        start = sample("start", dist.Normal(0.0, 1.0))
        scale = sample("scale", dist.Normal(0.0, 1.0))

        def step(x: Tensor, y: Tensor) -> Any:
            x = sample("x", LAWS[law][0](x, scale)).double().sum().tanh()
            observe("y", dist.Normal(x, 1.0), y)
            return x, x

        return scan(step)(start, ys)[1]

    with torch.no_grad():
        backward_simulation(model, 5, 2)(YS)
    assert seen == [LAWS[law][1]]


def test_in_lanes_of_data() -> None:
    """Level 1e-6: evidences, five standard errors of their spread over 30 lanes."""
    ys = torch.linspace(-1.0, 1.0, 4)
    torch.manual_seed(1)
    with torch.no_grad():
        many = vmap(lambda ys: backward_simulation(walk, 50, 2)(ys))(ys.expand(30, 4))
        once = float(particle_filter(walk, 20_000)(ys).log_evidence())
    ratios = (many.log_weights.logsumexp(1) - once).exp()
    assert many.values.shape == (30, 2, 4)
    assert abs(float(ratios.mean()) - 1) < 5 * float(ratios.std()) / math.sqrt(30) + 0.02


def test_a_driver_names_the_choices_of_paths() -> None:
    def algorithm(p: Any, n: int) -> Any:
        return backward_simulation(p, n, n)

    ys = torch.linspace(-1.0, 1.0, 6)
    fit = SMC(30, 2, algorithm, compiled=False, progress=False).run(walk, ys, seed=1)
    assert fit["x"].shape == (2, 30, 6)
    assert fit["start"].shape == (2, 30)
    assert len(fit["start"][0].unique()) > 10
