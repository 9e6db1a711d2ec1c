"""The mode: closed forms on both scales, what has none, and what is told of it."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from support.sizes import quick
from torch import Tensor
from torch.distributions import constraints

from pushforward import factor, observe, plate, predict, program, sample
from pushforward.errors import InitializationError, ProgramError, UnsupportedDistributionError
from pushforward.inference import MAP, Fit, Laplace
from pushforward.inference.vi import map as driver

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


# ------------------------------------------------------------------------------------ closed forms


class Site:
    """A law of random parameters: with its mode, and that of its unconstrained coordinates.

    ``own`` is the mode on the law's own space, ``free`` that with the Jacobian.
    """

    def __init__(self, kind: str, rng: random.Random) -> None:
        a, b = rng.uniform(1.2, 6.0), rng.uniform(1.2, 6.0)
        m, s = rng.uniform(-2.0, 2.0), rng.uniform(0.2, 1.5)
        self.kind = kind
        self.law: Any
        if kind == "Beta":
            self.law, self.own, self.free = (
                dist.Beta(a, b),
                f((a - 1) / (a + b - 2)),
                f(a / (a + b)),
            )
            self.reference = stats.beta(a, b)
        elif kind == "Gamma":
            self.law, self.own, self.free = dist.Gamma(a, b), f((a - 1) / b), f(a / b)
            self.reference = stats.gamma(a, scale=1 / b)
        elif kind == "InverseGamma":
            self.law, self.own, self.free = dist.InverseGamma(a, b), f(b / (a + 1)), f(b / a)
            self.reference = stats.invgamma(a, scale=b)
        elif kind == "LogNormal":
            self.law, self.own = dist.LogNormal(m, s), f(math.exp(m - s**2))
            self.free, self.reference = f(math.exp(m)), stats.lognorm(s, scale=math.exp(m))
        elif kind == "Weibull":
            self.law, self.own = dist.Weibull(b, a), f(b * ((a - 1) / a) ** (1 / a))
            self.free, self.reference = f(b), stats.weibull_min(a, scale=b)
        elif kind == "Normal":
            self.law, self.own, self.free = dist.Normal(m, s), f(m), f(m)
            self.reference = stats.norm(m, s)
        elif kind == "VonMises":
            m = rng.uniform(-math.pi, math.pi)
            self.law, self.own, self.free = dist.VonMises(m, a), f(m), f(m)
            self.reference = stats.vonmises(a, loc=m)
        else:
            alpha = f([rng.uniform(1.2, 5.0) for _ in range(rng.choice([2, 3, 4]))])
            self.law, self.free = dist.Dirichlet(alpha), alpha / alpha.sum()
            self.own = (alpha - 1) / (alpha - 1).sum()
            self.reference = stats.dirichlet(alpha.numpy())


KINDS = ["Beta", "Gamma", "InverseGamma", "LogNormal"]
KINDS += ["Weibull", "Normal", "VonMises", "Dirichlet"]


class Model:
    """Independent sites of several kinds, alone and in plates of random size."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.sites = {f"x{i}": Site(kind, rng) for i, kind in enumerate(rng.choices(KINDS, k=3))}
        self.sizes = {name: rng.choice([0, 1, 3]) for name in self.sites}

    def program(self) -> None:
        for name, site in self.sites.items():
            if self.sizes[name]:
                with plate(f"rows of {name}", self.sizes[name]):
                    sample(name, site.law)
            else:
                sample(name, site.law)

    def off_by(self, jacobian: bool) -> float:
        """How far the fit is from the mode, and its log density from scipy's there."""
        fit = MAP(starts=2, jacobian=jacobian).run(program(self.program))
        assert not fit.warnings()
        worst, lp = 0.0, 0.0
        for name, site in self.sites.items():
            mode = site.free if jacobian else site.own
            worst = max(worst, float((fit[name][0, 0] - mode).abs().max()))
            lp += float(site.reference.logpdf(mode.numpy())) * max(self.sizes[name], 1)
        return max(worst, abs(lp - float(fit.stats["lp"])))


@pytest.mark.parametrize("seed", quick(2, range(60)))
@pytest.mark.parametrize("jacobian", [False, True])
def test_modes_are_those_in_closed_form(jacobian: bool, seed: int) -> None:
    assert Model(seed).off_by(jacobian) < 1e-6


