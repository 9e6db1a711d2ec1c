"""Posteriors of posteriordb: their densities against formulas written out here, and their fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pushforward import assess, condition, deterministic, plate, program, sample
from pushforward.inference import MCMC, Fit
from pushforward.models.posteriordb import POSTERIORS, compared
from pushforward.models.posteriordb.comparison import Comparison, parameter, scores
from pushforward.models.posteriordb.files import FOLDER, content

Values = dict[str, Any]
norm, cauchy = stats.norm.logpdf, stats.cauchy.logpdf


@pytest.fixture(autouse=True)
def everything_is_double(double: None) -> None:
    """Densities are compared to nine digits."""


# --- densities by hand, up to constants, from the descriptions in the files -----------------------


def regression(y: Any, columns: list[Any], c: Values) -> float:
    """Normal errors, everything flat."""
    return float(norm(y, np.stack(columns, 1) @ c["beta"], c["sigma"]).sum())


def arK(c: Values, d: Values) -> float:
    y = d["y"]
    total = norm(c["alpha"], 0, 10) + norm(c["beta"], 0, 10).sum() + cauchy(c["sigma"], 0, 2.5)
    for t in range(5, 200):
        mean = c["alpha"] + sum(c["beta"][k] * y[t - 1 - k] for k in range(5))
        total += norm(y[t], mean, c["sigma"])
    return float(total)


def hidden(c: Values, emission: Any) -> float:
    """log of the sum over paths of products of probabilities; emission [time, 2] as densities."""
    weights, total = emission[0], 0.0
    transition = np.stack([c["theta1"], c["theta2"]])
    for e in emission[1:]:
        total += np.log(weights.sum())
        weights = (weights / weights.sum()) @ transition * e
    return float(total + np.log(weights.sum()))


def hmm_drive(c: Values, d: Values) -> float:
    prior = sum(norm(c[name], [0, 3], 1).sum() for name in ("phi", "lambda"))
    prior += 3 * np.log(c["theta1"][0]) + np.log(c["theta1"][1])
    prior += np.log(c["theta2"][0]) + 3 * np.log(c["theta2"][1])
    u, v = d["u"][:, None], d["v"][:, None]
    return float(
        prior
        + hidden(c, stats.expon.pdf(u, 0, 1 / c["phi"]) * stats.expon.pdf(v, 0, 1 / c["lambda"]))
    )


def hmm_example(c: Values, d: Values) -> float:
    emission = stats.norm.pdf(d["y"][:, None], c["mu"], 1)
    return float(norm(c["mu"], [3, 10], 1).sum() + hidden(c, emission))


def diamonds(c: Values, d: Values) -> float:
    X = d["X"][:, 1:]
    prior = norm(c["b"], 0, 1).sum() + stats.t.logpdf(c["Intercept"], 3, 8, 10)
    prior += stats.t.logpdf(c["sigma"], 3, 0, 10)
    mean = c["Intercept"] + (X - X.mean(0)) @ c["b"]
    return float(prior + norm(d["Y"], mean, c["sigma"]).sum())


def eight_schools(c: Values, d: Values) -> float:
    """In theta, with the factor tau^8 of its change to z."""
    mu, tau = c["mu"], c["tau"]
    theta = mu + tau * c["z"]
    prior = norm(mu, 0, 5) + cauchy(tau, 0, 5) + norm(theta, mu, tau).sum() + 8 * np.log(tau)
    return float(prior + norm(d["y"], theta, d["sigma"]).sum())


def garch(c: Values, d: Values) -> float:
    (alpha1, beta1, _), s = c["shares"], d["sigma1"]
    total = norm(d["y"][0], c["mu"], s)
    for t in range(1, 200):
        s = np.sqrt(c["alpha0"] + alpha1 * (d["y"][t - 1] - c["mu"]) ** 2 + beta1 * s**2)
        total += norm(d["y"][t], c["mu"], s)
    return float(total)


def weibull(c: Values, d: Values) -> float:
    """By scipy's Weibull law with scale exp(-(b0 + b1 x) / shape)."""
    scale = np.exp(-(c["b0"] + c["b1"] * d["placebo"]) / c["shape"])
    law = stats.weibull_min(c["shape"], 0, scale)
    prior = -c["shape"] + norm(c["b0"], 0, 5) + norm(c["b1"], 0, 2.5)
    return float(
        prior + np.where(d["event"] == 1, law.logpdf(d["time"]), law.logsf(d["time"])).sum()
    )


