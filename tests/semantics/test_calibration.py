"""Simulation-based calibration: right methods pass, and wrong ones are told apart."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, plate, program, sample
from pushforward.inference import MCMC, Exact, nuts
from pushforward.ppl.errors import DataError
from pushforward.semantics import check
from pushforward.semantics.checks.calibration import _Judged

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("double")
QUIET: dict[str, Any] = {"progress": False}


@program
def normal_mean(n: int) -> None:
    mu = sample("mu", dist.Normal(0.0, 2.0))
    with plate("n", n):
        sample("y", dist.Normal(mu, 1.0))


def conjugate(scale: float = 1.0, shift: float = 0.0, draws: int = 200) -> Any:
    """The posterior in closed form, wrong by a factor or a shift of its deviation."""

    def fit(posterior: Any) -> dict[str, Tensor]:
        y = posterior.data["y"]
        variance = 1 / (1 / 4 + len(y))
        sd = math.sqrt(variance)
        return {"mu": variance * y.sum() + sd * (shift + scale * torch.randn(draws))}

    return fit


def test_the_posterior_passes() -> None:
    report = check.sbc(normal_mean, conjugate(), ["y"], 5, simulations=200, **QUIET)
    assert report.verdict == "pass" and "are found" in report.notes[0]
    assert {name: len(u) for name, u in report.ranks.items()} == {"mu": 200, "log density": 200}
    figure = report.plot()
    assert [axis.get_title() for axis in figure.axes] == ["mu", "log density"]


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"scale": 0.5}, "narrow|above"),
        ({"scale": 2.0}, "wide|below"),
        ({"shift": 0.7}, "'mu' lie above"),
        ({"shift": -0.7}, "'mu' lie below"),
    ],
)
def test_wrong_posteriors_fail(about: Any, match: str) -> None:
    report = check.sbc(normal_mean, conjugate(**about), ["y"], 5, **QUIET)
    assert report.verdict == "fail"
    assert any(each in report.counterexample for each in match.split("|"))


def test_the_prior_as_posterior_is_seen_by_the_joint_density_only() -> None:
    """Margins of the prior are calibrated; the joint log density is not."""
    report = check.sbc(normal_mean, lambda p: {"mu": 2 * torch.randn(200)}, ["y"], 5, **QUIET)
    assert len(report.ranks["mu"]) < 200, "found early"
    assert report.verdict == "fail" and "log density" in report.counterexample
    assert abs(float(report.ranks["mu"].mean()) - 0.5) < 0.1


def test_a_tenth_too_wide_is_found_by_default() -> None:
    report = check.sbc(normal_mean, conjugate(scale=1.1), ["y"], 5, **QUIET)
    assert report.verdict == "fail" and len(report.ranks["mu"]) <= 4_000


@program
def coins() -> None:
    which = sample("which", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
    p = torch.tensor([0.1, 0.5, 0.9])[which.long()]
    with plate("throws", 4):
        sample("heads", dist.Bernoulli(p))


@pytest.mark.parametrize("simulations", quick(1, [50, 200]))
def test_discrete_latents_and_ties(simulations: int) -> None:
    exact = Exact(draws=100).run
    check.sbc(coins, exact, ["heads"], simulations=simulations, **QUIET).require()

    def uniform(posterior: Any) -> dict[str, Tensor]:
        return {"which": torch.randint(3, (100,))}

    assert check.sbc(coins, uniform, ["heads"], simulations=400, **QUIET).verdict == "fail"


@pytest.mark.parametrize("seeds", quick(1, [25, 100]))
def test_the_level_holds(seeds: int) -> None:
    """At a level of .2 a right method fails at most so often, within three deviations."""
    failures = sum(
        check.sbc(
            normal_mean, conjugate(draws=20), ["y"], 2, simulations=20, draws=20, level=0.2,
            seed=1000 * seed, **QUIET,
        ).verdict == "fail"
        for seed in range(seeds)
    )  # fmt: skip
    assert failures <= seeds * 0.2 + 3 * (seeds * 0.2 * 0.8) ** 0.5


def test_every_fit_has_a_seed_of_its_own() -> None:
    """A method that seeds itself would draw the same noise each time."""
    seeds = []

    def fit(posterior: Any, seed: int = 0) -> Any:
        seeds.append(seed)
        return conjugate()(posterior)

    check.sbc(normal_mean, fit, ["y"], 5, simulations=20, **QUIET)
    first = list(seeds)
    assert len(set(first)) == 20
    check.sbc(normal_mean, fit, ["y"], 5, simulations=20, **QUIET)
    assert seeds[20:] == first


def test_quantities_of_ones_own() -> None:
    about = {"sign": lambda choices: (choices["mu"] > 0).double()}
    report = check.sbc(
        normal_mean, conjugate(), ["y"], 5, simulations=20, quantities=about, **QUIET
    )
    assert list(report.ranks) == ["sign", "log density"]


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "unknown"), (0.02, "fail")])
def test_an_interruption_keeps_what_was_done(scale: float, verdict: str) -> None:
    """A failure stays one; a pass is none."""
    made = 0

    def fit(posterior: Any) -> Any:
        nonlocal made
        made += 1
        if made == 60:
            raise KeyboardInterrupt
        return conjugate(scale)(posterior)

    report = check.sbc(normal_mean, fit, ["y"], 5, **QUIET)
    assert report.verdict == verdict
    if verdict == "unknown":
        assert len(report.ranks["mu"]) == 59
        assert report.notes[0] == "interrupted after 59 simulations"


@program
def wide() -> None:
    sample("x", dist.Normal(torch.zeros(200), 1.0).to_event(1))
    sample("y", dist.Normal(0.0, 1.0))


def quantity(q: Any, name: str = "q") -> Any:
    return check.sbc(normal_mean, conjugate(), ["y"], 5, quantities={name: q}, **QUIET)


def test_so_few_simulations_that_nothing_is_found_are_no_pass() -> None:
    report = check.sbc(normal_mean, conjugate(), ["y"], 5, simulations=1, **QUIET)
    assert report.verdict == "unknown" and "nothing would be found" in report.notes[0]
    few = check.sbc(normal_mean, conjugate(), ["y"], 5, simulations=200, draws=2, **QUIET)
    assert few.notes == ("2 draws of each fit tell little of widths",)


def test_campaigns_with_other_seeds_share_nothing() -> None:
    one, other = (
        check.sbc(normal_mean, conjugate(), ["y"], 5, simulations=30, seed=seed, **QUIET)
        for seed in (0, 1)
    )
    assert not set(one.ranks["mu"].tolist()) & set(other.ranks["mu"].tolist())


def test_numbers_of_some_simulations_only_are_an_error() -> None:
    with pytest.raises(DataError, match="\\['z'\\] are numbers of some simulations"):
        _Judged({0: {"x": 0.3}, 1: {"x": 0.2, "z": 0.1}}, 100).go_on(2)


def test_simulations_that_come_in_another_order_are_judged_in_their_own() -> None:
    ranks = {i: {"x": (i + 0.5) / 7} for i in range(7)}
    judged = _Judged({i: ranks[i] for i in (0, 1, 3, 4, 6)}, 100)
    judged.go_on(7)
    assert judged.number == 2
    judged.all[2] = ranks[2]
    judged.go_on(4)
    assert judged.number == 4
    assert judged.ranks()["x"].tolist() == pytest.approx([0.5 / 7, 1.5 / 7, 2.5 / 7, 3.5 / 7])


@pytest.mark.slow
def test_nuts_is_calibrated_on_a_hierarchy() -> None:
    @program
    def hierarchy() -> None:
        sd = sample("sd", dist.LogNormal(0.0, 0.5))
        with plate("groups", 3):
            mean = sample("mean", dist.Normal(0.0, sd))
            sample("y", dist.Normal(mean, 0.5))

    sampler = MCMC(nuts(), chains=1, draws=100, warmup=100, compiled=False, **QUIET)
    check.sbc(hierarchy, sampler.run, ["y"], simulations=30, draws=50, **QUIET).require()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: check.sbc(normal_mean, conjugate(), ["z"], 5, **QUIET), DataError, "no site"),
        (lambda: check.sbc(normal_mean, conjugate(), [], 5, **QUIET), DataError, "is observed"),
        (
            lambda: check.sbc(normal_mean, conjugate(draws=9), ["y"], 5, **QUIET),
            DataError,
            "100 or more",
        ),
        (
            lambda: check.sbc(normal_mean, lambda p: {"nu": torch.zeros(100)}, ["y"], 5, **QUIET),
            DataError,
            "no draws of 'mu'",
        ),
        (
            lambda: check.sbc(wide, lambda p: {"x": torch.zeros(100, 200)}, ["y"], **QUIET),
            ValueError,
            "quantities=",
        ),
        (lambda: check.sbc(normal_mean, conjugate(), "y", 5, **QUIET), ValueError, "list of names"),
        (
            lambda: check.sbc(normal_mean, conjugate(), ["y", "mu"], 5, **QUIET),
            DataError,
            "all sites are observed",
        ),
        (
            lambda: quantity(lambda c: c["mu"].log()),
            DataError,
            "'q' is NaN",
        ),
        (
            lambda: quantity(lambda c: torch.stack([c["mu"], c["mu"]])),
            DataError,
            r"'q' has shape \[2\]",
        ),
        (
            lambda: quantity(lambda c: c["mu"], "log density"),
            ValueError,
            "always there",
        ),
        (
            lambda: check.sbc(normal_mean, conjugate(), ["y"], 5, simulations=0, **QUIET),
            ValueError,
            "positive",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
