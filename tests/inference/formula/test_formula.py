"""Programs of formulas: densities by hand, and posteriors by quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from formulae import design_matrices
from scipy import stats
from support.sizes import quick
from torch import Tensor

from pushforward import Program, assess, condition, formula, simulate
from pushforward.inference import MCMC

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _in_float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def frame(rows: int = 24, seed: int = 0) -> pandas.DataFrame:
    """Numbers, categories, groups, and a response for each family."""
    rng = np.random.default_rng(seed)
    eta = rng.normal(size=rows)
    return pandas.DataFrame(
        {
            "x": rng.normal(3.0, 2.0, rows),
            "w": rng.exponential(1.0, rows),
            "c": rng.permutation(np.resize(["a", "b", "d"], rows)),
            "g": rng.permutation(np.resize(["u", "v", "z"], rows)),
            "h": rng.permutation(np.resize([1, 2], rows)),
            "real": 10.0 + 3.0 * eta,
            "yes": rng.permutation(np.resize(["no", "yes"], rows)),
            "count": rng.poisson(np.exp(eta)),
            "tries": rng.poisson(3.0, rows) + 20,
            "positive": np.exp(eta),
            "share": 1 / (1 + np.exp(-eta)),
            "grade": pandas.Categorical(
                rng.permutation(np.resize(["low", "mid", "high"], rows)),
                ["low", "mid", "high"], ordered=True,
            ),
        }
    )  # fmt: skip


def rounded(x: Any) -> Any:
    """Scales of priors have three digits in the text."""
    return np.vectorize(lambda each: float(f"{each:.3g}"))(x)


def near(columns: Array) -> Array:
    """Means are written to within 1/10 000 of a standard deviation."""
    places = [4 - math.floor(math.log10(sd)) for sd in columns.std(0)]
    return np.array([round(float(m), at) for m, at in zip(columns.mean(0), places, strict=True)])


def by_hand(text: str, data: Any, family: str, at: dict[str, Array]) -> float:
    """The log density of a formula's program, from formulae's matrices and the laws of scipy."""
    design = design_matrices(text.replace("||", "|"), data)
    y = np.asarray(design.response.design_matrix, dtype=float)
    name, trials = design.response.name, None
    if family == "binomial":
        y, trials = y[:, 0], y[:, 1]
    if y.ndim == 2:
        y = y.argmax(1).astype(float)
    spread = y.std() if family in ("gaussian", "student_t") else 1.0
    total, eta = 0.0, np.zeros(len(data))
    intercept, means = 0.0, 0.0
    terms = design.common.terms if design.common else {}
    for term in terms.values():
        columns = np.asarray(term.data, dtype=float).reshape(len(data), -1)
        if term.kind == "intercept":
            continue
        if term.kind == "offset":
            eta += columns[:, 0]
            continue
        b = at[term.name].reshape(-1)
        total += stats.norm.logpdf(b, 0, rounded(2.5 * spread / columns.std(0))).sum()
        eta += columns @ b
        means += near(columns) @ b
    if family == "ordinal":
        intercept = means  # the cutpoints are those at the means
    elif "Intercept" in terms:
        centred = at["Intercept_centred" if len(means_of(terms)) else "Intercept"]
        at_mean = {"gaussian": y.mean(), "student_t": y.mean()}.get(family, 0.0)
        if family in ("poisson", "negative_binomial", "gamma"):
            at_mean = math.log(y.mean())
        total += stats.norm.logpdf(centred, rounded(at_mean), rounded(2.5 * spread))
        intercept = centred - means
    eta = eta + intercept if family != "ordinal" else eta - intercept
    total += of_groups(design, data, spread, at, eta)
    total += of_response(family, y, trials, spread, at, eta)
    assert name in at or family == "binomial"
    return float(total)


def means_of(terms: Any) -> list[str]:
    """The terms that have means."""
    return [name for name, term in terms.items() if term.kind not in ("intercept", "offset")]


def of_groups(design: Any, data: Any, spread: float, at: dict[str, Array], eta: Array) -> float:
    """The log density of the effects of groups, which are added to ``eta``."""
    by_factor: dict[str, list[Any]] = {}
    for term in design.group.terms.values() if design.group else []:
        by_factor.setdefault(term.factor.name, []).append(term)
    total = 0.0
    for factor, terms in by_factor.items():
        z, sd = at[f"z_{factor}"], np.atleast_1d(at[f"sd_{factor}"])
        z = z.reshape(len(z), -1)
        scales = []
        for term in terms:
            columns = np.asarray(term.expr.data, dtype=float).reshape(len(data), -1)
            one = term.kind == "intercept"
            scales += [2.5 * spread] if one else list(2.5 * spread / columns.std(0))
        total += stats.halfnorm.logpdf(sd, 0, rounded(scales)).sum() + stats.norm.logpdf(z).sum()
        root = np.diag(sd)
        if f"chol_{factor}" in at:
            chol = at[f"chol_{factor}"]
            root = sd[:, None] * chol
            # uniform over correlations, whose volume is 2 and pi^2 / 2, times the Jacobian
            total += -math.log(2) if len(sd) == 2 else math.log(2 / math.pi**2 * chol[1, 1])
        effects, start = z @ root.T, 0
        for term in terms:
            size = design.group[term.name].shape[1] // len(z)
            own = effects[:, start : start + size].reshape(-1)
            eta += np.asarray(design.group[term.name] @ own).ravel()
            start += size
    return float(total)


def of_response(
    family: str, y: Array, trials: Any, spread: float, at: dict[str, Array], eta: Array
) -> float:
    """The log density of the responses and of what their law has besides."""
    total = 0.0
    if "sigma" in at:
        total += stats.expon.logpdf(at["sigma"], scale=rounded(spread))
    for site in ("shape", "precision"):
        if site in at:
            total += stats.halfcauchy.logpdf(at[site])
    p = 1 / (1 + np.exp(-eta))
    if family == "student_t":
        total += stats.gamma.logpdf(at["nu"], 2.0, scale=10.0)
        return float(total + stats.t.logpdf(y, at["nu"], eta, at["sigma"]).sum())
    if family == "ordinal":
        total += math.log(2)  # Dirichlet of ones, of three
        cut = np.log(np.cumsum(at["shares"])[:-1] / (1 - np.cumsum(at["shares"])[:-1]))
        below = 1 / (1 + np.exp(-(np.array([-np.inf, *cut, np.inf]) - eta[:, None])))
        return float(total + np.log(np.diff(below, axis=1)[np.arange(len(y)), y.astype(int)]).sum())
    law = {
        "gaussian": lambda: stats.norm.logpdf(y, eta, at["sigma"]),
        "bernoulli": lambda: stats.bernoulli.logpmf(y, p),
        "binomial": lambda: stats.binom.logpmf(y, trials, p),
        "poisson": lambda: stats.poisson.logpmf(y, np.exp(eta)),
        "negative_binomial": lambda: stats.nbinom.logpmf(
            y, at["shape"], at["shape"] / (at["shape"] + np.exp(eta))
        ),
        "gamma": lambda: stats.gamma.logpdf(
            y, at["shape"], scale=np.exp(eta) / at["shape"]
        ),
        "beta": lambda: stats.beta.logpdf(y, p * at["precision"], (1 - p) * at["precision"]),
    }[family]  # fmt: skip
    return float(total + law().sum())


def executed(source: str) -> Program:
    """The program that a printed text defines in an empty namespace."""
    names: dict[str, Any] = {}
    exec(source, names)
    found: Program = names["model"]
    return found


FORMULAS = [
    ("real ~ 1", "gaussian"),
    ("real ~ x", "gaussian"),
    ("real ~ 0 + c", "gaussian"),
    ("real ~ x*c + np.log(w) + offset(w)", "gaussian"),
    ("real ~ x + (1 | g)", "gaussian"),
    ("real ~ x + (1 + x | g)", "gaussian"),
    ("real ~ x + (1 + x || g) + (1 | h)", "gaussian"),
    ("real ~ 0 + (0 + c | g)", "gaussian"),
    ("real ~ c + (1 + c | g) + (1 | g:h)", "gaussian"),
    ("real ~ scale(x) + bs(w, df=4)", "student_t"),
    ("yes ~ x + (1 | g)", "bernoulli"),
    ("prop(count, tries) ~ x", "binomial"),
    ("count ~ x + c", "poisson"),
    ("count ~ x + (1 | g)", "negative_binomial"),
    ("positive ~ x", "gamma"),
    ("share ~ x*w", "beta"),
    ("grade ~ x + c", "ordinal"),
    ("grade ~ x + (1 | g)", "ordinal"),
]


def log_density(program: Program, made: Any, latents: dict[str, Tensor]) -> float:
    with_data = condition(program, dict([made.response]))
    return float(assess(with_data, latents, *made.arguments)[0])


@pytest.mark.parametrize(("text", "family"), FORMULAS)
def test_densities_are_those_by_hand(text: str, family: str) -> None:
    """At draws from the prior; the printed text has the same density as the program."""
    data = frame()
    made = formula(text, data, family)
    printed = executed(str(made))
    for seed in range(3):
        drawn = simulate(made.program, *made.arguments, seed=seed).choices
        latents = {name: x for name, x in drawn.items() if name != made.response[0]}
        expected = by_hand(text, data, family, {n: x.numpy() for n, x in drawn.items()})
        assert log_density(made.program, made, latents) == pytest.approx(expected, rel=1e-9)
        assert log_density(printed, made, latents) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "family", "right", "wrong"),
    [
        ("real ~ x + (1 + x | g)", "gaussian", "effect_g[g, 0] + ", ""),
        ("real ~ x + (1 + x | g)", "gaussian", "chol_g).mT", "chol_g)"),
        ("real ~ x", "gaussian", "eta, sigma", "eta, 2 * sigma"),
        ("count ~ x + c", "poisson", "rate = eta.exp()", "rate = (0.9 * eta).exp()"),
        ("real ~ x", "gaussian", "dist.Normal(0.0,", "dist.Normal(0.1,"),
    ],
)
def test_a_wrong_text_is_noticed(text: str, family: str, right: str, wrong: str) -> None:
    data = frame()
    made = formula(text, data, family)
    assert right in str(made)
    other = executed(str(made).replace(right, wrong))
    drawn = simulate(made.program, *made.arguments, seed=0).choices
    latents = {name: x for name, x in drawn.items() if name != made.response[0]}
    expected = by_hand(text, data, family, {n: x.numpy() for n, x in drawn.items()})
    assert log_density(other, made, latents) != pytest.approx(expected, rel=1e-9)


def grouped() -> pandas.DataFrame:
    """Six groups of six rows, whose lines differ."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(6), 6)
    x = rng.normal(1.0, 1.0, 36)
    y = 2.0 + 1.5 * rng.normal(size=6)[g] + (0.5 + rng.normal(size=6)[g]) * x
    return pandas.DataFrame(
        {"y": y + 0.7 * rng.normal(size=36), "x": x, "g": np.array([*"abcdef"])[g]}
    )