def gaussian_process(c: Values, d: Values) -> float:
    """In f, with the determinant of its change to z."""
    apart = d["x"][:, None] - d["x"]
    C = c["alpha"] ** 2 * np.exp(-(apart**2) / (2 * c["rho"] ** 2)) + 1e-10 * np.eye(11)
    L = np.linalg.cholesky(C)
    f = L @ c["z"]
    prior = stats.gamma.logpdf(c["rho"], 25, scale=1 / 4) + norm(c["alpha"], 0, 2)
    white = np.linalg.solve(L, f)  # log N(f; 0, C) + log det L, without the constant
    return float(prior - white @ white / 2 + stats.poisson.logpmf(d["k"], np.exp(f)).sum())


def irt(c: Values, d: Values) -> float:
    """In theta and a, with the factors of their changes to the program's normals."""
    theta, log_a = c["sigma_theta"] * c["able"], np.sqrt(c["sigma_a"]) * c["telling"]
    scales = [c[name] for name in ("sigma_theta", "sigma_a", "sigma_b")]
    prior = cauchy(scales, 0, 2).sum() + norm(c["mu_b"], 0, 5)
    prior += norm(theta, 0, c["sigma_theta"]).sum() + 100 * np.log(c["sigma_theta"])
    prior += stats.lognorm.logpdf(np.exp(log_a), c["sigma_a"]).sum()
    prior += 10 * np.log(c["sigma_a"]) + log_a.sum() + norm(c["b"], c["mu_b"], c["sigma_b"]).sum()
    solved = 1 / (1 + np.exp(-np.exp(log_a)[:, None] * (theta - c["b"][:, None])))
    return float(prior + stats.bernoulli.logpmf(d["y"], solved).sum())


def kilpisjarvi(c: Values, d: Values) -> float:
    prior = norm(c["alpha"], d["pmualpha"], d["psalpha"])
    prior += norm(c["beta"], d["pmubeta"], d["psbeta"])
    return float(prior + norm(d["y"], c["alpha"] + c["beta"] * d["x"], c["sigma"]).sum())


def mixture(c: Values, d: Values) -> float:
    weights = np.array([c["theta"], 1 - c["theta"]])
    prior = norm(c["mu"], 0, 2).sum() + norm(c["sigma"], 0, 2).sum() + 4 * np.log(weights).sum()
    densities = norm(d["y"][:, None], c["mu"], c["sigma"]) + np.log(weights)
    return float(prior + np.logaddexp(densities[:, 0], densities[:, 1]).sum())


def rats(c: Values, d: Values) -> float:
    total = norm([c["mu_alpha"], c["mu_beta"]], 0, 100).sum()
    total += norm(c["alpha"], c["mu_alpha"], c["sigma_alpha"]).sum()
    total += norm(c["beta"], c["mu_beta"], c["sigma_beta"]).sum()
    for r, x, y in zip(d["rat"].astype(int), d["x"], d["y"], strict=True):
        total += norm(y, c["alpha"][r - 1] + c["beta"][r - 1] * (x - 22), c["sigma_y"])
    return float(total)


def nes_columns(d: Values) -> list[Any]:
    ages = [np.where(d["age_discrete"] == k, 1.0, 0.0) for k in (2, 3, 4)]
    of_person = [d["educ1"], d["gender"], d["income"]]
    return [np.ones(476), d["real_ideo"], d["race_adj"], *ages, *of_person]


def mesquite_columns(d: Values) -> list[Any]:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density")
    return [np.ones(46), *(np.log(d[name]) for name in names), d["group"]]


def products(a: Any, b: Any) -> list[Any]:
    return [np.ones(len(a)), a, b, a * b]


