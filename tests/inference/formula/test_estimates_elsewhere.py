"""Posteriors of formulas beside estimates of statsmodels, from data that determine them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats
from support.sizes import quick

from pushforward import formula
from pushforward.inference import MCMC

Array = np.ndarray[Any, Any]


def data() -> pandas.DataFrame:
    """300 rows of points that fill a cube evenly, the same on every machine."""
    k = np.arange(300)
    steps = [0.618033988749895, 0.414213562373095, 0.732050807568877]
    u, v, e = ((k * step + 0.1 * j + 0.05) % 1 for j, step in enumerate(steps))
    x, c = stats.norm.ppf(u), np.array(["a", "b", "d"])[(3 * v).astype(int)]
    eta = 0.3 + 0.5 * x - 0.6 * (c == "b") + 0.4 * (c == "d")
    level = np.arange(20)
    first = stats.norm.ppf((level * 0.618033988749895 + 0.05) % 1)[k % 20]
    second = stats.norm.ppf((level * 0.414213562373095 + 0.35) % 1)[k % 20]
    noise, p, mean = stats.norm.ppf(e), 1 / (1 + np.exp(-eta)), np.exp(eta)
    columns = {
        "x": x,
        "c": c,
        "g": [f"s{i:02}" for i in k % 20],
        "gaussian": 2 * eta + 1.5 * noise,
        "mixed": 2 * eta + 1.2 * first + 0.6 * second * x + 0.8 * noise,
        "bernoulli": (e < p).astype(int),
        "poisson": stats.poisson.ppf(e, mean).astype(int),
        "negative_binomial": stats.nbinom.ppf(e, 2.0, 2.0 / (2.0 + mean)).astype(int),
        "gamma": stats.gamma.ppf(e, 3.0, scale=mean / 3),
        "beta": stats.beta.ppf(e, 8 * p, 8 * (1 - p)),
        "ordinal": np.digitize(eta + np.log(e / (1 - e)), [-0.5, 1.0]),
    }
    return pandas.DataFrame(columns)


# Estimate and standard error of each coefficient by statsmodels 0.15.0: ols, logit, poisson,
# negativebinomial, glm with Gamma(Log()), BetaModel, OrderedModel, mixedlm(re_formula="~x").
FOUND = {
    "gaussian": [(0.5703, 0.1525), (-1.1395, 0.2151), (0.8957, 0.2149), (0.9559, 0.0877)],
    "bernoulli": [(0.2938, 0.2086), (-0.6123, 0.2947), (0.2247, 0.2970), (0.4770, 0.1276)],
    "poisson": [(0.3136, 0.0844), (-0.6527, 0.1394), (0.4234, 0.1029), (0.4814, 0.0446)],
    "negative_binomial": [
        (0.2894, 0.1159), (-0.6230, 0.1815), (0.4793, 0.1518), (0.4742, 0.0680),
    ],
    "gamma": [(0.2850, 0.0602), (-0.5810, 0.0848), (0.4554, 0.0848), (0.4800, 0.0346)],
    "beta": [(0.2831, 0.0682), (-0.5743, 0.0973), (0.4582, 0.0983), (0.4815, 0.0420)],
    "ordinal": [(-0.8102, 0.2013), (-0.5538, 0.2663), (0.2943, 0.2654), (0.4356, 0.1117)],
    "mixed": [(0.6947, 0.2851), (-1.2425, 0.1156), (0.9699, 0.1152), (0.9466, 0.1636)],
}  # fmt: skip
# of the mixed model: deviations of intercepts and slopes, and of the noise
DEVIATIONS = (1.493462**0.5, 0.493413**0.5, 0.602957**0.5)


@pytest.mark.parametrize("name", quick(1, FOUND))
def test_posteriors_are_near_estimates(name: str) -> None:
    """Means within a third of a standard error, whose size is that of the posterior to a tenth.

    Deviations have skew posteriors: these hold the estimate.
    """
    family = "gaussian" if name == "mixed" else name
    groups = "+ (1 + x | g)" if name == "mixed" else ""
    made = formula(f"{name} ~ x + c {groups}", data(), family)
    table = made.fit(MCMC(draws=1000, progress=False), seed=1).summary()
    first = "cutpoints[0]" if name == "ordinal" else "Intercept"
    for site, (estimate, error) in zip([first, "c[0]", "c[1]", "x"], FOUND[name], strict=True):
        mean, sd = float(table.loc[site, "mean"]), float(table.loc[site, "sd"])
        print(f"{name} {site}: z {(mean - estimate) / error:+.2f}, sd {sd / error:.2f}")
        assert abs(mean - estimate) < error / 3
        assert sd == pytest.approx(error, rel=0.15)
        assert not abs(mean - estimate - error) < error / 3
    if name == "mixed":
        for site, estimate in zip(["sd_g[0]", "sd_g[1]", "sigma"], DEVIATIONS, strict=True):
            assert table.loc[site, "q05"] < estimate < table.loc[site, "q95"]
