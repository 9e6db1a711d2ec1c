"""Functional Tucker decomposition beside exact answers: acceptance checks of arXiv 2311.04829."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from support.sizes import quick
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pushforward import condition, dist
from pushforward.inference import Exact
from pushforward.inference.vi import elbo
from pushforward.models.funbat import Decomposition, FunBaT, funbat, guide
from pushforward.models.funbat.cores import DiagonalCore, Moments, TuckerCore
from pushforward.models.funbat.modes import Mode
from pushforward.models.funbat.turns import mixed, scaled
from pushforward.ppl.markov import Matern

pytestmark = pytest.mark.usefixtures("double")

Core = DiagonalCore | TuckerCore


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(found: Tensor, wanted: Tensor, within: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=within)


def small(
    ranks: tuple[int, ...],
    form: str = "tucker",
    n: int = 9,
    kernel: str = "matern32",
    seed: int = 0,
) -> Decomposition:
    """n entries at coordinates of which some are equal, and functions at random."""
    torch.manual_seed(seed)
    modes = [
        Mode((torch.rand(n) * 5).floor() / 5 + 0.1 * k, rank, Matern.named(kernel, 0.4 + 0.1 * k))
        for k, rank in enumerate(ranks)
    ]
    for mode in modes:
        mode.start()
    core: Core = DiagonalCore(ranks)
    if form == "tucker":
        core = TuckerCore(ranks, torch.randn(math.prod(ranks)))
    y = torch.randn(n)
    return Decomposition(y, modes, core, prior=(2.0, 1.5), precision=3.0)


# --- exact answers --------------------------------------------------------------------------------


def test_one_mode_is_regression() -> None:
    """With one mode of one function, and noise of known precision, it is a Gaussian process."""
    times = f([0.6, 0.0, 0.35, 1.0, 0.1])
    mode = Mode(times, 1, Matern.named("matern32", 0.3))
    mode.start()
    y = f([1.1, 0.5, 0.3, -0.4, -0.2])
    of = Decomposition(y, [mode], DiagonalCore([1]), precision=1 / 0.09)
    of.update_mode(0)
    means = f([0.3289140355, -0.0242186502, 0.3054738438, 0.9725521792, -0.3313284252])
    variances = f([0.0677882728, 0.0631520387, 0.0758089102, 0.0785667577, 0.0817838026])
    close(mode.mean[:, 0], means, 1e-10)
    close(mode.covariance[:, 0, 0], variances, 1e-10)
    mean, covariance = mode.at(f([1.3, -0.2, 0.2, 0.2]))
    close(mean[:, 0], f([-0.2512767124, 0.4087539118, -0.0632052558, -0.0632052558]), 1e-10)
    close(covariance[:3, 0, 0], f([0.7822572909, 0.5632813567, 0.1513209086]), 1e-10)


def known(of: Decomposition) -> dict[str, Tensor]:
    """Values of all latents of the model, which are made q's own, without any spread."""
    values = {"tau": of.precision}
    for k, mode in enumerate(of.modes):
        path = mode.prior.rsample()
        mode.mean, mode.covariance = path @ mode.through.mT, torch.zeros_like(mode.precision)
        values[f"u{k}"] = path
    if isinstance(of.core, TuckerCore):
        of.core.covariance = torch.zeros_like(of.core.covariance)
        values["w"] = of.core.mean
    return values


def error_of_conditionals(of: Decomposition) -> float:
    """How far updates of modes and core are from exact conditional laws of the program."""
    gaps = []
    for k, mode in enumerate(of.modes):
        values = known(of)
        fit = Exact(draws=1).run(
            condition(funbat(of), {n: x for n, x in values.items() if n != f"u{k}"})
        )
        of.update_mode(k)
        mean, sd = fit.moments[f"u{k}"]
        gaps.append(mode.posterior.mean - mean)
        gaps.append(mode.posterior.covariance.diagonal(dim1=1, dim2=2).sqrt() - sd)
    if isinstance(of.core, TuckerCore):
        values = known(of)
        fit = Exact(draws=1).run(
            condition(funbat(of), {n: x for n, x in values.items() if n != "w"})
        )
        of.update_core()
        mean, sd = fit.moments["w"]
        gaps += [of.core.mean - mean, of.core.covariance.diagonal().sqrt() - sd]
    return max(float(gap.abs().max()) for gap in gaps)