def nodes(low: float, high: float, count: int) -> tuple[Array, Array]:
    """Points and weights of Gauss and Legendre between two ends."""
    at, weight = np.polynomial.legendre.leggauss(count)
    return low + (high - low) * (at + 1) / 2, weight * (high - low) / 2


def exact_moments(data: Any, slopes: bool, count: int) -> dict[str, tuple[float, float]]:
    """Posterior means and sds, with coefficients integrated out and the others by quadrature."""
    y, x = data.y.to_numpy(), data.x.to_numpy()
    one, centred, sd = np.ones(len(y)), x - x.mean(), y.std()
    same = (data.g.to_numpy()[:, None] == data.g.to_numpy()).astype(float)
    wide = rounded(2.5 * sd), rounded(2.5 * sd / x.std())
    ends = [(0.0, 9.0), (0.0, 5.0), (-1.0, 1.0), (0.3, 1.6)] if slopes else [(0.0, 9.0), (0.5, 4.0)]
    axes = [nodes(*each, count) for each in ends]
    at = torch.tensor(np.stack(np.meshgrid(*(a for a, _ in axes), indexing="ij"), -1))
    weight = torch.tensor(np.prod(np.meshgrid(*(w for _, w in axes), indexing="ij"), axis=0))
    at, weight = at.reshape(-1, len(ends)), weight.reshape(-1)
    base = torch.tensor(
        wide[0] ** 2 * np.outer(one, one) + wide[1] ** 2 * np.outer(centred, centred)
    )
    kinds = [same, same * x[:, None] * x, same * (x[:, None] + x)]
    of_ones, of_x, both = map(torch.tensor, kinds)
    residual = torch.tensor(y - rounded(y.mean()))
    log_density, slope, slope_square = [], [], []
    for part in at.split(20_000):
        first, sigma = part[:, 0, None, None], part[:, -1, None, None]
        cov = base + first**2 * of_ones + sigma**2 * torch.eye(len(y))
        prior = stats.halfnorm.logpdf(part[:, 0], 0, wide[0])
        prior = prior + stats.expon.logpdf(part[:, -1], scale=rounded(sd))
        if slopes:
            second, r = part[:, 1, None, None], part[:, 2, None, None]
            cov = cov + second**2 * of_x + first * second * r * both
            prior = prior + stats.halfnorm.logpdf(part[:, 1], 0, wide[1])
        root = torch.linalg.cholesky(cov)
        half = torch.linalg.solve_triangular(root, residual[:, None], upper=False)[..., 0]
        columns = torch.tensor(centred)[:, None].expand(len(part), -1, 1)
        of_slope = torch.linalg.solve_triangular(root, columns, upper=False)[..., 0]
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
        log_density.append(torch.tensor(prior) - log_det - (half**2).sum(1) / 2)
        mean = wide[1] ** 2 * (of_slope * half).sum(1)
        slope.append(mean)
        slope_square.append(mean**2 + wide[1] ** 2 - wide[1] ** 4 * (of_slope**2).sum(1))
    logs = torch.cat(log_density)
    mass = weight * (logs - logs.max()).exp()
    mass /= mass.sum()
    names = ["first", "second", "r", "sigma"] if slopes else ["first", "sigma"]
    squares = {name: (at[:, i], at[:, i] ** 2) for i, name in enumerate(names)}
    squares["slope"] = torch.cat(slope), torch.cat(slope_square)
    means = {name: float(mass @ each) for name, (each, _) in squares.items()}
    return {n: (means[n], float(mass @ sq) - means[n] ** 2) for n, (_, sq) in squares.items()}


