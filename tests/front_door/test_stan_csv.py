"""Draws in CmdStan's files: read by ArviZ they are those of the fit, in all their digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pushforward.commands.saying import UsageError
from pushforward.commands.stan_csv import numbered, stacked, variances, write
from pushforward.commands.writing import require_writable, write_draws
from pushforward.inference import Fit, Prediction
from pushforward.inference.results.arviz import generation, import_arviz

ABOUT = {"model": "m", "method": "MCMC", "seed": 3}


def of(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Numbers of all sizes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng, dtype=torch.float64)
    return (x * 10.0 ** torch.randint(-30, 30, shape, generator=rng)).to(dtype)


def a_fit(chains: int = 2, dtype: torch.dtype = torch.float32) -> Fit:
    lead = (chains, 5)
    draws = {
        "mu": of(*lead, dtype=dtype),
        "theta": of(*lead, 2, 3, dtype=dtype, seed=1),
        "k": torch.arange(5).expand(lead),
        "on": torch.arange(5).expand(lead) % 2 == 0,
    }
    draws |= {f"x[{t}]": of(*lead, 2, dtype=dtype, seed=2 + t) for t in range(11)}
    stats = {
        "acceptance_rate": torch.rand(lead, generator=torch.Generator().manual_seed(1)),
        "diverging": torch.arange(5).expand(lead) == 3,
        "energy": of(*lead, seed=20),
        "tree_depth": torch.arange(5).expand(lead) + 1,
        "n_steps": 2 ** torch.arange(5).expand(lead),
        "lp": of(*lead, seed=21),
        "step_size": torch.full(lead, 0.3),
    }
    log_likelihood = {"y": of(*lead, 4, seed=22)}
    about: dict[str, Any] = {"log_likelihood": log_likelihood, "observed": {"y": torch.ones(4)}}
    steps = torch.tensor([0.25, 0.5, 0.75])[:chains]
    about["state"] = {"step_size": steps, "inverse_mass": torch.tensor([1.5, 4.0])}
    return Fit("MCMC (NUTS)", draws, stats, latents=tuple(draws), seed=3, **about)


def test_columns_by_hand() -> None:
    """The first index runs fastest, and steps of a loop are the first index."""
    draws = {"theta": torch.arange(6.0).reshape(1, 1, 2, 3), "x[0]": torch.ones(1, 1)}
    draws["x[1]"] = 2 * torch.ones(1, 1)
    found = {name: float(x[0, 0]) for name, x in numbered(draws)}
    assert list(found.items()) == [
        *(("theta.1.1", 0.0), ("theta.2.1", 3.0), ("theta.1.2", 1.0)),
        *(("theta.2.2", 4.0), ("theta.1.3", 2.0), ("theta.2.3", 5.0)),
        *(("x.1", 1.0), ("x.2", 2.0)),
    ]


def test_a_file_by_hand(tmp_path: Path) -> None:
    stats = {"diverging": torch.tensor([[True, False]]), "lp": torch.tensor([[-1.5, -2.0]])}
    draws = {"a/b": torch.tensor([[0.1, float("nan")]]), "n": torch.tensor([[3, -4]])}
    draws["t"] = torch.tensor([[1e-30, float("-inf")]])
    assert write(tmp_path / "o.csv", draws, stats, ABOUT) == [tmp_path / "o.csv"]
    lines = (tmp_path / "o.csv").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert [line for line in lines if not line.startswith("#")] == [
        "lp__,divergent__,a_b,n,t",
        "-1.5,1,0.1,3,1e-30",
        "-2.0,0,nan,-4,-inf",
    ]
    assert {"# model = m", "#     num_samples = 2", "#   seed = 3"} <= set(comments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chains", [1, 3])
def test_arviz_reads_the_draws_of_the_fit(tmp_path: Path, dtype: torch.dtype, chains: int) -> None:
    if generation() > 0:
        pytest.skip("ArviZ 1 has another reader of CmdStan's files")
    fit = a_fit(chains, dtype)
    paths = write_draws(fit, tmp_path / "draws.csv", "")
    assert len(paths) == chains
    found = import_arviz().from_cmdstan([str(path) for path in paths])
    kind = np.float32 if dtype is torch.float32 else np.float64
    for name in ("mu", "theta", "x"):
        assert np.array_equal(found.posterior[name].values.astype(kind), fit[name].numpy()), name
    for name in ("k", "on"):
        assert np.array_equal(found.posterior[name].values, fit[name].numpy().astype(float))
    for name, x in fit.stats.items():
        read = found.sample_stats[name].values
        assert np.array_equal(read.astype(x.numpy().dtype), x.numpy()), name
    assert set(found.posterior.data_vars) == {"mu", "theta", "k", "on", "x"}
    assert found.posterior.attrs["seed"] == ["3"] * chains
    assert found.posterior.attrs["step_size"] == ["0.25", "0.5", "0.75"][:chains]
    assert found.posterior.attrs["inverse_mass_matrix"] == ["[1.5, 4.0]"] * chains
    transposed = fit["theta"].transpose(2, 3).reshape(fit["theta"].shape)
    assert not np.array_equal(found.posterior["theta"].values.astype(kind), transposed.numpy())


def test_steps_that_are_not_all_there_stay_apart() -> None:
    x = torch.ones(1, 2)
    assert list(stacked({"x[0]": x, "x[2]": x})) == ["x[0]", "x[2]"]
    assert list(stacked({"x[0]": x, "x[1]": torch.ones(1, 2, 3)})) == ["x[0]", "x[1]"]
    assert list(stacked({"x[0]": x, "x": x})) == ["x[0]", "x"]
    nested = {f"x[{i}][{j}]": x * (10 * i + j) for i in range(2) for j in range(3)}
    assert stacked(nested)["x"].shape == (1, 2, 2, 3)
    assert float(stacked(nested)["x"][0, 0, 1, 2]) == 12.0
    assert [name for name, _ in numbered({"x[0]": x, "x[2]": x})] == ["x_0_", "x_2_"]


def test_the_diagonal_of_a_stretched_metric() -> None:
    """That of D (1 + V' S V) D written out, with V of two orthonormal directions."""
    angle = torch.tensor(0.3, dtype=torch.float64)
    v = torch.stack(
        [torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])]
    )
    v = torch.cat([v, torch.zeros(2, 1)], 1)
    root, stretch = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, -0.2]).double()
    move = root.diag() @ (torch.eye(3) + v.T @ stretch.diag() @ v)
    state = {"inverse_mass": root**2, "directions": v, "stretch": stretch}
    assert torch.allclose(variances(state), (move @ move.T).diagonal(), rtol=1e-12)
    assert torch.equal(variances({"inverse_mass": root}), root)