FORMS = [((2, 3), "tucker"), ((2, 2), "cp"), ((1, 2, 2), "tucker"), ((2, 2, 2), "cp")]


@pytest.mark.parametrize(("ranks", "form"), FORMS)
def test_updates_are_exact_conditional_laws(ranks: Any, form: Any) -> None:
    assert error_of_conditionals(small(ranks, form)) < 1e-9


def prior_twice(self: Mode, precision: Tensor, linear: Tensor, damping: float) -> None:
    """What the paper's code does: N(0, v) in each pseudo-observation, beside the chain's prior."""
    received(self, precision + torch.eye(self.rank), linear, damping)


received = Mode.received


def test_a_prior_that_counts_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mode, "received", prior_twice)
    assert error_of_conditionals(small((2, 2), "cp")) > 0.01


def points(mean: Tensor, covariance: Tensor) -> list[Tensor]:
    """Equally likely points with this mean and covariance."""
    root = torch.linalg.cholesky(covariance) * math.sqrt(len(mean))
    return [mean + sign * column for column in root.mT for sign in (-1.0, 1.0)]


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_moments_of_coefficients_and_entries(form: str) -> None:
    """Enumerated over core and functions, each on points that have their moments."""
    g = torch.Generator().manual_seed(1)
    ranks = (2, 1, 2) if form == "tucker" else (2, 2, 2)

    def law(n: int) -> tuple[Tensor, Tensor]:
        half = torch.randn(n, n, generator=g)
        return torch.randn(n, generator=g), half @ half.mT + 0.1 * torch.eye(n)

    laws = [law(rank) for rank in ranks]
    at = [Moments(m[None], (C + torch.outer(m, m))[None]) for m, C in laws]
    core: Core = DiagonalCore(ranks)
    cores = [torch.eye(2)[:, :, None] * torch.eye(2)[:, None, :]]
    if form == "tucker":
        core = TuckerCore(ranks, torch.zeros(4))
        core.mean, core.covariance = law(4)
        cores = [w.reshape(ranks) for w in points(core.mean, core.covariance)]
    values = list(itertools.product(cores, *(points(*each) for each in laws)))
    for mode in range(3):
        axes = "abc".replace("abc"[mode], "")
        a = torch.stack(
            [
                torch.einsum(
                    f"abc,{axes[0]},{axes[1]}->{'abc'[mode]}",
                    w,
                    *(u for k, u in enumerate(us) if k != mode),
                )
                for w, *us in values
            ]
        )
        found = core.coefficients(mode, at)
        close(found.mean[0], a.mean(0), 1e-12)
        close(found.second[0], (a[:, :, None] * a[:, None]).mean(0), 1e-12)
    entries = torch.stack([torch.einsum("abc,a,b,c->", w, *us) for w, *us in values])
    mean, second = core.output(at)
    close(mean[0], entries.mean(), 1e-12)
    close(second[0], entries.square().mean(), 1e-12)


@pytest.mark.parametrize("form", quick(1, ["tucker", "cp"]))
def test_the_bound_is_that_of_program_and_guide(form: Any) -> None:
    """A mean of draws within 4 standard errors of the closed form: level 6e-5."""
    of = small((2, 2), form, kernel="matern12")
    for _ in range(20):
        of.sweep()
    torch.manual_seed(0)
    bound = elbo(funbat(of), guide(of))
    with torch.no_grad():
        draws = torch.stack([bound.value() for _ in range(300)])
    error = float(draws.std()) / math.sqrt(len(draws))
    assert abs(float(draws.mean() - of.elbo())) < 4 * error < 1.4


