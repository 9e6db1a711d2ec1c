"""Steps given data, judged by the joint law: right ones pass, mistaken ones are found and told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.sizes import quick

from pushforward import assess, dist, factor, observe, plate, program, sample
from pushforward.ppl.errors import DataError, ProgramError
from pushforward.semantics import check
from pushforward.semantics.checks.geweke import geweke

pytestmark = pytest.mark.usefixtures("double")
Choices = dict[str, Any]
NOISE = 0.7


@program
def measured() -> None:
    m = sample("m", dist.Normal(0.0, 1.0))
    with plate("row", 2):
        sample("y", dist.Normal(m, NOISE))


def conjugate(
    scale: float = 1.0, noise: float = NOISE, rows: int = 2, prior: float = 1.0
) -> Callable[..., Choices]:
    """Draws of the posterior of m, by hand; or of another's."""

    def step(posterior: Any, latents: Choices) -> Choices:
        y = posterior.data["y"][:rows]
        precision = prior + len(y) / noise**2
        mean = y.sum() / noise**2 / precision
        return {"m": dist.Normal(mean, scale * precision**-0.5).sample()}

    return step


def metropolis(slip: float = 0.0) -> Callable[..., Choices]:
    """A random walk, which multiplies the ratio by exp(slip (z - x))."""

    def step(posterior: Any, latents: Choices) -> Choices:
        x = latents["m"]
        z = x + 0.8 * torch.randn(())
        ratio = assess(posterior, {"m": z})[0] - assess(posterior, {"m": x})[0]
        return {"m": z if torch.rand(()).log() < ratio + slip * (z - x) else x}

    return step


@pytest.mark.parametrize("step", quick(1, [conjugate(), metropolis()]))
def test_right_steps_pass(step: Any) -> None:
    report = geweke(measured, step, ["y"], draws=500, width=1.0)
    assert report.verdict == "pass", report


MISTAKEN = {
    "noise too large": conjugate(noise=3.0),
    "prior instead of posterior": conjugate(rows=0),
    "data left out": conjugate(rows=1),
    "prior left out": conjugate(prior=0.0),
    "a slip in the ratio": metropolis(slip=1.0),
    "posterior too wide": conjugate(scale=2.0),
}


@pytest.mark.parametrize("name", quick(2, MISTAKEN))
def test_mistaken_steps_are_found(name: str) -> None:
    report = geweke(measured, MISTAKEN[name], ["y"], draws=6000)
    assert report.verdict == "fail"
    assert "a right kernel would be worth 1" in report.counterexample


def test_few_chains_say_that_they_are_few() -> None:
    report = geweke(measured, conjugate(), ["y"], draws=50)
    assert report.verdict == "unknown"
    assert "raise draws=" in report.notes[0]


@program
def after_the_data() -> None:
    y = sample("y", dist.Normal(0.0, 1.0))
    sample("m", dist.Normal(y, 1.0))


@program
def scored_data() -> None:
    m = sample("m", dist.Normal(0.0, 1.0))
    factor("tilt", -(sample("y", dist.Normal(m, 1.0)) ** 2))


@program
def scored_by_law() -> None:
    m = sample("m", dist.Normal(0.0, 1.0))
    y = sample("y", dist.Normal(m, 1.0))
    observe("z", dist.Normal(y, 1.0), torch.tensor(0.3))


@pytest.mark.parametrize("model", [after_the_data, scored_data, scored_by_law])
def test_data_that_others_depend_on_are_refused(model: Any) -> None:
    with pytest.raises(ProgramError, match="may not depend on data"):
        geweke(model, conjugate(), ["y"])


def test_scores_of_latents_alone_need_a_bound_that_is_one() -> None:
    """The factor is at most one and no data are in it: the joint law is weighted, and kept."""

    @program
    def weighted() -> None:
        m = sample("m", dist.Normal(0.0, 1.0))
        factor("tilt", -0.5 * m**2)
        with plate("row", 2):
            sample("y", dist.Normal(m, NOISE))

    right = geweke(weighted, conjugate(prior=2.0), ["y"], draws=300, width=2.0)
    assert right.verdict == "pass"
    wrong = geweke(weighted, conjugate(prior=0.0), ["y"], draws=8000)
    assert wrong.verdict == "fail"


@pytest.mark.parametrize(
    ("observed", "told"), [(["z"], "no site called"), ([], "none or all"), (["m", "y"], "none or")]
)
def test_unknown_data_are_told(observed: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        geweke(measured, conjugate(), observed)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"draws": 0}, {"level": 1.0}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        geweke(measured, conjugate(), ["y"], **settings)
    with pytest.raises(ValueError, match="a list of names"):
        geweke(measured, conjugate(), "y")


def test_a_step_that_breaks_fails() -> None:
    def forgets(posterior: Any, latents: Choices) -> Choices:
        return {"n": latents["m"]}

    def nan(posterior: Any, latents: Choices) -> Choices:
        return {"m": torch.tensor(math.nan)}

    assert "return the latents ['m']" in check.geweke(measured, forgets, ["y"]).counterexample
    assert check.geweke(measured, nan, ["y"]).verdict == "fail"