def test_names_for_stan() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(UsageError, match=r"'a\.b' and 'a_b' are both 'a_b'"):
        list(numbered({"a.b": x, "a_b": x}))
    assert [name for name, _ in numbered({"lp__": x})] == ["lp_"]
    with pytest.raises(UsageError, match="nothing to write"):
        write(Path("o.csv"), {"x": torch.ones(1, 2, 0)}, {}, ABOUT)


def test_json_and_netcdf_are_read_by_arviz(tmp_path: Path) -> None:
    fit = a_fit()
    write_draws(fit, tmp_path / "d.json", "")
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["posterior"]["theta"] == fit["theta"].double().tolist()
    assert content["sample_stats"]["diverging"] == fit.stats["diverging"].tolist()
    assert content["posterior_attrs"] == {"method": "MCMC (NUTS)", "seed": 3}
    write_draws(fit, tmp_path / "d.out", "netcdf")
    found = [import_arviz().from_netcdf(str(tmp_path / "d.out"))]
    if generation() == 0:
        found.append(import_arviz().from_json(str(tmp_path / "d.json")))
    for read in found:
        assert np.array_equal(read["posterior"]["theta"].values, fit["theta"].numpy())
        assert np.array_equal(read["log_likelihood"]["y"].values, fit.log_likelihood["y"].numpy())
        assert np.array_equal(read["observed_data"]["y"].values, np.ones(4))


def test_predictions_are_written_too(tmp_path: Path) -> None:
    found = Prediction({"y": of(2, 3, 2)}, None, data=("y",))
    (first, _) = write_draws(found, tmp_path / "p.csv", "")
    assert "y.1,y.2" in first.read_text().splitlines()
    write_draws(found, tmp_path / "p.json", "")
    assert list(json.loads((tmp_path / "p.json").read_text())) == ["posterior_predictive"]


@pytest.mark.parametrize(
    ("out", "form", "said"),
    [
        (None, "csv", "--format needs a file"),
        ("x.csv", "xml", "--format is csv, netcdf or json, not 'xml'"),
        ("x.dat", "", "--out x.dat: say --format"),
        ("nowhere/x.csv", "", "there is no folder nowhere"),
    ],
)
def test_mistakes_before_a_run(out: str | None, form: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        require_writable(None if out is None else Path(out), form)