def test_the_bound_is_below_the_evidence() -> None:
    """Two entries of one coordinate each: the evidence is an integral over two functions."""
    modes = [Mode(f([0.3, 0.3]), 1, Matern.named("matern12", 0.5, 1.5)) for _ in range(2)]
    y, (a0, b0) = f([0.8, 1.1]), (2.0, 1.5)
    for mode in modes:
        mode.start()
    of = Decomposition(y, modes, DiagonalCore([1, 1]), (a0, b0), precision=1.0)
    for _ in range(200):
        of.sweep()
    u = torch.linspace(-12, 12, 2401)
    weight = dist.Normal(0.0, 1.5**0.5).log_prob(u).exp() * 0.01
    square = ((y[:, None, None] - u[:, None] * u[None]) ** 2).sum(0)
    constant = math.lgamma(a0 + 1) - math.lgamma(a0) + a0 * math.log(b0) - math.log(2 * math.pi)
    evidence = math.log(float(weight @ (b0 + square / 2) ** -(a0 + 1) @ weight)) + constant
    assert evidence - 2 < float(of.elbo()) < evidence


# --- updates --------------------------------------------------------------------------------------


def worst_fall(of: Decomposition, sweeps: int = 8) -> float:
    """The greatest fall of the bound in an update."""

    def of_mode(k: int) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: of.update_mode(k), lambda: of.turn(k)

    updates: list[Callable[[], None]] = [
        *(update for k in range(len(of.modes)) for update in of_mode(k)),
        of.update_core,
        of.update_noise,
    ]
    fall, before = 0.0, float(of.elbo())
    for update in updates * sweeps:
        update()
        after = float(of.elbo())
        fall, before = max(fall, before - after), after
    return fall


@pytest.mark.parametrize(("ranks", "form"), FORMS)
def test_no_update_lowers_the_bound(ranks: Any, form: Any) -> None:
    of = small(ranks, form)
    of.sweep()
    assert worst_fall(of) < 1e-8


class WrongShape(Decomposition):
    """Its noise counts each entry twice."""

    def update_noise(self) -> None:
        super().update_noise()
        self.shape = self.shape + len(self.y) / 2


def test_wrong_updates_lower_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    of = small((2, 2))
    for _ in range(5):
        of.sweep()
    wrong = WrongShape(of.y, of.modes, of.core, of.prior)
    wrong.shape, wrong.rate = of.shape, of.rate
    assert worst_fall(wrong, 1) > 1e-3
    of = small((2, 2))
    for _ in range(5):
        of.sweep()
    monkeypatch.setattr(Mode, "received", prior_twice)
    assert worst_fall(of, 1) > 1e-3


@pytest.mark.parametrize("form", quick(1, ["tucker", "cp"]))
def test_the_end_is_where_svi_would_end(form: Any) -> None:
    """Derivatives by parameters of the guide, by paths, are zero within 4 standard errors each,
    five numbers at most: level 4e-4; elsewhere they are not."""
    of = small((2, 2), form, n=6, kernel="matern12")
    for _ in range(200):
        of.sweep()

    def slopes() -> Tensor:
        """z-scores of the derivatives."""
        parameters = [of.rate.requires_grad_()]
        if isinstance(of.core, TuckerCore):
            parameters.append(of.core.mean.requires_grad_())
        torch.manual_seed(0)
        bound, rows = elbo(funbat(of), guide(of)), []
        for _ in range(120):
            found = torch.autograd.grad(bound.surrogate(), parameters)
            rows.append(torch.cat([each.reshape(-1) for each in found]))
        draws = torch.stack(rows)
        return draws.mean(0) / (draws.std(0) / math.sqrt(len(draws)))

    with torch.no_grad():
        rate = of.rate.clone()
    assert float(slopes().abs().max()) < 4
    of.rate = 2 * rate
    assert float(slopes()[0].abs()) > 4


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_a_sweep_is_linear_in_entries(form: str) -> None:
    """Products counted: twice as many entries and coordinates, twice as many of them."""

    def products(n: int) -> int:
        torch.manual_seed(0)
        modes = [Mode(torch.rand(n), 2, Matern.named("matern32", 0.3)) for _ in range(2)]
        for mode in modes:
            mode.start()
        core: Core = DiagonalCore((2, 2)) if form == "cp" else TuckerCore((2, 2), torch.randn(4))
        of = Decomposition(torch.sin(6 * torch.linspace(0, 1, n)[modes[0].index]), modes, core)
        of.sweep()
        with FlopCounterMode(display=False) as counter:
            of.sweep()
        return counter.get_total_flops()

    assert 1.9 < products(2000) / products(1000) < 2.1
    with FlopCounterMode(display=False) as counter:
        torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # a dense kernel's
    assert counter.get_total_flops() > 2 * products(1000)


