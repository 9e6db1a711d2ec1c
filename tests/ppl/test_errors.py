"""User errors: each message says what is wrong, at which site and line, and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pushforward import errors
from pushforward.inference import MCMC
from pushforward.inference.runs.start import starting_points
from pushforward.ppl import (
    assess,
    condition,
    draw,
    factor,
    generate,
    observe,
    plate,
    program,
    sample,
    simulate,
    vmap,
)
from pushforward.ppl.errors import (
    BranchError,
    DataError,
    DuplicateNameError,
    ImpureProgramError,
    InitializationError,
    NoDensityError,
    ProgramError,
    SupportError,
    UnsupportedDistributionError,
    ZeroMassError,
)
from pushforward.ppl.interpretations.abstract_run import program_type
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture
from pushforward.semantics import denote

Run = Callable[..., Any]
SOURCE = Path(__file__).read_text().splitlines()


def said(run: Callable[[], Any], error: type[Exception], *, mark: str, site: str | None) -> str:
    """The message that ``run`` raises, without its place: the line marked ``# mark``, and a site.

    It must consist of what is wrong, where, and a hint.
    """
    with pytest.raises(error) as caught:
        run()
    assert type(caught.value) is error
    lines = [i for i, line in enumerate(SOURCE, 1) if line.endswith(f"# {mark}")]
    assert len(lines) == 1, mark
    at = f"at site '{site}' " if site else ""
    where = f" ({at}{__file__}:{lines[0]})"
    assert where in str(caught.value), str(caught.value)
    what, hint = str(caught.value).split(where)
    assert what and hint.startswith(". ") and len(hint) > 8, str(caught.value)
    return f"{what}{hint}"


# -------------------------------------------------------------------------------------------- names


def twice() -> Tensor:
    sample("x", dist.Bernoulli(0.5))
    return sample("x", dist.Bernoulli(0.5))  # twice


@pytest.mark.parametrize("run", [program_type, simulate, LogDensity, denote])
def test_a_duplicate_name(run: Run) -> None:
    message = said(lambda: run(twice), DuplicateNameError, mark="twice", site="x")
    assert re.fullmatch(r"the name is used twice .*\. rename .*", message)


def test_a_duplicate_name_in_an_assessment() -> None:
    half = {"x": torch.tensor(1.0)}
    said(lambda: assess(twice, half), DuplicateNameError, mark="twice", site="x")


def test_a_duplicate_name_says_where_it_was_first() -> None:
    message = said(lambda: program_type(twice), DuplicateNameError, mark="twice", site="x")
    line = SOURCE.index("def twice() -> Tensor:") + 2
    assert f"(first at {__file__}:{line})" in message


# --------------------------------------------------------------------------------------------- data


def vector() -> Tensor:
    return sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))  # vector


def coin() -> Tensor:
    return sample("x", dist.Bernoulli(0.5))  # coin


MISSPELT = condition(vector, {"xx": torch.zeros(3)})


@pytest.mark.parametrize(
    "run",
    [
        lambda p: program_type(p),  # no such site: type
        lambda p: simulate(p),
        lambda p: LogDensity(p),
        lambda p: assess(p, {"x": torch.zeros(3)}),
        lambda p: generate(p, {}),
    ],
    ids=["type", "simulate", "density", "assess", "generate"],
)
def test_data_for_a_site_that_does_not_exist(run: Run) -> None:
    with pytest.raises(DataError, match=r"data for a site that does not exist: 'xx'") as caught:
        run(MISSPELT)
    assert str(caught.value).endswith("the sites of vector are x")
    assert f"({__file__}:" in str(caught.value)


def test_data_for_a_site_that_does_not_exist_under_the_exact_evaluator() -> None:
    wrong = condition(coin, {"xx": torch.tensor(1.0)})
    message = said(lambda: denote(wrong), DataError, mark="exact", site=None)  # exact
    assert message == "data for a site that does not exist: 'xx'. the sites of coin are x"


def test_data_that_no_path_meets_are_refused_where_a_program_has_no_type() -> None:
    def either() -> Any:
        return sample("a" if sample("b", dist.Bernoulli(0.5)) == 1 else "c", dist.Bernoulli(0.5))

    with pytest.raises(DataError, match=r"'xx'.*no path of the program meets it"):
        denote(condition(either, {"xx": torch.tensor(1.0)}))


def test_data_may_be_for_a_site_of_another_path() -> None:
    def one_of_two() -> None:
        name = "a" if bool(sample("which", dist.Bernoulli(0.5)) > 0) else "b"
        sample(name, dist.Normal(0.0, 1.0))

    both = condition(one_of_two, {"a": torch.tensor(0.0), "b": torch.tensor(0.0)})
    assert len(simulate(both, seed=0).observed) == 1


def test_choices_that_name_no_site() -> None:
    good = {"x": torch.zeros(3)}
    message = said(lambda: assess(vector, {}), DataError, mark="none", site=None)  # none
    assert message == "assess: no value for ['x']. the latent sites are ['x']"
    extra = {**good, "q": torch.zeros(3)}
    message = said(lambda: assess(vector, extra), DataError, mark="extra", site=None)  # extra
    assert message == "assess: no site called ['q']. the latent sites are ['x']"
    message = said(lambda: generate(vector, extra), DataError, mark="more", site=None)  # more
    assert message == "generate: no site called ['q']. the latent sites are ['x']"


@pytest.mark.parametrize(
    "run",
    [
        lambda: program_type(condition(vector, {"x": torch.zeros(4)})),
        lambda: simulate(condition(vector, {"x": torch.zeros(4)})),
        lambda: LogDensity(condition(vector, {"x": torch.zeros(4)})),
        lambda: denote(condition(vector, {"x": torch.zeros(4)})),
        lambda: assess(vector, {"x": torch.zeros(4)}),
        lambda: generate(vector, {"x": torch.zeros(4)}),
    ],
    ids=["type", "simulate", "density", "denote", "assess", "generate"],
)
def test_data_of_the_wrong_shape(run: Run) -> None:
    message = said(run, DataError, mark="vector", site="x")
    assert message.startswith("data of shape (4,) do not fit the shape (3,). transpose or index")


def observing(y: Tensor) -> None:
    with plate("n", 3):
        sample("y", dist.Exponential(1.0), obs=y)  # observing


OBSERVING = [program_type, simulate, LogDensity, lambda p, *args: assess(p, {}, *args)]


@pytest.mark.parametrize("run", OBSERVING, ids=["type", "simulate", "density", "assess"])
def test_observations_of_the_wrong_shape(run: Run) -> None:
    four = torch.ones(4)
    message = said(lambda: run(observing, four), DataError, mark="observing", site="y")
    assert message.startswith("data of shape (4,) do not fit the shape (3,). transpose or index")


@pytest.mark.parametrize("run", OBSERVING, ids=["type", "simulate", "density", "assess"])
def test_observations_that_are_not_there(run: Run) -> None:
    y = torch.tensor([1.0, math.nan, math.nan])
    message = said(lambda: run(observing, y), DataError, mark="observing", site="y")
    assert message == (
        "observed data hold 2 NaN, in rows 1, 2. "
        "drop them, mask the site, or sample the missing entries"
    )


@pytest.mark.parametrize("run", [*OBSERVING, denote])
def test_observations_outside_the_support(run: Run) -> None:
    y = torch.tensor([1.0, -2.0, 3.0])
    message = said(lambda: run(observing, y), SupportError, mark="observing", site="y")
    assert message == (
        "observed value -2 is outside the support GreaterThanEq(lower_bound=0.0). "
        "Exponential gives it no mass"
    )


@pytest.mark.parametrize("run", [program_type, simulate, LogDensity, denote])
def test_conditions_that_hold_nan_or_lie_outside_the_support(run: Run) -> None:
    def positive() -> Tensor:
        return sample("x", dist.HalfNormal(1.0))  # positive

    nan = condition(positive, {"x": math.nan})
    message = said(lambda: run(nan), DataError, mark="positive", site="x")
    assert message.startswith("observed data hold 1 NaN. drop them")
    negative = condition(positive, {"x": -1.0})
    message = said(lambda: run(negative), SupportError, mark="positive", site="x")
    assert message.startswith("observed value -1 is outside the support GreaterThan")


def test_a_condition_on_what_is_observed_already() -> None:
    again = condition(observing, {"y": torch.ones(3)})
    message = said(
        lambda: program_type(again, torch.ones(3)), DataError, mark="observing", site="y"
    )
    assert message == (
        "data for a site that the program already observes. remove one of the two observations"
    )


# ------------------------------------------------------------------------- Python and random values


def branching() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    if x > 0:  # branching
        factor("f", x)


@pytest.mark.parametrize("run", [program_type, LogDensity, MCMC(progress=False).run])
def test_a_python_if_on_a_random_value(run: Run) -> None:
    message = said(lambda: run(branching), BranchError, mark="branching", site=None)
    assert message == (
        "Python looks at a random value (it depends on 'x'). "
        "use cond(...) or torch.where; replay interpretations can still run it"
    )


def test_a_python_if_in_a_captured_function() -> None:
    def density(u: Tensor) -> Tensor:
        return u.sum() if u[0] > 0 else -u.sum()  # captured

    message = said(
        lambda: capture(density, torch.zeros(2, 1)), BranchError, mark="captured", site=None
    )
    assert message.startswith("Python looks at a random value. use cond(...) or torch.where")


def test_a_random_value_written_into_an_argument() -> None:
    def overwriting(y: Tensor) -> None:
        y[0] = sample("x", dist.Normal(0.0, 1.0))  # overwriting

    y = torch.tensor([1.0, 2.0])
    for target in (y, y[:1]):
        message = said(
            lambda target=target: LogDensity(overwriting, target),
            ImpureProgramError,
            mark="overwriting",
            site=None,
        )
        assert message == (
            "a random value is written in place into an argument of the program. "
            "write into a copy: y = y.clone()"
        )
    assert y.tolist() == [1.0, 2.0]


def test_an_abstract_run_inside_another_leaves_its_bookkeeping_alone() -> None:
    written = torch.zeros(2)

    def outer(y: Tensor) -> Tensor:
        written[0] = sample("x", dist.Normal(0.0, 1.0))
        LogDensity(observing, torch.ones(3))
        y[0] = written[0]  # nested
        return y

    said(lambda: program_type(outer, torch.zeros(1)), ImpureProgramError, mark="nested", site=None)
    assert type(written) is Tensor


def test_a_random_value_written_into_a_global() -> None:
    outside = torch.zeros(2)

    def overwriting() -> None:
        outside[0] = sample("x", dist.Normal(0.0, 1.0))  # outside
        factor("f", outside.sum())

    message = said(
        lambda: capture(LogDensity(overwriting), torch.zeros(2, 1)),
        ProgramError,
        mark="outside",
        site=None,
    )
    assert message == (
        "a random value is written in place into a tensor that holds none. "
        "write into a copy, y = y.clone(), or make it from a random value, x.new_zeros(...)"
    )


# ----------------------------------------------------------------------------------------- impurity


def test_an_impure_program_under_replay() -> None:
    calls: list[int] = []

    def counting() -> Tensor:
        calls.append(1)
        first = sample("x", dist.Bernoulli(0.25 if len(calls) % 2 else 0.5))  # counting
        return first + sample("z", dist.Bernoulli(0.5))

    message = said(lambda: denote(counting), ImpureProgramError, mark="counting", site=None)
    assert re.fullmatch(r"the program is impure: .* with the same choices\. remove .*", message)


def test_randomness_of_torch_in_a_density() -> None:
    def noisy() -> None:
        sample("x", dist.Normal(torch.randn(()), 1.0))  # noisy

    density = LogDensity(noisy)
    for run in (lambda: capture(density, torch.zeros(2, 1)), lambda: starting_points(density, 2)):
        message = said(run, ImpureProgramError, mark="noisy", site=None)
        assert message == (
            "randomness is drawn outside the program's effects. "
            "draw it with sample(...), or outside the program and pass it as an argument"
        )


# ------------------------------------------------------------------------------- mass and densities


def test_conditioning_on_the_impossible() -> None:
    def dry() -> Tensor:
        return sample("rain", dist.Bernoulli(torch.tensor(0.0)))

    measure = denote(condition(dry, {"rain": torch.tensor(1.0)}))
    assert measure.mass() == 0.0
    message = said(lambda: measure.normalize(), ZeroMassError, mark="mass", site=None)  # mass
    assert message == "the measure is zero: nothing to normalise. every path scores zero"


def test_nan_in_a_density_at_the_start() -> None:
    def broken() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(x, torch.sqrt(-x.abs())), obs=torch.tensor(0.5))  # broken

    line = next(i for i, text in enumerate(SOURCE, 1) if text.endswith("# broken"))
    for run in (lambda: starting_points(LogDensity(broken), 2), lambda: MCMC(**QUIET).run(broken)):
        with pytest.raises(
            InitializationError, match="chain 0 is NaN: not finite at 'y'"
        ) as caught:
            run()
        assert f"'y' ({__file__}:{line})" in str(caught.value)
        assert "NaN is a mistake in the model" in str(caught.value)


QUIET: dict[str, Any] = {"chains": 2, "draws": 2, "warmup": 2, "progress": False}


@pytest.mark.parametrize("run", [LogDensity, MCMC(**QUIET).run])
def test_a_discrete_latent_without_a_value(run: Run) -> None:
    message = said(lambda: run(coin), UnsupportedDistributionError, mark="coin", site="x")
    assert message == (
        "the latent is discrete (Bool) and has no gradient. "
        "sum it out, by marginal(p, exact=True) or MCMC(rewrite='auto'), draw it by"
        " MCMC(with_gibbs()), or condition the program on its value"
    )


def test_values_for_discrete_latents_are_checked() -> None:
    def run(**discrete: Any) -> Callable[[], Any]:
        return lambda: LogDensity(coin, discrete=discrete)  # discrete

    message = said(run(q=1.0), DataError, mark="discrete", site=None)
    assert message == "discrete: no latent site called ['q']. the latent sites are ['x']"
    message = said(run(x=torch.zeros(2)), DataError, mark="coin", site="x")
    assert message == "discrete: a value of shape [2] where Bool is sampled. give one of shape []"
    message = said(run(x=3.0), SupportError, mark="coin", site="x")
    assert message == "discrete: 3.0 lies outside Bool. give values in Bool"
    assert float(run(x=1)()(torch.zeros(0))) == pytest.approx(math.log(0.5))


def test_a_support_that_moves_with_another_latent() -> None:
    def moving() -> Tensor:
        top = sample("top", dist.HalfNormal(1.0))
        return sample("x", dist.Uniform(0.0, top))  # moving

    assert str(program_type(moving)) == "{top: Positive, x: Interval(0, ?)} -> P Real"
    refused = UnsupportedDistributionError
    message = said(lambda: LogDensity(moving), refused, mark="moving", site="x")
    assert message == (
        "the support of the site depends on the choices ['top']. "
        "write it as an affine function of a site with a fixed support"
    )


def test_a_count_that_moves_with_another_latent_is_typed() -> None:
    def thinned() -> Tensor:
        n = sample("n", dist.Poisson(3.0))
        return sample("k", dist.Binomial(n, 0.5))

    assert str(program_type(thinned)) == "{n: Nat, k: IntInterval(0, ?)} -> P Real"


def test_a_subsample_drawn_in_each_lane() -> None:
    def minibatch(w: Tensor) -> Tensor:
        with plate("data", 9, subsample_size=3) as index:  # minibatch
            sample("y", dist.Normal(w, 1.0), obs=torch.arange(9.0)[index])
        return index

    def lanes() -> Tensor:
        result: Tensor = vmap(minibatch)(sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1)))
        return result

    assert str(program_type(lanes)) == "{w: Real[4], y: Real[4, 3] observed} -> M Int[4, 3]"
    message = said(lambda: LogDensity(lanes), NoDensityError, mark="minibatch", site="data")
    assert message == (
        "the plate draws 3 of 9 indices, so the density is random. "
        "give the indices as subsample=..., or use all the data"
    )


def anonymous() -> Tensor:
    return draw(dist.Normal(0.0, 1.0))  # anonymous


@pytest.mark.parametrize(
    "run",
    [lambda: assess(anonymous, {}), lambda: LogDensity(anonymous)],
    ids=["assess", "density"],
)
def test_a_density_of_anonymous_randomness(run: Run) -> None:
    message = said(run, NoDensityError, mark="anonymous", site=None)
    assert re.fullmatch(r".* has no exact density\. name the choices? with sample\(.*", message)


def test_pyro_gets_no_density_of_anonymous_randomness() -> None:
    run = poutine.trace(anonymous).get_trace
    message = said(run, NoDensityError, mark="anonymous", site=None)
    assert ". name the choice with sample(...) if it is part of the model" in message


# --------------------------------------------------------------------------------------- parameters


def negative(scale: Tensor) -> Tensor:
    return sample("x", dist.Normal(torch.zeros(3), scale))  # negative


@pytest.mark.parametrize("run", [program_type, LogDensity])
def test_a_negative_scale(run: Run) -> None:
    scale = torch.tensor([1.0, -1.0, 2.0])
    message = said(lambda: run(negative, scale), ProgramError, mark="negative", site="x")
    assert message == (
        "parameter scale of Normal violates GreaterThan(lower_bound=0.0): it is -1.0. "
        "check the arguments of the distribution"
    )


@pytest.mark.parametrize("run", [simulate, lambda p, s: assess(p, {"x": torch.zeros(3)}, s)])
def test_a_negative_scale_in_a_run(run: Run) -> None:
    scale = torch.tensor(-1.0)
    message = said(lambda: run(negative, scale), ProgramError, mark="negative", site=None)
    assert re.match(r"expected parameter scale .* of distribution Normal.*GreaterThan", message)
    assert message.endswith("check the arguments of the distribution")


def test_errors_leave_the_parameter_store_and_validation_as_they_were() -> None:
    def refused(y: Tensor) -> None:
        pyro.param("leaked", torch.tensor(1.0))
        branching()

    with pyro.get_param_store().scope(), pytest.raises(BranchError):
        LogDensity(refused, torch.zeros(1))
    assert "leaked" not in pyro.get_param_store()
    with pytest.raises(ValueError, match="Expected parameter scale"):
        dist.Normal(0.0, -1.0)


@pytest.mark.parametrize("effect", ["sample", "observe", "draw"])
def test_a_law_of_torch_is_named(effect: str) -> None:
    law = torch.distributions.Normal(0.0, 1.0)

    @program
    def p() -> Any:
        if effect == "sample":
            return sample("x", law)
        return observe("x", law, torch.tensor(1.0)) if effect == "observe" else draw(law)

    for run in (p, p.type):
        with pytest.raises(ProgramError, match=r"torch's Normal .* pushforward\.dist"):
            run()


# ---------------------------------------------------------------------------------------- the page


def unlisted(page: str) -> list[str]:
    """The public errors that a page does not name, but for those that only stand for others."""
    found = (x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, Exception))
    public = [x for x in found if issubclass(x, errors.PushforwardError)]
    kinds = [x for x in public if not x.__subclasses__()]
    return [x.__name__ for x in kinds if f"`{x.__name__}`" not in page]


def test_every_error_is_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert unlisted(page) == []
    assert unlisted(page.replace("`NumericalError`", "")) == ["NumericalError"]  # the control
