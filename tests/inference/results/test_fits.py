"""Drivers and their results: runs, summaries, ArviZ objects, prediction, saving and going on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import (
    DataError,
    InitializationError,
    UnsupportedDistributionError,
    ZeroMassError,
)
from pushforward.inference import ADVI, MCMC, SMC, Fit, hmc, log_likelihood, nuts, predict
from pushforward.inference.results.arviz import import_arviz
from pushforward.inference.results.labels import portable
from pushforward.inference.runs.progress import Progress
from pushforward.ppl import condition, deterministic, observe, plate, program, sample, scope

X = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
Y = torch.tensor([-1.2, 0.1, 0.4, 1.3, 1.6, 3.1], dtype=torch.float64)


@program
def line(x: Tensor) -> Tensor:
    """A regression with known noise, so that its posterior is known in closed form."""
    a = sample("a", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
    b = sample("b", dist.Normal(torch.zeros((), dtype=torch.float64), 2.0))
    with plate("point", len(x)):
        mean = deterministic("mean", a + b * x)
        sample("y", dist.Normal(mean, 0.5))
    return a


def exact_posterior() -> tuple[Tensor, Tensor, float]:
    """Mean and covariance of (a, b), and the log evidence, by linear algebra."""
    design = torch.stack([torch.ones_like(X), X], 1)
    precision = design.T @ design / 0.25 + torch.eye(2, dtype=torch.float64) / 4.0
    covariance = torch.linalg.inv(precision)
    marginal = 4.0 * design @ design.T + 0.25 * torch.eye(6, dtype=torch.float64)
    evidence = dist.MultivariateNormal(torch.zeros(6, dtype=torch.float64), marginal).log_prob(Y)
    return covariance @ design.T @ Y / 0.25, covariance, float(evidence)


MODEL = condition(line, {"y": Y})
MEAN, COVARIANCE, LOG_EVIDENCE = exact_posterior()
QUIET: dict[str, Any] = {"compiled": False, "progress": False}


@pytest.fixture(scope="module")
def fit() -> Fit:
    return MCMC(nuts(), chains=4, draws=250, warmup=250, **QUIET).run(MODEL, X, seed=1)


def assert_close_to_exact(fit: Fit, ess: float) -> None:
    """Level 1e-6 for each mean (|z| < 4.9) at the stated number of effective draws."""
    for i, name in enumerate(("a", "b")):
        sd = float(COVARIANCE[i, i].sqrt())
        assert abs(float(fit[name].mean() - MEAN[i])) < 4.9 * sd / math.sqrt(ess)
        assert abs(float(fit[name].std()) / sd - 1.0) < 4.9 / math.sqrt(2 * ess)


# ------------------------------------------------------------------------------------------ drivers


def test_nuts_finds_a_known_posterior(fit: Fit) -> None:
    assert_close_to_exact(fit, ess=400)
    assert fit["a"].shape == (4, 250)
    assert fit["mean"].shape == (4, 250, 6)
    assert fit.latents == ("a", "b")
    assert float(fit.summary()["ess_bulk"].min()) > 400


def test_a_wrong_posterior_would_be_noticed(fit: Fit) -> None:
    """Negative control: the test above rejects draws that are shifted by half an sd."""
    shifted = Fit("shifted", {n: x + 0.5 * x.std() for n, x in fit.draws.items()})
    with pytest.raises(AssertionError):
        assert_close_to_exact(shifted, ess=400)


def test_hmc_finds_it_too() -> None:
    fit = MCMC(hmc(8), chains=8, draws=250, warmup=250, **QUIET).run(MODEL, X, seed=2)
    assert_close_to_exact(fit, ess=400)
    assert "HMC" in repr(fit)


def test_smc_finds_it_with_its_evidence() -> None:
    fit = SMC(particles=500, islands=4, stages=10, **QUIET).run(MODEL, X, seed=3)
    assert_close_to_exact(fit, ess=400)
    assert fit["a"].shape == (4, 500)
    assert fit.log_evidence is not None
    assert abs(fit.log_evidence - LOG_EVIDENCE) < 0.25
    assert fit.history["log_evidence"].shape == (4,)
    assert f"{fit.log_evidence:.4f}" in repr(fit)


def test_svi_finds_the_best_independent_normals() -> None:
    """For a normal posterior the optimum is known: its mean, and 1 / diagonal of the precision."""
    fit = ADVI(steps=1500, draws=4000, **QUIET).run(MODEL, X, seed=4)
    best = 1.0 / torch.linalg.inv(COVARIANCE).diagonal().sqrt()
    for i, name in enumerate(("a", "b")):
        assert abs(float(fit[name].mean() - MEAN[i])) < 0.05 * float(best[i])
        assert float(fit[name].std()) == pytest.approx(float(best[i]), rel=0.06)
    gap = 0.5 * torch.logdet(COVARIANCE / torch.outer(best, best))
    bound = float(fit.history["elbo"][-200:].mean())
    assert bound == pytest.approx(LOG_EVIDENCE + float(gap), abs=0.05)


@pytest.mark.parametrize(
    "method",
    [
        MCMC(chains=2, draws=20, warmup=20, **QUIET),
        SMC(particles=20, islands=2, stages=3, **QUIET),
        ADVI(steps=20, draws=20, **QUIET),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_seed_fixes_the_run_and_the_global_state_is_left_alone(method: Any) -> None:
    before = torch.get_rng_state()
    first, second, other = (method.run(MODEL, X, seed=s) for s in (5, 5, 6))
    assert torch.equal(first["a"], second["a"])
    assert not torch.equal(first["a"], other["a"])
    assert torch.equal(torch.get_rng_state(), before)
    assert pyro.get_param_store().keys() == {}.keys()


def test_a_plain_pyro_model_is_fitted() -> None:
    def model(x: Tensor, y: Tensor | None) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        with pyro.plate("point", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)

    fit = MCMC(chains=2, draws=100, warmup=100, **QUIET).run(model, X.float(), Y.float(), seed=0)
    exact = float((X * Y).sum() / (X.square().sum() + 0.25 / 4.0))
    assert float(fit["slope"].mean()) == pytest.approx(exact, abs=0.15)
    assert fit.observed["y"].shape == (6,)


def test_compiled_and_traced_runs_agree_at_first() -> None:
    """The two differ by rounding only, which chaos enlarges: compare early draws."""
    runs = [
        MCMC(hmc(2), chains=2, draws=3, warmup=0, compiled=compiled, progress=False).run(
            MODEL, X, seed=0
        )["a"]
        for compiled in (True, False)
    ]
    torch.testing.assert_close(runs[0], runs[1])


def test_a_program_without_latents_is_run() -> None:
    @program
    def constant() -> Tensor:
        return deterministic("two", torch.tensor(2.0))

    fit = MCMC(chains=1, draws=4, warmup=0, **QUIET).run(constant)
    assert fit["two"].tolist() == [[2.0] * 4]


def test_smc_of_a_program_without_latents_has_its_exact_evidence() -> None:
    @program
    def constant() -> Tensor:
        return observe("y", dist.Normal(0.0, 1.0), torch.tensor(0.5))

    fit = SMC(particles=4, islands=2, stages=2, **QUIET).run(constant)
    expected = float(dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.5)))
    assert fit.log_evidence == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------- errors


def test_a_discrete_latent_is_refused_by_name() -> None:
    @program
    def mixture() -> None:
        sample("z", dist.Bernoulli(0.5))

    with pytest.raises(UnsupportedDistributionError, match=r"'z'.*sum it out"):
        MCMC(**QUIET).run(mixture)


def test_nan_at_the_start_names_the_site() -> None:
    @program
    def broken() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(x, torch.sqrt(-x.abs())))

    with pytest.raises(InitializationError, match=r"NaN.*'y'"):
        MCMC(**QUIET).run(condition(broken, {"y": 0.5}))


def test_no_finite_start_says_so() -> None:
    @program
    def impossible() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        sample("y", dist.Uniform(x + 100.0, x + 101.0))

    with pytest.raises(InitializationError, match=r"no starting point.*-inf.*'y'"):
        MCMC(**QUIET).run(condition(impossible, {"y": 0.0}))


def test_smc_with_impossible_data_is_an_error() -> None:
    @program
    def impossible() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        sample("y", dist.Uniform(x + 100.0, x + 101.0))

    with pytest.raises(ZeroMassError, match="no particle"):
        SMC(particles=10, islands=1, stages=2, **QUIET).run(condition(impossible, {"y": 0.0}))


@pytest.mark.parametrize("make", [lambda: MCMC(chains=0), lambda: SMC(particles=0)])
def test_sizes_are_checked(make: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        make()


def test_an_interrupted_run_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def advance(self: Progress, steps: int = 1, **figures: Any) -> None:
        nonlocal count
        count += steps
        if count == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", advance)
    fit = MCMC(hmc(2), chains=2, draws=50, warmup=10, **QUIET).run(MODEL, X, seed=0)
    assert fit.interrupted
    assert fit.size == 20
    assert any("interrupted" in warning for warning in fit.warnings())
    count = 0
    assert ADVI(steps=100, draws=10, **QUIET).run(MODEL, X).interrupted
    count = -20  # of the pilot run
    islands = SMC(particles=10, islands=5, stages=20, moves=1, **QUIET).run(MODEL, X)
    assert islands.interrupted and islands.chains == 1


# ------------------------------------------------------------------------------------------ results


def test_the_summary_is_that_of_the_draws(fit: Fit) -> None:
    table = fit.summary(["a", "mean"])
    assert list(table.index) == ["a", *(f"mean[{i}]" for i in range(6))]
    assert table.loc["a", "mean"] == pytest.approx(float(fit["a"].mean()))
    assert table.loc["a", "sd"] == pytest.approx(float(fit["a"].std()))
    assert table.loc["a", "q95"] == pytest.approx(float(fit["a"].quantile(0.95)))
    assert {"mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"} <= set(table.columns)
    with pytest.raises(DataError, match="no site 'c'"):
        fit.summary(["c"])


def test_arviz_gets_groups_dims_and_coords(fit: Fit) -> None:
    labels = [f"p{i}" for i in range(6)]
    data = fit.to_arviz(coords={"point": labels})
    assert data.posterior["mean"].dims == ("chain", "draw", "point")
    assert list(data.posterior["point"].values) == labels
    assert data.log_likelihood["y"].shape == (4, 250, 6)
    assert data.observed_data["y"].values.tolist() == Y.tolist()
    assert data.sample_stats["diverging"].shape == (4, 250)
    renamed = fit.to_arviz(dims={"mean": ["where"]})
    assert renamed.posterior["mean"].dims == ("chain", "draw", "where")


def test_names_of_scopes_and_plates_reach_a_file(tmp_path: Path) -> None:
    @program
    def part() -> Tensor:
        x = sample("x", dist.Normal(0.0, 1.0))
        with plate("day", 2):
            observe("y", dist.Normal(x, 1.0), torch.zeros(2))
        return x

    @program
    def days() -> None:
        with scope("monday"):
            part()
        with scope("tuesday"):
            part()

    fit = MCMC(nuts(2), 2, 5, 5, **QUIET).run(days)
    fit.to_arviz(dims={"monday/y": ["day/night"]}).to_netcdf(str(tmp_path / "fit.nc"))
    read = import_arviz().from_netcdf(str(tmp_path / "fit.nc"))
    for name in ("monday", "tuesday"):
        assert torch.equal(torch.tensor(read.posterior[f"{name}.x"].values), fit[f"{name}/x"])
        written = torch.tensor(read.log_likelihood[f"{name}.y"].values)
        assert torch.equal(written, fit.log_likelihood[f"{name}/y"])
    assert read.log_likelihood["monday.y"].dims[2:] == ("day.night",)
    assert list(fit.summary().index) == ["monday/x", "tuesday/x"]
    assert list(predict(fit, days).to_arviz().posterior_predictive) == ["monday.y", "tuesday.y"]
    assert portable({"a/b", "a.b"}) == {"a/b": "a:b", "a.b": "a.b"}


def test_plates_keep_their_labels_beside_event_dimensions() -> None:
    @program
    def model() -> None:
        with plate("group", 3):
            slopes = sample("slopes", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            observe("y", dist.Normal(slopes, 1.0).to_event(1), torch.zeros(3, 2))

    fit = MCMC(nuts(2), 2, 5, 5, **QUIET).run(model)
    data = fit.to_arviz(coords={"group": ["a", "b", "c"]})
    assert data.posterior["slopes"].dims == ("chain", "draw", "group", "slopes_dim_1")
    assert list(data.posterior["group"].values) == ["a", "b", "c"]
    assert data.observed_data["y"].dims == ("group", "y_dim_1")
    assert data.log_likelihood["y"].dims == ("chain", "draw", "group")
    both = {"coords": {"term": ["const", "x"]}, "dims": {"slopes": ["group", "term"]}}
    assert list(fit.to_arviz(**both).posterior["term"].values) == ["const", "x"]
    with pytest.raises(DataError, match=r"no site .* 'groups'.*group, slopes_dim_1, y_dim_1"):
        fit.to_arviz(coords={"groups": ["a", "b", "c"]})
    with pytest.raises(DataError, match="2 labels for 'group', which has 3"):
        fit.to_arviz(coords={"group": ["a", "b"]})
    with pytest.raises(DataError, match="no site 'slope'"):
        fit.to_arviz(dims={"slope": ["group", "term"]})
    with pytest.raises(DataError, match="1 names for the 2 dimensions of 'slopes'"):
        fit.to_arviz(dims={"slopes": ["group"]})


def test_a_plate_may_be_called_like_a_site() -> None:
    @program
    def model() -> None:
        with plate("y", 3):
            observe("y", dist.Normal(sample("a", dist.Normal(0.0, 1.0)), 1.0), torch.zeros(3))

    data = MCMC(nuts(2), 2, 5, 5, **QUIET).run(model).to_arviz(coords={"y": ["p", "q", "r"]})
    assert list(data.posterior["y_dim"].values) == ["p", "q", "r"]
    assert data.observed_data["y"].dims == ("y_dim",)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")
def test_the_log_likelihood_is_pointwise_and_feeds_loo(fit: Fit) -> None:
    expected = dist.Normal(fit["mean"], 0.5).log_prob(Y)
    torch.testing.assert_close(fit.log_likelihood["y"], expected)
    torch.testing.assert_close(log_likelihood(fit, MODEL, X)["y"], expected)
    loo = import_arviz().loo(fit.to_arviz(), pointwise=True)
    assert loo.n_data_points == 6
    elpd = loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo
    assert float(elpd) < float(expected.logsumexp((0, 1)).sum()) - 6 * math.log(1000)


def test_held_out_data_are_scored(fit: Fit) -> None:
    new = condition(line, {"y": torch.zeros(2, dtype=torch.float64)})
    scores = log_likelihood(fit, new, X[:2])["y"]
    expected = dist.Normal(fit["a"][..., None] + fit["b"][..., None] * X[:2], 0.5)
    torch.testing.assert_close(scores, expected.log_prob(torch.zeros(2, dtype=torch.float64)))
    with pytest.raises(DataError, match="observes nothing"):
        log_likelihood(fit, lambda: [sample(name, dist.Normal(0.0, 1.0)) for name in "ab"])


def test_saving_and_loading_changes_nothing(fit: Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.pt")
    again = Fit.load(tmp_path / "fit.pt")
    assert repr(again) == repr(fit)
    for name in fit.draws:
        assert torch.equal(again[name], fit[name])
    assert again.latents == fit.latents
    assert again.summary().equals(fit.summary())
    torch.save({"something": 1}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="does not hold a fit"):
        Fit.load(tmp_path / "other.pt")


def test_a_loaded_fit_goes_on(fit: Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.pt")
    method = MCMC(nuts(), chains=4, draws=50, **QUIET)
    more = method.run(MODEL, X, seed=9, resume=Fit.load(tmp_path / "fit.pt"))
    assert more.size == 300
    assert torch.equal(more["a"][:, :250], fit["a"])
    assert torch.equal(more.state["step_size"], fit.state["step_size"])
    assert_close_to_exact(more, ess=400)

    @program
    def other() -> None:
        sample("q", dist.Normal(0.0, 1.0))

    with pytest.raises(DataError, match="the program, or what it reads"):
        method.run(other, resume=fit)


def test_only_the_same_posterior_is_gone_on_with(fit: Fit, tmp_path: Path) -> None:
    method = MCMC(nuts(), chains=4, draws=5, **QUIET)
    with pytest.raises(DataError, match=r"another posterior: the data of 'y' changed.*run anew"):
        method.run(condition(line, {"y": Y + 0.2}), X, resume=fit)
    with pytest.raises(DataError, match="another posterior: argument 0 changed"):
        method.run(MODEL, X + 0.2, resume=fit)
    fit.save(tmp_path / "fit.pt")
    with pytest.raises(DataError, match="the data of 'y' changed"):
        method.run(condition(line, {"y": Y + 0.2}), X, resume=Fit.load(tmp_path / "fit.pt"))
    assert method.run(condition(line, {"y": Y.clone()}), X.clone(), resume=fit).size == 255
    reached = SMC(10, 1, stages=2, compiled=False, progress=False).run(MODEL, X)
    with pytest.raises(DataError, match="not by MCMC"):
        method.run(MODEL, X, resume=reached)


def test_a_fit_that_goes_on_again_and_again_draws_anew_each_time(fit: Fit) -> None:
    method = MCMC(nuts(), chains=4, draws=50, **QUIET)
    more = fit
    for _ in range(3):
        more = method.run(MODEL, X, resume=more)
    stretches = more["a"][:, 250:].unflatten(1, (3, 50))
    same = (stretches[:, 1:] - stretches[:, :-1]).abs() < 1e-6
    assert same.double().mean() < 0.05
    again = method.run(MODEL, X, resume=fit)
    assert torch.equal(again["a"], more["a"][:, :300])  # and yet the same each time it is done
    assert_close_to_exact(more, ess=400)


def test_warnings_name_what_is_wrong() -> None:
    stuck = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    stuck[1] += 5.0
    diverging = torch.zeros(2, 100, dtype=torch.bool)
    diverging[0, :3] = True
    found = Fit("MCMC", {"x": stuck}, stats={"diverging": diverging}).warnings()
    assert any("3 of 200 draws diverged" in warning for warning in found)
    assert any("R-hat" in warning for warning in found)
    assert any("ESS" in warning for warning in found)


def test_one_chain_is_summarised_by_halves() -> None:
    draws = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    table = Fit("SVI", {"x": draws}).summary()
    assert table.loc["x", "mean"] == pytest.approx(float(draws.mean()), abs=1e-6)
    assert 0.99 < table.loc["x", "r_hat"] < 1.05
    drifting = Fit("MCMC", {"x": draws + torch.linspace(0, 5, 400)})
    assert drifting.summary().loc["x", "r_hat"] > 1.1


# --------------------------------------------------------------------------------------- prediction


def test_the_posterior_predictive_has_the_right_law(fit: Fit) -> None:
    """Level 1e-6: y_new at x = 3 is normal with known mean and variance."""
    new = torch.tensor([3.0], dtype=torch.float64)
    y = predict(fit, line, new, seed=0)["y"]
    assert y.shape == (4, 250, 1)
    direction = torch.tensor([1.0, 3.0], dtype=torch.float64)
    sd = math.sqrt(float(direction @ COVARIANCE @ direction) + 0.25)
    assert abs(float(y.mean() - MEAN @ direction)) < 4.9 * sd / math.sqrt(400)
    assert abs(float(y.std()) / sd - 1.0) < 4.9 / math.sqrt(800)


def test_prediction_ignores_the_data_of_a_conditioned_program(fit: Fit) -> None:
    bare, conditioned = (predict(fit, p, X, seed=3)["y"] for p in (line, MODEL))
    assert torch.equal(bare, conditioned)
    assert not torch.equal(bare[0, 0], Y)


def test_each_draw_keeps_its_latents(fit: Fit) -> None:
    prediction = predict(fit, line, X, seed=0)
    torch.testing.assert_close(prediction["mean"], fit["mean"])
    torch.testing.assert_close(prediction.value, fit["a"])
    assert "a" not in prediction.sites


def test_the_prior_predictive_needs_no_fit() -> None:
    """Level 1e-6: under the prior, y at x has variance 4 + 4 x^2 + 1/4."""
    y = predict(20_000, line, X, seed=0)["y"]
    assert y.shape == (1, 20_000, 6)
    sd = (4.0 + 4.0 * X**2 + 0.25).sqrt()
    assert bool(((y.std((0, 1)) / sd - 1.0).abs() < 4.9 / math.sqrt(2 * 20_000)).all())
    assert bool((y.mean((0, 1)).abs() < 4.9 * sd / math.sqrt(20_000)).all())


def test_local_latents_may_be_sampled_anew() -> None:
    @program
    def groups(n: int) -> None:
        centre = sample("centre", dist.Normal(0.0, 1.0))
        with plate("group", n):
            sample("effect", dist.Normal(centre, 0.01))

    fit = MCMC(chains=2, draws=20, warmup=20, **QUIET).run(groups, 3)
    with pytest.raises(DataError, match=r"'effect' is \[3\] in the fit, and \[5\]"):
        predict(fit, groups, 5)
    effects = predict(fit, groups, 5, given=["centre"])["effect"]
    assert effects.shape == (2, 20, 5)
    assert float((effects - fit["centre"][..., None]).abs().max()) < 0.1


def test_prediction_names_what_does_not_fit(fit: Fit) -> None:
    with pytest.raises(DataError, match="no latent of the fit"):
        predict(fit, line, X, given=["slope"])
    with pytest.raises(DataError, match=r"samples no \['a', 'b'\]"):
        predict(fit, lambda: sample("c", dist.Normal(0.0, 1.0)))
    with pytest.raises(DataError, match="positive number"):
        predict(0, line, X)
    with pytest.raises(DataError, match="nothing was predicted at 'z'"):
        predict(fit, line, X)["z"]


def test_what_cannot_be_sampled_is_named() -> None:
    def flat() -> None:
        m = sample("m", dist.ImproperUniform(dist.constraints.positive, (), (2,)))
        observe("y", dist.Normal(m.sum(), 1.0), torch.tensor(1.0))

    for given in (10, MCMC(nuts(2), 2, 5, 5, **QUIET).run(flat)):
        with pytest.raises(UnsupportedDistributionError, match=r"test_fits.*improper prior"):
            predict(given, flat, given=None if given == 10 else [])


def test_predictions_join_arviz(fit: Fit) -> None:
    data = fit.to_arviz(predictions=[predict(fit, line, X)])
    assert data.posterior_predictive["y"].dims == ("chain", "draw", "point")
    assert data.posterior_predictive["y"].shape == (4, 250, 6)


def test_a_program_that_lanes_refuse_is_predicted_one_draw_at_a_time() -> None:
    @program
    def grades(x: Tensor) -> None:
        slope = sample("slope", dist.Normal(0.0, 1.0))
        with plate("person", len(x)):
            sample("grade", dist.OrderedLogistic(slope * x, torch.tensor([-1.0, 1.0])))

    x = torch.tensor([-2.0, 0.0, 2.0])
    grade = predict(300, grades, x, seed=0)["grade"]
    assert grade.shape == (1, 300, 3)
    assert set(grade.unique().tolist()) == {0.0, 1.0, 2.0}

    @program
    def branching() -> Tensor:
        if sample("b", dist.Bernoulli(0.25)) == 1:
            return torch.tensor(1.0)
        return torch.tensor(0.0)

    value = predict(2000, branching, seed=0).value
    assert abs(float(value.mean()) - 0.25) < 4.9 * math.sqrt(0.25 * 0.75 / 2000)