# --- the estimator --------------------------------------------------------------------------------


def surface(X: Any) -> Any:
    a, b = X.T
    return (
        np.sin(2 * np.pi * a) ** 2
        * np.cos(2 * np.pi * a)
        * np.exp(-2 * b)
        * np.sin(1.5 * np.pi * b)
    )


def experiment(n: int) -> tuple[Any, Any, Any]:
    """n noisy entries, and 1000 places."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(n, 2))
    return X, surface(X) + 0.02 * rng.standard_normal(n), rng.uniform(size=(1000, 2))


def fitted(X: Any, y: Any, **settings: Any) -> FunBaT:
    """Whether it has converged or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return FunBaT(random_state=0, **settings).fit(X, y)


def rmse(found: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


def als(X: Any, y: Any, Z: Any, bins: int) -> float:
    """A rank-one tensor on a grid, by alternating least squares."""
    i, j = np.minimum((X * bins).astype(int), bins - 1).T
    u, v = np.ones(bins), np.ones(bins)
    for _ in range(200):
        for own, other, one, two in ((u, v, i, j), (v, u, j, i)):
            top = np.bincount(one, y * other[two], bins)
            own[:] = top / (np.bincount(one, other[two] ** 2, bins) + 1e-9)
    i, j = np.minimum((Z * bins).astype(int), bins - 1).T
    return rmse(u[i] * v[j], surface(Z))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"rank": 1}, {"rank": 2}, {"rank": 1, "form": "cp"}, {"rank": 2, "form": "cp"}]
)
def test_the_experiment(settings: Any) -> None:
    """Measured RMSE 0.0053, 0.0053, 0.0060, 0.0069, in 2 s of CPU each at most."""
    X, y, Z = experiment(650)
    model = fitted(X, y, **settings)
    mean, sd = model.predict(Z, return_std=True)
    assert rmse(mean, surface(Z)) <= 0.009
    assert rmse(mean, surface(Z)) <= 0.7 * als(X, y, Z, 30)
    assert 0.018 <= model.noise_ <= 0.022
    seen = surface(Z) + 0.02 * np.random.default_rng(1).standard_normal(1000)
    inside = np.mean(np.abs(seen - mean) < 1.96 * sd)
    assert 0.92 < inside < 0.98  # 0.95, and 4 standard errors of a share of 1000


@pytest.mark.parametrize(("n", "sweeps"), quick(1, [(250, 25), (650, 50)]))
def test_predictions_and_bands(n: int, sweeps: int) -> None:
    """Better than the mean and than a grid; bands are wider where nothing was seen."""
    X, y, Z = experiment(n)
    model = fitted(X, y, rank=1, form="cp", max_iter=sweeps, damping=(0.0, 0.0, 0.0))
    mean, sd = model.predict(Z, return_std=True)
    assert rmse(mean, surface(Z)) < 0.4 * rmse(0 * mean, surface(Z))
    assert rmse(mean, surface(Z)) < als(X, y, Z, 10)
    far = model.predict(np.array([[3.0, 3.0]]), return_std=True)[1]
    assert far[0] > 2 * sd.max() and sd.min() > 0.9 * model.noise_
    assert model.elbo_trace_ == sorted(model.elbo_trace_)
    functions, spread = model.factor(1, [-0.5, 0.5, 1.5])
    assert functions.shape == (3, 1) and spread.shape == (3, 1, 1)
    assert spread[1, 0, 0] < min(spread[0, 0, 0], spread[2, 0, 0])