@pytest.mark.parametrize("slopes", quick(1, [False, True]))
def test_posteriors_are_those_by_quadrature(slopes: bool) -> None:
    """Means within 4.5 standard errors, of up to five numbers: by chance once in 30 000 runs."""
    data = grouped()
    exact = exact_moments(data, slopes, 24 if slopes else 60)
    rougher = exact_moments(data, slopes, 18 if slopes else 40)
    for name, (mean, variance) in exact.items():
        assert rougher[name][0] == pytest.approx(mean, abs=0.01 * math.sqrt(variance))
    made = formula(f"y ~ x + (1 {'+ x ' if slopes else ''}| g)", data)
    draws = 4000 if slopes else 1000
    driver = MCMC(draws=draws, target=0.95, dtype=torch.float64, progress=False)
    table = made.fit(driver, seed=1).summary()
    sites = {"first": "sd_g[0]", "second": "sd_g[1]", "r": "corr_g[1, 0]"} if slopes else {}
    sites = {"first": "sd_g", "sigma": "sigma", "slope": "x", **sites}
    for name, (mean, variance) in exact.items():
        row = table.loc[sites[name]]
        error = math.sqrt(variance / float(row["ess_bulk"]))
        assert abs(float(row["mean"]) - mean) < 4.5 * error, name
        assert float(row["sd"]) == pytest.approx(math.sqrt(variance), rel=0.15)
    wrong = exact["slope"][0] + math.sqrt(exact["slope"][1])
    row = table.loc["x"]
    assert abs(float(row["mean"]) - wrong) > 4.5 * float(row["sd"]) / math.sqrt(row["ess_bulk"])
