"""Leave-one-out predictions: those of ArviZ, where it gives them; by hand where it does not.

ArviZ 0.23 gives a constant observation an infinite k-hat, and ArviZ 1.3 refuses the model.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from support.normals import numbers
from torch import Tensor

from pushforward import condition, dist, observe, plate, program, sample
from pushforward.errors import DataError
from pushforward.inference import MAP, MCMC, SMC, Exact, Fit, Laplace, log_likelihood, nuts, smc
from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.inference.results.loo import leave_one_out, unseen
from pushforward.inference.vi import FullRank, posterior


def fit_of(**logs: Tensor) -> Fit:
    """A fit of some draws that only has these log likelihoods."""
    first = next(iter(logs.values()))
    return Fit("by hand", {"x": torch.zeros(first.shape[:2])}, log_likelihood=dict(logs))


def logs(*shape: int, spread: float = 0.3, seed: int = 0) -> Tensor:
    found: Tensor = spread * numbers(seed, math.prod(shape)).reshape(shape) - 1.2
    return found


def by_arviz(logs: Tensor) -> tuple[Any, Any, float, float, float]:
    """Pointwise, k-hat, their sum, parameters and error."""
    fit = Fit("by hand", {"x": logs.flatten(2).sum(2) if logs.ndim > 2 else logs})
    fit.log_likelihood["y"] = logs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = import_arviz().loo(fit.to_arviz(), pointwise=True, reff=1.0)
    names = ("loo_i", "pareto_k", "elpd_loo", "p_loo", "se")
    if generation() == 1:
        names = ("elpd_i", "pareto_k", "elpd", "p", "se")
    each = [getattr(found, name) for name in names]
    return each[0].values, each[1].values, float(each[2]), float(each[3]), float(each[4])


def test_those_of_arviz() -> None:
    """Of 2500 draws, as both generations take their tail."""
    y, z = logs(4, 625, 3, 2), logs(4, 625, spread=0.8, seed=1)
    found = fit_of(y=y, z=z).loo()
    for name, each in (("y", y), ("z", z)):
        pointwise, k_hat, elpd, parameters, error = by_arviz(each)
        assert found.pointwise[name].numpy() == pytest.approx(pointwise, abs=1e-9)
        assert found.k_hat[name].numpy() == pytest.approx(k_hat, abs=1e-9)
        alone = leave_one_out({name: each})
        assert alone.elpd == pytest.approx(elpd, abs=1e-9)
        assert alone.parameters == pytest.approx(parameters, abs=1e-9)
        if each.ndim > 2:
            assert alone.error == pytest.approx(error, rel=0.1)  # 0.x divides by n, not n - 1
    assert found.elpd == pytest.approx(sum(float(x.sum()) for x in found.pointwise.values()))
    assert found.warnings() == []


def test_constants_and_few_values_are_what_they_are() -> None:
    """Left out, p(y) is the harmonic mean of its densities."""
    y = logs(4, 250, 4)
    y[:, :, 1] = -1.3
    y[:, :, 2] = torch.where(logs(4, 250, seed=2) < -1.3, -1.0, -3.0)
    found = leave_one_out({"y": y})
    assert float(found.pointwise["y"][1]) == pytest.approx(-1.3)
    harmonic = math.log(1000) - float((-y[:, :, 2]).flatten().logsumexp(0))
    assert float(found.pointwise["y"][2]) == pytest.approx(harmonic)
    assert found.k_hat["y"][1:3].tolist() == [0.0, 0.0] and found.warnings() == []
    alone = leave_one_out({"y": y[:, :, [0, 3]]})
    assert found.pointwise["y"][[0, 3]].tolist() == alone.pointwise["y"].tolist()


@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_an_impossible_observation_is_named_and_the_rest_is_there(bad: float) -> None:
    y = logs(4, 250, 2, 2)
    y[1, 3, 0, 1] = bad
    found = leave_one_out({"y": y})
    assert found.warnings() == ["y[0, 1] is impossible at some draws: it is left out of the sum"]
    rest = found.pointwise["y"].flatten()[[0, 2, 3]]
    assert bool(rest.isfinite().all()) and found.elpd == pytest.approx(float(rest.sum()))
    assert math.isfinite(found.parameters) and "y[0, 1]" in repr(found)


@pytest.mark.parametrize("share", [1, 20])
def test_one_heavy_draw_among_equals_is_not_believed(share: int) -> None:
    """Few draws of a high weight are a tail, though they share it."""
    y = torch.full((4, 250, 1), -1.0, dtype=torch.float64)
    y[0, :share] = -9.0
    y += 1e-3 * logs(4, 250, 1)
    found = leave_one_out({"y": y})
    assert float(found.k_hat["y"][0]) > 0.7
    assert found.warnings()[0].startswith("y[0] has a k-hat of")


def test_of_a_model() -> None:
    """Given the others, an observation about a normal mean is normal."""
    y = torch.tensor([-1.0, 0.2, 0.9, 1.4])

    @program
    def model() -> None:
        mean = sample("mean", dist.Normal(0.0, 2.0))
        with plate("n", 4):
            sample("y", dist.Normal(mean, 1.0))

    method = MCMC(nuts(), chains=4, draws=2000, warmup=300, progress=False)
    found = method.run(condition(model, {"y": y}), seed=0).loo()
    for i in range(4):
        rest = y[torch.arange(4) != i]
        precision = 1 / 4 + 3.0
        law = dist.Normal(rest.sum() / precision, math.sqrt(1 + 1 / precision))
        # level: the standard errors are about 0.01
        assert float(found.pointwise["y"][i]) == pytest.approx(float(law.log_prob(y[i])), abs=0.06)
    assert found.warnings() == []


def test_without_data_there_is_nothing_to_leave_out() -> None:
    with pytest.raises(DataError, match="no log likelihood"):
        Fit("by hand", {"x": torch.zeros(2, 3)}).loo()


# ----------------------------------------------------------- of methods whose draws are not chains

Y = torch.tensor([-1.0, 0.3, 2.5], dtype=torch.float64)


def left_out(i: int) -> float:
    """log p(y_i | the others) of y ~ Normal(mu, 1), mu ~ Normal(0, 10), by hand."""
    others = torch.cat([Y[:i], Y[i + 1 :]])
    precision = 0.01 + 2.0
    law = torch.distributions.Normal(others.sum() / precision, (1 + 1 / precision) ** 0.5)
    return float(law.log_prob(Y[i]))


def test_draws_of_an_approximation_count_by_their_weights() -> None:
    """Quantiles of a law half as wide again as the posterior; without weights it is rejected."""
    precision = 3.01
    mean, sd = Y.sum() / precision, precision**-0.5
    proposal, right = (torch.distributions.Normal(mean, s) for s in (1.5 * sd, sd))
    mu = proposal.icdf((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[None]
    pointwise = torch.distributions.Normal(mu[..., None], 1.0).log_prob(Y)
    weights = right.log_prob(mu) - proposal.log_prob(mu)
    expected = torch.tensor([left_out(i) for i in range(3)], dtype=torch.float64)
    stats = {"log_weight": weights + 3.0}
    fit = Fit("by hand", {"mu": mu}, stats=stats, log_likelihood={"y": pointwise})
    found = fit.loo()
    assert (found.pointwise["y"] - expected).abs().max() < 0.01
    whole = torch.distributions.Normal(mean, (1 + sd**2) ** 0.5).log_prob(Y)
    assert (found.fitted["y"] - whole).abs().max() < 0.01
    assert torch.equal(fit.loo(["y"]).pointwise["y"], found.pointwise["y"])
    without = leave_one_out({"y": pointwise}).pointwise["y"]
    assert (without - expected).abs().max() > 0.05


@program
def line(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 10.0))
    with plate("rows", len(y)):
        observe("y", dist.Normal(mu, 1.0), y)


@pytest.mark.usefixtures("double")
def test_a_fit_by_svi_and_one_by_laplace_have_one() -> None:
    guide = FullRank(line, Y)
    svi = posterior(line, guide, Y, draws=20_000)
    assert svi.log_likelihood["y"].shape == (1, 20_000, 3) and svi.dims["y"] == ["rows"]
    assert torch.equal(svi.observed["y"], Y)
    for fit in (Laplace(draws=20_000).run(line, Y), Exact(draws=20_000).run(line, Y)):
        found = fit.loo()  # of the one that is not far out: 0.02 are five standard errors
        assert float(found.pointwise["y"][1]) == pytest.approx(left_out(1), abs=0.02)
        assert abs(float(found.fitted["y"][1]) - left_out(1)) > 0.05  # the negative control


@pytest.mark.usefixtures("double")
def test_a_fit_by_elimination_has_one() -> None:
    """By hand: p(y_i | the others) of two values of z."""

    def model() -> None:
        z = sample("z", dist.Bernoulli(0.4))
        with plate("rows", 3):
            observe("y", dist.Normal(z, 1.0), Y)

    found = Exact(draws=20_000).run(model).loo().pointwise["y"]
    squares = -0.5 * torch.stack([Y**2, (Y - 1) ** 2])  # [z, 3]
    prior = torch.tensor([0.6, 0.4]).double().log()
    for i in range(3):
        rest = prior + squares.sum(1) - squares[:, i]
        expected = torch.logsumexp(rest + squares[:, i], 0) - torch.logsumexp(rest, 0)
        expected = expected - 0.5 * math.log(2 * math.pi)
        assert float(found[i]) == pytest.approx(float(expected), abs=0.03)


@pytest.mark.usefixtures("double")
def test_those_that_hold_none_say_what_to_do() -> None:
    fit = SMC(50, 2, smc, progress=False).run(line, Y)
    with pytest.raises(DataError, match=r"fit.log_likelihood = log_likelihood\(fit, model"):
        fit.loo()
    fit.log_likelihood = log_likelihood(fit, line, Y)
    assert fit.loo().pointwise["y"].shape == (3,)
    with pytest.raises(DataError, match="a fit of 1 draw is no posterior"):
        MAP().run(line, Y).loo()


def test_entries_that_were_not_seen_count_nothing() -> None:
    """With gaps ignored it is that of the seen entries alone, with their number in its error."""
    draws = 0.3 * torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[1.0, math.nan], [2.0, 0.3], [math.nan, math.nan]])
    logs = (-0.5 * (y - draws[..., None, None]) ** 2).nan_to_num(0.0)
    seen = leave_one_out({"y": logs[..., [0, 1, 1], [0, 0, 1]]})
    found = leave_one_out({"y": logs}, observed={"y": y})
    assert (found.elpd, found.error, found.parameters) == pytest.approx(
        (seen.elpd, seen.error, seen.parameters), abs=1e-12
    )
    assert found.warnings() == [
        w.replace("y[0]", "y[0, 0]").replace("y[1]", "y[1, 0]").replace("y[2]", "y[1, 1]")
        for w in seen.warnings()
    ]
    assert leave_one_out({"y": logs}).error != pytest.approx(seen.error, rel=0.05)  # zeros seen


def test_an_event_with_a_gap_was_not_seen() -> None:
    y = torch.tensor([[0.1, math.nan], [2.0, 0.3]])
    assert unseen(y, torch.Size([2])).tolist() == [True, False]
    assert unseen(y.nan_to_num(), torch.Size([2])).tolist() == [False, False]
    assert unseen(torch.tensor(3), torch.Size([4])).tolist() == [False] * 4