def test_the_order_of_rows_does_not_matter() -> None:
    X, y, Z = experiment(120)
    order = np.random.default_rng(2).permutation(120)
    one, other = (
        fitted(X[rows], y[rows], max_iter=15).predict(Z) for rows in (np.arange(120), order)
    )
    assert np.abs(one - other).max() < 1e-8
    apart = fitted(X[:119], y[:119], max_iter=15).predict(Z)
    assert np.abs(one - apart).max() > 1e-6


def test_chunks_of_entries_are_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, Z = experiment(60)
    whole = fitted(X, y, max_iter=5).predict(Z)
    monkeypatch.setattr("pushforward.models.funbat.decomposition.CHUNK", 16 * 7)
    assert np.abs(fitted(X, y, max_iter=5).predict(Z) - whole).max() < 1e-10


def test_a_fit_that_is_all_noise_says_so() -> None:
    X, y, _ = experiment(200)
    with pytest.warns(ConvergenceWarning, match="collapsed to zero"):
        model = FunBaT(rank=1, standardize=False, precision=1.0, random_state=0).fit(X, y)
    assert np.abs(model.core_).max() < 1e-3


def test_turns_save_hundreds_of_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core of rank two has settled where without turns it moves on, and with a better bound."""
    X, y, _ = experiment(150)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = FunBaT(random_state=0, max_iter=60).fit(X, y)
    monkeypatch.setattr(Decomposition, "turn", lambda self, mode: None)
    without = fitted(X, y, max_iter=60)
    assert model.n_iter_ < 60 == without.n_iter_
    assert model.elbo_trace_[-1] > without.elbo_trace_[-1] + 1


def test_turns_change_no_entry() -> None:
    of = small((2, 3))
    of.sweep()
    own, core = of.modes[1], of.core
    assert isinstance(core, TuckerCore)
    G = f([[1.0, 0.4, 0.0], [-0.3, 2.0, 0.1], [0.2, 0.0, 0.5]])
    known = Moments(own.mean, own.mean[:, :, None] * own.mean[:, None])
    mean = own.mean @ G.mT
    turned = Moments(mean, mean[:, :, None] * mean[:, None])
    other = of.modes[0].moments(torch.zeros(len(mean), dtype=torch.int64))
    before, after = core.output([other, known]), core.turned(1, G).output([other, turned])
    close(after[0], before[0], 1e-12)
    close(after[1], before[1], 1e-12)
    precision, linear = own.turned(G)  # what sites say of functions is the same
    close((linear * mean).sum(1), (own.linear * own.mean).sum(1), 1e-12)
    said = torch.einsum("tr,trs,ts->t", mean, precision, mean)
    close(said, torch.einsum("tr,trs,ts->t", own.mean, own.precision, own.mean), 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_proposed_turns_are_the_best_of_their_kind(seed: int) -> None:
    """No small change of H makes v log det H - tr(A H) - tr(B / H) greater."""
    g = torch.Generator().manual_seed(seed)
    half = torch.randn(2, 3, 5, generator=g)
    A, B = half @ half.mT / 5
    v = f([4.0, -1.0, 2.0])

    def bound(H: Tensor, v: Tensor) -> Tensor:
        root = torch.linalg.cholesky(H)
        volume = 2 * (v * root.diagonal().log()).sum()
        return volume - (A * H).sum() - (B * torch.linalg.inv(H)).sum()

    G = mixed(A, B, v)
    h = scaled(A, B, v).diagonal().square()
    for _ in range(10):
        nudge = 1e-2 * torch.randn(3, 3, generator=g)
        nudge = nudge + nudge.mT
        mean = v.mean().expand(3)
        assert bound(G @ G + nudge, mean) < bound(G @ G, mean)
        turned = h * (1 + nudge.diagonal())
        assert bound_of_scales(turned, A, B, v) < bound_of_scales(h, A, B, v)


def bound_of_scales(h: Tensor, A: Tensor, B: Tensor, v: Tensor) -> float:
    return float((v * h.log() - A.diagonal() * h - B.diagonal() / h).sum())


def test_a_fit_that_has_not_converged_says_so() -> None:
    X, y, _ = experiment(60)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        FunBaT(max_iter=2, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = FunBaT(rank=1, form="cp", tol=0.05, random_state=0).fit(X, y)
    assert model.n_iter_ < 100


def test_three_modes_of_their_own_kinds() -> None:
    """Modes have ranks, kernels and lengths of their own; a clone has the same settings."""
    rng = np.random.default_rng(3)
    X = rng.uniform(size=(150, 3)) * [1.0, 10.0, 100.0]
    y = np.sin(6 * X[:, 0]) * (1 + 0.1 * X[:, 1]) + 0.02 * X[:, 2]
    settings = {
        "rank": np.array([2, 1, 2]),
        "kernel": ("matern52", "matern32", "matern12"),
        "lengthscale": (0.3, 5.0, 100.0),
        "max_iter": 12,
    }
    model = fitted(X, y, **settings)
    assert model.core_.shape == (2, 1, 2) and model.score(X, y) > 0.9
    again = clone(model).set_params(dtype=torch.float32)
    assert list(again.get_params()["rank"]) == [2, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert again.fit(X, y).score(X, y) > 0.9


GRID = np.array([[0.1, 0.2], [0.5, 0.3], [0.7, 0.9], [0.2, 0.8]])
VALUES = np.array([0.1, 0.5, -0.3, 0.2])


@pytest.mark.parametrize(
    ("settings", "X", "y", "match"),
    [
        ({}, np.where(GRID == 0.3, np.nan, GRID), VALUES, r"columns \[1\] of X"),
        ({}, GRID, np.where(VALUES == 0.5, np.inf, VALUES), "in y"),
        ({}, GRID, VALUES[:3], "4 rows"),
        ({}, GRID[:, :1], VALUES, "at least 2 modes"),
        ({}, GRID[:, 0], VALUES, "are expected"),
        ({}, GRID[:0], VALUES[:0], "are expected"),
        ({"rank": 0}, GRID, VALUES, "at least 1"),
        ({"rank": (2, 3), "form": "cp"}, GRID, VALUES, "equal for cp"),
        ({"rank": (2, 2, 2)}, GRID, VALUES, "3 entries for 2 modes"),
        ({"form": "tt"}, GRID, VALUES, "not 'tt'"),
        ({"lengthscale": 0.0}, GRID, VALUES, "positive"),
        ({"variance": (1.0, -1.0)}, GRID, VALUES, "positive"),
        ({"tol": math.nan}, GRID, VALUES, "positive"),
        ({"damping": (0.1, 1.0, 0.1)}, GRID, VALUES, "damping"),
        ({"kernel": "rbf"}, GRID, VALUES, "matern12, matern32, matern52"),
        ({}, GRID, 0 * VALUES + 2, "all values of y are equal"),
    ],
)
def test_bad_input(settings: Any, X: Any, y: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FunBaT(**settings).fit(X, y)


def test_a_decomposition_has_no_bound_before_its_first_sweep() -> None:
    with pytest.raises(RuntimeError, match="sweep once"):
        small((2, 2)).elbo()


def test_bad_predictions() -> None:
    with pytest.raises(NotFittedError):
        FunBaT().predict(GRID)
    with pytest.raises(NotFittedError):
        FunBaT().factor(0, [0.1])
    model = fitted(GRID, VALUES, max_iter=2)
    with pytest.raises(ValueError, match="3 modes, and the fit had 2"):
        model.predict(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"columns \[0\] of X"):
        model.predict(np.array([[np.nan, 0.1]]))
