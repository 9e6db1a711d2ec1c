"""Fits side by side: against the sums by hand, and against ArviZ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pushforward.inference import Fit, compare
from pushforward.inference.results.arviz import generation, import_arviz
from pushforward.ppl.errors import DataError


def a_fit(scale: float, entries: Sequence[int] = (6, 2), seed: int = 0, size: int = 400) -> Fit:
    """Log likelihoods of two sites about a draw's parameter, in another order for each seed."""
    rng = torch.Generator().manual_seed(seed)
    mu = 0.3 * torch.randn(2, size, generator=rng)
    logs = {}
    for name, n in zip(("y", "z"), entries, strict=True):
        y = torch.linspace(-1.0, 1.5, n)
        logs[name] = -0.5 * ((y - mu[..., None]) / scale) ** 2 - math.log(scale)
    logs = dict(sorted(logs.items(), reverse=bool(seed % 2)))
    observed = {name: torch.zeros(n) for name, n in zip(("y", "z"), entries, strict=True)}
    return Fit("MCMC", {"mu": mu}, log_likelihood=logs, observed=observed, latents=("mu",))


@pytest.mark.parametrize("by", ["loo", "waic"])
def test_two_fits_are_compared_as_by_arviz(by: Any) -> None:
    """ArviZ divides by n where sums of squares have n - 1 degrees of freedom, as R's loo does."""
    if generation() > 0:
        pytest.skip("ArviZ 1 has no WAIC, and another order of arguments")
    az = import_arviz()
    fits = {"wide": a_fit(2.0, (8, 0), seed=0), "right": a_fit(1.0, (8, 0), seed=1)}
    for fit in fits.values():
        del fit.log_likelihood["z"]
        fit.observed.pop("z")
    table = compare(fits, by)
    theirs = az.compare({name: fit.to_arviz() for name, fit in fits.items()}, ic=by)
    assert list(table.index) == list(theirs.index) == ["right", "wide"]
    n, s = 8, 800
    degrees, of_p = math.sqrt(n / (n - 1)), s / (s - 1) if by == "waic" else 1.0
    p = theirs[f"p_{by}"] * of_p
    elpd = theirs[f"elpd_{by}"] - (p - theirs[f"p_{by}"])
    near = {"rtol": 2e-3, "atol": 1e-4} if by == "loo" else {"rtol": 1e-5, "atol": 1e-6}
    assert np.allclose(table["elpd"], elpd, **near)
    assert np.allclose(table["p"], p, **near)
    assert np.allclose(table["se"], theirs["se"] * degrees, rtol=2e-3)
    assert np.allclose(table["elpd_diff"], theirs["elpd_diff"], rtol=2e-3, atol=1e-6)
    assert np.allclose(table["dse"], theirs["dse"] * degrees, rtol=2e-3)
    assert not table["doubtful"].any()


def test_waic_by_hand() -> None:
    """Two draws of one observation and of another; sums of both sites, paired by name."""
    logs = torch.tensor([[[0.2], [0.4]]]).log()
    other = torch.tensor([[[0.5], [0.1]]]).log()
    a = Fit("a", {}, log_likelihood={"x": logs, "y": other})
    b = Fit("b", {}, log_likelihood={"y": torch.zeros(1, 2, 1), "x": logs})
    table = compare({"a": a, "b": b}, "waic")
    lost = [math.log(2.0) ** 2 / 2, math.log(5.0) ** 2 / 2]
    elpd = [math.log(0.3) - lost[0], math.log(0.3) - lost[1]]
    assert list(table.index) == ["b", "a"]
    assert table.loc["a", "elpd"] == pytest.approx(sum(elpd), rel=1e-6)
    assert table.loc["a", "p"] == pytest.approx(sum(lost), rel=1e-6)
    assert table.loc["b", "elpd"] == pytest.approx(elpd[0], rel=1e-6)
    assert table.loc["a", "elpd_diff"] == pytest.approx(-elpd[1], rel=1e-6)
    behind = np.array([0.0, -elpd[1]])
    assert table.loc["a", "dse"] == pytest.approx(math.sqrt(2) * behind.std(ddof=1), rel=1e-6)
    assert list(table["doubtful"]) == [0, 1]  # variances of 0.24 and 1.3


def test_three_fits_stand_in_order() -> None:
    fits = {str(s): a_fit(s, seed=i) for i, s in enumerate((4.0, 1.0, 2.0))}
    table = compare(fits)
    assert list(table.index) == ["1.0", "2.0", "4.0"]
    assert list(table["elpd_diff"]) == sorted(table["elpd_diff"])
    assert table["elpd_diff"].iloc[0] == table["dse"].iloc[0] == 0.0


def test_fits_of_other_data_are_refused() -> None:
    a, b = a_fit(1.0), a_fit(1.0, (5, 2))
    with pytest.raises(DataError, match=r"'a' scores y\[6\], z\[2\], and 'b' y\[5\], z\[2\]"):
        compare({"a": a, "b": b})
    c = a_fit(1.0)
    c.observed["y"] = c.observed["y"] + 1.0
    with pytest.raises(DataError, match="'a' and 'c' have other data of 'y'"):
        compare({"a": a, "c": c})
    with pytest.raises(DataError, match="nothing to compare"):
        compare({"a": a})
    none = Fit("none", {"mu": torch.zeros(1, 4)})
    for by in ("loo", "waic"):
        with pytest.raises(DataError, match="no log likelihood"):
            compare({"a": none, "b": none}, by)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by is one of"):
        compare({"a": a, "b": a}, "aic")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["loo", "waic"])
def test_entries_that_were_not_seen_are_not_compared(by: Any) -> None:
    logs = {name: -torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(i))
            for i, name in enumerate("ab")}  # fmt: skip
    y = torch.tensor([0.3, math.nan, 1.0])

    def of(x: torch.Tensor, data: torch.Tensor) -> Fit:
        draws = {"z": torch.zeros(2, 50)}
        return Fit("MCMC", draws, log_likelihood={"y": x}, observed={"y": data})

    whole = compare({n: of(x, y) for n, x in logs.items()}, by)
    seen = compare({n: of(x[..., [0, 2]], y[[0, 2]]) for n, x in logs.items()}, by)
    np.testing.assert_allclose(whole.to_numpy(), seen.to_numpy(), atol=1e-12)
