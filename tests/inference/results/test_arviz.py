"""What ArviZ is given, and what is asked of it: the same whichever generation is installed."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.normals import numbers
from torch import Tensor

from pushforward import condition, deterministic, dist, plate, predict, program, sample
from pushforward.errors import DataError
from pushforward.inference import Fit
from pushforward.inference.results import arviz
from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.inference.results.labels import named_dimensions, portable


def normal(*shape: int, seed: int = 0) -> Tensor:
    return numbers(seed, math.prod(shape)).reshape(shape)


def written(data: Any, path: Path) -> Any:
    """What a file gives back."""
    data.to_netcdf(str(path))
    return import_arviz().from_netcdf(str(path))


def groups(data: Any) -> set[str]:
    """Names of the groups."""
    return set(data.children) if generation() else set(data.groups())


def test_the_generation_is_that_of_the_installed_one() -> None:
    assert generation() == min(1, int(import_arviz().__version__.split(".")[0]))


# ------------------------------------------------------------------------------- names, dimensions

NAMES = ("x", "a/x", "a.x", "a:x", "a/b/x", "chain", "draw", "draw_", "x_dim_0", "x[0]", "row")
PLATES = ("row", "row/day", "x", "chain", "draw", "draw_", "x_dim_0", "")
SHAPES = ((), (3,), (3, 2), (5,), (0,), (2, 3))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_sites_and_plates_are_called_a_file_gives_the_draws_back(
    seed: int, tmp_path: Path
) -> None:
    """Sites of any names, in plates of any names that may have other sizes elsewhere."""
    r = np.random.default_rng(seed)
    names = [str(name) for name in r.choice(NAMES, r.integers(1, 6), replace=False)]
    shapes = {name: SHAPES[r.integers(len(SHAPES))] for name in names}
    dims = {
        name: [str(each) for each in r.choice(PLATES, len(shape), replace=False)]
        for name, shape in shapes.items()
    }
    draws = {name: normal(2, 6, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    of_events = {name: x.flatten(3).sum(3) if x.ndim > 3 else x for name, x in draws.items()}
    observed = {name: x[0, 0] for name, x in draws.items()}
    fit = Fit("by hand", draws, {"lp": normal(2, 6)}, of_events, observed, dims)
    data = fit.to_arviz()
    if not any(0 in shape for shape in shapes.values()):  # files of ArviZ 0.x hold no such
        data = written(data, tmp_path / "fit.nc")
    shown = portable(
        {*names, *(d for each in named_dimensions(shapes, dims, {}).values() for d in each)}
    )
    for name, x in draws.items():
        assert "/" not in shown[name]
        assert np.array_equal(data.posterior[shown[name]].values, x)
        assert np.array_equal(data.log_likelihood[shown[name]].values, of_events[name])
        assert np.array_equal(data.observed_data[shown[name]].values, observed[name])
        assert data.posterior[shown[name]].dims[:2] == ("chain", "draw")
    rows = sum(math.prod(shape) for shape in shapes.values())
    assert len(fit.summary()) == rows and len({shown[name] for name in names}) == len(names)


def test_a_plate_of_two_sizes_is_two_dimensions() -> None:
    draws = {"a": normal(2, 6, 3), "b": normal(2, 6, 5), "c": normal(2, 6, 5)}
    fit = Fit("by hand", draws, dims={name: ["row"] for name in "abc"})
    data = fit.to_arviz(coords={"row": ["p", "q", "r"], "row_5": range(10, 15)})
    assert data.posterior["a"].dims[2:] == ("row",)
    assert data.posterior["b"].dims[2:] == data.posterior["c"].dims[2:] == ("row_5",)
    assert data.posterior["row_5"].values.tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(DataError, match=r"'place' has 3 entries, and 5 at 'b'"):
        fit.to_arviz(dims={"a": ["place"], "b": ["place"]})
    with pytest.raises(DataError, match="two dimensions of 'a' have one name"):
        Fit("by hand", {"a": normal(2, 6, 3, 3)}).to_arviz(dims={"a": ["i", "i"]})


# ------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.uint8, torch.float32, torch.float64, torch.bfloat16]
)
def test_values_of_any_kind_are_kept_and_summarised(dtype: torch.dtype, tmp_path: Path) -> None:
    x = (normal(2, 200) > 0.3).to(dtype)
    fit = Fit("by hand", {"x": x}, {"diverging": x.bool()}, observed={"y": x[0, :5]})
    data = written(fit.to_arviz(), tmp_path / "fit.nc")
    kind = np.float32 if dtype is torch.bfloat16 else x.numpy().dtype
    assert data.posterior["x"].dtype == kind
    assert np.array_equal(data.posterior["x"].values, x.float().numpy())
    row = fit.summary().loc["x"]
    share = float(x.double().mean())
    assert row["mean"] == pytest.approx(share)
    assert row["sd"] == pytest.approx(math.sqrt(share * (1 - share) * 400 / 399))
    assert row[["mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"]].notna().all()


def test_figures_of_independent_draws_are_those_of_the_sample() -> None:
    """Monte Carlo errors of 4000 independent normals: of the mean and the sd, and of a quantile."""
    x = normal(4, 1000)
    row = Fit("by hand", {"x": x}).summary().loc["x"]
    assert row["mcse_mean"] == pytest.approx(1 / math.sqrt(4000), rel=0.1)
    assert row["mcse_sd"] == pytest.approx(1 / math.sqrt(8000), rel=0.1)
    assert 3500 < row["ess_bulk"] < 4500 and 3000 < row["ess_tail"] < 4500
    assert row["r_hat"] == pytest.approx(1.0, abs=0.003)
    density = math.exp(-(1.6449**2) / 2) / math.sqrt(2 * math.pi)
    error = math.sqrt(0.05 * 0.95 / 4000) / density
    assert arviz.mcse(x.numpy(), 0.95) == pytest.approx(error, rel=0.25)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_has_no_figures_has_nan_and_is_not_told_on_the_screen(
    size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    few = Fit("by hand", {"x": normal(2, size)}).summary().loc["x"]
    assert few[["ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]].isna().all()
    still = Fit("by hand", {"x": torch.ones(2, 50)}).summary().loc["x"]
    assert still["sd"] == 0.0 and math.isnan(still["r_hat"])
    none = Fit("by hand", {"x": torch.full((2, 50), math.nan)}).summary().loc["x"]
    assert none.isna().all()
    assert "WARNING" not in "".join(capfd.readouterr())


def test_arviz_takes_the_object() -> None:
    fit = Fit("by hand", {"x": normal(4, 100), "z": normal(4, 100, 3)}, dims={"z": ["row"]})
    fit.log_likelihood["y"] = -1.0 + 0.3 * normal(4, 100, 5)
    data = fit.to_arviz(coords={"row": ["a", "b", "c"]})
    az = import_arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # ArviZ 1 takes its tails at this quantile, 0.89 unless set, and at what is left of 1
        with az.rc_context({"stats.ci_prob": 0.95}):
            table = az.summary(data, round_to="none")
        assert len(az.loo(data, pointwise=True).pareto_k) == 5
    assert list(table.index) == ["x", "z[a]", "z[b]", "z[c]"]
    ours = fit.summary()
    for column in ("mean", "sd", "ess_bulk", "ess_tail", "r_hat"):
        assert table[column].astype(float).tolist() == pytest.approx(ours[column].tolist())


# ---------------------------------------------------------------------------------------- the prior


@program
def line(n: int) -> None:
    slope = sample("slope", dist.Normal(0.0, 1.0))
    with plate("point", n):
        mean = deterministic("mean", slope * torch.arange(float(n)))
        sample("y", dist.Normal(mean, 1.0))


def test_predictions_are_filed_as_what_they_are_of() -> None:
    model = condition(line, {"y": torch.zeros(3)})
    prior = predict(20, model, 3, seed=0)
    data = prior.to_arviz(coords={"point": ["a", "b", "c"]})
    assert groups(data) == {"prior", "prior_predictive"}
    assert set(data.prior.data_vars) == {"slope", "mean"}
    assert set(data.prior_predictive.data_vars) == {"y"}
    assert data.prior_predictive["y"].dims == ("chain", "draw", "point")
    assert data.prior["point"].values.tolist() == ["a", "b", "c"]
    assert groups(prior.to_arviz("anything")) == {"anything"}
    fit = Fit("by hand", {"slope": normal(2, 8)}, latents=("slope",), dims={"y": ["point"]})
    fit.observed["y"] = torch.zeros(3)
    of_line = predict(20, line, 3)  # which does not tell that y is data; the fit does
    assert groups(of_line.to_arviz()) == {"prior"}
    both = [predict(fit, model, 3), of_line]
    data = fit.to_arviz({"point": ["a", "b", "c"]}, predictions=both)
    assert groups(data) == {
        *("posterior", "observed_data", "posterior_predictive", "prior", "prior_predictive")
    }
    assert set(data.posterior_predictive.data_vars) == {"mean", "y"}
    assert data.posterior_predictive["point"].values.tolist() == ["a", "b", "c"]


def test_predictions_of_other_sizes_keep_their_own_numbers() -> None:
    fit = Fit("by hand", {"slope": normal(2, 8)}, latents=("slope",), dims={"y": ["point"]})
    fit.observed["y"] = torch.zeros(3)
    new = predict(fit, line, 5)
    data = fit.to_arviz({"point": ["a", "b", "c"]}, predictions=[new])
    assert data.posterior_predictive["y"].shape == (2, 8, 5)
    assert data.posterior_predictive["point"].values.tolist() == [0, 1, 2, 3, 4]
    assert data.observed_data["point"].values.tolist() == ["a", "b", "c"]