BY_HAND: dict[str, Callable[[Values, Values], float]] = {
    "arK-arK": arK,
    "bball_drive_event_0-hmm_drive_0": hmm_drive,
    "diamonds-diamonds": diamonds,
    "earnings-earn_height": lambda c, d: regression(d["earn"], [np.ones(1192), d["height"]], c),
    "earnings-logearn_interaction": lambda c, d: regression(
        np.log(d["earn"]), products(d["height"], d["male"]), c
    ),
    "eight_schools-eight_schools_noncentered": eight_schools,
    "garch-garch11": garch,
    "gehan_weibull": weibull,
    "gp_pois_regr-gp_pois_regr": gaussian_process,
    "hmm_example-hmm_example": hmm_example,
    "irt_2pl-irt_2pl": irt,
    "kidiq-kidscore_interaction": lambda c, d: (
        regression(d["kid_score"], products(d["mom_hs"], d["mom_iq"]), c)
        + cauchy(c["sigma"], 0, 2.5)
    ),
    "kidiq_with_mom_work-kidscore_interaction_c2": lambda c, d: regression(
        d["kid_score"], products(d["mom_hs"] - 0.5, d["mom_iq"] - 100), c
    ),
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": mixture,
    "mesquite-logmesquite": lambda c, d: regression(np.log(d["weight"]), mesquite_columns(d), c),
    "nes2000-nes": lambda c, d: regression(d["partyid7"], nes_columns(d), c),
    "rats_data-rats_model": rats,
    "sblrc-blr": lambda c, d: (
        regression(d["y"], list(d["X"].T), c) + norm([*c["beta"], c["sigma"]], 0, 10).sum()
    ),
}

SHAPES: dict[str, dict[str, int]] = {
    "arK-arK": {"alpha": 0, "beta": 5, "sigma": 0},
    "bball_drive_event_0-hmm_drive_0": {"phi": 2, "lambda": 2, "theta1": 2, "theta2": 2},
    "diamonds-diamonds": {"b": 24, "Intercept": 0, "sigma": 0},
    "eight_schools-eight_schools_noncentered": {"mu": 0, "tau": 0, "z": 8},
    "garch-garch11": {"mu": 0, "alpha0": 0, "shares": 3},
    "gehan_weibull": {"shape": 0, "b0": 0, "b1": 0},
    "gp_pois_regr-gp_pois_regr": {"rho": 0, "alpha": 0, "z": 11},
    "hmm_example-hmm_example": {"mu": 2, "theta1": 2, "theta2": 2},
    "irt_2pl-irt_2pl": {
        **{"sigma_theta": 0, "sigma_a": 0, "mu_b": 0, "sigma_b": 0},
        **{"able": 100, "telling": 20, "b": 20},
    },
    "kilpisjarvi_mod-kilpisjarvi": {"alpha": 0, "beta": 0, "sigma": 0},
    "low_dim_gauss_mix-low_dim_gauss_mix": {"mu": 2, "sigma": 2, "theta": 0},
    "rats_data-rats_model": {
        **{"mu_alpha": 0, "mu_beta": 0, "sigma_y": 0, "sigma_alpha": 0, "sigma_beta": 0},
        **{"alpha": 30, "beta": 30},
    },
    **{
        name: {"beta": size, "sigma": 0}
        for name, size in {
            **{"earnings-earn_height": 2, "earnings-logearn_interaction": 4},
            **{"kidiq-kidscore_interaction": 4, "kidiq_with_mom_work-kidscore_interaction_c2": 4},
            **{"mesquite-logmesquite": 7, "nes2000-nes": 9, "sblrc-blr": 5},
        }.items()
    },
}


def point(name: str, seed: int) -> Values:
    """Increasing numbers in (0, 1) for every site; those of simplices sum to one."""
    rng = np.random.default_rng(seed)
    found = {
        site: np.sort(rng.uniform(0.1, 0.9, size)) if size else rng.uniform(0.1, 0.9)
        for site, size in SHAPES[name].items()
    }
    simplices = {"theta1", "theta2", "shares"} & found.keys()
    return {site: x / x.sum() if site in simplices else x for site, x in found.items()}


