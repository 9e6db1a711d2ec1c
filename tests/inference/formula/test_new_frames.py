"""Predictions of formulas for other frames: by column names, and with new levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
import torch
from scipy import stats

from pushforward import formula
from pushforward.errors import DataError
from pushforward.inference import Fit, Formula


def data() -> pandas.DataFrame:
    rng = np.random.default_rng(1)
    return pandas.DataFrame(
        {
            "y": rng.normal(size=12),
            "x": rng.normal(size=12),
            "c": np.resize(["a", "b", "d"], 12),
            "g": np.resize(["u", "v"], 12),
            "t": np.full(12, 9),
            "k": rng.integers(0, 9, 12),
        }
    )


def fit_of(made: Formula, draws: int = 50, seed: int = 0) -> Fit:
    """A fit that holds draws from the prior."""
    prior = made.predict(draws, seed=seed)
    latents = [name for name in prior.sites if name not in (made.response[0], *prior_derived(made))]
    return Fit("prior", {n: prior[n] for n in latents}, latents=tuple(latents))


def prior_derived(made: Formula) -> list[str]:
    """Deterministic sites, which a fit holds beside its latents."""
    found = [line.split('deterministic("')[1].split('"')[0]
             for line in made.source.splitlines() if 'deterministic("' in line]  # fmt: skip
    return found


TEXT = "y ~ x*c + np.log(t) + (1 + x | g)"
NEW = {"g": ["v", "u", "v"], "x": [0.5, -1.0, 2.0], "c": ["d", "a", "b"], "t": [1, 2, 3]}


def test_expected_values_are_those_by_hand() -> None:
    """For each draw: what coefficients and effects say of the new rows, in any order of columns."""
    made = formula(TEXT.replace("+ np.log(t) ", ""), data())
    fit = fit_of(made)
    found = made.predict(fit, NEW).value
    x, c, g = np.array(NEW["x"]), np.array(NEW["c"]), np.array([1, 0, 1])
    at = {name: draws[0].numpy() for name, draws in fit.draws.items()}
    frame = data()
    of_c = np.stack([c == "b", c == "d"], 1).astype(float)
    known = np.stack([frame.c == "b", frame.c == "d"], 1).astype(float)
    means = known.mean(0), (frame.x.to_numpy()[:, None] * known).mean(0)
    expected = at["Intercept_centred"][:, None] + at["x"][:, None] * (x - frame.x.mean())
    expected = expected + at["c"] @ (of_c - means[0]).T
    expected = expected + at["x:c"] @ (x[:, None] * of_c - means[1]).T
    effects = np.einsum("dlj,dkj->dlk", at["z_g"], at["sd_g"][:, :, None] * at["chol_g"])
    expected = expected + effects[:, g, 0] + effects[:, g, 1] * x
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-3)
    again = made.predict(fit, pandas.DataFrame(NEW)[["t", "c", "x", "g"]]).value
    assert torch.equal(found, again)


def test_rows_of_the_data_are_predicted_as_such() -> None:
    made = formula("y ~ scale(x) + bs(x, df=4) + C(c) + (c | g)", data())
    fit = fit_of(made)
    whole = made.predict(fit).value
    torch.testing.assert_close(made.predict(fit, data()).value, whole)
    some = made.predict(fit, data().iloc[[7, 2]].drop(columns="y")).value
    torch.testing.assert_close(some, whole[:, :, [7, 2]])


def test_trials_of_new_rows() -> None:
    made = formula("prop(k, t) ~ x", data(), "binomial")
    fit = fit_of(made)
    new = {"x": [0.0, 0.0], "t": [10, 30]}
    found = made.predict(fit, new)
    torch.testing.assert_close(found.value[..., 1], 3 * found.value[..., 0])
    assert float(found["prop(k, t)"][..., 1].max()) > 10
    with pytest.raises(DataError, match="no column or name 't'"):
        made.predict(fit, {"x": [0.0]})


def test_effects_of_new_levels_have_their_law() -> None:
    """Standard normal over the deviation of each draw, and independent of the noise: p > 1e-5."""
    made = formula("y ~ x + (1 | g)", data())
    fit = fit_of(made, 4000)
    for seed in range(2):
        found = made.predict(
            fit, {"x": [0.0] * 3, "g": ["u", "new", "newer"]}, new_levels="draw", seed=seed
        )
        z = (found["effect_g"] / fit["sd_g"][..., None])[0]
        torch.testing.assert_close(z[:, :2], fit["z_g"][0])  # known ones stay
        noise = ((found["y"] - found.value) / fit["sigma"][..., None])[0]
        for each in (z[:, 2], z[:, 3], *noise.T):
            assert stats.kstest(each.numpy(), "norm").pvalue > 1e-5
        columns = torch.cat([z[:, 2:], noise], 1).numpy()
        correlations = np.corrcoef(columns.T)[np.triu_indices(5, 1)]
        assert np.abs(correlations).max() < 4.9 / np.sqrt(4000)
    assert stats.kstest(1.2 * z[:, 3].numpy(), "norm").pvalue < 1e-5


def test_combinations_of_levels_that_data_lack_are_new() -> None:
    frame = data().iloc[:6]
    frame["h"] = ["p", "q"] * 3
    made = formula("y ~ 1 + (1 | g:h)", frame)
    assert made.coords["g:h"] == ["u:p", "v:q"]
    with pytest.raises(DataError, match=r"new levels of 'g:h': \['u:q', 'w:q'\]"):
        made.predict(fit_of(made), {"g": ["u", "v", "w"], "h": ["q", "q", "q"]})


def changed(**columns: Any) -> dict[str, Any]:
    return {**NEW, **columns}


@pytest.mark.parametrize(
    ("new", "match"),
    [
        (changed(g=["v", "w", "z"]), r"new levels of 'g': \['w', 'z'\]"),
        (changed(x=[0.0, np.nan, np.nan]), "missing values: 'x' in rows 1, 2"),
        (changed(g=["v", None, "u"]), "missing values: 'g' in row 1"),
        (changed(c=["a", "e", "b"]), r"levels \(e\) in 'c'"),
        (changed(t=[1, 0, 2]), r"'np.log\(t\)' is not finite in row 1"),
        ({k: v for k, v in NEW.items() if k != "x"}, r"lack the columns \['x'\]"),
        (changed(t=[1, 2]), "columns of different lengths"),
        (7, "a int is no frame"),
    ],
)
def test_what_new_frames_are_refused_for(new: Any, match: str) -> None:
    made = formula(TEXT, data())
    with pytest.raises(DataError, match=match):
        made.predict(fit_of(made, 3), new)
    with pytest.raises(ValueError, match="new_levels is one of"):
        made.predict(3, NEW, new_levels="guess")  # type: ignore[arg-type]


BY_OTHER_ROWS = [
    "y ~ {x - np.mean(x)}",
    "y ~ np.cumsum(x) + c",
    "y ~ offset(np.cumsum(x))",
    "y ~ (0 + np.cumsum(x) | g)",
    "y ~ (1 | np.argsort(np.argsort(x)))",
]


@pytest.mark.parametrize("text", BY_OTHER_ROWS)
def test_what_depends_on_other_rows_is_refused_of_new_ones(text: str) -> None:
    """The mean of new rows is not that of the data: expected values would be wrong, and silent."""
    made = formula(text, data())
    assert made.predict(3).value.isfinite().all()
    with pytest.raises(DataError, match="of a row depends on other rows"):
        made.predict(3, data().iloc[[7, 2]], new_levels="draw")
    remembers = formula("y ~ center(x) + poly(x, 2) + (scale(x) | g)", data())
    some = remembers.predict(3, data().iloc[[7, 2]]).value
    torch.testing.assert_close(some, remembers.predict(3).value[:, :, [7, 2]])
