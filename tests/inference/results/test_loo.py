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

from pushforward import condition, dist, plate, program, sample
from pushforward.errors import DataError
from pushforward.inference import MCMC, Fit, nuts
from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.inference.results.loo import leave_one_out


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