def by_library(name: str, choices: Values) -> float:
    p, args = POSTERIORS[name]()
    given = {site: torch.as_tensor(x, dtype=torch.float64) for site, x in choices.items()}
    return float(assess(p, given, *args)[0])


def by_hand(name: str, choices: Values) -> float:
    given = content(name)["data"].items()
    arrays = {key: np.asarray(x, dtype=float) if isinstance(x, list) else x for key, x in given}
    return BY_HAND[name](choices, arrays)


def test_every_file_is_a_posterior() -> None:
    files = {path.stem for path in FOLDER.glob("*.json")}
    assert files == POSTERIORS.keys() == BY_HAND.keys() == SHAPES.keys()


@pytest.mark.parametrize("name", POSTERIORS)
def test_densities_are_those_of_the_description(name: str) -> None:
    a, b = point(name, 0), point(name, 1)
    found = by_library(name, a) - by_library(name, b)
    expected = by_hand(name, a) - by_hand(name, b)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-7)


# --- the comparison -------------------------------------------------------------------------------

OF_NORMAL = {"mean": 0.0, "sd": 1.0, "q05": -1.6448536, "q50": 0.0, "q95": 1.6448536}
EXACT = {**OF_NORMAL, **{f"mcse_{name}": 0.0 for name in OF_NORMAL}}


def test_independent_draws_agree_with_the_law_that_they_have() -> None:
    x = np.random.default_rng(0).standard_normal((4, 1000))
    assert max(map(abs, scores(x, EXACT).values())) < 4.5
    assert scores(x + 0.1, EXACT)["mean"] > 4.5
    assert scores(1.1 * x, EXACT)["sd"] > 4.5
    assert scores(1.2 * x, EXACT)["q05"] < -4.5


def test_errors_of_the_reference_count() -> None:
    x = np.random.default_rng(0).standard_normal((4, 1000)) + 0.1
    one = 1 / np.sqrt(4000)
    wide = scores(x, {**EXACT, "mcse_mean": one})["mean"]
    assert wide == pytest.approx(scores(x, EXACT)["mean"] / np.sqrt(2), rel=0.05)


def test_a_parameter_is_found_by_its_name_in_the_reference() -> None:
    fit = Fit("none", {"beta": torch.arange(24.0).reshape(2, 4, 3), "sigma": torch.ones(2, 4)})
    torch.testing.assert_close(parameter(fit, "beta[2]"), fit["beta"][..., 1])
    torch.testing.assert_close(parameter(fit, "sigma"), fit["sigma"])


@pytest.mark.parametrize(
    ("r_hat", "z", "passed"), [(1.009, 4.4, True), (1.011, 0, False), (1, -4.6, False)]
)
def test_what_passes(r_hat: float, z: float, passed: bool) -> None:
    rest = {"sd": 0.0, "q05": 0.0, "q50": 0.0, "q95": 0.0}
    assert Comparison(r_hat, {"mu": {"mean": z, **rest}}).passed is passed


# --- fits -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", POSTERIORS)
def test_nuts_agrees_with_the_reference(name: str) -> None:
    """By chance one of 1700 |z| exceeds 4.5 with probability 0.012."""
    p, args = POSTERIORS[name]()
    found = compared(MCMC(progress=False).run(p, *args), name)
    assert found.passed, f"R-hat {found.r_hat}, |z| {found.worst()}"


@program
def vague_schools(sigma: torch.Tensor) -> None:
    """Eight schools with a prior of mu that is twice as wide."""
    mu = sample("mu", dist.Normal(0.0, 10.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        theta = deterministic("theta", mu + tau * sample("z", dist.Normal(0.0, 1.0)))
        sample("y", dist.Normal(theta, sigma))


@pytest.mark.slow
def test_a_wrong_prior_is_rejected() -> None:
    name = "eight_schools-eight_schools_noncentered"
    p, args = POSTERIORS[name]()
    fit = MCMC(progress=False).run(condition(vague_schools, p.data), *args)
    found = compared(fit, name)
    assert found.r_hat < 1.01
    assert found.worst() > 10
