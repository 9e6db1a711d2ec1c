"""The driver Pathfinder: what its fits hold, how far they can be trusted, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp
from support.normals import normal
from torch import Tensor
from torch.distributions import constraints

from pushforward.errors import (
    InitializationError,
    ProgramError,
    UnsupportedDistributionError,
)
from pushforward.inference import MCMC, Fit, Pathfinder, predict
from pushforward.inference.vi import pathfinder as driver
from pushforward.models.posteriordb import POSTERIORS
from pushforward.ppl import deterministic, factor, observe, plate, program, sample

PLAIN: dict[str, Any] = {"compiled": False, "progress": False}
DOUBLE: dict[str, Any] = {"progress": False, "dtype": torch.float64}


def free(name: str) -> Tensor:
    """A real number without a law."""
    return sample(name, dist.ImproperUniform(constraints.real, (), ()))


@program
def regression(x: Tensor, y: Tensor) -> None:
    slope = sample("slope", dist.Normal(0.0, 2.0))
    noise = sample("noise", dist.HalfNormal(1.0))
    deterministic("double", 2 * slope)
    with plate("points", len(x)):
        observe("y", dist.Normal(slope * x, noise), y)


X = torch.linspace(-1.0, 2.0, 12)
Y = 1.5 * X + 0.3 * torch.sin(9.0 * X)

# ------------------------------------------------------------------------------------------- fits


def test_a_fit_is_in_the_programs_own_names() -> None:
    fit = Pathfinder(paths=3, draws=1000, **PLAIN).run(regression, X, Y, seed=3)
    assert {name: x.shape for name, x in fit.draws.items()} == {
        "slope": (1, 1000),
        "noise": (1, 1000),
        "double": (1, 1000),
    }
    assert fit.latents == ("slope", "noise") and fit.observed["y"].shape == (12,)
    assert bool((fit["noise"] > 0.0).all()) and torch.equal(fit["double"], 2 * fit["slope"])
    assert fit.log_likelihood["y"].shape == (1, 1000, 12)
    assert {*fit.stats["path"].flatten().tolist()} <= {0, 1, 2}
    assert fit.stats["k_hat"].unique().numel() == 1 and fit.stats["lp"].shape == (1, 1000)
    assert fit.history["elbo"].shape[0] == 3 and len(fit.report) == 3
    assert fit.method == "Pathfinder (3 paths)" and not fit.warnings()
    assert fit.summary(["slope"]).shape[0] == 1


def test_a_fit_is_saved(tmp_path: Path) -> None:
    fit = Pathfinder(paths=1, draws=20, **PLAIN).run(regression, X, Y)
    fit.save(tmp_path / "fit")
    assert torch.equal(Fit.load(tmp_path / "fit")["slope"], fit["slope"])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_seed_fixes_the_run_and_leaves_the_global_state_alone(compiled: bool) -> None:
    method = Pathfinder(paths=2, draws=50, progress=False, compiled=compiled)
    before = torch.get_rng_state()
    first, again = (method.run(regression, X, Y, seed=7) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first["slope"], again["slope"])
    assert not torch.equal(first["slope"], method.run(regression, X, Y, seed=8)["slope"])


def test_the_precision_may_be_chosen() -> None:
    fit = Pathfinder(paths=2, draws=10, compiled=False, **DOUBLE).run(regression, X, Y)
    assert fit["slope"].dtype == torch.float64 == fit.stats["lp"].dtype
    single = Pathfinder(paths=2, draws=10, dtype=torch.float32, **PLAIN).run(regression, X, Y)
    assert single["slope"].dtype == torch.float32


def test_paths_that_were_interrupted_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, find = [], driver.pathfinder

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(*args, **kwargs)

    monkeypatch.setattr(driver, "pathfinder", interrupted)
    fit = Pathfinder(draws=10, **PLAIN).run(regression, X, Y)
    assert fit.interrupted and fit.method == "Pathfinder (2 paths)"
    calls[:] = [(), ()]
    with pytest.raises(KeyboardInterrupt):
        Pathfinder(draws=10, **PLAIN).run(regression, X, Y)


# --------------------------------------------------------------------------------- finite latents


@program
def components(y: Tensor) -> None:
    """m is in one of two places, as z is: what is known of it has two modes."""
    m = sample("m", dist.Normal(0.0, 4.0))
    z = sample("z", dist.Bernoulli(0.3))
    observe("y", dist.Normal(m + 6.0 * z, 0.5), y)


def by_hand(y: float) -> tuple[float, float]:
    """The log evidence, and P(z = 1), of ``components``."""
    sd = math.sqrt(16.0 + 0.25)
    logs = [math.log(p) + stats.norm(6.0 * z, sd).logpdf(y) for z, p in ((0, 0.7), (1, 0.3))]
    return float(logsumexp(logs)), float(expit(logs[1] - logs[0]))


def off_by(paths: int, seed: int = 1) -> tuple[float, float]:
    """By how many standard errors the evidence is off, and the share of z = 1 that is predicted."""
    y, n = 2.5, 4000
    method = Pathfinder(paths=paths, draws=n, **PLAIN)
    fit = method.run(components, torch.tensor(y), seed=seed)
    assert "z summed out" in fit.method and fit.latents == ("m",) and "k-hat" in repr(fit)
    evidence, share = by_hand(y)
    assert fit.log_evidence is not None and fit.log_evidence_error is not None
    drawn = float(predict(fit, components, torch.tensor(y))["z"].mean())
    error = math.sqrt(2 * share * (1 - share) / n)  # of weights and of draws
    return (fit.log_evidence - evidence) / fit.log_evidence_error, (drawn - share) / error


@pytest.mark.usefixtures("double")
def test_finite_latents_are_summed_out_and_come_back() -> None:
    evidence, share = off_by(8)
    assert abs(evidence) < 5 and abs(share) < 5


@pytest.mark.usefixtures("double")
def test_a_single_path_knows_one_mode_of_the_two() -> None:
    """The negative control: the evidence and the share of z are wrong then, and seen to be."""
    assert max(map(abs, off_by(1))) > 10


# ------------------------------------------------------------------------------------ right numbers


def normal_program(kind: str, d: int) -> Any:
    law = normal(kind, d)

    @program
    def model() -> None:
        x = sample("x", dist.ImproperUniform(constraints.real_vector, (), (d,)))
        factor("law", law.log_prob(x))

    return model, law


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("d", [1, 5])
def test_resampled_draws_of_normals_have_their_mean_and_covariance(kind: str, d: int) -> None:
    """Level about 1e-5: within 4.5 standard errors of half as many draws as there are."""
    model, law = normal_program(kind, d)
    fit = Pathfinder(draws=2000, history=15, compiled=False, **DOUBLE).run(model, seed=1)
    x, half = fit["x"][0], 1000**0.5
    assert not fit.warnings()
    assert bool(((x.mean(0) - law.mean).abs() < 4.5 * law.stddev / half).all())
    z = torch.linalg.solve_triangular(law.scale_tril, (x - law.mean).mT, upper=False)
    gap = torch.cov(z).reshape(d, d) - torch.eye(d, dtype=x.dtype)
    assert float(gap.abs().max()) < 4.5 * 2**0.5 / half
    assert fit.log_evidence == pytest.approx(0.0, abs=4.5 * fit.log_evidence_error + 1e-9)


def test_an_approximation_that_is_exact_is_drawn_from_exactly() -> None:
    model, law = normal_program("dense", 1)
    fit = Pathfinder(paths=2, draws=2000, resample=False, compiled=False, **DOUBLE).run(model)
    assert float(fit.stats["k_hat"][0, 0]) == 0.0
    assert fit.log_evidence == pytest.approx(0.0, abs=1e-9)
    z = (fit["x"].flatten() - law.mean) / law.stddev
    assert abs(float(z.mean())) < 4.5 / 2000**0.5
    assert abs(float(z.var()) - 1.0) < 4.5 * (2 / 2000) ** 0.5
    assert fit.stats["path"].flatten().bincount().tolist() == [1000, 1000]


def test_many_coordinates_that_few_steps_do_not_know_are_told() -> None:
    """d = 50 with 6 pairs: no normal law on the way is near, and k-hat says so."""
    model, _ = normal_program("dense", 50)
    fit = Pathfinder(draws=500, compiled=False, **DOUBLE).run(model)
    assert any("k-hat is" in note and "above 0.7" in note for note in fit.warnings())


@program
def two_modes() -> None:
    """Three quarters of the mass about -1, a quarter about 1."""
    x = free("x")
    low, high = (-0.5 * (x - c).square() / 0.01 for c in (-1.0, 1.0))
    factor("modes", torch.logaddexp(low + math.log(3.0), high))


def masses(seed: int) -> float:
    fit = Pathfinder(paths=8, draws=2000, compiled=False, **DOUBLE).run(two_modes, seed=seed)
    return float((fit["x"] < 0.0).double().mean())


def test_modes_have_their_masses_however_many_paths_end_in_them() -> None:
    """Level about 1e-5: within 4.5 standard errors of 1000 independent draws."""
    assert abs(masses(0) - 0.75) < 4.5 * (0.75 * 0.25 / 1000) ** 0.5


def test_weights_by_each_paths_own_law_give_wrong_masses(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(laws: Any, points: Tensor) -> Tensor:
        each = points.chunk(len(laws))
        return torch.cat([q.log_density(u) for q, u in zip(laws, each, strict=True)])

    monkeypatch.setattr(driver, "mixture_log_density", own)
    assert abs(masses(0) - 0.75) > 4.5 * (0.75 * 0.25 / 1000) ** 0.5


@pytest.mark.parametrize("name", ["kidiq-kidscore_interaction", "sblrc-blr"])
def test_means_on_posteriordb_are_those_of_nuts(name: str) -> None:
    """Loosely: means within a quarter of a standard deviation, deviations within a quarter."""
    p, args = POSTERIORS[name]()
    quick = Pathfinder(**DOUBLE).run(p, *args, seed=1)
    long = MCMC(draws=300, warmup=300, **DOUBLE).run(p, *args, seed=1)
    assert not quick.warnings()
    for site in long.latents:
        mean, sd = long[site].mean((0, 1)), long[site].flatten(0, 1).std(0)
        assert bool(((quick[site][0].mean(0) - mean).abs() < 0.25 * sd).all())
        assert bool(((quick[site][0].std(0) / sd).log().abs() < math.log(1.25)).all())


# ---------------------------------------------------------------------------------- what goes wrong


@program
def flat() -> None:
    free("x")


@program
def flat_beside() -> None:
    sample("y", dist.Normal(0.0, 1.0))
    free("x")


@program
def even() -> None:
    factor("slope", 2.0 * free("x"))


@program
def even_beside() -> None:
    sample("y", dist.Normal(0.0, 1.0))
    factor("slope", 2.0 * free("x"))


@program
def convex() -> None:
    factor("up", free("x").square())


@program
def spike() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    factor("inside", torch.where(x.abs() < 2.5, 0.0, -torch.inf) - 4e3 * (x - 2.49999).square())


@program
def no_latent() -> None:
    observe("y", dist.Normal(0.0, 1.0), torch.tensor(0.5))


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (flat, "none of 2 paths finds a normal law: the climb ends at its start: its gradient is"),
        (flat_beside, "flat, or rises evenly, along 'x'.*give every site a proper law"),
        (even, "nowhere concave"),
        (even_beside, "flat, or rises evenly, along 'x'"),
        (convex, "nowhere concave"),
        (spike, "no finite log density"),
        (no_latent, "no_latent has no real latent"),
    ],
)
def test_what_has_no_normal_law_is_an_error(p: Any, said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        Pathfinder(paths=2, steps=50, **PLAIN).run(p)


@program
def ridge() -> None:
    """No law: it does not fall along x = y."""
    factor("across", -(free("x") - free("y")).square())


@program
def rising_ridge() -> None:
    x, y = free("x"), free("y")
    factor("across", x + y - (x - y).square())


@program
def funnel() -> None:
    s = sample("s", dist.Normal(0.0, 3.0))
    with plate("many", 9):
        sample("x", dist.Normal(0.0, (0.5 * s).exp()))


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (ridge, "k-hat is"),
        (rising_ridge, "was still climbing after 60 steps: raise steps"),
        (funnel, "above 0.7"),
    ],
)
def test_what_no_normal_law_is_near_is_a_warning(p: Any, said: str) -> None:
    fit = Pathfinder(steps=60, compiled=False, **DOUBLE).run(p)
    assert any(said in note for note in fit.warnings())


def test_a_path_that_fails_is_left_out_and_told() -> None:
    """Left of the origin it rises for ever, right of it it is normal."""

    @program
    def half_proper() -> None:
        x = free("x")
        factor("f", torch.where(x < 0.0, -x - 5.0, -0.5 * (x - 9.0).square()))

    fit = Pathfinder(steps=50, compiled=False, **DOUBLE).run(half_proper, seed=0)
    assert any(
        "found no normal law, and is left out: the log density is nowhere" in note
        for note in fit.warnings()
    )
    assert abs(float(fit["x"].mean()) - 9.0) < 0.2
    lost = [i for i, note in enumerate(fit.report) if "no normal law" in note]
    assert lost and not {*lost} & {*fit.stats["path"].flatten().tolist()}


def test_draws_of_no_density_are_told() -> None:
    @program
    def cut() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        factor("nan", torch.where(x > 2.6, torch.nan, 0.0))

    fit = Pathfinder(elbo_draws=5, compiled=False, **DOUBLE).run(cut, seed=1)
    assert any("draws the log density was NaN or infinite" in note for note in fit.warnings())
    assert float(fit["x"].max()) <= 2.6


def test_too_few_draws_for_a_k_hat_are_told() -> None:
    fit = Pathfinder(paths=1, draws=5, **PLAIN).run(regression, X, Y)
    assert any("too few for a k-hat" in note for note in fit.warnings())


def test_other_refusals_are_those_of_the_density() -> None:
    @program
    def discrete() -> None:
        sample("n", dist.Poisson(sample("rate", dist.Gamma(2.0, 1.0))))

    @program
    def coin() -> None:
        sample("z", dist.Bernoulli(0.5))

    @program
    def behind() -> None:
        sample("x", dist.Normal(sample("z", dist.Bernoulli(0.5)), 1.0))

    @program
    def impossible() -> None:
        factor("f", torch.where(free("x") < 99.0, -torch.inf, 0.0))

    with pytest.raises(UnsupportedDistributionError, match="is discrete"):
        Pathfinder(**PLAIN).run(discrete)
    with pytest.raises(ProgramError, match="no real latent"):
        Pathfinder(**PLAIN).run(coin)
    with pytest.raises(ProgramError, match=r"depends on \['z'\].*'x'"):
        Pathfinder(**PLAIN).run(behind)
    with pytest.raises(InitializationError, match="no starting point"):
        Pathfinder(**PLAIN).run(impossible)


@pytest.mark.parametrize(
    "setting", [{"paths": 0}, {"draws": 0}, {"history": 0}, {"steps": 0}, {"tolerance": -1.0}]
)
def test_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Pathfinder: {next(iter(setting))} is at least"):
        Pathfinder(**setting)