def test_the_other_scale_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with the Jacobian where it should not be."""
    monkeypatch.setattr(driver, "OnItsOwnSpace", lambda density: density)
    assert Model(0).off_by(False) > 1e-2


def test_a_fit_of_one_draw() -> None:
    """By hand: the mode of Beta(2 + 4, 3 + 6) is 5 / 13."""

    @program
    def coin(k: Tensor) -> None:
        p = sample("p", dist.Beta(2.0, 3.0))
        observe("k", dist.Binomial(10, p), k)

    fit = MAP().run(coin, f(4.0))
    assert fit.chains == fit.size == 1 and fit.latents == ("p",) and fit.method == "MAP"
    assert float(fit["p"]) == pytest.approx(5 / 13, abs=1e-8)
    expected = stats.beta(2, 3).logpdf(5 / 13) + stats.binom(10, 5 / 13).logpmf(4)
    assert float(fit.stats["lp"]) == pytest.approx(expected, abs=1e-10)
    assert float(fit.log_likelihood["k"]) == pytest.approx(stats.binom(10, 5 / 13).logpmf(4))
    assert predict(fit, coin, f(4.0))["k"].shape == (1, 1) and len(fit.report) == 4
    peak = Laplace(draws=1).run(coin, f(4.0)).log_evidence
    assert peak is not None and float(MAP(jacobian=True).run(coin, f(4.0))["p"]) == pytest.approx(
        0.4
    )


def test_finite_latents_are_summed_out() -> None:
    """One centre, in one of two components: the mode by a search on the sum by hand."""
    y = 0.7

    @program
    def mixture() -> None:
        m = sample("m", dist.Normal(0.0, 2.0))
        z = sample("z", dist.Bernoulli(0.3))
        observe("y", dist.Normal(m + 3 * z, 0.5), f(y))

    def minus(m: float) -> float:
        parts = [stats.norm(m, 0.5).logpdf(y), stats.norm(m + 3, 0.5).logpdf(y)]
        logs = [math.log(0.7) + parts[0], math.log(0.3) + parts[1]]
        return -float(stats.norm(0, 2).logpdf(m)) - math.log(sum(map(math.exp, logs)))

    best = minimize_scalar(minus, bracket=(0.0, 0.7), tol=1e-12)
    fit = MAP(starts=12).run(mixture)
    assert float(fit["m"]) == pytest.approx(best.x, abs=1e-6)
    assert float(fit.stats["lp"]) == pytest.approx(-best.fun, abs=1e-9)
    assert fit.method == "MAP (z summed out)" and "2 peaks" in fit.warnings()[0]
    assert float(predict(fit, mixture, discrete="max")["z"]) == 0.0


# --------------------------------------------------------------------------------------- no peaks


def schools() -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 3):
        theta = sample("theta", dist.Normal(mu, tau))
        observe("y", dist.Normal(theta, f([15.0, 10.0, 16.0])), f([28.0, 8.0, -3.0]))


def exponential() -> None:
    sample("x", dist.Exponential(2.0))


def uniform() -> None:
    sample("x", dist.Uniform(0.0, 1.0))


def ridge() -> None:
    a, b = (sample(n, dist.ImproperUniform(constraints.real, (), ())) for n in "ab")
    observe("y", dist.Normal(a + b, 1.0), f(0.0))


def rising() -> None:
    x = sample("x", dist.ImproperUniform(constraints.positive, (), ()))
    observe("y", dist.Exponential(x), f(1e-300))


NO_PEAK = [
    (schools, r"seems unbounded: it rises on where 'tau' is .*e-"),
    (exponential, r"at an edge of the support of 'x'"),
    (uniform, r"least curvature of .*'x'"),
    (ridge, r"least curvature of .*'[ab]'"),
    (rising, r"unbounded.*'x'|second derivatives"),
]


@pytest.mark.parametrize(("p", "said"), NO_PEAK)
def test_what_has_no_peak_is_told(p: Any, said: str) -> None:
    (note,) = MAP(starts=2).run(p).warnings()
    assert note.startswith("no start came to a peak") and re.search(said, note)


def test_a_start_that_comes_to_no_peak_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways: a peak at 1, and below 0 a density that rises for ever: by hand from each start."""

    def two() -> None:
        x = sample("x", dist.ImproperUniform(constraints.real, (), ()))
        factor("ways", torch.where(x > 0, -((x - 1) ** 2), -x - 1))

    starts = torch.tensor([[1.5], [-1.0], [0.8]])
    monkeypatch.setattr(driver, "starting_points", lambda *about: starts)
    fit = MAP(starts=3).run(two)
    assert float(fit["x"]) == pytest.approx(1.0, abs=1e-6)
    (note,) = fit.warnings()
    assert note.startswith("start 1 came to no peak, and is left out")


def test_too_few_steps_are_told() -> None:
    def narrow() -> None:
        sample("x", dist.Cauchy(torch.zeros(6), torch.logspace(-3, -1, 6)).to_event(1))

    (note,) = MAP(starts=1, steps=1).run(narrow).warnings()
    assert note.endswith("still climbing after 1 steps: raise steps")
    assert not MAP(starts=1).run(narrow).warnings()


def test_refusals() -> None:
    def count() -> None:
        sample("n", dist.Poisson(sample("rate", dist.Gamma(2.0, 1.0))))

    def coin() -> None:
        sample("z", dist.Bernoulli(0.5))

    def behind() -> None:
        sample("x", dist.Normal(sample("z", dist.Bernoulli(0.5)), 1.0))

    def impossible() -> None:
        sample("x", dist.Normal(0.0, 1.0))
        observe("y", dist.Poisson(0.0), f(1.0))

    for p, error, said in (
        (count, UnsupportedDistributionError, "'n'"),
        (coin, ProgramError, "no real latent"),
        (behind, ProgramError, r"'x'.*depends on \['z'\]|depends on \['z'\].*'x'"),
        (impossible, (InitializationError, ProgramError), "'y'"),
    ):
        with pytest.raises(error, match=said):
            MAP().run(p)
    for setting in ("starts", "steps"):
        with pytest.raises(ValueError, match=f"{setting} is at least 1"):
            MAP(**{setting: 0})


def test_a_seed_fixes_the_run(tmp_path: Any) -> None:
    first, again = (MAP(starts=1).run(ridge, seed=3) for _ in range(2))
    assert torch.equal(first["a"], again["a"])
    assert not torch.equal(first["a"], MAP(starts=1).run(ridge, seed=4)["a"])
    first.save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").warnings() == first.warnings()
